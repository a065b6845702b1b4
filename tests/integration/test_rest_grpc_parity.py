"""REST and gRPC are one API: the same call gives the same answer, or the same refusal.

The rpcs come from the descriptors, so a new rpc without a case here fails.
"""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from oars_grpc.generated.oars.v1 import (
    action_pb2,
    approval_pb2,
    approver_pb2,
    control_pb2,
    evidence_pb2,
    policy_pb2,
    receipt_pb2,
    retention_pb2,
    tenant_pb2,
)
from oars_grpc.generated.oars.v1.approver_pb2_grpc import ApproverServiceStub
from oars_grpc.generated.oars.v1.retention_pb2_grpc import RetentionServiceStub
from oars_grpc.local.stack import LocalStack
from oars_grpc.transport.access import ACCESS
from tests.support.client import Client, client_for
from tests.support.factories import new_id
from tests.support.identities import add_identity
from tests.support.rpcs import (
    RPCS,
    TENANT,
    UNKNOWN_IDS,
    Rpc,
    call_grpc,
    call_rest,
    document,
    grounded_submission,
    lattice_request,
    refused_by_grpc,
    registration,
    rest_refusal,
    submission,
)


@dataclass(frozen=True)
class World:
    """A tenant of this module's own, whose policy reaches every state."""

    admin: Client
    approver: Client
    second_admin: Client

    def submitted(self, operation: str = "create_ticket") -> Any:
        request = submission(operation, TENANT)
        # Each asks for something else: what asks the same joins what waits already.
        request.input["id"] = new_id("act")
        return self.admin.actions.SubmitAction(request, timeout=20)

    def named(self, kind: type[Message], operation: str = "create_ticket", **fields: Any) -> Any:
        """A request about a new action."""
        action_id = self.submitted(operation).action.action_id
        return kind(tenant_id=TENANT, action_id=action_id, **fields)

    def draft(self) -> str:
        request = policy_pb2.CreatePolicyRequest(tenant_id=TENANT, document=document())
        found: str = self.admin.policies.CreatePolicy(request, timeout=20).policy.policy_id
        return found

    def published(self) -> str:
        policy_id = self.draft()
        self.admin.policies.PublishPolicy(
            policy_pb2.PublishPolicyRequest(tenant_id=TENANT, policy_id=policy_id), timeout=20
        )
        return policy_id

    def checkpoint(self) -> Any:
        request = receipt_pb2.GetCheckpointRequest(tenant_id=TENANT)
        return self.admin.receipts.GetCheckpoint(request, timeout=20).checkpoint

    def log_size(self) -> int:
        found: int = self.checkpoint().size
        return found

    def lattice(self) -> Any:
        """A lattice that was just created, and its receipt."""
        request = lattice_request("CreateSmallLattice", tenant_id=TENANT)
        return self.admin.lattices.CreateSmallLattice(request, timeout=20)

    def about_lattice(self, name: str, *, receipt: bool = False, **fields: Any) -> Any:
        """A request about a new lattice, perhaps about its receipt."""
        made = self.lattice()
        if receipt:
            fields["receipt_id"] = made.receipt.receipt_id
        lattice_id = made.lattice.lattice_id
        return lattice_request(name, tenant_id=TENANT, lattice_id=lattice_id, **fields)

    def held(self) -> str:
        placed = RetentionServiceStub(self.admin.channel).PlaceLegalHold(hold(), timeout=20)
        return placed.hold.hold_id

    def enrolled(self) -> str:
        """A subject with a second factor."""
        subject = f"spiffe://oars.dev/é/{self.draft()}"
        request = K.EnrollSecondFactorRequest(tenant_id=TENANT, subject=subject)
        ApproverServiceStub(self.admin.channel).EnrollSecondFactor(request, timeout=20)
        return subject

    def registered(self) -> Any:
        """A key of an approver."""
        answer = ApproverServiceStub(self.admin.channel).RegisterApproverKey(
            registration(), timeout=20
        )
        return answer.key

    def fresh_key(self) -> str:
        request = tenant_pb2.RotateSigningKeyRequest(tenant_id=TENANT)
        found: str = self.admin.tenants.RotateSigningKey(request, timeout=20).key.key_id
        return found

    def control(self) -> Any:
        """A request to map a control that nobody has mapped."""
        return control_pb2.CreateControlMappingRequest(
            tenant_id=TENANT,
            framework="soc2",
            control_id=self.submitted().action.action_id,
            description="who may\nwhat é",
            filter=filter_of_everything(),
            required_evidence=[
                control_pb2.EVIDENCE_TYPE_POLICY_DECISION,
                control_pb2.EVIDENCE_TYPE_HUMAN_APPROVAL,
            ],
        )

    def mapped(self) -> Any:
        return self.admin.controls.CreateControlMapping(self.control(), timeout=20).mapping

    def decision(self) -> Any:
        approval = self.submitted("transfer_funds").approval
        return approval_pb2.DecideApprovalRequest(
            tenant_id=TENANT,
            approval_id=approval.approval_id,
            verdict=approval_pb2.VERDICT_APPROVE,
            reason="looked at it",
            action_digest=approval.action_digest,
            display_digest=approval.display_digest,
        )


@pytest.fixture(scope="module")
def world(stack: LocalStack) -> Iterator[World]:
    tenants = [TENANT, "tenant_parity_new", "tenant_parity_second"]
    clients: list[Client] = []
    with ExitStack() as opened:
        for role in ("admin", "approver", "admin"):
            name = f"parity-{role}-{len(clients)}"
            add_identity(stack, name, role=role, tenants=tenants)
            clients.append(opened.enter_context(client_for(stack, name)))
        made = World(*clients)
        for tenant in (TENANT, "tenant_parity_second"):
            request = tenant_pb2.CreateTenantRequest(tenant_id=tenant)
            made.admin.tenants.CreateTenant(request, timeout=20)
        made.published()
        made.published()  # so that there is one to roll back to
        made.submitted("transfer_funds")  # so that there is an approval to list
        yield made


# Any: keyword arguments of messages take dicts, which the stubs do not know.
A: Any = action_pb2
C: Any = control_pb2
P: Any = policy_pb2
R: Any = receipt_pb2
H: Any = retention_pb2
K: Any = approver_pb2
T: Any = tenant_pb2


def filter_of_everything() -> Any:
    """A filter with every field."""
    return R.ReceiptFilter(
        action_id=UNKNOWN_IDS["action_id"],
        type="action.approved",
        agent_id="agent-1",
        user_id="user-1",
        caller_subject="spiffe://oars.dev/é",
        tool_id="desk",
        operation="create_ticket",
        decision=P.EFFECT_ALLOW,
        policy_id=UNKNOWN_IDS["policy_id"],
        policy_version=3,
        rule_id="w",
        risk_tier=P.RISK_TIER_HIGH,
        recorded_from={"seconds": 1_700_000_000, "nanos": 123_456_000},
        recorded_until={"seconds": 1_900_000_000},
    )


def hold() -> Any:
    """A hold of a few receipts of nobody."""
    return H.PlaceLegalHoldRequest(
        tenant_id=TENANT,
        name="matter é",
        reason="asked to",
        scope={
            "agent_id": "agent-of-the-case",
            "operation": "close",
            "recorded_from": {"seconds": 1_700_000_000, "nanos": 123_456_000},
        },
    )


UNKNOWN_IS_EMPTY = (("ListReceipts", "action_id"), ("ListReceipts", "policy_id"))
SETTINGS = T.TenantSettings(permit_seconds=60, approval_seconds=600)
CASES: Mapping[str, Callable[[World], Message]] = {
    "SubmitAction": lambda _: grounded_submission("create_ticket", TENANT),
    "GetAction": lambda w: w.named(A.GetActionRequest),
    "ListActions": lambda w: A.ListActionsRequest(
        tenant_id=TENANT,
        page_size=1,
        state=A.ACTION_STATE_APPROVED,
        agent_id=w.submitted().action.agent_id,
    ),
    "WatchAction": lambda w: w.named(A.WatchActionRequest, "delete_all"),
    "StartAction": lambda w: w.named(A.StartActionRequest),
    "CompleteAction": lambda w: w.named(
        A.CompleteActionRequest, outcome=A.OUTCOME_SUCCEEDED, output={"ticket": "T-1", "n": [1.5]}
    ),
    "CancelAction": lambda w: w.named(A.CancelActionRequest, reason="no longer\nneeded"),
    "ReleaseAction": lambda w: w.named(A.ReleaseActionRequest, "export_report", reason="seen"),
    "DecideApproval": lambda w: w.decision(),
    "GetApproval": lambda w: approval_pb2.GetApprovalRequest(
        tenant_id=TENANT, approval_id=w.submitted("transfer_funds").approval.approval_id
    ),
    "ListApprovals": lambda _: approval_pb2.ListApprovalsRequest(
        tenant_id=TENANT, page_size=2, state=approval_pb2.APPROVAL_STATE_PENDING
    ),
    "WatchApprovals": lambda w: approval_pb2.WatchApprovalsRequest(
        tenant_id=w.submitted("transfer_funds").approval.tenant_id
    ),
    "EnrollSecondFactor": lambda w: K.EnrollSecondFactorRequest(
        tenant_id=TENANT, subject=f"spiffe://oars.dev/é/{w.draft()}"
    ),
    "RemoveSecondFactor": lambda w: K.RemoveSecondFactorRequest(
        tenant_id=TENANT, subject=w.enrolled()
    ),
    "GetSecondFactor": lambda w: K.GetSecondFactorRequest(tenant_id=TENANT, subject=w.enrolled()),
    "RegisterApproverKey": lambda _: registration(),
    "RevokeApproverKey": lambda w: K.RevokeApproverKeyRequest(
        tenant_id=TENANT, key_id=w.registered().key_id, reason="lost ü"
    ),
    "ListApproverKeys": lambda w: K.ListApproverKeysRequest(
        tenant_id=TENANT,
        page_size=len([w.registered(), w.registered()]) - 1,
        subject=w.registered().subject,
    ),
    "CreateControlMapping": lambda w: w.control(),
    "GetControlMapping": lambda w: control_pb2.GetControlMappingRequest(
        tenant_id=TENANT, mapping_id=w.mapped().mapping_id
    ),
    "ListControlMappings": lambda w: control_pb2.ListControlMappingsRequest(
        tenant_id=TENANT, page_size=len([w.mapped(), w.mapped()]) - 1, framework="soc2"
    ),
    "RetireControlMapping": lambda w: control_pb2.RetireControlMappingRequest(
        tenant_id=TENANT, mapping_id=w.mapped().mapping_id
    ),
    "GetCoverageReport": lambda w: C.GetCoverageReportRequest(
        tenant_id=TENANT,
        framework="soc2",
        control=w.mapped().control_id,
        until={"seconds": 1_900_000_000},
        period=control_pb2.COVERAGE_PERIOD_WEEK,
    ),
    "CreatePolicy": lambda _: P.CreatePolicyRequest(tenant_id=TENANT, document=document("new")),
    "GetPolicy": lambda w: P.GetPolicyRequest(tenant_id=TENANT, policy_id=w.draft()),
    "ListPolicies": lambda _: P.ListPoliciesRequest(
        tenant_id=TENANT, page_size=2, include_archived=True
    ),
    "PublishPolicy": lambda w: P.PublishPolicyRequest(tenant_id=TENANT, policy_id=w.draft()),
    "RollbackPolicy": lambda w: P.RollbackPolicyRequest(tenant_id=TENANT, policy_id=w.published()),
    "ArchivePolicy": lambda w: P.ArchivePolicyRequest(tenant_id=TENANT, policy_id=w.draft()),
    "SimulatePolicy": lambda _: P.SimulatePolicyRequest(
        tenant_id=TENANT,
        document=document("tried"),
        agent_id="agent-1",
        resource=submission().resource,
        context=submission().context,
        input=submission().input,
        time={"seconds": 1_700_000_000, "nanos": 123_456_000},
        delegation_chain=["user-1", "agent-0"],
        caller={
            "subject": "spiffe://oars.dev/é",
            "role": "agent",
            "service_account_id": "sa-1",
            "attributes": {"environment": "production", "team": "ü"},
        },
        evidence={"coherence": 0.25, "novelty": 0, "risk_high": 1},
    ),
    "ReplayPolicy": lambda w: P.ReplayPolicyRequest(
        tenant_id=TENANT, policy_id=w.draft(), from_size=1, to_size=w.log_size()
    ),
    "GetReceipt": lambda w: R.GetReceiptRequest(
        tenant_id=TENANT, receipt_id=w.submitted().receipts[1].receipt_id
    ),
    "ListReceipts": lambda w: w.named(R.ListReceiptsRequest, page_size=1, type="action.requested"),
    "VerifyReceipt": lambda w: R.VerifyReceiptRequest(
        tenant_id=TENANT, envelope=w.submitted().receipts[0].envelope
    ),
    "ListTrustedKeys": lambda _: R.ListTrustedKeysRequest(tenant_id=TENANT),
    "GetReceiptProof": lambda w: R.GetReceiptProofRequest(
        tenant_id=TENANT, receipt_id=w.submitted().receipts[0].receipt_id, size=w.log_size()
    ),
    "GetCheckpoint": lambda _: R.GetCheckpointRequest(tenant_id=TENANT),
    "GetConsistencyProof": lambda w: R.GetConsistencyProofRequest(
        tenant_id=TENANT, from_size=1, to_size=w.log_size()
    ),
    "ProveCompleteness": lambda w: R.ProveCompletenessRequest(
        tenant_id=TENANT, to_checkpoint=w.checkpoint().note
    ),
    "SettleOnce": lambda _: lattice_request("SettleOnce", tenant_id=TENANT),
    "CreateSmallLattice": lambda _: lattice_request("CreateSmallLattice", tenant_id=TENANT),
    "GetLattice": lambda w: w.about_lattice("GetLattice"),
    "ListLattices": lambda w: (
        w.lattice() and lattice_request("ListLattices", tenant_id=TENANT, page_size=1)
    ),
    "DeleteLattice": lambda w: w.about_lattice("DeleteLattice"),
    "UpsertAnchors": lambda w: w.about_lattice("UpsertAnchors"),
    "RemoveAnchors": lambda w: w.about_lattice("RemoveAnchors"),
    "QueryLattice": lambda w: w.about_lattice("QueryLattice"),
    "ScoreChain": lambda w: w.about_lattice("ScoreChain"),
    "ComputeGates": lambda w: w.about_lattice("ComputeGates"),
    "CompareLattices": lambda w: w.about_lattice(
        "CompareLattices", other_lattice_id=w.lattice().lattice.lattice_id
    ),
    "VerifyLatticeReceipt": lambda w: w.about_lattice("VerifyLatticeReceipt", receipt=True),
    "PlaceLegalHold": lambda _: hold(),
    "GetLegalHold": lambda w: H.GetLegalHoldRequest(tenant_id=TENANT, hold_id=w.held()),
    "ListLegalHolds": lambda w: H.ListLegalHoldsRequest(
        tenant_id=TENANT, page_size=len([w.held(), w.held()]) - 1
    ),
    "ReleaseLegalHold": lambda w: H.ReleaseLegalHoldRequest(
        tenant_id=TENANT, hold_id=w.held(), reason="settled\nfor good", expected_version=1
    ),
    "ExportEvidence": lambda w: evidence_pb2.ExportEvidenceRequest(
        tenant_id=TENANT, from_size=1, to_size=w.log_size()
    ),
    "CreateTenant": lambda _: T.CreateTenantRequest(
        tenant_id="tenant_parity_new", display_name="New ü", settings=SETTINGS
    ),
    "GetTenant": lambda _: T.GetTenantRequest(tenant_id=TENANT),
    "ListTenants": lambda _: T.ListTenantsRequest(page_size=1),
    "UpdateTenant": lambda _: T.UpdateTenantRequest(
        tenant_id=TENANT, display_name="Changed", settings=SETTINGS
    ),
    "RotateSigningKey": lambda _: T.RotateSigningKeyRequest(tenant_id=TENANT),
    "RevokeSigningKey": lambda w: T.RevokeSigningKeyRequest(
        tenant_id=TENANT, key_id=w.fresh_key(), reason="lost ü"
    ),
}


def caller(world: World, name: str) -> Client:
    """Who makes the call: decisions are not for the one who asked."""
    return world.approver if name == "DecideApproval" else world.admin


def comparable(name: str, answer: Any) -> Any:
    """An answer without what differs from call to call.

    A bundle tells when it was made, a secret is told once.
    """
    if name == "EnrollSecondFactor":
        return {"secondFactor": answer["secondFactor"]}
    if name != "ExportEvidence":
        return answer
    begin, *chunks, end = answer
    assert all(chunk["chunk"]["data"] for chunk in chunks)
    return begin, end["end"]["receipts"], end["end"]["erased"]


def test_every_rpc_with_a_route_has_a_case() -> None:
    assert set(CASES) == set(RPCS)


@pytest.mark.parametrize("name", sorted(RPCS))
def test_the_same_call_gives_the_same_answer(world: World, name: str) -> None:
    """Changes go under one key, so that the second way in must be the same request to the server
    (else it were refused as another) and repeats the first way's answer."""
    rpc, client, request = RPCS[name], caller(world, name), CASES[name](world)
    key = f"parity-{name}"
    rest = call_rest(client, rpc, request, {"idempotency-key": key})
    assert rest.status_code == 200, rest.text
    messages = call_grpc(client, rpc, request, (("idempotency-key", key),))
    written = [
        json_format.MessageToDict(message, always_print_fields_with_no_presence=True)
        for message in messages
    ]
    answer = written if rpc.descriptor.server_streaming else written[0]
    assert comparable(name, rest.json()) == comparable(name, answer)
    assert any(message.ByteSize() for message in messages)


@pytest.mark.parametrize("name", sorted(RPCS))
def test_the_same_call_gives_the_same_refusal(world: World, name: str) -> None:
    rpc, client = RPCS[name], caller(world, name)
    changes: list[tuple[str, Any, grpc.StatusCode]] = [
        ("tenant_id", "Not A Tenant", grpc.StatusCode.INVALID_ARGUMENT),
        ("tenant_id", "tenant_alpha", grpc.StatusCode.PERMISSION_DENIED),
        ("page_size", 201, grpc.StatusCode.INVALID_ARGUMENT),
        ("page_token", "garbage", grpc.StatusCode.INVALID_ARGUMENT),
        *((field, value, grpc.StatusCode.NOT_FOUND) for field, value in UNKNOWN_IDS.items()),
        *((field, "x", grpc.StatusCode.INVALID_ARGUMENT) for field in UNKNOWN_IDS),
    ]
    tried = 0
    for field, value, code in changes:
        request = CASES[name](world)
        # A list filtered by an unknown action is empty, and keys are public.
        public = name == "ListTrustedKeys" and code is grpc.StatusCode.PERMISSION_DENIED
        # A list filtered by an unknown id is empty.
        empty = (name, field) in UNKNOWN_IS_EMPTY and code is grpc.StatusCode.NOT_FOUND
        if field not in rpc.fields or public or empty:
            continue
        if field == "receipt_id":
            request.ClearField("envelope") if "envelope" in rpc.fields else None
        setattr(request, field, value)
        over_rest = rest_refusal(call_rest(client, rpc, request))
        assert over_rest == refused_by_grpc(client, rpc, request)
        assert over_rest.code is code
        assert over_rest.reason
        if code is grpc.StatusCode.INVALID_ARGUMENT:
            assert over_rest.fields == (field,)
        tried += 1
    assert tried


MUTATING = sorted(name for name, rpc in RPCS.items() if ACCESS[rpc.path].mutating)
# Cannot be asked for a second time, whatever the key: the tenant is there.
ONCE = ("CreateTenant",)


def answered(
    client: Client, rpc: Rpc, request: Message | bytes, key: str
) -> tuple[bytes, dict[str, str]]:
    """The bytes of an answer and its headers."""
    unary = client.channel.unary_unary(rpc.path, bytes, bytes)
    raw = request if isinstance(request, bytes) else request.SerializeToString()
    body, call = unary.with_call(raw, timeout=30, metadata=(("idempotency-key", key),))
    headers = {name: str(value) for name, value in call.initial_metadata()}
    return body, headers


def without_secret(enrolled: bytes) -> bytes:
    """What is repeated of an enrolment: everything but the secret, which is told once."""
    answer = K.EnrollSecondFactorResponse.FromString(enrolled)
    answer.ClearField("secret")
    answer.ClearField("otpauth_uri")
    told: bytes = answer.SerializeToString(deterministic=True)
    return told


@pytest.mark.parametrize("name", MUTATING)
def test_every_change_is_made_once_and_answered_alike(world: World, name: str) -> None:
    rpc, client = RPCS[name], caller(world, name)
    key = f"{'parity' if name in ONCE else 'once'}-{name}"
    request: Any = CASES[name](world)
    first, _ = answered(client, rpc, request, key)
    for _ in range(2):
        again, headers = answered(client, rpc, request, key)
        if name == "EnrollSecondFactor":
            first = without_secret(first)
        assert again == first
        assert headers["x-idempotent-replay"] == "true"
    rest = [call_rest(client, rpc, request, {"idempotency-key": key}) for _ in range(2)]
    assert rest[0].content == rest[1].content
    assert rest[0].headers["x-idempotent-replay"] == "true"
    assert rest[0].json() == json_format.MessageToDict(
        GetMessageClass(rpc.descriptor.output_type).FromString(first),
        always_print_fields_with_no_presence=True,
    )
    # Another request under the key is refused, over both ways in.
    other: Any = rpc.request_class()
    other.CopyFrom(CASES[name](world))
    if other == request:
        for field in ("reason", "display_name", "agent_id"):
            if field in rpc.fields:
                setattr(other, field, "changed")
    if other == request and "document" in rpc.fields:
        other.document.name = "changed"
    if other == request:  # RotateSigningKey says nothing but the tenant
        assert name == "RotateSigningKey"
        return
    refusal = refused_by_grpc(client, rpc, other, (("idempotency-key", key),))
    assert (refusal.code, refusal.reason) == (
        grpc.StatusCode.ALREADY_EXISTS,
        "IDEMPOTENCY_KEY_REUSED",
    )
    reused = call_rest(client, rpc, other, {"idempotency-key": key})
    assert (reused.status_code, rest_refusal(reused)) == (409, refusal)
    # And the first answer stands.
    assert answered(client, rpc, request, key)[0] == first


def test_the_replay_of_a_submission_outlives_the_state_it_tells_of(world: World) -> None:
    rpc, request = RPCS["SubmitAction"], submission(tenant_id=TENANT)
    first, _ = answered(world.admin, rpc, request, "outlives")
    action = A.SubmitActionResponse.FromString(first).action
    done = A.CompleteActionRequest(
        tenant_id=TENANT, action_id=action.action_id, outcome=A.OUTCOME_SUCCEEDED
    )
    world.admin.actions.CompleteAction(done, timeout=20)
    named = A.GetActionRequest(tenant_id=TENANT, action_id=action.action_id)
    now = world.admin.actions.GetAction(named, timeout=20).action
    assert now.state == A.ACTION_STATE_EXECUTED
    assert answered(world.admin, rpc, request, "outlives")[0] == first


def test_a_key_is_its_callers_its_rpcs_and_its_tenants_own(world: World) -> None:
    """The same key elsewhere is another key: nothing is refused, nothing is repeated."""
    seen = set()
    for client, tenant in (
        (world.admin, TENANT),
        (world.second_admin, TENANT),
        (world.second_admin, "tenant_parity_second"),
    ):
        body, headers = answered(client, RPCS["SubmitAction"], submission(tenant_id=tenant), "own")
        assert "x-idempotent-replay" not in headers
        action = A.SubmitActionResponse.FromString(body).action
        assert action.tenant_id == tenant
        seen.add(action.action_id)
    assert len(seen) == 3
    cancel = world.named(A.CancelActionRequest)
    body, headers = answered(world.admin, RPCS["CancelAction"], cancel, "own")
    assert "x-idempotent-replay" not in headers
    canceled = A.CancelActionResponse.FromString(body).action
    assert canceled.action_id == cancel.action_id


def test_fifty_at_once_under_one_key_make_one_action(world: World) -> None:
    """Half over REST, half over gRPC, released together; one action, one answer, two receipts."""
    request = submission(tenant_id=TENANT)
    request.agent_id = "agent-of-the-storm"
    rpc, barrier = RPCS["SubmitAction"], threading.Barrier(50)

    def over_rest(_: int) -> bytes:
        barrier.wait(timeout=60)
        answer = call_rest(world.admin, rpc, request, {"idempotency-key": "storm"})
        assert answer.status_code == 200, answer.text
        return answer.content

    def over_grpc(_: int) -> bytes:
        barrier.wait(timeout=60)
        return answered(world.admin, rpc, request, "storm")[0]

    with ThreadPoolExecutor(50) as pool:
        rest = [pool.submit(over_rest, n) for n in range(25)]
        raw = [pool.submit(over_grpc, n) for n in range(25)]
        rests = {future.result(timeout=120) for future in rest}
        raws = {future.result(timeout=120) for future in raw}
    (body,), (message,) = rests, raws
    told = A.SubmitActionResponse.FromString(message)
    assert json.loads(body) == json_format.MessageToDict(
        told, always_print_fields_with_no_presence=True
    )
    listed = A.ListActionsRequest(tenant_id=TENANT, agent_id=request.agent_id)
    actions = world.admin.actions.ListActions(listed, timeout=20).actions
    assert [action.action_id for action in actions] == [told.action.action_id]
    chain = R.ListReceiptsRequest(tenant_id=TENANT, action_id=told.action.action_id)
    receipts = world.admin.receipts.ListReceipts(chain, timeout=20).receipts
    for receipt in receipts:
        assert receipt.HasField("leaf_index")  # which an answer to the submission does not tell
        receipt.ClearField("leaf_index")
    assert list(receipts) == list(told.receipts)
    assert len(receipts) == 2


def test_of_fifty_requests_under_one_key_one_wins_and_the_others_are_refused(world: World) -> None:
    rpc, barrier = RPCS["SubmitAction"], threading.Barrier(50)

    def submitted(number: int) -> str:
        request = submission(tenant_id=TENANT)
        request.agent_id = f"rival-{number}"
        barrier.wait(timeout=60)
        answer = call_rest(world.admin, rpc, request, {"idempotency-key": "rivals"})
        return "" if answer.status_code == 200 else rest_refusal(answer).reason

    with ThreadPoolExecutor(50) as pool:
        outcomes = sorted(pool.map(submitted, range(50)))
    assert outcomes == ["", *["IDEMPOTENCY_KEY_REUSED"] * 49]
