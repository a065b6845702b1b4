"""Controls through the live stack: mappings, what they pick, coverage, the walls around them."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest

from oars_grpc.generated.oars.v1 import approval_pb2, control_pb2, policy_pb2, receipt_pb2
from oars_grpc.local.stack import LocalStack
from tests.support.client import Client, action_body, client_for, submit
from tests.support.identities import add_identity
from tests.support.rpcs import RPCS, grpc_refusal, refused_by_grpc

TENANT = "tenant_controls"
C: Any = control_pb2
R: Any = receipt_pb2
E = control_pb2
PRODUCTION = {"environment": "production", "dataTypes": ["none"]}


@pytest.fixture(scope="module")
def people(stack: LocalStack) -> Iterator[dict[str, Client]]:
    """Admin, agent and approver of a tenant of this module's own."""
    clients: dict[str, Client] = {}
    for role in ("admin", "agent", "approver", "auditor"):
        add_identity(stack, f"controls-{role}", role=role, tenants=[TENANT])
    with (
        client_for(stack, "controls-admin") as clients["admin"],
        client_for(stack, "controls-agent") as clients["agent"],
        client_for(stack, "controls-approver") as clients["approver"],
        client_for(stack, "controls-auditor") as clients["auditor"],
    ):
        created = clients["admin"].rest.post("/v1/tenants", json={"tenantId": TENANT})
        assert created.status_code in (200, 409), created.text
        yield clients


def mapped(people: dict[str, Client], control_id: str, **fields: Any) -> Any:
    request = C.CreateControlMappingRequest(framework="soc2", control_id=control_id, **fields)
    return people["admin"].controls.CreateControlMapping(request, timeout=20).mapping


def coverage(client: Client, control: str = "", **fields: Any) -> Any:
    request = C.GetCoverageReportRequest(framework="soc2", control=control, **fields)
    return client.controls.GetCoverageReport(request, timeout=30)


def today(report: Any) -> tuple[int, dict[int, int], list[int]]:
    """Receipts, evidence and gaps of the one control over all its periods together."""
    (control,) = report.controls
    receipts, evidence, gaps = 0, dict[int, int](), set[int]()
    for period in control.periods:
        receipts += period.receipts
        gaps |= set(period.gaps)
        for count in period.evidence:
            evidence[count.type] = evidence.get(count.type, 0) + count.receipts
    return receipts, evidence, sorted(gaps)


def decided(people: dict[str, Client], operation: str, verdict: int) -> str:
    """An action that waits for a person, and what the person says."""
    resource = {"toolId": "bank", "operation": operation, "target": "x"}
    body = submit(people["agent"], action_body(resource=resource, context=PRODUCTION))
    approval = body["approval"]
    people["approver"].approvals.DecideApproval(
        approval_pb2.DecideApprovalRequest(
            approval_id=approval["approvalId"],
            verdict=verdict,  # type: ignore[arg-type]  # an enum number
            action_digest=approval["actionDigest"],
            display_digest=approval["displayDigest"],
        ),
        timeout=20,
    )
    found: str = body["action"]["actionId"]
    return found


def test_coverage_tells_human_decisions_from_those_of_policy(people: dict[str, Client]) -> None:
    oversight = [E.EVIDENCE_TYPE_HUMAN_APPROVAL, E.EVIDENCE_TYPE_HUMAN_REJECTION]
    filter_ = R.ReceiptFilter(tool_id="bank")
    resource = {"toolId": "bank", "operation": "create_ticket", "target": "x"}
    # Before the mapping, so that the follower must go back for it.
    allowed = submit(people["agent"], action_body(resource=resource))["action"]
    assert allowed["state"] == "ACTION_STATE_APPROVED"
    mapping = mapped(people, "human", filter=filter_, required_evidence=oversight)
    assert mapping.tagged_size == 0
    receipts, evidence, gaps = today(coverage(people["auditor"], "human"))
    assert (receipts, evidence) == (2, {E.EVIDENCE_TYPE_POLICY_DECISION: 1})
    assert gaps == oversight
    decided(people, "transfer_funds", approval_pb2.VERDICT_APPROVE)
    receipts, evidence, gaps = today(coverage(people["auditor"], "human"))
    # requested, approval_required, approval_decided, approved
    assert (receipts, evidence) == (
        6,
        {E.EVIDENCE_TYPE_POLICY_DECISION: 2, E.EVIDENCE_TYPE_HUMAN_APPROVAL: 1},
    )
    assert gaps == [E.EVIDENCE_TYPE_HUMAN_REJECTION]
    decided(people, "wire_money", approval_pb2.VERDICT_REJECT)
    submit(people["agent"], action_body(resource=resource | {"operation": "delete_repository"}))
    report = coverage(people["auditor"], "human")
    assert today(report) == (
        12,
        {
            E.EVIDENCE_TYPE_POLICY_DECISION: 4,
            E.EVIDENCE_TYPE_HUMAN_APPROVAL: 1,
            E.EVIDENCE_TYPE_HUMAN_REJECTION: 1,
            E.EVIDENCE_TYPE_DENIAL: 2,
        },
        [],
    )
    (control,) = report.controls
    assert control.mapping.tagged_size == report.log_size
    # The default range is thirty days and today; all but today (or the day before) are inactive.
    assert len(control.periods) == 31
    assert control.inactive_periods >= 29
    assert control.periods_with_gaps == 0


def test_every_mapping_made_and_retired_is_an_event_in_the_log(people: dict[str, Client]) -> None:
    mapping = mapped(people, "evented", description="watched", filter=R.ReceiptFilter(agent_id="a"))
    retire = C.RetireControlMappingRequest(mapping_id=mapping.mapping_id)
    retired = people["admin"].controls.RetireControlMapping(retire, timeout=20).mapping
    assert retired.HasField("retired_at")
    assert retired.retired_by == "spiffe://oars.dev/controls-admin"
    told = []
    for type_ in ("control.mapped", "control.retired"):
        listed = R.ListReceiptsRequest(type=type_, page_size=200)
        found = people["auditor"].receipts.ListReceipts(listed, timeout=20).receipts
        events = [json.loads(receipt.envelope.payload)["predicate"] for receipt in found]
        told += [
            (each["type"], each["caller"]["subject"], each["event"])
            for each in events
            if each["event"]["mappingId"] == mapping.mapping_id
        ]
        asked = R.VerifyReceiptRequest(receipt_id=found[-1].receipt_id)
        assert people["auditor"].receipts.VerifyReceipt(asked, timeout=20).valid
    event = {
        "mappingId": mapping.mapping_id,
        "framework": "soc2",
        "controlId": "evented",
        "description": "watched",
        "filter": {"agentId": "a"},
        "requiredEvidence": [],
    }
    assert told == [
        (type_, "spiffe://oars.dev/controls-admin", event)
        for type_ in ("control.mapped", "control.retired")
    ]
    again = refused_by_grpc(people["admin"], RPCS["RetireControlMapping"], retire)
    assert (again.code, again.reason) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "CONTROL_RETIRED",
    )


def test_a_control_has_one_mapping_at_a_time_also_of_many_who_try_at_once(
    people: dict[str, Client],
) -> None:
    barrier = threading.Barrier(8)

    def create(_: int) -> Any:
        barrier.wait(timeout=30)
        try:
            return mapped(people, "one").mapping_id
        except grpc.RpcError as error:
            return grpc_refusal(error).reason

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(create, range(8)))
    assert outcomes.count("CONTROL_MAPPED") == 7
    made = [outcome for outcome in outcomes if outcome != "CONTROL_MAPPED"]
    refusal = refused_by_grpc(
        people["admin"],
        RPCS["CreateControlMapping"],
        C.CreateControlMappingRequest(framework="soc2", control_id="one"),
    )
    assert refusal.reason == "CONTROL_MAPPED"
    people["admin"].controls.RetireControlMapping(
        C.RetireControlMappingRequest(mapping_id=made[0]), timeout=20
    )
    assert mapped(people, "one").mapping_id != made[0]
    listed = people["auditor"].controls.ListControlMappings
    active = listed(C.ListControlMappingsRequest(page_size=200), timeout=20).mappings
    both = listed(C.ListControlMappingsRequest(page_size=200, include_retired=True), timeout=20)
    named = [each.mapping_id for each in active if each.control_id == "one"]
    assert made[0] not in named
    assert [each.mapping_id for each in both.mappings if each.control_id == "one"] == [
        made[0],
        *named,
    ]


def test_the_follower_goes_on_by_itself(people: dict[str, Client]) -> None:
    mapping = mapped(people, "followed")
    named = C.GetControlMappingRequest(mapping_id=mapping.mapping_id)
    deadline = datetime.now(UTC) + timedelta(seconds=60)
    size = 0
    while not size and datetime.now(UTC) < deadline:
        threading.Event().wait(0.5)
        found = people["auditor"].controls.GetControlMapping(named, timeout=20)
        size = found.mapping.tagged_size
    assert size


@pytest.mark.parametrize(
    ("fields", "at_fault"),
    [
        ({"framework": ""}, "framework"),
        ({"framework": "SOC2"}, "framework"),
        ({"framework": "x" * 33}, "framework"),
        ({"control_id": ""}, "control_id"),
        ({"control_id": "a b"}, "control_id"),
        ({"control_id": "a:b"}, "control_id"),
        ({"control_id": "é"}, "control_id"),
        ({"description": "x" * 1025}, "description"),
        ({"filter": R.ReceiptFilter(policy_version=1)}, "filter.policy_version"),
        ({"filter": R.ReceiptFilter(action_id="x")}, "filter.action_id"),
        ({"required_evidence": [0]}, "required_evidence[0]"),
        ({"required_evidence": [1, 99]}, "required_evidence[1]"),
        ({"required_evidence": [1, 1]}, "required_evidence"),
    ],
)
def test_each_field_of_a_mapping_is_refused_by_its_name(
    people: dict[str, Client], fields: dict[str, Any], at_fault: str
) -> None:
    request = C.CreateControlMappingRequest(
        **{"framework": "soc2", "control_id": "refused"} | fields
    )
    refusal = refused_by_grpc(people["admin"], RPCS["CreateControlMapping"], request)
    assert refusal.fields == (at_fault,)


@pytest.mark.parametrize(
    ("fields", "at_fault"),
    [
        ({"control": "human", "framework": ""}, "framework"),
        ({"from": {"seconds": 100}, "until": {"seconds": 100}}, "from"),
        ({"from": {"seconds": 0}, "until": {"seconds": 401 * 86_400}}, "period"),
        ({"from": {"seconds": 0}}, "period"),
        ({"until": {"seconds": 253_402_300_000}}, "until"),
        ({"period": 9}, "period"),
    ],
)
def test_each_field_of_a_report_is_refused_by_its_name(
    people: dict[str, Client], fields: dict[str, Any], at_fault: str
) -> None:
    request = C.GetCoverageReportRequest(**{"framework": "soc2"} | fields)
    refusal = refused_by_grpc(people["auditor"], RPCS["GetCoverageReport"], request)
    assert refusal.fields == (at_fault,)


def test_a_report_over_months_is_within_its_bounds(people: dict[str, Client]) -> None:
    mapped(people, "monthly")
    span: dict[str, Any] = {"from": {"seconds": 1_000_000_000}}
    report = coverage(people["auditor"], "monthly", period=C.COVERAGE_PERIOD_MONTH, **span)
    periods = report.controls[0].periods
    assert len(periods) > 290
    assert periods[-1].receipts + periods[-2].receipts == report.log_size
    assert not any(period.receipts for period in periods[:-2])


def test_a_control_of_another_tenant_is_not_there(
    people: dict[str, Client], beta_admin: Client
) -> None:
    mapping = mapped(people, "walled")
    for name, kind in (
        ("GetControlMapping", C.GetControlMappingRequest),
        ("RetireControlMapping", C.RetireControlMappingRequest),
    ):
        request = kind(mapping_id=mapping.mapping_id)
        refusal = refused_by_grpc(beta_admin, RPCS[name], request)
        assert refusal.reason == "CONTROL_MAPPING_NOT_FOUND"
    search = R.ListReceiptsRequest(control="soc2:walled")
    assert refused_by_grpc(beta_admin, RPCS["ListReceipts"], search).reason == "CONTROL_NOT_FOUND"
    report = C.GetCoverageReportRequest(framework="soc2", control="walled")
    refusal = refused_by_grpc(beta_admin, RPCS["GetCoverageReport"], report)
    assert refusal.reason == "CONTROL_NOT_FOUND"
    everything = beta_admin.controls.GetCoverageReport(C.GetCoverageReportRequest(), timeout=20)
    assert TENANT.encode() not in everything.SerializeToString()


def test_search_and_control_agree_on_policy_decisions(people: dict[str, Client]) -> None:
    """What the control counts as decisions of policy is what a search by each effect finds."""
    mapped(people, "effects", filter=R.ReceiptFilter(tool_id="bank"))
    _, evidence, _ = today(coverage(people["auditor"], "effects"))
    found = 0
    for effect in (policy_pb2.EFFECT_ALLOW, policy_pb2.EFFECT_DENY, policy_pb2.EFFECT_APPROVE):
        request = R.ListReceiptsRequest(tool_id="bank", decision=effect, page_size=200)
        found += len(people["auditor"].receipts.ListReceipts(request, timeout=20).receipts)
    assert found
    assert evidence[E.EVIDENCE_TYPE_POLICY_DECISION] == found
