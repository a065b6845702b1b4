"""Two servers on one Postgres answer as one."""

import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest

from oars_grpc.errors import ConfigurationError
from oars_grpc.generated.oars.v1 import action_pb2, approval_pb2, policy_pb2, tenant_pb2
from oars_grpc.generated.oars.v1.action_pb2_grpc import ActionServiceStub
from oars_grpc.generated.oars.v1.approval_pb2_grpc import ApprovalServiceStub
from oars_grpc.generated.oars.v1.policy_pb2_grpc import PolicyServiceStub
from oars_grpc.generated.oars.v1.tenant_pb2_grpc import TenantServiceStub
from oars_grpc.local.bundle import load_script
from oars_grpc.local.postgres import EmbeddedPostgres
from oars_grpc.local.stack import TENANT, LocalStack
from tests.support.database import check_ledger
from tests.support.server import (
    end,
    forwarded,
    launch,
    log_lines,
    read_refusal,
    wait_for,
    wait_listening,
)

EFFECTS = {
    policy_pb2.EFFECT_ALLOW: action_pb2.ACTION_STATE_APPROVED,
    policy_pb2.EFFECT_DENY: action_pb2.ACTION_STATE_DENIED,
}


@dataclass(frozen=True)
class Pair:
    """Two replicas, each asked directly, as the sidecar would."""

    stack: LocalStack
    channels: tuple[grpc.Channel, grpc.Channel]

    def headers(self, name: str, key: str = "") -> tuple[tuple[str, str], ...]:
        """The identity of a call, and its idempotency key."""
        identity = (forwarded(self.stack.certificates, name),)
        return (*identity, ("idempotency-key", key)) if key else identity

    def actions(self, replica: int) -> ActionServiceStub:
        return ActionServiceStub(self.channels[replica])

    def submit(
        self, replica: int, operation: str = "create_ticket", key: str = ""
    ) -> action_pb2.SubmitActionResponse:
        request = action_pb2.SubmitActionRequest(agent_id="agent-1")
        request.resource.tool_id, request.resource.operation = "desk", operation
        request.context.data_types.append("none")
        request.context.environment = "production" if operation == "transfer_funds" else "staging"
        response: action_pb2.SubmitActionResponse = self.actions(replica).SubmitAction(
            request, metadata=self.headers("agent", key), timeout=30
        )
        return response

    def state(self, replica: int, action_id: str) -> int:
        answer = self.actions(replica).GetAction(
            action_pb2.GetActionRequest(action_id=action_id),
            metadata=self.headers("agent"),
            timeout=30,
        )
        return int(answer.action.state)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with ExitStack() as opened:
        stack = opened.enter_context(
            LocalStack(
                tmp_path_factory.mktemp("pair"),
                replicas=2,
                postgres_settings={"fsync": "off"},
                server_settings={"OARS_UPKEEP_SECONDS": "1"},
            )
        )
        first, second = (
            opened.enter_context(grpc.insecure_channel(f"unix:{path}")) for path in stack._sockets
        )
        yield Pair(stack, (first, second))
        check_ledger(stack.postgres.url)  # whatever the tests did


def query(url: str, statement: str, *values: Any) -> list[Any]:
    with psycopg.connect(url) as connection:
        return connection.execute(statement.encode(), values).fetchall()


def race(*calls: Callable[[], object]) -> list[str]:
    """The reasons of calls made at one moment; empty for success."""

    def reason(call: Callable[[], object]) -> str:
        try:
            call()
        except grpc.RpcError as error:
            refusal = read_refusal(error)
            return refusal.reason or refusal.code.name
        return ""

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(reason, calls))


def test_fifty_submissions_under_one_key_are_one_action(pair: Pair) -> None:
    for number in range(3):
        key = f"everywhere-{number}"
        with ThreadPoolExecutor(50) as pool:
            answers = list(pool.map(lambda n, key=key: pair.submit(n % 2, key=key), range(50)))
        first = answers[0].SerializeToString(deterministic=True)
        assert all(each.SerializeToString(deterministic=True) == first for each in answers)
        found = query(
            pair.stack.postgres.url,
            "SELECT count(*) FROM idempotency_outcome WHERE key = %s",
            key,
        )
        assert found == [(1,)]
    submitted = query(
        pair.stack.postgres.url, "SELECT count(*) FROM receipt WHERE type = 'action.requested'"
    )
    assert submitted == query(pair.stack.postgres.url, "SELECT count(*) FROM action")


def test_a_policy_published_on_one_decides_on_the_other_at_once(pair: Pair) -> None:
    policies = [PolicyServiceStub(channel) for channel in pair.channels]
    headers = pair.headers("admin")
    for number in range(8):
        effect = policy_pb2.EFFECT_DENY if number % 3 else policy_pb2.EFFECT_ALLOW
        document = policy_pb2.PolicyDocument(
            name=f"turn {number}", rules=[policy_pb2.Rule(id="all", effect=effect)]
        )
        here, there = number % 2, 1 - number % 2
        created = policies[here].CreatePolicy(
            policy_pb2.CreatePolicyRequest(document=document), metadata=headers, timeout=30
        )
        policy_id = created.policy.policy_id
        policies[here].PublishPolicy(
            policy_pb2.PublishPolicyRequest(policy_id=policy_id), metadata=headers, timeout=30
        )
        decided = pair.submit(there)
        assert decided.action.state == EFFECTS[effect]
        assert decided.decision.policy_id == policy_id
        policies[there].RollbackPolicy(
            policy_pb2.RollbackPolicyRequest(policy_id=policy_id), metadata=headers, timeout=30
        )
        assert pair.submit(here).decision.policy_id != policy_id


def test_complete_and_cancel_at_one_moment_have_one_winner(pair: Pair) -> None:
    headers = pair.headers("agent")
    for number in range(12):
        action_id = pair.submit(number % 2).action.action_id
        complete = action_pb2.CompleteActionRequest(
            action_id=action_id, outcome=action_pb2.OUTCOME_SUCCEEDED
        )
        cancel = action_pb2.CancelActionRequest(action_id=action_id)
        first, second = pair.actions(number % 2), pair.actions(1 - number % 2)
        completed, canceled = race(
            lambda: first.CompleteAction(complete, metadata=headers, timeout=30),  # noqa: B023 - raced before the loop goes on
            lambda: second.CancelAction(cancel, metadata=headers, timeout=30),  # noqa: B023 - likewise
        )
        assert "" in (completed, canceled)
        assert (completed or canceled) in ("INVALID_STATE_TRANSITION", "CONCURRENT_CHANGE")
        expected = (
            action_pb2.ACTION_STATE_CANCELED if completed else action_pb2.ACTION_STATE_EXECUTED
        )
        assert pair.state(0, action_id) == pair.state(1, action_id) == expected


def test_two_people_deciding_at_one_moment_have_one_winner(pair: Pair) -> None:
    approvals = [ApprovalServiceStub(channel) for channel in pair.channels]
    for number in range(12):
        submitted = pair.submit(number % 2, "transfer_funds")
        assert submitted.action.state == action_pb2.ACTION_STATE_APPROVAL_REQUIRED

        def decide(replica: int, name: str, verdict: Any, asked: Any = submitted.approval) -> None:
            approvals[replica].DecideApproval(
                approval_pb2.DecideApprovalRequest(
                    approval_id=asked.approval_id,
                    action_digest=asked.action_digest,
                    display_digest=asked.display_digest,
                    verdict=verdict,
                ),
                metadata=pair.headers(name),
                timeout=30,
            )

        approved, rejected = race(
            lambda: decide(0, "approver", approval_pb2.VERDICT_APPROVE),
            lambda: decide(1, "admin", approval_pb2.VERDICT_REJECT),
        )
        loser = approved or rejected
        assert "" in (approved, rejected)
        assert loser in ("APPROVAL_NOT_PENDING", "CONCURRENT_CHANGE", "INVALID_STATE_TRANSITION")
        expected = action_pb2.ACTION_STATE_DENIED if approved else action_pb2.ACTION_STATE_APPROVED
        action_id = submitted.action.action_id
        assert pair.state(0, action_id) == pair.state(1, action_id) == expected


def test_an_action_that_is_due_expires_once_whoever_does_it(pair: Pair) -> None:
    with grpc.insecure_channel(f"unix:{pair.stack._sockets[0]}") as channel:
        tenants = TenantServiceStub(channel)

        def permit(seconds: int) -> None:
            settings = tenant_pb2.TenantSettings(permit_seconds=seconds)
            tenants.UpdateTenant(
                tenant_pb2.UpdateTenantRequest(tenant_id=TENANT, settings=settings),
                metadata=pair.headers("admin"),
                timeout=30,
            )

        permit(1)
        try:
            due = [pair.submit(number % 2).action.action_id for number in range(20)]
        finally:
            permit(900)
    wait_for(
        lambda: (
            {pair.state(0, action_id) for action_id in due} == {action_pb2.ACTION_STATE_EXPIRED}
        ),
        "all have expired",
    )
    time.sleep(1.5)  # another round on both
    receipts = query(
        pair.stack.postgres.url,
        "SELECT action_id, count(*) FROM receipt WHERE type = 'action.expired'"
        " AND action_id = ANY(%s) GROUP BY action_id",
        due,
    )
    assert dict(receipts) == dict.fromkeys(due, 1)


def test_a_stack_is_healthy_only_when_every_replica_is(pair: Pair) -> None:
    pair.stack.wait_until_healthy(10)
    halted = pair.stack.servers[1]
    halted.send_signal(signal.SIGSTOP)  # the sidecar still answers, by the other one
    try:
        with pytest.raises(ConfigurationError, match="did not become healthy"):
            pair.stack.wait_until_healthy(4)
    finally:
        halted.send_signal(signal.SIGCONT)
    pair.stack.wait_until_healthy(20)


def test_servers_that_start_at_once_on_an_empty_database_all_come_up(tmp_path: Path) -> None:
    files = load_script("certs-dev/generate.py").generate(tmp_path / "certificates")
    with (
        EmbeddedPostgres(tmp_path / "postgres", settings={"fsync": "off"}) as postgres,
        ExitStack() as ended,
    ):
        starting = [
            launch(tmp_path / f"server-{number}", files, postgres.url) for number in range(3)
        ]
        for process, _ in starting:
            ended.callback(end, process)
        servers = [wait_listening(process, log) for process, log in starting]
        with servers[0].channel(files, "admin") as channel:
            TenantServiceStub(channel).CreateTenant(
                tenant_pb2.CreateTenantRequest(tenant_id=TENANT), timeout=30
            )
        for server in servers:
            request = action_pb2.SubmitActionRequest(agent_id="agent-1")
            request.resource.tool_id, request.resource.operation = "desk", "create_ticket"
            request.context.environment = "staging"
            request.context.data_types.append("none")
            with server.channel(files, "agent") as channel:
                ActionServiceStub(channel).SubmitAction(request, timeout=30)
            errors = [line for line in log_lines(server.log_file) if line["level"] == "error"]
            assert errors == []
        assert check_ledger(postgres.url) == 2 * len(servers)
        for server in servers:
            assert server.stop() == 0
