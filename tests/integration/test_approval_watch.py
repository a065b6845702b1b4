"""Watching approvals: everything that changes is told, across restarts, to whom it concerns."""

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import httpx
import pytest

from oars_grpc.core.approval_changes import ApprovalChange
from oars_grpc.generated.oars.v1 import action_pb2, approval_pb2, tenant_pb2
from oars_grpc.generated.oars.v1.action_pb2_grpc import ActionServiceStub
from oars_grpc.generated.oars.v1.approval_pb2_grpc import ApprovalServiceStub
from oars_grpc.local.stack import LocalStack
from oars_grpc.storage import approval_log
from oars_grpc.storage.approval_log import PostgresApprovalLog
from oars_grpc.storage.engine import open_engine
from tests.integration.test_health_and_drain import lone_server
from tests.support.client import Client, client_for
from tests.support.identities import add_identity
from tests.support.rpcs import submission
from tests.support.server import refusal_of, running_server, wait_for

TENANT = "tenant_watch"
A: Any = approval_pb2
T: Any = tenant_pb2
PENDING, APPROVED = A.APPROVAL_STATE_PENDING, A.APPROVAL_STATE_APPROVED
REJECTED, CANCELED = A.APPROVAL_STATE_REJECTED, A.APPROVAL_STATE_CANCELED
CONSUMED = A.APPROVAL_STATE_CONSUMED


@dataclass(frozen=True)
class Team:
    """A tenant of this module's own with two approvers."""

    agent: Client
    admin: Client
    first: Client
    second: Client


@pytest.fixture(scope="module")
def team(stack: LocalStack) -> Iterator[Team]:
    roles = {"agent": "agent", "admin": "admin", "first": "approver", "second": "approver"}
    with ExitStack() as opened:
        clients = {}
        for name, role in roles.items():
            add_identity(stack, f"watch-{name}", role=role, tenants=[TENANT])
            clients[name] = opened.enter_context(client_for(stack, f"watch-{name}"))
        made = Team(**clients)
        made.admin.tenants.CreateTenant(T.CreateTenantRequest(tenant_id=TENANT), timeout=20)
        yield made


def ask(client: Client, target: str = "") -> Any:
    """A new approval."""
    request = submission("transfer_funds")
    request.context.environment = "production"
    request.resource.target = target or f"account/{uuid4()}"
    return client.actions.SubmitAction(request, timeout=20).approval


def decide(client: Client, approval: Any, verdict: int = A.VERDICT_APPROVE) -> None:
    request = A.DecideApprovalRequest(
        approval_id=approval.approval_id,
        verdict=verdict,
        action_digest=approval.action_digest,
        display_digest=approval.display_digest,
    )
    client.approvals.DecideApproval(request, timeout=20)


def withdraw(client: Client, approval: Any) -> None:
    request = action_pb2.CancelActionRequest(action_id=approval.action_id)
    client.actions.CancelAction(request, timeout=20)


@contextmanager
def watching(
    stub: Any, cursor: str = "", *, mine: bool = False, seconds: float = 30
) -> Iterator[Any]:
    watch = stub.WatchApprovals(A.WatchApprovalsRequest(cursor=cursor, mine=mine), timeout=seconds)
    try:
        yield watch
    finally:
        watch.cancel()


def until(watch: Any, approval: Any, state: int) -> Any:
    """The event that shows an approval in a state; others go by."""
    for event in watch:
        assert not event.final, "the watch ended first"
        if (event.approval.approval_id, event.approval.state) == (approval.approval_id, state):
            return event
    raise AssertionError("the watch ended without a final event")


def whole(stub: ApprovalServiceStub, cursor: str = "", *, mine: bool = False) -> list[Any]:
    """All events of a watch that its deadline ends."""
    with watching(stub, cursor, mine=mine, seconds=2.5) as watch:
        events = list(watch)
    assert [event.final for event in events] == [False] * (len(events) - 1) + [True]
    return events


def ids(events: list[Any]) -> list[str]:
    return [event.approval.approval_id for event in events if not event.final]


def test_it_begins_with_what_is_pending_and_then_tells_every_change(team: Team) -> None:
    older, closed, newer = ask(team.agent), ask(team.agent), ask(team.agent)
    decide(team.first, closed, A.VERDICT_REJECT)
    with watching(team.first.approvals) as watch:
        first = until(watch, newer, PENDING)
        until(watch, older, PENDING)
        later = ask(team.agent)
        assert until(watch, later, PENDING).approval == later
        decide(team.first, older)
        told = until(watch, older, APPROVED)
        assert [each.approver for each in told.approval.decisions] == [
            "spiffe://oars.dev/watch-first"
        ]
        team.agent.actions.StartAction(
            action_pb2.StartActionRequest(action_id=older.action_id), timeout=20
        )
        until(watch, older, CONSUMED)
        withdraw(team.agent, later)
        last = until(watch, later, CANCELED)
    # What was closed before is not told; neither is anything twice.
    again = whole(team.first.approvals, first.cursor)
    assert closed.approval_id not in ids(again)
    assert older.approval_id in ids(again)
    assert ids(whole(team.first.approvals, last.cursor)) == []
    withdraw(team.agent, newer)


def test_pending_ones_come_newest_first_in_pages_and_a_cursor_within_goes_on(team: Team) -> None:
    made = [ask(team.agent).approval_id for _ in range(120)]
    newest_first = sorted(made, reverse=True)
    with watching(team.first.approvals) as watch:
        begun = [next(watch) for _ in range(50)]
    assert ids(begun) == newest_first[:50]
    rest = whole(team.first.approvals, begun[-1].cursor)
    assert [each for each in ids(rest) if each in made] == newest_first[50:]
    assert len(ids(rest)) == len(set(ids(rest)))
    for approval_id in made:
        named = A.GetApprovalRequest(approval_id=approval_id)
        withdraw(team.agent, team.first.approvals.GetApproval(named, timeout=20).approval)


def test_what_changes_while_pending_ones_are_listed_is_told_after_a_reconnect(team: Team) -> None:
    one, two = ask(team.agent), ask(team.agent)
    with watching(team.first.approvals) as watch:
        begun = next(watch)
    assert begun.approval.approval_id == two.approval_id
    decide(team.first, two, A.VERDICT_REJECT)
    three = ask(team.agent)
    states = {
        event.approval.approval_id: event.approval.state
        for event in whole(team.first.approvals, begun.cursor)
        if not event.final
    }
    assert states[one.approval_id] == PENDING
    assert states[two.approval_id] == REJECTED
    assert states[three.approval_id] == PENDING
    withdraw(team.agent, one)
    withdraw(team.agent, three)


def test_nothing_is_missed_over_many_reconnects_while_others_write(team: Team) -> None:
    made: dict[str, int] = {}
    over = threading.Event()

    def write() -> None:
        try:
            for number in range(30):
                approval = ask(team.agent)
                if number % 3 == 0:
                    decide(team.second, approval)
                    made[approval.approval_id] = APPROVED
                elif number % 3 == 1:
                    decide(team.second, approval, A.VERDICT_REJECT)
                    made[approval.approval_id] = REJECTED
                else:
                    withdraw(team.agent, approval)
                    made[approval.approval_id] = CANCELED
        finally:
            over.set()

    with watching(team.first.approvals, seconds=2) as watch:
        cursor = list(watch)[-1].cursor
    writer = threading.Thread(target=write)
    writer.start()
    seen: dict[str, list[int]] = {}
    connections, finished = 0, False
    while not finished:
        finished = over.is_set()
        connections += 1
        with watching(team.first.approvals, cursor, seconds=2) as watch:
            for number, event in enumerate(watch):
                cursor = event.cursor
                if event.final:
                    break
                seen.setdefault(event.approval.approval_id, []).append(event.approval.state)
                if number == connections % 3:  # the connection breaks wherever it is
                    finished = False
                    break
    writer.join(60)
    assert connections > 5
    assert len(made) == 30
    assert {approval_id: states[-1] for approval_id, states in seen.items()} == made


def test_another_replica_goes_on_where_the_first_stopped(
    stack: LocalStack, team: Team, tmp_path: Path
) -> None:
    approval = ask(team.agent)
    with watching(team.first.approvals) as watch:
        cursor = until(watch, approval, PENDING).cursor
    decide(team.first, approval)
    with (
        running_server(
            tmp_path,
            stack.certificates,
            stack.postgres.url,
            key_encryption_key_file=str(stack._key_file()),
            watch_seconds="2",
        ) as server,
        server.channel(stack.certificates, "watch-first") as channel,
        watching(ApprovalServiceStub(channel), cursor) as watch,
    ):
        until(watch, approval, APPROVED)
        assert [event.final for event in watch] == [True]  # after the longest time


def test_mine_is_what_the_caller_may_decide_and_what_becomes_of_it(team: Team) -> None:
    foreign = ask(team.agent)
    stage = {"name": "two", "required_approvals": 2, "mode": A.STAGE_MODE_SERIAL}
    named = [{"principal": f"spiffe://oars.dev/watch-{name}"} for name in ("first", "second")]
    workflow = A.Workflow(workflow_id="default", stages=[stage | {"approvers": named}])
    settings = T.TenantSettings(workflows=[workflow])
    team.admin.tenants.UpdateTenant(
        T.UpdateTenantRequest(tenant_id=TENANT, settings=settings), timeout=20
    )
    try:
        withdraw(team.agent, foreign)
        own = ask(team.admin)  # nobody decides what he asked for, whatever his role
        asked = ask(team.agent)
        with (
            watching(team.first.approvals, mine=True) as his,
            watching(team.second.approvals, mine=True) as hers,
        ):
            until(his, asked, PENDING)
            until(his, own, PENDING)
            decide(team.first, asked)
            # Now it is her turn, and he hears of his own decision, as it was shown to him.
            event = until(hers, asked, PENDING)
            assert len(event.approval.decisions) == 1
            seen = until(his, asked, PENDING)
            assert len(seen.approval.decisions) == 1
            decide(team.second, asked)
            until(his, asked, APPROVED)
            until(hers, asked, APPROVED)
        # One who was not asked anything sees nothing, unless it asks for all.
        assert ids(whole(team.admin.approvals, mine=True)) == []
        assert own.approval_id in ids(whole(team.admin.approvals))
        # A watch that goes on tells of the closing of what the one before has shown.
        decide(team.first, own, A.VERDICT_REJECT)
        again = whole(team.first.approvals, event_cursor := seen.cursor, mine=True)
        assert own.approval_id in ids(again)
        assert asked.approval_id in ids(again)
        refusal = refusal_of(lambda: whole(team.second.approvals, event_cursor, mine=True))
        assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    finally:
        team.admin.tenants.UpdateTenant(
            T.UpdateTenantRequest(tenant_id=TENANT, settings=T.TenantSettings()), timeout=20
        )


def test_a_cursor_is_refused_that_was_changed_or_is_of_another_watch(
    team: Team, admin: Client
) -> None:
    cursor = whole(team.first.approvals)[-1].cursor
    for client, wrong, mine in (
        (team.first, "garbage", False),
        (team.first, cursor[:-2] + ("AA" if cursor[-2:] != "AA" else "BB"), False),
        (team.first, cursor, True),
        (admin, cursor, False),
        (team.first, "x" * 257, False),
    ):
        with watching(client.approvals, wrong, mine=mine) as watch:
            refusal = refusal_of(lambda watch=watch: next(watch))  # type: ignore[misc]  # of a default
        assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
        assert "cursor" in refusal.message


def test_over_rest_events_arrive_one_by_one(team: Team) -> None:
    approval = ask(team.agent)
    query = {"mine": "true", "tenant_id": TENANT}
    with team.first.rest.stream("GET", "/v1/approvals:watch", params=query, timeout=20) as answer:
        assert answer.status_code == httpx.codes.OK
        texts = answer.iter_text()
        received = next(texts)
        while approval.approval_id not in received:
            received += next(texts)
        decide(team.first, approval)
        while "APPROVAL_STATE_APPROVED" not in received:  # the stream is still open
            received += next(texts)
    assert json.loads(received.rstrip(",") + "]")[-1]["approval"]["state"] == (
        "APPROVAL_STATE_APPROVED"
    )
    refused = team.first.rest.get("/v1/approvals:watch", params={"approval_id": "x"})
    assert refused.json()["details"][0]["reason"] == "UNEXPECTED_QUERY"


def test_draining_ends_it_with_a_final_event_that_leads_on(
    stack: LocalStack, tmp_path: Path
) -> None:
    with (
        lone_server(stack, tmp_path) as (server, url),
        server.channel(stack.certificates, "agent") as asking,
        server.channel(stack.certificates, "approver") as before,
    ):
        request = submission("transfer_funds")
        request.context.environment = "production"
        stub = ActionServiceStub(asking)
        approval = stub.SubmitAction(request, timeout=20).approval
        with watching(ApprovalServiceStub(before), seconds=60) as watch:
            until(watch, approval, PENDING)
            server.process.terminate()
            (last,) = list(watch)
            assert last.final
            assert not last.HasField("approval")
        assert server.process.wait(60) == 0
        key = str(tmp_path / "key-encryption-key")
        with (
            running_server(
                tmp_path / "next", stack.certificates, url, key_encryption_key_file=key
            ) as following,
            following.channel(stack.certificates, "approver") as channel,
        ):
            assert ids(whole(ApprovalServiceStub(channel), last.cursor)) == []


def test_it_takes_its_share_of_places_and_ends_with_its_identity(
    stack: LocalStack, tmp_path: Path
) -> None:
    trusted = tmp_path / "trusted-identities.json"
    entries = json.loads((stack.certificates / "trusted-identities.json").read_text())
    trusted.write_text(json.dumps(entries))
    settings = {"streams": "8", "trusted_identities_file": str(trusted)}
    with (
        lone_server(stack, tmp_path, **settings) as (server, _),
        server.channel(stack.certificates, "agent") as asking,
        server.channel(stack.certificates, "approver") as channel,
    ):
        request = submission("transfer_funds")
        request.context.environment = "production"
        ActionServiceStub(asking).SubmitAction(request, timeout=20)
        stub = ApprovalServiceStub(channel)
        with watching(stub, seconds=60) as first, watching(stub, seconds=60) as second:
            assert next(first).approval == next(second).approval
            with watching(stub) as third:
                refusal = refusal_of(lambda: next(third))
            assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert refusal.retry_after_seconds
            first.cancel()
            wait_for(lambda: _opens(stub), "its place is free")
            name = "spiffe://oars.dev/approver"
            kept = [entry for entry in entries if entry.get("spiffeId") != name]
            unfinished = tmp_path / "unfinished"
            unfinished.write_text(json.dumps(kept))
            unfinished.replace(trusted)
            assert refusal_of(lambda: next(second)).reason == "IDENTITY_NOT_TRUSTED"


def _opens(stub: ApprovalServiceStub) -> bool:
    with watching(stub) as watch:
        try:
            return bool(next(watch).approval.approval_id)
        except grpc.RpcError:
            return False


def test_a_long_log_is_followed_in_pieces(
    stack: LocalStack, team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(approval_log, "WINDOW", 3)
    engine = open_engine(
        stack.postgres.url,
        pool_size=1,
        statement_timeout_ms=10_000,
        lock_timeout_ms=10_000,
        application_name="test",
    )
    try:
        log = PostgresApprovalLog(engine)
        size = log.log_size(TENANT)
        assert size is not None
        made = [ask(team.agent) for _ in range(4)]
        decide(team.first, made[0])
        found: list[ApprovalChange] = []
        reached, looks = size - 1, 0
        while True:
            look = log.changes_after(TENANT, reached)
            assert all(reached < change.leaf_index <= look.reached for change in look.changes)
            found += look.changes
            reached, looks = look.reached, looks + 1
            if not look.more:
                break
        now = log.log_size(TENANT)
        assert now is not None
        assert (reached, looks) == (now - 1, (now - size) // 3 + 1)
        assert {change.approval.approval_id for change in found} == {
            approval.approval_id for approval in made
        }
        assert found[-1].approval.approval_id == made[0].approval_id
        assert log.log_size("tenant_nobody") is None
        assert log.changes_after("tenant_nobody", -1).changes == []
    finally:
        engine.dispose()
