"""Tenants never meet: another tenant's things are simply not there, and say so alike."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from oars_grpc.generated.oars.v1 import (
    action_pb2,
    approval_pb2,
    control_pb2,
    policy_pb2,
    receipt_pb2,
    retention_pb2,
    tenant_pb2,
)
from oars_grpc.generated.oars.v1.retention_pb2_grpc import RetentionServiceStub
from oars_grpc.local.stack import LocalStack
from tests.support.client import Client, client_for
from tests.support.identities import add_identity
from tests.support.rpcs import (
    LATTICE_RPCS,
    RPCS,
    UNKNOWN_IDS,
    call_grpc,
    call_rest,
    document,
    lattice_request,
    refused_by_grpc,
    registration,
    rest_refusal,
    submission,
)

ALPHA, BETA = "tenant_alpha", "tenant_beta"
A: Any = action_pb2
R: Any = receipt_pb2
V: Any = approval_pb2

# The id by which each rpc names a thing; an rpc with an id that is missing here fails a test.
NAMED_BY = {
    "GetAction": "action_id",
    "WatchAction": "action_id",
    "StartAction": "action_id",
    "CompleteAction": "action_id",
    "CancelAction": "action_id",
    "ReleaseAction": "action_id",
    "DecideApproval": "approval_id",
    "GetApproval": "approval_id",
    "GetControlMapping": "mapping_id",
    "RetireControlMapping": "mapping_id",
    "GetLegalHold": "hold_id",
    "ReleaseLegalHold": "hold_id",
    "GetLattice": "lattice_id",
    "DeleteLattice": "lattice_id",
    "UpsertAnchors": "lattice_id",
    "RemoveAnchors": "lattice_id",
    "QueryLattice": "lattice_id",
    "ScoreChain": "lattice_id",
    "ComputeGates": "lattice_id",
    "CompareLattices": "lattice_id",
    "VerifyLatticeReceipt": "lattice_id",
    "GetPolicy": "policy_id",
    "PublishPolicy": "policy_id",
    "RollbackPolicy": "policy_id",
    "ArchivePolicy": "policy_id",
    "ReplayPolicy": "policy_id",
    "GetReceipt": "receipt_id",
    "GetReceiptProof": "receipt_id",
    "VerifyReceipt": "receipt_id",
}
LISTS = (
    "ListActions",
    "ListApprovals",
    "ListControlMappings",
    "ListLattices",
    "ListPolicies",
    "ListReceipts",
)
# Take the one tenant of the caller where it is left out.
TENANT_MAY_BE_LEFT_OUT = (
    *LISTS,
    "SubmitAction",
    "CreateControlMapping",
    "CreateSmallLattice",
    "SettleOnce",
    "CreatePolicy",
    "ExportEvidence",
    "GetCoverageReport",
    "SimulatePolicy",
    "WatchApprovals",
)


@dataclass(frozen=True)
class Alpha:
    """What tenant_alpha has."""

    ids: dict[str, str]
    approval: Any
    receipts: Any


@pytest.fixture(scope="module")
def alpha(agent: Client, admin: Client) -> Alpha:
    request = submission("transfer_funds")
    request.context.environment = "production"
    submitted = agent.actions.SubmitAction(request, timeout=20)
    assert submitted.approval.approval_id
    policies = admin.policies.ListPolicies(policy_pb2.ListPoliciesRequest(), timeout=20).policies
    wanted = control_pb2.CreateControlMappingRequest(framework="walls", control_id="W1")
    mapped = admin.controls.CreateControlMapping(wanted, timeout=20)
    matter = retention_pb2.PlaceLegalHoldRequest(
        tenant_id=ALPHA, name="walls", reason="walls", scope=R.ReceiptFilter(agent_id="nobody")
    )
    kept = admin.lattices.CreateSmallLattice(lattice_request("CreateSmallLattice"), timeout=20)
    held = RetentionServiceStub(admin.channel).PlaceLegalHold(matter, timeout=20)
    ids = {
        "action_id": submitted.action.action_id,
        "approval_id": submitted.approval.approval_id,
        "hold_id": held.hold.hold_id,
        "lattice_id": kept.lattice.lattice_id,
        "mapping_id": mapped.mapping.mapping_id,
        "policy_id": policies[-1].policy_id,
        "receipt_id": submitted.receipts[0].receipt_id,
    }
    return Alpha(ids, submitted.approval, submitted.receipts)


@pytest.fixture(scope="module")
def beta_approver(stack: LocalStack) -> Iterator[Client]:
    add_identity(stack, "beta-approver", role="approver", tenants=[BETA])
    with client_for(stack, "beta-approver") as client:
        yield client


@pytest.fixture(scope="module")
def both(stack: LocalStack, beta_admin: Client) -> Iterator[Client]:
    add_identity(stack, "both-admin", role="admin", tenants=[ALPHA, BETA])
    with client_for(stack, "both-admin") as client:
        yield client


def asking(name: str, id_: str, **fields: Any) -> Any:
    """A complete request about a thing."""
    named = {NAMED_BY[name]: id_, **fields}
    if name in LATTICE_RPCS:
        return lattice_request(name, **named)
    request: Any = RPCS[name].request_class(**named)
    if name == "CompleteAction":
        request.outcome = A.OUTCOME_SUCCEEDED
    if name == "DecideApproval":
        request.verdict = V.VERDICT_APPROVE
        request.action_digest = request.display_digest = "a" * 64
    if name == "ReleaseLegalHold":
        request.reason = "settled"
    return request


def about_an_approver(name: str, request: Any) -> Any:
    """A request of the rpcs about approvers and keys made complete; others as they are."""
    if name in ("EnrollSecondFactor", "RemoveSecondFactor", "GetSecondFactor"):
        request.subject = "spiffe://oars.dev/somebody"
    if name in ("RevokeSigningKey", "RevokeApproverKey"):
        request.key_id, request.reason = "0" * 16, "lost"
    if name == "RegisterApproverKey":
        return registration(request.tenant_id, seed=b"w" * 32)
    return request


def test_every_rpc_with_an_id_is_listed() -> None:
    with_id = {name for name, rpc in RPCS.items() if rpc.fields & UNKNOWN_IDS.keys()}
    assert with_id - {"ListReceipts"} == set(NAMED_BY)
    optional = {
        name
        for name, rpc in RPCS.items()
        if "tenant_id" in rpc.fields
        and "{tenant_id}" not in rpc.route
        and name not in (*NAMED_BY, "CreateTenant")
    }
    assert optional == set(TENANT_MAY_BE_LEFT_OUT)


@pytest.mark.parametrize("name", sorted(NAMED_BY))
def test_a_foreign_id_is_answered_like_one_that_does_not_exist(
    alpha: Alpha, beta_admin: Client, beta_approver: Client, name: str
) -> None:
    """Over both ways in; the id and the request id are all that may differ."""
    rpc, field = RPCS[name], NAMED_BY[name]
    foreign, unknown = alpha.ids[field], UNKNOWN_IDS[field]
    for client in (beta_admin, beta_approver):
        if client is beta_approver and name not in ("DecideApproval", "GetApproval", "GetAction"):
            continue
        bodies, refusals = [], []
        for id_ in (foreign, unknown):
            for tenant in (BETA,) if "{tenant_id}" in rpc.route else ("", BETA):
                request = asking(name, id_, tenant_id=tenant)
                refusal = refused_by_grpc(client, rpc, request)
                assert refusal.code is grpc.StatusCode.NOT_FOUND
                answer = call_rest(client, rpc, request)
                assert rest_refusal(answer) == refusal
                refusals.append(repr(refusal).replace(id_, "ID"))
                own_id = re.sub(r'"requestId":"[^"]*"', "", answer.text)
                headers = sorted(
                    (header, value)
                    for header, value in answer.headers.items()
                    if header not in ("date", "x-request-id", "content-length")
                )
                bodies.append((own_id.replace(id_, "ID"), headers, answer.status_code))
        assert len(set(refusals)) == 1
        assert all(body == bodies[0] for body in bodies)


@pytest.mark.parametrize("name", sorted(set(RPCS) - {"ListTrustedKeys", "ListTenants"}))
def test_naming_a_foreign_tenant_is_forbidden(alpha: Alpha, beta_admin: Client, name: str) -> None:
    """And alike for a tenant that does not exist: which there are is nobody's business."""
    rpc = RPCS[name]
    request: Any
    refusals = set()
    for tenant in (ALPHA, "tenant_nobody"):
        if name in NAMED_BY:
            request = asking(name, alpha.ids[NAMED_BY[name]], tenant_id=tenant)
        elif name == "SubmitAction":
            request = submission(tenant_id=tenant)
        else:
            request = about_an_approver(name, rpc.request_class(tenant_id=tenant))
            if name in LATTICE_RPCS:
                request = lattice_request(name, tenant_id=tenant)
            if name == "CreatePolicy":
                request.document.CopyFrom(document())
            if name == "CreateControlMapping":
                request.framework, request.control_id = "walls", "W1"
            if name == "SimulatePolicy":
                request.agent_id, request.resource.tool_id = "a", "t"
                request.resource.operation = "o"
            if name == "PlaceLegalHold":
                request.name = request.reason = "walls"
        refusal = refused_by_grpc(beta_admin, rpc, request)
        assert refusal.code is grpc.StatusCode.PERMISSION_DENIED
        assert refusal.reason == "TENANT_FORBIDDEN"
        assert rest_refusal(call_rest(beta_admin, rpc, request)) == refusal
        refusals.add(repr(refusal).replace(tenant, "TENANT"))
    assert len(refusals) == 1


def test_lists_show_nothing_of_another_tenant(alpha: Alpha, beta_admin: Client) -> None:
    for name in LISTS:
        (page,) = call_grpc(beta_admin, RPCS[name], b"")
        assert not any(id_.encode() in page.SerializeToString() for id_ in alpha.ids.values())
        assert ALPHA.encode() not in page.SerializeToString()
    request = R.ListReceiptsRequest(action_id=alpha.ids["action_id"])
    assert not beta_admin.receipts.ListReceipts(request, timeout=20).receipts
    tenants = beta_admin.tenants.ListTenants(tenant_pb2.ListTenantsRequest(), timeout=20).tenants
    assert [tenant.tenant_id for tenant in tenants] == [BETA]


def test_keys_are_public_to_every_trusted_identity(
    beta_admin: Client, agent: Client, auditor: Client
) -> None:
    wanted = R.ListTrustedKeysRequest(tenant_id=ALPHA)
    answers = [
        client.receipts.ListTrustedKeys(wanted, timeout=20)
        for client in (beta_admin, agent, auditor)
    ]
    assert answers[0].keys
    assert {key.tenant_id for key in answers[0].keys} == {ALPHA}
    assert all(answer == answers[0] for answer in answers)


def test_a_receipt_does_not_verify_with_the_keys_of_another_tenant(
    alpha: Alpha, beta_admin: Client, auditor: Client
) -> None:
    receipt = alpha.receipts[0]
    own = auditor.receipts.VerifyReceipt(
        R.VerifyReceiptRequest(envelope=receipt.envelope), timeout=20
    )
    assert own.valid
    stored = beta_admin.receipts.VerifyReceipt(
        R.VerifyReceiptRequest(envelope=receipt.envelope), timeout=20
    )
    assert not stored.valid
    alphas, betas = (
        beta_admin.receipts.ListTrustedKeys(R.ListTrustedKeysRequest(tenant_id=tenant), timeout=20)
        for tenant in (ALPHA, BETA)
    )
    by_hand = beta_admin.receipts.VerifyReceipt(
        R.VerifyReceiptRequest(envelope=receipt.envelope, keys=betas.keys), timeout=20
    )
    assert not by_hand.valid
    # The right bytes under the wrong tenant's name are no key of alpha either.
    for key in alphas.keys:
        key.tenant_id = BETA
    renamed = beta_admin.receipts.VerifyReceipt(
        R.VerifyReceiptRequest(envelope=receipt.envelope, keys=alphas.keys), timeout=20
    )
    assert not renamed.valid
    assert any("key_trust" in error for error in renamed.errors)


@pytest.mark.parametrize("name", ["ListActions", "ListReceipts", "ListPolicies", "ListApprovals"])
def test_a_page_token_of_another_tenant_is_refused(
    both: Client, admin: Client, beta_admin: Client, name: str
) -> None:
    for _ in range(2):
        request = submission("transfer_funds", ALPHA)
        request.context.environment = "production"
        both.actions.SubmitAction(request, timeout=20)
        draft = policy_pb2.CreatePolicyRequest(tenant_id=ALPHA, document=document())
        admin.policies.CreatePolicy(draft, timeout=20)
    rpc = RPCS[name]
    first: Any = rpc.request_class(tenant_id=ALPHA, page_size=1)
    (page,) = call_grpc(admin, rpc, first)
    token = getattr(page, "next_page_token", "")
    assert token
    assert call_grpc(admin, rpc, rpc.request_class(page_token=token))  # its own tenant continues
    for client in (beta_admin, both):
        other: Message = rpc.request_class(tenant_id=BETA, page_token=token)
        refusal = refused_by_grpc(client, rpc, other)
        assert (refusal.code, refusal.fields) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            ("page_token",),
        )


@pytest.mark.parametrize("name", TENANT_MAY_BE_LEFT_OUT)
def test_who_belongs_to_two_tenants_must_name_one(both: Client, name: str) -> None:
    rpc = RPCS[name]
    request: Any = submission() if name == "SubmitAction" else rpc.request_class()
    if name in LATTICE_RPCS:
        request = lattice_request(name)
    if name == "CreatePolicy":
        request.document.CopyFrom(document())
    if name == "CreateControlMapping":
        request.framework, request.control_id = "walls", "W1"
    refusal = refused_by_grpc(both, rpc, request)
    assert (refusal.code, refusal.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ("tenant_id",))
    assert rest_refusal(call_rest(both, rpc, request)) == refusal


def test_who_belongs_to_two_tenants_reaches_the_things_of_both(both: Client, alpha: Alpha) -> None:
    made = {
        tenant: both.actions.SubmitAction(submission(tenant_id=tenant), timeout=20).action
        for tenant in (ALPHA, BETA)
    }
    for tenant, other in ((ALPHA, BETA), (BETA, ALPHA)):
        named = A.GetActionRequest(action_id=made[tenant].action_id)
        assert both.actions.GetAction(named, timeout=20).action.tenant_id == tenant
        named.tenant_id = other
        assert refused_by_grpc(both, RPCS["GetAction"], named).reason == "ACTION_NOT_FOUND"


def test_an_agent_sees_only_its_own_actions_and_receipts(
    stack: LocalStack, agent: Client, alpha: Alpha, admin: Client
) -> None:
    add_identity(stack, "other-agent", role="agent", tenants=[ALPHA])
    with client_for(stack, "other-agent") as other:
        for name in (
            "GetAction",
            "WatchAction",
            "StartAction",
            "CompleteAction",
            "CancelAction",
            "GetReceipt",
        ):
            field = NAMED_BY[name]
            answers = {
                repr(refused_by_grpc(other, RPCS[name], asking(name, id_))).replace(id_, "ID")
                for id_ in (alpha.ids[field], UNKNOWN_IDS[field])
            }
            assert len(answers) == 1
            assert "NOT_FOUND" in answers.pop()
        stored = R.VerifyReceiptRequest(receipt_id=alpha.ids["receipt_id"])
        assert refused_by_grpc(other, RPCS["VerifyReceipt"], stored).reason == "RECEIPT_NOT_FOUND"
        assert not other.actions.ListActions(A.ListActionsRequest(), timeout=20).actions
        own = other.actions.SubmitAction(submission(), timeout=20)
        listed = other.actions.ListActions(A.ListActionsRequest(), timeout=20).actions
        assert [action.action_id for action in listed] == [own.action.action_id]
        of_action = R.ListReceiptsRequest(action_id=alpha.ids["action_id"])
        assert refused_by_grpc(other, RPCS["ListReceipts"], of_action).reason == "ACTION_NOT_FOUND"
        without = refused_by_grpc(other, RPCS["ListReceipts"], R.ListReceiptsRequest())
        assert without.fields == ("action_id",)
    # The other side of it: the one who submitted and the one who administers see it.
    for client in (agent, admin):
        named = A.GetActionRequest(action_id=alpha.ids["action_id"])
        assert client.actions.GetAction(named, timeout=20).action.tenant_id == ALPHA
