"""Health that tells the truth, a drain that loses nothing, and limits that say so."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import httpx
import psycopg
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from oars_grpc.generated.oars.v1 import action_pb2, tenant_pb2
from oars_grpc.generated.oars.v1.action_pb2_grpc import ActionServiceStub
from oars_grpc.generated.oars.v1.tenant_pb2_grpc import TenantServiceStub
from oars_grpc.local.stack import TENANT, LocalStack
from oars_grpc.transport.server import SERVICES
from tests.support.client import action_body
from tests.support.database import check_ledger, new_database
from tests.support.server import (
    Server,
    forwarded,
    read_refusal,
    refusal_of,
    running_server,
    wait_for,
)

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@contextmanager
def lone_server(
    stack: LocalStack, directory: Path, **settings: str
) -> Iterator[tuple[Server, str]]:
    """A server with a database of its own, in which the tenant exists."""
    with (
        new_database(stack.postgres.url) as url,
        running_server(directory, stack.certificates, url, **settings) as server,
    ):
        with server.channel(stack.certificates, "admin") as channel:
            TenantServiceStub(channel).CreateTenant(
                tenant_pb2.CreateTenantRequest(tenant_id=TENANT), timeout=20
            )
        yield server, url


def submission() -> action_pb2.SubmitActionRequest:
    request = action_pb2.SubmitActionRequest(agent_id="agent-1")
    request.resource.tool_id, request.resource.operation = "desk", "create_ticket"
    request.context.environment = "staging"
    request.context.data_types.append("none")
    return request


def pending_action(stub: ActionServiceStub) -> str:
    """An action that stays open until a person decides."""
    request = submission()
    request.resource.operation, request.context.environment = "transfer_funds", "production"
    action: action_pb2.Action = stub.SubmitAction(request, timeout=20).action
    assert action.state == action_pb2.ACTION_STATE_APPROVAL_REQUIRED
    return action.action_id


def first_event(watch: Any) -> action_pb2.WatchActionResponse:
    event: action_pb2.WatchActionResponse = next(watch)
    return event


def health(channel: grpc.Channel, service: str = "") -> int:
    answer = health_pb2_grpc.HealthStub(channel).Check(
        health_pb2.HealthCheckRequest(service=service), timeout=5
    )
    return int(answer.status)


def count_actions(url: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT count(*) FROM action").fetchone()
    assert row is not None
    return int(row[0])


@contextmanager
def writers_waiting(url: str) -> Iterator[None]:
    """Hold the lock that every change of the tenant takes; reads and health go on."""
    with psycopg.connect(url) as connection:
        connection.execute("SELECT FROM log_head WHERE tenant_id = %s FOR UPDATE", (TENANT,))
        yield
        connection.rollback()


def test_every_service_and_the_whole_server_have_a_health(
    stack: LocalStack, tmp_path: Path
) -> None:
    with (
        running_server(
            tmp_path,
            stack.certificates,
            stack.postgres.url,
            key_encryption_key_file=str(stack._key_file()),
        ) as server,
        server.channel(stack.certificates, "agent") as channel,
    ):
        assert len(SERVICES) >= 5
        for service in ("", *SERVICES):
            assert health(channel, service) == SERVING
        unknown = refusal_of(lambda: health(channel, "oars.v1.NoService"))
        assert unknown.code == grpc.StatusCode.NOT_FOUND


def test_while_postgres_is_away_nothing_serves_and_nothing_is_internal(tmp_path: Path) -> None:
    with LocalStack(tmp_path / "state", postgres_settings={"fsync": "off"}) as stack:
        channel = grpc.insecure_channel(f"unix:{stack._sockets[0]}")
        with channel, stack.client("agent") as rest:
            headers = (forwarded(stack.certificates, "agent"),)
            actions = ActionServiceStub(channel)
            actions.SubmitAction(submission(), metadata=headers, timeout=10)
            stack.postgres.stop()
            _outage(lambda: actions.SubmitAction(submission(), metadata=headers, timeout=10))
            _outage(
                lambda: actions.ListActions(
                    action_pb2.ListActionsRequest(), metadata=headers, timeout=10
                )
            )
            for service in ("", *SERVICES):
                wait_for(
                    partial(_has_health, channel, service, NOT_SERVING), f"{service} is not serving"
                )
            answers = {rest.post("/v1/actions", json=action_body()).status_code for _ in range(20)}
            assert answers == {httpx.codes.SERVICE_UNAVAILABLE}
            wait_for(
                lambda: rest.get("/healthz").status_code == httpx.codes.SERVICE_UNAVAILABLE,
                "Envoy follows",
            )
            assert stack.servers[0].poll() is None
            stack.postgres.start()
            for service in ("", *SERVICES):
                wait_for(partial(_has_health, channel, service, SERVING), f"{service} serves again")
            actions.SubmitAction(submission(), metadata=headers, timeout=10)
            wait_for(lambda: rest.get("/healthz").status_code == httpx.codes.OK, "Envoy follows")
            assert rest.post("/v1/actions", json=action_body()).status_code == httpx.codes.OK
        check_ledger(stack.postgres.url)
        assert '"INTERNAL"' not in (tmp_path / "state" / "server.log").read_text()


def _has_health(channel: grpc.Channel, service: str, expected: int) -> bool:
    return health(channel, service) == expected


def _outage(call: Callable[[], object]) -> None:
    refusal = refusal_of(call)
    assert refusal.code == grpc.StatusCode.UNAVAILABLE
    assert refusal.reason == "UNAVAILABLE"
    assert refusal.retry_after_seconds


def test_sigterm_under_load_finishes_what_is_under_way_and_loses_nothing(
    stack: LocalStack, tmp_path: Path
) -> None:
    acknowledged: list[str] = []
    codes: list[grpc.StatusCode] = []
    with lone_server(stack, tmp_path, drain_seconds="20") as (server, url):
        waiting = server.channel(stack.certificates, "agent")
        with waiting:
            watch: Any = health_pb2_grpc.HealthStub(waiting).Watch(health_pb2.HealthCheckRequest())
            assert next(watch).status == SERVING
            stopping = threading.Event()

            def load() -> None:
                with server.channel(stack.certificates, "agent") as channel:
                    stub = ActionServiceStub(channel)
                    while not stopping.is_set():
                        try:
                            answer = stub.SubmitAction(submission(), timeout=20)
                        except grpc.RpcError as error:
                            codes.append(read_refusal(error).code)
                            return
                        acknowledged.append(answer.action.action_id)

            with ThreadPoolExecutor(6) as pool:
                loads = [pool.submit(load) for _ in range(6)]
                wait_for(lambda: len(acknowledged) > 50, "the load runs")
                with writers_waiting(url):
                    before = len(acknowledged)
                    time.sleep(0.3)  # by now all six wait within the server
                    server.process.terminate()
                    assert next(watch).status == NOT_SERVING
                    time.sleep(0.5)
                    assert server.process.poll() is None  # it waits for them
                began = time.monotonic()
                wait_for(lambda: all(done.done() for done in loads), "the load ends")
                stopping.set()
                for done in loads:
                    done.result()
            watch.cancel()
        assert server.process.wait(30) == 0
        assert time.monotonic() - began < 20
        assert len(acknowledged) >= before + 6
        assert set(codes) == {grpc.StatusCode.UNAVAILABLE}
        with psycopg.connect(url) as connection:
            stored = {row[0] for row in connection.execute("SELECT action_id FROM action")}
        assert set(acknowledged) <= stored
        assert len(stored) == len(acknowledged)  # no call was cut off after its commit
        check_ledger(url)


def test_watches_end_with_a_final_event_when_the_server_drains(
    stack: LocalStack, tmp_path: Path
) -> None:
    with lone_server(stack, tmp_path, drain_seconds="60") as (server, _):
        with server.channel(stack.certificates, "agent") as channel:
            stub = ActionServiceStub(channel)
            named = action_pb2.WatchActionRequest(action_id=pending_action(stub))
            watches: list[Any] = [stub.WatchAction(named) for _ in range(5)]
            assert not any(next(watch).final for watch in watches)
            began = time.monotonic()
            server.process.terminate()
            for watch in watches:
                assert [event.final for event in watch] == [True]
        assert server.process.wait(30) == 0
        assert time.monotonic() - began < 30  # not the drain time


def test_a_lame_duck_serves_until_balancers_have_heard(stack: LocalStack, tmp_path: Path) -> None:
    with lone_server(stack, tmp_path, lame_duck_seconds="6", drain_seconds="60") as (server, url):
        with server.channel(stack.certificates, "agent") as channel:
            stub = ActionServiceStub(channel)
            named = action_pb2.WatchActionRequest(action_id=pending_action(stub))
            watch = stub.WatchAction(named, timeout=60)
            assert not first_event(watch).final
            server.process.terminate()
            wait_for(partial(_has_health, channel, "", NOT_SERVING), "it stops serving")
            # Those who have not heard yet are served, also on new connections.
            for _ in range(3):
                with server.channel(stack.certificates, "operator") as late:
                    ActionServiceStub(late).SubmitAction(submission(), timeout=20)
            assert [event.final for event in watch] == [True]
        assert server.process.wait(40) == 0
        assert count_actions(url) == 4
        check_ledger(url)


def test_a_rolling_restart_behind_the_sidecar_fails_no_call(tmp_path: Path) -> None:
    """Calls without idempotency key, which the sidecar may not repeat."""
    answers: list[int] = []
    with LocalStack(
        tmp_path / "state",
        postgres_settings={"fsync": "off"},
        server_settings={"OARS_LAME_DUCK_SECONDS": "8"},
        replicas=2,
    ) as stack:
        stopping = threading.Event()

        def load() -> None:
            with stack.client("agent") as rest:
                while not stopping.is_set():
                    answers.append(rest.post("/v1/actions", json=action_body()).status_code)

        with ThreadPoolExecutor(2) as pool:
            loads = [pool.submit(load) for _ in range(2)]
            try:
                wait_for(lambda: len(answers) > 20, "the load runs")
                stack.servers[0].terminate()
                assert stack.servers[0].wait(40) == 0
                after = len(answers)
                wait_for(lambda: len(answers) > after + 20, "the other server goes on")
            finally:
                stopping.set()
            for done in loads:
                done.result()
    assert set(answers) == {httpx.codes.OK}


def test_the_lame_duck_is_part_of_the_drain_time(stack: LocalStack, tmp_path: Path) -> None:
    with lone_server(stack, tmp_path, lame_duck_seconds="3600", drain_seconds="1") as (server, _):
        assert server.stop(40) == 0


def test_metrics_have_a_port_of_their_own_and_name_no_tenant(
    stack: LocalStack, tmp_path: Path
) -> None:
    with lone_server(stack, tmp_path) as (server, _):
        with server.channel(stack.certificates, "agent") as channel:
            stub = ActionServiceStub(channel)
            stub.SubmitAction(submission(), timeout=10)
            refusal_of(lambda: stub.SubmitAction(action_pb2.SubmitActionRequest(), timeout=10))
        text = server.metrics()
    submit = 'method="/oars.v1.ActionService/SubmitAction"'
    assert f'oars_rpcs_total{{code="OK",{submit}}} 1.0' in text
    assert f'oars_rpcs_total{{code="INVALID_ARGUMENT",{submit}}} 1.0' in text
    assert f"oars_rpc_seconds_count{{{submit}}} 2.0" in text
    assert "oars_rpcs_in_flight 0.0" in text
    assert 'oars_decisions_total{effect="approved"} 1.0' in text
    assert "oars_database_up 1.0" in text
    assert "tenant" not in text
    assert "spiffe" not in text
    assert "agent-1" not in text


def test_more_calls_than_threads_and_places_are_refused_at_once(
    stack: LocalStack, tmp_path: Path
) -> None:
    limits = {"worker_threads": "2", "queued_rpcs": "2", "streams": "1"}
    with (
        lone_server(stack, tmp_path, **limits) as (server, url),
        server.channel(stack.certificates, "agent") as channel,
    ):
        stub = ActionServiceStub(channel)
        with writers_waiting(url):
            calls = [stub.SubmitAction.future(submission(), timeout=20) for _ in range(12)]
            wait_for(lambda: sum(call.done() for call in calls) == 8, "calls are refused")
            assert health(channel) == SERVING
        refusals = [read_refusal(_error(call)) for call in calls if _error(call) is not None]
        assert len(refusals) == 8
        for refusal in refusals:
            assert refusal.code == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert refusal.retry_after_seconds == 1
        assert count_actions(url) == 12 - len(refusals)
        stub.SubmitAction(submission(), timeout=10)


def _error(call: Any) -> Any:
    return call.exception(timeout=30)


def test_an_identity_over_its_rate_is_told_when_to_come_back(
    stack: LocalStack, tmp_path: Path
) -> None:
    with lone_server(stack, tmp_path, rate_limit="5/second") as (server, _):
        with server.channel(stack.certificates, "agent") as channel:
            stub = ActionServiceStub(channel)
            refusals = []
            for _ in range(40):
                try:
                    stub.ListActions(action_pb2.ListActionsRequest(), timeout=10)
                except grpc.RpcError as error:
                    refusals.append(read_refusal(error))
        assert refusals
        for refusal in refusals:
            assert refusal.code == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert refusal.retry_after_seconds is not None
            assert 0 < refusal.retry_after_seconds <= 1.1
        # The others are not made to pay, nor is health.
        with server.channel(stack.certificates, "auditor") as channel:
            ActionServiceStub(channel).ListActions(action_pb2.ListActionsRequest(), timeout=10)
            assert [health(channel) for _ in range(20)] == [SERVING] * 20


def test_what_comes_too_late_is_not_done(stack: LocalStack, tmp_path: Path) -> None:
    limits = {"worker_threads": "1", "queued_rpcs": "8"}
    with (
        lone_server(stack, tmp_path, **limits) as (server, url),
        server.channel(stack.certificates, "agent") as channel,
    ):
        stub = ActionServiceStub(channel)
        stub.ListActions(action_pb2.ListActionsRequest(), timeout=10)
        for seconds in (0.0, 0.001, 0.004):
            late = refusal_of(partial(stub.SubmitAction, submission(), timeout=seconds))
            assert late.code == grpc.StatusCode.DEADLINE_EXCEEDED
        assert count_actions(url) == 0
        with writers_waiting(url):
            first = stub.SubmitAction.future(submission(), timeout=20)
            time.sleep(0.3)
            # They wait for the only thread until nobody waits for them any more.
            late_ones = [stub.SubmitAction.future(submission(), timeout=0.5) for _ in range(4)]
            for call in late_ones:
                assert _error(call).code() == grpc.StatusCode.DEADLINE_EXCEEDED
        first.result(timeout=20)
        stub.ListActions(action_pb2.ListActionsRequest(), timeout=20)  # after all of those
        assert count_actions(url) == 1


def test_many_and_slow_watches_do_not_keep_other_calls_waiting(
    stack: LocalStack, tmp_path: Path
) -> None:
    limits = {"streams": "8", "worker_threads": "2", "queued_rpcs": "4"}
    with (
        lone_server(stack, tmp_path, **limits) as (server, _),
        server.channel(stack.certificates, "agent") as channel,
    ):
        stub = ActionServiceStub(channel)
        named = action_pb2.WatchActionRequest(action_id=pending_action(stub))
        # Two are served and not read; the others are more than an identity's share.
        watches: list[Any] = [stub.WatchAction(named, timeout=60) for _ in range(2)]
        for watch in watches:
            next(watch)
        for _ in range(20):
            refusal = refusal_of(lambda: first_event(stub.WatchAction(named, timeout=60)))
            assert refusal.code == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert refusal.retry_after_seconds
        for _ in range(10):
            stub.SubmitAction(submission(), timeout=20)
        assert health(channel) == SERVING
        watches[0].cancel()

        def has_place() -> bool:
            try:
                return not first_event(stub.WatchAction(named, timeout=60)).final
            except grpc.RpcError:
                return False

        wait_for(has_place, "a place becomes free")
        for watch in watches:
            watch.cancel()


@pytest.mark.slow
def test_the_server_outlives_many_outages(tmp_path: Path) -> None:
    with LocalStack(tmp_path / "state", postgres_settings={"fsync": "off"}) as stack:
        for _ in range(8):
            stack.postgres.stop()
            time.sleep(2)
            stack.postgres.start()
            stack.wait_until_healthy()
            with stack.client("agent") as rest:
                assert rest.post("/v1/actions", json=action_body()).is_success
