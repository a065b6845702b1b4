"""Replays through the running stack: over gRPC and REST, with what happens to logs, and for CI."""

import base64
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import psycopg
import pytest
from click.testing import CliRunner, Result
from google.protobuf import json_format

from oars_grpc.cli.key_files import trusted_keys
from oars_grpc.cli.policy_replay import replay
from oars_grpc.cli.replay_files import received_report
from oars_grpc.core.replay_report import ReplayReport
from oars_grpc.core.replay_verification import verify_report
from oars_grpc.generated.oars.v1 import policy_pb2, receipt_pb2, replay_pb2
from oars_grpc.local.stack import LocalStack
from tests.support.client import Client, action_body, client_for, submit
from tests.support.factories import new_id
from tests.support.identities import add_identity
from tests.support.tampering import tamper

TENANT = "tenant_replay"
ROLES = ("admin", "auditor", "agent", "operator", "approver")
Request = policy_pb2.ReplayPolicyRequest
ALLOW_ALL = {"id": "ALL", "effect": "EFFECT_ALLOW"}
NO_REFUNDS = {
    "id": "NO-REFUNDS",
    "effect": "EFFECT_DENY",
    "match": {"operations": ["refund_payment"]},
}
LARGE = {"id": "LARGE", "effect": "EFFECT_APPROVE", "condition": "input.amount >= 100"}
ERASED_IN_SECONDS = 60.0


@dataclass(frozen=True)
class World:
    """A tenant of this module's own."""

    stack: LocalStack
    clients: dict[str, Client]

    @property
    def auditor(self) -> Client:
        return self.clients["auditor"]

    def size(self) -> int:
        request = receipt_pb2.GetCheckpointRequest(tenant_id=TENANT)
        answer = self.auditor.receipts.GetCheckpoint(request, timeout=20)
        return int(answer.checkpoint.size)

    def checkpoint(self) -> str:
        request = receipt_pb2.GetCheckpointRequest(tenant_id=TENANT)
        note: str = self.auditor.receipts.GetCheckpoint(request, timeout=20).checkpoint.note
        return note

    def draft(self, *rules: dict[str, Any]) -> str:
        body = {"tenantId": TENANT, "document": {"name": "draft", "rules": rules}}
        answer = done(self.clients["admin"].rest.post("/v1/policies", json=body))
        policy_id: str = answer["policy"]["policyId"]
        return policy_id

    def publish(self, *rules: dict[str, Any]) -> str:
        policy_id = self.draft(*rules)
        done(self.clients["admin"].rest.post(f"/v1/policies/{policy_id}/publish", json={}))
        return policy_id

    def submit(self, operation: str = "create_ticket", amount: int = 1) -> dict[str, Any]:
        return submit(self.clients["agent"], action_body(operation, input={"amount": amount}))

    def keys(self) -> Any:
        return done(self.auditor.rest.get(f"/v1/trust/tenants/{TENANT}/keys"))

    def replay(self, role: str = "auditor", **fields: Any) -> replay_pb2.ReplayPolicyEnd:
        """The last message, once all have come in order."""
        stub = self.clients[role].policies
        begin, *progress, last = stub.ReplayPolicy(asked(**fields), timeout=60)
        assert begin.WhichOneof("event") == "begin"
        assert last.WhichOneof("event") == "end"
        told = [each.progress.receipts for each in progress]
        assert told == sorted(told)
        assert not told or told[-1] == begin.begin.to_size - begin.begin.from_size
        return last.end

    def report(self, **fields: Any) -> ReplayReport:
        """The report, verified by what the tenant's keys say."""
        return verify_report(received_report(self.replay(**fields)), trusted_keys(self.keys()))


def asked(*rules: dict[str, Any], **fields: Any) -> Request:
    """A request for a replay; without a stored policy of a document that denies refunds."""
    request = Request(**({"tenant_id": TENANT} | fields))
    if not request.policy_id:
        document = {"name": "draft", "rules": rules or (ALLOW_ALL, NO_REFUNDS)}
        json_format.ParseDict(document, request.document)
    return request


def done(answer: httpx.Response) -> Any:
    assert answer.status_code == httpx.codes.OK, answer.text
    return answer.json()


@pytest.fixture(scope="module")
def world(stack: LocalStack) -> Iterator[World]:
    with ExitStack() as opening:
        clients = {}
        for role in ROLES:
            add_identity(stack, f"replay-{role}", role=role, tenants=[TENANT])
            clients[role] = opening.enter_context(client_for(stack, f"replay-{role}"))
        done(clients["admin"].rest.post("/v1/tenants", json={"tenantId": TENANT}))
        yield World(stack, clients)


@pytest.fixture(scope="module")
def first(world: World) -> int:
    """The size of the log before the decisions of two policies, one after the other."""
    size = world.size()
    world.publish(ALLOW_ALL)
    world.submit()
    world.submit("refund_payment")
    world.publish(ALLOW_ALL, LARGE)
    world.submit(amount=500)
    world.submit("refund_payment", amount=500)
    return size


def test_a_draft_is_compared_with_whatever_policy_decided_then(world: World, first: int) -> None:
    report = world.report(from_size=first)
    counts = report.counts()
    assert counts["decisions"] == 4
    assert {name: count for name, count in counts.items() if count and name != "decisions"} == {
        "unchanged": 1,
        "changed": 3,
        "newlyAllowed": 1,
        "newlyDenied": 2,
        "stricter": 2,
        "lessStrict": 1,
    }
    denied = report.examples["newlyDenied"]
    assert [example.rules for example in denied] == [("NO-REFUNDS",)] * 2
    found = done(world.auditor.rest.get(f"/v1/receipts/{denied[0].receipt_id}"))["receipt"]
    assert found["actionId"] == denied[0].action_id
    assert int(found["leafIndex"]) == denied[0].leaf_index


def test_the_published_policy_says_of_its_own_decisions_the_same(world: World, first: int) -> None:
    published = world.publish(ALLOW_ALL, LARGE, NO_REFUNDS)
    start = world.size()
    for operation, amount in (("create_ticket", 1), ("create_ticket", 900), ("refund_payment", 3)):
        world.submit(operation, amount)
    report = world.report(policy_id=published, from_size=start)
    assert report.counts()["unchanged"] == report.counts()["decisions"] == 3
    assert report.draft.policy_id == published
    assert report.range.first.size == start


def test_outcomes_and_human_decisions_are_no_decisions_of_policy(world: World, first: int) -> None:
    world.publish(ALLOW_ALL, LARGE)
    start = world.size()
    approval = world.submit(amount=700)["approval"]
    path = f"/v1/approvals/{approval['approvalId']}/decision"
    shown = {name: approval[name] for name in ("actionDigest", "displayDigest")}
    body = {"verdict": "VERDICT_REJECT", "reason": "no", **shown}
    done(world.clients["approver"].rest.post(path, json=body))
    allowed = world.submit()["action"]["actionId"]
    finished = {"outcome": "OUTCOME_SUCCEEDED"}
    done(world.clients["agent"].rest.post(f"/v1/actions/{allowed}:complete", json=finished))
    report = world.report(from_size=start)
    assert world.size() - start > 4
    assert report.counts()["decisions"] == 2


def test_the_same_question_has_the_same_answer_over_rest_and_later(
    world: World, first: int
) -> None:
    size = world.size()
    end = world.replay(from_size=first, to_size=size)
    world.submit()
    again = world.replay("admin", from_size=first, to_size=size)
    assert again == end
    by_note = world.replay(from_checkpoint=end.from_checkpoint, to_checkpoint=end.to_checkpoint)
    assert by_note == end
    document = {"name": "draft", "rules": [ALLOW_ALL, NO_REFUNDS]}
    body = {"tenantId": TENANT, "document": document, "fromSize": first, "toSize": size}
    begin, *_, last = done(world.auditor.rest.post("/v1/policies/replay", json=body))
    assert begin["begin"]["tenantId"] == TENANT
    assert base64.b64decode(last["end"]["report"]["payload"]) == end.report.payload


@pytest.mark.parametrize(
    ("fields", "code", "said"),
    [
        ({"from_size": -1}, "INVALID_ARGUMENT", "from_size"),
        ({"to_size": 10**12}, "INVALID_ARGUMENT", "to_size"),
        ({"from_size": 3, "to_size": 2}, "INVALID_ARGUMENT", "from_size"),
        ({"from_size": 1, "from_checkpoint": "x"}, "INVALID_ARGUMENT", "from_checkpoint"),
        ({"to_checkpoint": "x"}, "INVALID_ARGUMENT", "to_checkpoint"),
        ({"examples": 101}, "INVALID_ARGUMENT", "examples"),
        ({"policy_id": "mine"}, "INVALID_ARGUMENT", "policy_id"),
        ({"policy_id": new_id("pol")}, "NOT_FOUND", "pol_"),
        ({"tenant_id": "tenant_beta"}, "PERMISSION_DENIED", "tenant_beta"),
    ],
)
def test_what_cannot_be_replayed_is_refused(
    world: World, first: int, fields: dict[str, Any], code: str, said: str
) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        world.replay(**fields)
    assert refused.value.code().name == code
    assert said in str(refused.value.details())


def test_a_request_without_a_draft_or_with_a_broken_one_is_refused(world: World) -> None:
    for request, said in (
        (Request(tenant_id=TENANT), "draft"),
        (asked({"id": "R", "effect": "EFFECT_DENY", "condition": "1 +"}), "condition"),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            list(world.auditor.policies.ReplayPolicy(request, timeout=20))
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert said in str(refused.value.details())


def test_only_auditors_and_admins_replay(world: World, first: int) -> None:
    for role in ("agent", "operator", "approver"):
        with pytest.raises(grpc.RpcError) as refused:
            world.replay(role)
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert world.replay("admin", to_size=1).report.payload


def test_a_canceled_replay_gives_its_place_back(world: World, first: int) -> None:
    for _ in range(3):
        call: Any = world.auditor.policies.ReplayPolicy(asked(), timeout=60)
        next(iter(call))
        call.cancel()
        ends = time.monotonic() + 20
        while _is_busy(world):
            assert time.monotonic() < ends
            time.sleep(0.1)


def _is_busy(world: World) -> bool:
    """Whether the identity's place is taken."""
    try:
        world.replay(to_size=1)
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
            raise
        return True
    return False


def test_a_flipped_byte_of_a_payload_gives_no_report(world: World, first: int) -> None:
    leaf = first + 5
    flip = (
        "UPDATE receipt_body SET payload ="
        " set_byte(payload, 30, get_byte(payload, 30) # 1)"
        f" WHERE tenant_id = '{TENANT}' AND leaf_index = {leaf}"
    )
    tamper(world.stack.postgres.url, flip)
    try:
        with pytest.raises(grpc.RpcError) as refused:
            world.replay()
        assert refused.value.code() is grpc.StatusCode.INTERNAL
        assert "internal error" in str(refused.value.details())
        log = (world.stack.certificates.parent / "server.log").read_text()
        assert f"log of tenant {TENANT}: leaf {leaf} is not the hash of its payload" in log
        assert world.report(to_size=leaf).range.last.size == leaf
    finally:
        tamper(world.stack.postgres.url, flip)
    assert world.report().counts()["decisions"] > 0


def test_erased_payloads_are_told_as_erased(world: World, first: int) -> None:
    world.publish(ALLOW_ALL)
    start = world.size()
    action_id = world.submit()["action"]["actionId"]
    finished = {"outcome": "OUTCOME_SUCCEEDED"}
    done(world.clients["agent"].rest.post(f"/v1/actions/{action_id}:complete", json=finished))
    world.submit()
    end = world.size()
    _age(world.stack, action_id)
    settings = {"settings": {"retentionDays": 30}}
    done(world.clients["admin"].rest.patch(f"/v1/tenants/{TENANT}", json=settings))
    ends = time.monotonic() + ERASED_IN_SECONDS
    while not (report := world.report(from_size=start, to_size=end)).erased_leaves:
        assert time.monotonic() < ends, "nothing was erased in time"
        time.sleep(0.5)
    assert report.erased_leaves == 3
    assert report.counts()["decisions"] == 2
    assert report.counts()["notReplayable"] == 1
    (example,) = report.examples["notReplayable"]
    assert example.action_id == action_id


def _age(stack: LocalStack, action_id: str) -> None:
    """Move an action into the past, as only the owner of the tables can."""
    with psycopg.connect(stack.postgres.url) as owner:
        owner.execute("ALTER TABLE receipt DISABLE TRIGGER no_update")
        owner.execute(
            "UPDATE receipt SET recorded_at = recorded_at - interval '40 days'"
            " WHERE tenant_id = %s AND action_id = %s",
            (TENANT, action_id),
        )
        owner.execute("ALTER TABLE receipt ENABLE ALWAYS TRIGGER no_update")
        owner.execute(
            "UPDATE action SET created_at = created_at - interval '40 days',"
            " updated_at = updated_at - interval '40 days'"
            " WHERE tenant_id = %s AND action_id = %s",
            (TENANT, action_id),
        )


POLICY_FILE = """
name: draft
rules:
  - {id: ALL, decision: ALLOW}
  - id: NO-REFUNDS
    decision: DENY
    match: {operations: [refund_payment]}
"""


@dataclass(frozen=True)
class Command:
    """`oars policy replay` by the tenant's auditor, in a folder of its own."""

    folder: Path
    policy: Path
    keys: Path

    def __call__(self, *arguments: object) -> Result:
        connection = self.folder / "connection.json"
        given = [*map(str, arguments), "--connection", str(connection)]
        return CliRunner().invoke(replay, given)


@pytest.fixture
def command(world: World, first: int, tmp_path: Path) -> Command:
    found = json.loads((world.stack.certificates.parent / "connection.json").read_text())
    certificate = world.stack.certificates / "replay-auditor.pem"
    identity = {
        "certificate": str(certificate),
        "private_key": str(certificate.with_suffix(".key")),
    }
    written = found | {"tenant": TENANT, "identities": {"auditor": identity}}
    (tmp_path / "connection.json").write_text(json.dumps(written))
    policy, keys = tmp_path / "draft.yaml", tmp_path / "keys.json"
    policy.write_text(POLICY_FILE)
    keys.write_text(json.dumps(world.keys()))
    return Command(tmp_path, policy, keys)


def test_the_command_replays_and_fails_on_what_it_is_told(
    world: World, command: Command, first: int
) -> None:
    ranged = (command.policy, "--from-size", first, "--to-size", first + 12)
    ran = command(*ranged)
    assert ran.exit_code == 0, ran.output
    assert "newly denied" in ran.output
    assert "NO-REFUNDS" in ran.output
    for gates, code in (
        ("newly-denied", 1),
        ("newly-allowed", 1),
        ("newly-quarantined", 0),
        ("not-replayable", 0),
        ("newly-quarantined,stricter", 1),
        ("any", 1),
    ):
        ran = command(*ranged, "--fail-on", gates)
        assert ran.exit_code == code, ran.output
    ran = command(*ranged, "--fail-on", "newly-denied,newly-quarantined", "--json")
    told = json.loads(ran.stdout)
    assert (ran.exit_code, told["failedOn"], told["verified"]) == (1, ["newly-denied"], True)
    assert told["counts"]["newlyDenied"] == 2


def test_a_stored_policy_and_kept_checkpoints_are_held_against_the_report(
    world: World, command: Command, first: int
) -> None:
    policy_id = world.draft(ALLOW_ALL, NO_REFUNDS)
    note = command.folder / "kept.checkpoint"
    note.write_text(world.checkpoint())
    ran = command("--policy-id", policy_id, "--to-checkpoint", note, "--json")
    assert ran.exit_code == 0, ran.output
    told = json.loads(ran.stdout)
    assert told["draft"]["policyId"] == policy_id
    assert str(told["range"]["to"]["size"]) == note.read_text().splitlines()[1]


def test_a_kept_report_is_verified_offline(command: Command, first: int) -> None:
    kept, again = command.folder / "report.json", command.folder / "again.json"
    ranged = (command.policy, "--from-size", first, "--to-size", first + 8)
    assert command(*ranged, "--output", kept).exit_code == 0
    assert command(*ranged, "--output", again).exit_code == 0
    assert kept.read_bytes() == again.read_bytes()
    (command.folder / "connection.json").unlink()
    ran = command("--check", kept, "--keys", command.keys, "--fail-on", "newly-denied")
    assert ran.exit_code == 1, ran.output
    assert "NO-REFUNDS" in ran.output
    ran = command("--check", kept, "--keys", command.keys, "--to-size", first + 8, command.policy)
    assert ran.exit_code == 0, ran.output
    other = command.folder / "other.yaml"
    other.write_text(POLICY_FILE.replace("DENY", "QUARANTINE"))
    assert command("--check", kept, "--keys", command.keys, other).exit_code == 2
    for option in (("--tenant", "another"), ("--from-size", first + 1)):
        assert command("--check", kept, "--keys", command.keys, *option).exit_code == 2
    for options in (("--to-size", first + 7), ("--policy-id", "x"), ()):
        keys = ("--keys", command.keys) if options else ()
        assert command("--check", kept, *keys, *options).exit_code == 2


def test_a_kept_report_that_was_changed_is_refused(command: Command, first: int) -> None:
    kept = command.folder / "report.json"
    assert command(command.policy, "--from-size", first, "--output", kept).exit_code == 0
    value = json.loads(kept.read_text())
    payload = base64.b64decode(value["report"]["payload"])
    value["report"]["payload"] = base64.b64encode(
        payload.replace(b'"newlyDenied":', b'"newlyDenled":', 1)
    ).decode()
    kept.write_text(json.dumps(value))
    ran = command("--check", kept, "--keys", command.keys)
    assert ran.exit_code == 2
    assert "does not verify" in ran.output
    for text in ("{}", "[]", "nothing"):
        kept.write_text(text)
        assert command("--check", kept, "--keys", command.keys).exit_code == 2


def test_the_answer_of_the_rest_api_can_be_checked_as_it_is(
    world: World, command: Command, first: int
) -> None:
    document = {"name": "draft", "rules": [ALLOW_ALL, NO_REFUNDS]}
    body = {"tenantId": TENANT, "document": document, "fromSize": first}
    answer = command.folder / "answer.json"
    answer.write_text(world.auditor.rest.post("/v1/policies/replay", json=body).text)
    ran = command("--check", answer, "--keys", command.keys)
    assert ran.exit_code == 0, ran.output


def test_what_the_command_cannot_do_leaves_with_two(command: Command, first: int) -> None:
    broken = command.folder / "broken.yaml"
    broken.write_text("name: x\nrules:\n  - {id: R, decision: DENY, condition: '1 +'}\n")
    ran = command(broken)
    assert ran.exit_code == 2
    assert "broken.yaml:3:" in ran.output
    broken.write_text("name: [")
    assert command(broken).exit_code == 2
    assert command().exit_code == 2
    assert command(command.policy, "--fail-on", "boredom").exit_code == 2
    assert command(command.policy, "--from-size", 10**12).exit_code == 2
    other = command.folder / "other.json"
    other.write_text('{"keys": []}')
    ran = command(command.policy, "--keys", other)
    assert ran.exit_code == 2
    assert "does not verify" in ran.output
