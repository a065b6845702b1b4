"""Streams: nobody takes the places of others, none outlives its identity or keeps a server up."""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from oars_grpc.generated.oars.v1 import action_pb2
from oars_grpc.generated.oars.v1.action_pb2_grpc import ActionServiceStub
from oars_grpc.local.stack import LocalStack
from oars_grpc.transport.server import connection_options
from tests.integration.test_health_and_drain import (
    NOT_SERVING,
    SERVING,
    first_event,
    health,
    lone_server,
    pending_action,
    submission,
)
from tests.support.identities import add_identity, issue
from tests.support.server import Server, read_refusal, refusal_of, running_server, wait_for

SUBMIT = "/oars.v1.ActionService/SubmitAction"
WATCH = "/oars.v1.ActionService/WatchAction"
HEALTH_WATCH = "/grpc.health.v1.Health/Watch"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


def watch_health(channel: grpc.Channel) -> Any:
    return health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=120)


@dataclass(frozen=True)
class Silence:
    """Requests that never come, until the test is over."""

    over: Event

    def __iter__(self) -> "Silence":
        return self

    def __next__(self) -> bytes:
        self.over.wait()
        raise StopIteration

    def call(self, channel: grpc.Channel, path: str) -> Any:
        """Send the headers of an rpc and nothing more; its outcome."""
        return channel.stream_unary(path, bytes, bytes).future(iter(self), timeout=120)

    def reflection(self, channel: grpc.Channel) -> Any:
        """Ask the server for one list, then keep the stream open."""

        def requests() -> Iterator[reflection_pb2.ServerReflectionRequest]:
            yield reflection_pb2.ServerReflectionRequest(list_services="")
            self.over.wait()

        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        answers = stub.ServerReflectionInfo(requests(), timeout=120)
        assert next(answers).list_services_response.service
        return answers


@contextmanager
def silence() -> Iterator[Silence]:
    over = Event()
    try:
        yield Silence(over)
    finally:
        over.set()


def refused_code(call: Callable[[], object]) -> grpc.StatusCode:
    refusal = refusal_of(call)
    if refusal.code == grpc.StatusCode.RESOURCE_EXHAUSTED:
        assert refusal.retry_after_seconds
    return refusal.code


def test_a_certificate_without_identity_takes_no_place_of_a_watch(
    stack: LocalStack, tmp_path: Path
) -> None:
    issue(stack, "stranger")
    with (
        lone_server(stack, tmp_path, streams="4") as (server, _),
        server.channel(stack.certificates, "stranger") as strange,
        server.channel(stack.certificates, "agent") as channel,
    ):
        watches = [watch_health(strange) for _ in range(40)]
        for watch in watches:
            assert refused_code(partial(next, watch)) in (
                grpc.StatusCode.UNAUTHENTICATED,
                grpc.StatusCode.RESOURCE_EXHAUSTED,
            )
        assert refusal_of(lambda: next(watch_health(strange))).reason == "IDENTITY_NOT_TRUSTED"
        assert health(strange) == SERVING
        stub = ActionServiceStub(channel)
        named = action_pb2.WatchActionRequest(action_id=pending_action(stub))
        assert not first_event(stub.WatchAction(named, timeout=60)).final


def test_streams_that_observe_the_server_take_no_place_of_a_watch(
    stack: LocalStack, tmp_path: Path
) -> None:
    with (
        lone_server(stack, tmp_path, streams="4") as (server, _),
        server.channel(stack.certificates, "auditor") as observing,
        server.channel(stack.certificates, "operator") as other,
        server.channel(stack.certificates, "agent") as channel,
        silence() as silent,
    ):
        open_: list[Any] = [watch_health(observing) for _ in range(3)]
        for watch in open_:
            assert next(watch).status == SERVING
        open_.append(silent.reflection(observing))
        # That was its share: of the places of others none is taken.
        refused = refused_code(lambda: next(watch_health(observing)))
        assert refused == grpc.StatusCode.RESOURCE_EXHAUSTED
        refused = refused_code(lambda: silent.reflection(observing))
        assert refused == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert next(watch_health(other)).status == SERVING
        stub = ActionServiceStub(channel)
        named = action_pb2.WatchActionRequest(action_id=pending_action(stub))
        assert not first_event(stub.WatchAction(named, timeout=60)).final
        for stream in open_:
            stream.cancel()
        wait_for(lambda: _watches_health(observing), "a place becomes free")


def _watches_health(channel: grpc.Channel) -> bool:
    try:
        return bool(next(watch_health(channel)).status == SERVING)
    except grpc.RpcError:
        return False


def test_one_identity_does_not_take_all_the_watches(stack: LocalStack, tmp_path: Path) -> None:
    with (
        lone_server(stack, tmp_path, streams="8") as (server, _),
        server.channel(stack.certificates, "agent") as channel,
        server.channel(stack.certificates, "operator") as mate,
    ):
        stub = ActionServiceStub(channel)
        named = action_pb2.WatchActionRequest(action_id=pending_action(stub))
        watches = [stub.WatchAction(named, timeout=60) for _ in range(8)]
        outcomes = []
        for watch in watches:
            try:
                outcomes.append(str(first_event(watch).final))
            except grpc.RpcError as error:
                refusal = read_refusal(error)
                assert refusal.retry_after_seconds
                outcomes.append(refusal.code.name)
        assert sorted(outcomes) == ["False"] * 2 + ["RESOURCE_EXHAUSTED"] * 6
        assert not first_event(ActionServiceStub(mate).WatchAction(named, timeout=60)).final


@pytest.mark.parametrize("path", [SUBMIT, WATCH])
def test_headers_without_a_request_hold_nothing_for_who_has_no_identity(
    stack: LocalStack, tmp_path: Path, path: str
) -> None:
    issue(stack, "stranger")
    limits = {"streams": "4", "worker_threads": "2", "queued_rpcs": "2"}
    with (
        lone_server(stack, tmp_path, **limits) as (server, _),
        server.channel(stack.certificates, "stranger") as strange,
        server.channel(stack.certificates, "agent") as channel,
        silence() as silent,
    ):
        for _ in range(20):
            held = silent.call(strange, path)
            assert read_refusal(held.exception(timeout=20)).reason == "IDENTITY_NOT_TRUSTED"
        stub = ActionServiceStub(channel)
        named = action_pb2.WatchActionRequest(action_id=pending_action(stub))
        assert not first_event(stub.WatchAction(named, timeout=60)).final


def test_requests_that_do_not_come_make_room_for_those_that_do(
    stack: LocalStack, tmp_path: Path
) -> None:
    limits = {"worker_threads": "2", "queued_rpcs": "4"}
    with (
        lone_server(stack, tmp_path, **limits) as (server, _),
        server.channel(stack.certificates, "auditor") as slow,
        server.channel(stack.certificates, "agent") as channel,
        silence() as silent,
    ):
        held = [silent.call(slow, "/oars.v1.ActionService/GetAction") for _ in range(2)]
        wait_for(partial(_counts, server, "oars_rpcs_in_flight 2.0"), "both threads wait")
        ActionServiceStub(channel).SubmitAction(submission(), timeout=40)
        wait_for(lambda: any(call.done() for call in held), "a client hears of it")
        assert {call.code() for call in held if call.done()} == {grpc.StatusCode.CANCELLED}


def test_neither_health_watches_nor_idle_streams_hold_the_drain(
    stack: LocalStack, tmp_path: Path
) -> None:
    with (
        lone_server(stack, tmp_path, drain_seconds="90") as (server, _),
        server.channel(stack.certificates, "agent") as channel,
        silence() as silent,
    ):
        watches = [watch_health(channel) for _ in range(2)]
        for watch in watches:
            assert next(watch).status == SERVING
        reflection = silent.reflection(channel)
        held = silent.call(channel, SUBMIT)
        wait_for(partial(_counts, server, "oars_rpcs_in_flight 1.0"), "the call is under way")
        began = time.monotonic()
        server.process.terminate()
        for watch in watches:
            assert [answer.status for answer in watch] == [NOT_SERVING]  # and ends without error
        assert refusal_of(lambda: next(reflection)).code == grpc.StatusCode.CANCELLED
        assert server.process.wait(80) == 0
        assert time.monotonic() - began < 45  # not the drain time
        # Whether it hears of the cancellation or of the end of the connection first.
        ended = held.exception(timeout=20).code()
        assert ended in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)


@pytest.mark.parametrize(
    ("change", "code", "reason"),
    [
        (None, grpc.StatusCode.UNAUTHENTICATED, "IDENTITY_NOT_TRUSTED"),
        ({"scopes": []}, grpc.StatusCode.PERMISSION_DENIED, "SCOPE_FORBIDDEN"),
        ({"tenantIds": ["tenant_other"]}, grpc.StatusCode.NOT_FOUND, "ACTION_NOT_FOUND"),
    ],
)
def test_a_watch_ends_with_its_identity(
    stack: LocalStack,
    tmp_path: Path,
    change: dict[str, Any] | None,
    code: grpc.StatusCode,
    reason: str,
) -> None:
    trusted = tmp_path / "trusted-identities.json"
    shutil.copy(stack.certificates / "trusted-identities.json", trusted)
    with (
        running_server(
            tmp_path,
            stack.certificates,
            stack.postgres.url,
            key_encryption_key_file=str(stack._key_file()),
            trusted_identities_file=str(trusted),
        ) as server,
        server.channel(stack.certificates, "agent") as channel,
    ):
        stub = ActionServiceStub(channel)
        named = action_pb2.WatchActionRequest(action_id=pending_action(stub))
        watch = stub.WatchAction(named, timeout=30)
        assert not first_event(watch).final
        entries = json.loads(trusted.read_text())
        (entry,) = (one for one in entries if one.get("spiffeId") == "spiffe://oars.dev/agent")
        entries.remove(entry)
        if change is not None:
            entries.append(entry | change)
        unfinished = tmp_path / "unfinished"
        unfinished.write_text(json.dumps(entries))
        unfinished.replace(trusted)
        refusal = refusal_of(lambda: first_event(watch))
        assert (refusal.code, refusal.reason) == (code, reason)


def test_a_watch_ends_with_the_certificate_of_its_connection(
    stack: LocalStack, tmp_path: Path
) -> None:
    add_identity(stack, "short-lived", role="operator", tenants=["tenant_alpha"])
    issue(stack, "short-lived", not_after=datetime.now(UTC) + timedelta(seconds=8))
    with (
        running_server(
            tmp_path,
            stack.certificates,
            stack.postgres.url,
            key_encryption_key_file=str(stack._key_file()),
        ) as server,
        server.channel(stack.certificates, "short-lived") as channel,
    ):
        stub = ActionServiceStub(channel)
        named = action_pb2.WatchActionRequest(action_id=pending_action(stub))
        watch = stub.WatchAction(named, timeout=60)
        assert not first_event(watch).final
        assert refusal_of(lambda: first_event(watch)).reason == "CERTIFICATE_EXPIRED"


@pytest.mark.parametrize("watch_seconds", [1, 300, 86_400])
def test_a_connection_of_full_age_lets_the_longest_watch_end(watch_seconds: int) -> None:
    options = dict(connection_options(watch_seconds))
    assert options["grpc.max_connection_age_ms"] > 0
    assert options["grpc.max_connection_age_grace_ms"] >= (watch_seconds + 30) * 1000


def test_streams_that_the_client_cancels_are_counted_and_logged(
    stack: LocalStack, tmp_path: Path
) -> None:
    with (
        lone_server(stack, tmp_path) as (server, _),
        server.channel(stack.certificates, "agent") as channel,
        silence() as silent,
        ExitStack() as canceling,
    ):
        stub = ActionServiceStub(channel)
        named = action_pb2.WatchActionRequest(action_id=pending_action(stub))
        watches = [stub.WatchAction(named, timeout=60) for _ in range(3)]
        assert not any(first_event(watch).final for watch in watches)
        health_watch = watch_health(channel)
        assert next(health_watch).status == SERVING
        for stream in (*watches, health_watch, silent.reflection(channel)):
            canceling.callback(stream.cancel)
        canceling.close()
        for method, count in ((WATCH, 3), (HEALTH_WATCH, 1)):
            counted = f'oars_rpcs_total{{code="CANCELLED",method="{method}"}} {count}.0'
            wait_for(partial(_counts, server, counted), counted)
            assert _logged(server, method) == [("CANCELLED", "spiffe://oars.dev/agent")] * count
        assert f'oars_rpcs_total{{code="OK",method="{WATCH}"}}' not in server.metrics()
        # Of a conversation grpcio may report the end of the requests before the cancellation, so
        # that it looks finished: counted and logged it is, as one or the other.
        wait_for(lambda: len(_logged(server, REFLECTION)) == 1, "the conversation is logged")
        ((code, caller),) = _logged(server, REFLECTION)
        assert (code in {"CANCELLED", "OK"}, caller) == (True, "spiffe://oars.dev/agent")
        assert _counts(server, f'oars_rpcs_total{{code="{code}",method="{REFLECTION}"}} 1.0')


def _counts(server: Server, line: str) -> bool:
    return line in server.metrics()


def _logged(server: Server, method: str) -> list[tuple[str, str]]:
    lines = [line for line in server.log() if line.get("method") == method]
    return [(line["code"], line["caller"]) for line in lines]
