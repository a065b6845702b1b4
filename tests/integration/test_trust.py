"""Keys that are believed no longer, through the live stack, and what they signed before."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any
from uuid import uuid4

import grpc
import httpx
import orjson
import pytest

from oars_grpc.generated.oars.v1 import action_pb2, receipt_pb2, tenant_pb2
from oars_grpc.local.stack import LocalStack
from tests.support.client import Client, client_for
from tests.support.identities import add_identity
from tests.support.rpcs import submission

# Any: keyword arguments of messages take dicts and enum numbers, which the stubs do not know.
R: Any = receipt_pb2
T: Any = tenant_pb2
SECOND = timedelta(seconds=1)
PASSED, FAILED, NOT_CHECKED = "PASSED", "FAILED", "NOT_CHECKED"


@dataclass(frozen=True)
class World:
    """A tenant whose keys these tests may revoke."""

    tenant: str
    admin: Client
    agent: Client

    def submitted(self) -> Any:
        """The last receipt of a new action."""
        request = submission("create_ticket", self.tenant)
        answer: Any = self.agent.actions.SubmitAction(request, timeout=30)
        return answer.receipts[-1]

    def completed(self, action_id: str) -> Any:
        """The receipt of an action's outcome."""
        request = action_pb2.CompleteActionRequest(
            tenant_id=self.tenant, action_id=action_id, outcome=action_pb2.OUTCOME_SUCCEEDED
        )
        answer: Any = self.agent.actions.CompleteAction(request, timeout=30)
        return answer.receipts[-1]

    def keys(self, purpose: int = R.KEY_PURPOSE_RECEIPT) -> dict[str, Any]:
        request = R.ListTrustedKeysRequest(tenant_id=self.tenant)
        listed: Any = self.admin.receipts.ListTrustedKeys(request, timeout=30)
        return {key.key_id: key for key in listed.keys if key.purpose == purpose}

    def active(self, purpose: int = R.KEY_PURPOSE_RECEIPT) -> str:
        (key_id,) = (
            key_id for key_id, key in self.keys(purpose).items() if key.state == R.KEY_STATE_ACTIVE
        )
        return key_id

    def revoke(self, key_id: str, **fields: Any) -> Any:
        request = T.RevokeSigningKeyRequest(
            **{"tenant_id": self.tenant, "key_id": key_id, "reason": "lost laptop", **fields}
        )
        return self.admin.tenants.RevokeSigningKey(request, timeout=30)

    def proof(self, receipt: Any) -> str:
        request = R.GetReceiptProofRequest(tenant_id=self.tenant, receipt_id=receipt.receipt_id)
        answer: Any = self.admin.receipts.GetReceiptProof(request, timeout=30)
        return str(answer.proof)

    def verified(self, receipt: Any, **fields: Any) -> tuple[bool, dict[str, str], str]:
        """By id, or as supplied where there is anything beside it."""
        named = {"envelope": receipt.envelope, **fields}
        if not fields:
            named = {"receipt_id": receipt.receipt_id}
        request = R.VerifyReceiptRequest(tenant_id=self.tenant, **named)
        answer: Any = self.admin.receipts.VerifyReceipt(request, timeout=30)
        results = {
            check.name: R.CheckResult.Name(check.result).removeprefix("CHECK_RESULT_")
            for check in answer.checks
        }
        return answer.valid, results, " ".join(answer.errors)

    def logged(self) -> list[Any]:
        """All receipts in the order of the log."""
        found: list[Any] = []
        token = ""
        while True:
            request = R.ListReceiptsRequest(tenant_id=self.tenant, page_size=200, page_token=token)
            page: Any = self.admin.receipts.ListReceipts(request, timeout=30)
            found += page.receipts
            token = page.next_page_token
            if not token:
                return found

    def events(self, type_: str) -> list[Any]:
        return [receipt for receipt in self.logged() if receipt.type == type_]


@pytest.fixture(scope="module")
def world(stack: LocalStack) -> Iterator[World]:
    tenant = "tenant_trust"
    with ExitStack() as opened:
        clients = []
        for role in ("admin", "agent"):
            add_identity(stack, f"trust-{role}", role=role, tenants=[tenant])
            clients.append(opened.enter_context(client_for(stack, f"trust-{role}")))
        clients[0].tenants.CreateTenant(T.CreateTenantRequest(tenant_id=tenant), timeout=30)
        yield World(tenant, *clients)


def event_of(receipt: Any) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(receipt.envelope.payload)["predicate"]
    return found


def test_an_active_key_is_revoked_and_replaced_in_one(world: World) -> None:
    before = world.submitted()
    old = before.key_id
    size = len(world.logged())
    answer = world.revoke(old)
    assert (answer.key.key_id, answer.key.state) == (old, R.KEY_STATE_REVOKED)
    assert answer.key.revocation_reason == "lost laptop"
    assert answer.key.trusted_log_size == size
    assert answer.replacement.state == R.KEY_STATE_ACTIVE
    assert world.active() == answer.replacement.key_id != old
    assert world.keys()[old] == answer.key

    event = world.events("key.revoked")[-1]
    told = event_of(event)
    assert told["caller"]["subject"].endswith("trust-admin")
    assert told["event"] == {
        "keyId": old,
        "purpose": "receipt",
        "reason": "lost laptop",
        "revokedAt": answer.key.revoked_at.ToDatetime().isoformat() + "Z",
        "compromisedAt": None,
        "trustedLogSize": size,
        "replacement": answer.replacement.key_id,
    }
    assert event.key_id == answer.replacement.key_id
    valid, checks, errors = world.verified(event)
    assert (valid, set(checks.values()), errors) == (True, {PASSED}, "")
    assert world.submitted().key_id == answer.replacement.key_id


def test_what_it_signed_before_verifies_with_a_proof_and_not_without(world: World) -> None:
    before = world.submitted()
    proof_of_then = world.proof(before)
    world.revoke(before.key_id)

    valid, checks, errors = world.verified(before)
    assert (valid, set(checks.values()), errors) == (True, {PASSED}, "")

    keys = list(world.keys().values()) + list(world.keys(R.KEY_PURPOSE_CHECKPOINT).values())
    for trust in ({}, {"keys": keys}):
        valid, checks, errors = world.verified(before, proof="", **trust)
        assert (valid, checks["key_trust"], checks["inclusion"]) == (False, FAILED, NOT_CHECKED)
        assert "a proof that the log holds the receipt below index" in errors
        for proof in (proof_of_then, world.proof(before)):
            valid, checks, _ = world.verified(before, proof=proof, **trust)
            assert (valid, checks["key_trust"], checks["inclusion"]) == (True, PASSED, PASSED)
        # The proof of another receipt shows nothing.
        valid, checks, _ = world.verified(before, proof=world.proof(world.submitted()), **trust)
        assert (valid, checks["inclusion"]) == (False, FAILED)


def test_since_it_may_have_been_in_other_hands_it_is_not_believed(world: World) -> None:
    early = world.submitted()
    compromised = early.recorded_at.ToDatetime(UTC) + timedelta(microseconds=1)
    late = world.submitted()
    assert late.key_id == early.key_id
    answer = world.revoke(early.key_id, compromised_at=compromised)
    logged = [receipt.receipt_id for receipt in world.logged()]
    # The first receipt of the later action is the first that is not believed.
    assert answer.key.trusted_log_size == logged.index(late.receipt_id) - 1
    assert event_of(world.events("key.revoked")[-1])["event"]["compromisedAt"] == (
        compromised.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    )
    assert world.verified(early)[0]
    valid, checks, errors = world.verified(late)
    assert (valid, checks["key_trust"], checks["inclusion"]) == (False, FAILED, PASSED)
    assert f"below index {answer.key.trusted_log_size} of the log only" in errors


class Submitters:
    """Threads that submit and complete all the while; each receipt with when it was asked for."""

    def __init__(self, world: World, count: int) -> None:
        self._world = world
        self.seen: list[tuple[float, Any]] = []
        self._stopping = threading.Event()
        self._pool = ThreadPoolExecutor(count)
        self._under_way = [self._pool.submit(self._run) for _ in range(count)]

    def _run(self) -> None:
        while not self._stopping.is_set():
            began = monotonic()
            submitted = self._world.submitted()
            self.seen.append((began, submitted))
            began = monotonic()
            self.seen.append((began, self._world.completed(submitted.action_id)))

    def wait_for(self, count: int) -> None:
        for _ in range(1200):
            if len(self.seen) >= count or any(running.done() for running in self._under_way):
                return
            self._stopping.wait(0.05)

    def stop(self) -> None:
        """Raises what a submission raised."""
        self._stopping.set()
        for running in self._under_way:
            running.result(timeout=60)
        self._pool.shutdown()


def test_nothing_that_a_revoked_key_signed_commits_after_the_answer(world: World) -> None:
    submitters = Submitters(world, 8)
    revoked: list[tuple[Any, float]] = []
    try:
        for number in range(1, 4):
            submitters.wait_for(number * 20)
            answer = world.revoke(world.active())
            revoked.append((answer.key, monotonic()))
        submitters.wait_for(80)
    finally:
        submitters.stop()
    seen, logged = submitters.seen, world.logged()
    assert len(seen) >= 80
    for key, answered in revoked:
        signed = [index for index, receipt in enumerate(logged) if receipt.key_id == key.key_id]
        assert signed
        assert max(signed) < key.trusted_log_size
        late = [receipt for began, receipt in seen if began > answered]
        assert late
        assert key.key_id not in {receipt.key_id for receipt in late}
        # Nothing that was acknowledged is lost to the revocation.
        assert world.verified(logged[max(signed)])[0]
        assert world.verified(logged[min(signed)])[0]
    assert {receipt.receipt_id for _, receipt in seen} <= {r.receipt_id for r in logged}


def test_a_revoked_checkpoint_key_is_believed_no_more_and_the_next_one_is(world: World) -> None:
    receipt = world.submitted()
    old_proof = world.proof(receipt)
    assert world.verified(receipt, proof=old_proof)[0]
    answer = world.revoke(world.active(R.KEY_PURPOSE_CHECKPOINT))
    assert answer.key.purpose == answer.replacement.purpose == R.KEY_PURPOSE_CHECKPOINT
    assert not answer.key.HasField("trusted_log_size")
    assert answer.replacement.vkey.startswith(f"{answer.key.vkey.partition('+')[0]}+")
    assert world.keys(R.KEY_PURPOSE_CHECKPOINT)[answer.replacement.key_id] == answer.replacement
    event = event_of(world.events("key.revoked")[-1])["event"]
    assert (event["purpose"], event["trustedLogSize"]) == ("checkpoint", None)

    valid, checks, errors = world.verified(receipt, proof=old_proof)
    assert (valid, checks["inclusion"]) == (False, FAILED)
    assert "which signed the checkpoint, was revoked" in errors
    valid, checks, _ = world.verified(receipt, proof=world.proof(receipt))
    assert (valid, checks["inclusion"]) == (True, PASSED)
    assert world.verified(receipt)[1]["inclusion"] == PASSED


def test_a_retired_key_is_revoked_without_a_replacement(world: World) -> None:
    old = world.submitted()
    request = T.RotateSigningKeyRequest(tenant_id=world.tenant)
    new: Any = world.admin.tenants.RotateSigningKey(request, timeout=30)
    rotated = event_of(world.events("key.rotated")[-1])["event"]
    assert (rotated["keyId"], rotated["retired"]) == (new.key.key_id, [old.key_id])
    answer = world.revoke(old.key_id)
    assert not answer.HasField("replacement")
    assert world.active() == new.key.key_id
    event = world.events("key.revoked")[-1]
    assert event.key_id == new.key.key_id
    assert event_of(event)["event"]["replacement"] is None


def test_keys_of_one_purpose_rotate_apart_from_the_other(world: World) -> None:
    receipts, checkpoints = world.active(), world.active(R.KEY_PURPOSE_CHECKPOINT)
    request = T.RotateSigningKeyRequest(tenant_id=world.tenant, purpose=R.KEY_PURPOSE_CHECKPOINT)
    answer: Any = world.admin.tenants.RotateSigningKey(request, timeout=30)
    assert world.active() == receipts
    assert world.active(R.KEY_PURPOSE_CHECKPOINT) == answer.key.key_id != checkpoints
    assert world.verified(world.submitted())[1]["inclusion"] == PASSED


def test_events_verify_in_the_tenants_own_chain(world: World) -> None:
    events = [receipt for receipt in world.logged() if not receipt.action_id]
    assert [event.sequence for event in events] == [*range(1, len(events) + 1)]
    last = events[-1]
    valid, checks, _ = world.verified(last, chain=[event.envelope for event in events[:-1]])
    assert (valid, checks["chain"]) == (True, PASSED)
    assert world.verified(last, chain=[event.envelope for event in events[1:-1]])[1]["chain"] == (
        FAILED
    )


def refusal(caught: pytest.ExceptionInfo[grpc.RpcError]) -> tuple[grpc.StatusCode, str]:
    error: Any = caught.value
    return error.code(), error.details()


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"reason": ""}, "reason: is required"),
        ({"reason": "   "}, "reason: is required"),
        ({"reason": "x" * 513}, "reason: is 513 characters long"),
        ({"reason": "a\nb"}, "reason: contains a control character"),
        ({"reason": "a\u202eb"}, "reason: contains a control character"),
        ({"key_id": "x"}, "key_id: must be 16 hexadecimal digits"),
        ({"key_id": ""}, "key_id: must be 16 hexadecimal digits"),
        ({"compromised_at": {"seconds": 1}}, "compromised_at: is before the key was made"),
        ({"compromised_at": {"seconds": 4_000_000_000}}, "compromised_at: is later than now"),
        ({"compromised_at": {"seconds": 1 << 60}}, "compromised_at: is not a time"),
    ],
)
def test_a_wrong_field_is_named_and_nothing_is_revoked(
    world: World, fields: dict[str, Any], named: str
) -> None:
    active = world.active()
    with pytest.raises(grpc.RpcError) as caught:
        world.revoke(**{"key_id": active, **fields})
    code, details = refusal(caught)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert named in details
    assert world.active() == active


def test_a_key_is_revoked_once_and_only_where_it_is(world: World, beta_admin: Client) -> None:
    old = world.active()
    key = uuid4().hex
    route = f"/v1/tenants/{world.tenant}/keys/{old}:revoke"
    headers = {"idempotency-key": key}
    first = world.admin.rest.post(route, json={"reason": "once"}, headers=headers)
    assert first.status_code == httpx.codes.OK, first.text
    again = world.admin.rest.post(route, json={"reason": "once"}, headers=headers)
    assert again.content == first.content
    assert again.headers["x-idempotent-replay"] == "true"
    with pytest.raises(grpc.RpcError) as caught:
        world.revoke(old)
    code, details = refusal(caught)
    assert (code, details) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        f"key {old} was revoked already",
    )
    for key_id in ("0" * 16, next(iter(_keys_of(beta_admin, "tenant_beta")))):
        with pytest.raises(grpc.RpcError) as caught:
            world.revoke(key_id)
        assert refusal(caught)[0] is grpc.StatusCode.NOT_FOUND
    with pytest.raises(grpc.RpcError) as caught:
        World(world.tenant, beta_admin, world.agent).revoke(world.active())
    assert refusal(caught)[0] is grpc.StatusCode.PERMISSION_DENIED
    with pytest.raises(grpc.RpcError) as caught:
        World(world.tenant, world.agent, world.agent).revoke(world.active())
    assert refusal(caught)[0] is grpc.StatusCode.PERMISSION_DENIED


def _keys_of(client: Client, tenant: str) -> list[str]:
    request = R.ListTrustedKeysRequest(tenant_id=tenant)
    listed: Any = client.receipts.ListTrustedKeys(request, timeout=30)
    return [key.key_id for key in listed.keys]


def test_keys_are_public_to_every_trusted_identity(world: World, beta_admin: Client) -> None:
    assert _keys_of(beta_admin, world.tenant) == _keys_of(world.admin, world.tenant)
    answer = beta_admin.rest.get(f"/v1/trust/tenants/{world.tenant}/keys")
    assert answer.status_code == httpx.codes.OK
    revoked = [key for key in answer.json()["keys"] if key["state"] == "KEY_STATE_REVOKED"]
    assert all(key["revocationReason"] for key in revoked)
    with pytest.raises(grpc.RpcError) as caught:
        _keys_of(beta_admin, "tenant_nobody")
    assert refusal(caught)[0] is grpc.StatusCode.NOT_FOUND


ENVELOPE = R.Envelope(payload_type="x", payload=b"{}")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"receipt_id": "R", "proof": "x"}, "proof: is only for a supplied envelope"),
        ({"receipt_id": "R", "chain": [ENVELOPE]}, "chain: is only for a supplied envelope"),
        ({"receipt_id": "R", "previous": ENVELOPE}, "previous: is only for a supplied envelope"),
        ({"envelope": ENVELOPE, "chain": [ENVELOPE] * 65}, "chain: has more than 64 entries"),
        (
            {"envelope": ENVELOPE, "chain": [ENVELOPE], "previous": ENVELOPE},
            "previous: is the last of the chain",
        ),
        ({"envelope": ENVELOPE, "proof": "x" * 131_073}, "proof: is longer than 131072"),
        (
            {"envelope": ENVELOPE, "chain": [ENVELOPE, R.Envelope(payload=bytes(262_145))]},
            "chain[1].payload: is longer than 262144 bytes",
        ),
        ({"envelope": ENVELOPE, "keys": [{"purpose": 9}]}, "keys[0].purpose: 9 is not a value"),
        (
            {"envelope": ENVELOPE, "keys": [{"trusted_log_size": -1}]},
            "keys[0].trusted_log_size: is the size of a log",
        ),
        ({"envelope": ENVELOPE, "keys": [{"vkey": "x"}]}, "keys[0].vkey: "),
    ],
)
def test_what_is_too_much_or_out_of_place_is_named(
    world: World, fields: dict[str, Any], named: str
) -> None:
    if "receipt_id" in fields:
        fields = fields | {"receipt_id": world.submitted().receipt_id}
    with pytest.raises(grpc.RpcError) as caught:
        world.admin.receipts.VerifyReceipt(
            R.VerifyReceiptRequest(tenant_id=world.tenant, **fields), timeout=30
        )
    code, details = refusal(caught)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert named in details


def test_a_proof_that_is_none_is_told_by_the_check(world: World) -> None:
    receipt = world.submitted()
    for proof in ("x", "c2sp.org/tlog-proof@v1\n", world.proof(receipt) + "x"):
        valid, checks, errors = world.verified(receipt, proof=proof)
        assert (valid, checks["inclusion"]) == (False, FAILED)
        assert errors.startswith("inclusion: ")


def test_supplied_keys_without_one_for_checkpoints_leave_the_log_unchecked(world: World) -> None:
    receipt = world.submitted()
    request = R.VerifyReceiptRequest(
        tenant_id=world.tenant, receipt_id=receipt.receipt_id, keys=list(world.keys().values())
    )
    answer: Any = world.admin.receipts.VerifyReceipt(request, timeout=30)
    assert (answer.valid, answer.trust_source) == (True, "supplied")
    assert answer.checks[4].result == R.CHECK_RESULT_NOT_CHECKED
    assert answer.checks[4].detail == "none of the supplied keys signs checkpoints of the tenant"


def test_a_receipt_in_the_middle_of_a_chain_is_followed_to_its_beginning(world: World) -> None:
    last = world.completed(world.submitted().action_id)
    assert last.sequence == 3
    assert world.verified(last)[1]["chain"] == PASSED
    listed = R.ListReceiptsRequest(tenant_id=world.tenant, action_id=last.action_id)
    page: Any = world.admin.receipts.ListReceipts(listed, timeout=30)
    chain = [receipt.envelope for receipt in page.receipts[:2]]
    valid, checks, _ = world.verified(last, chain=chain, proof=world.proof(last))
    assert (valid, set(checks.values())) == (True, {PASSED})
    assert world.verified(last, chain=chain[1:])[1]["chain"] == FAILED


def test_a_moment_of_compromise_may_be_just_now_or_when_the_key_was_made(world: World) -> None:
    answer = world.revoke(world.active(), compromised_at=datetime.now(UTC) - SECOND)
    assert answer.key.state == R.KEY_STATE_REVOKED
    active = world.active()
    receipt = world.submitted()
    answer = world.revoke(active, compromised_at=world.keys()[active].valid_from)
    assert answer.key.trusted_log_size < len(world.logged())
    assert not world.verified(receipt)[0]
