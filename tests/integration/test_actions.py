"""The life of actions over REST and gRPC, on the real stack."""

import hashlib
import json
from typing import Any

import rfc8785

from oars_grpc.core.envelope import envelope_from_json
from oars_grpc.core.receipt import parse_statement
from oars_grpc.generated.oars.v1 import action_pb2, approval_pb2, receipt_pb2
from tests.support.client import RISKY, Client, action_body, submit


def kinds(answer: dict[str, object]) -> list[str]:
    receipts = answer["receipts"]
    assert isinstance(receipts, list)
    return [receipt["type"] for receipt in receipts]


def test_an_allowed_action_is_approved_with_its_two_receipts(agent: Client) -> None:
    answer = submit(agent, action_body())
    assert answer["action"]["state"] == "ACTION_STATE_APPROVED"
    assert kinds(answer) == ["action.requested", "action.approved"]
    assert answer["decision"]["effect"] == "EFFECT_ALLOW"
    assert [rule["ruleId"] for rule in answer["decision"]["rules"] if rule["deciding"]]


def test_the_caller_completes_and_the_receipt_carries_the_digest_of_the_output(
    agent: Client,
) -> None:
    action = submit(agent, action_body())["action"]
    output: dict[str, Any] = {"ticket": "T-1", "nested": {"b": [1, 2.5, None, True], "a": "ä"}}
    done = agent.rest.post(
        f"/v1/actions/{action['actionId']}:complete",
        json={"outcome": "OUTCOME_SUCCEEDED", "output": output},
    ).json()
    digest = hashlib.sha256(rfc8785.dumps(output)).hexdigest()
    assert done["action"]["state"] == "ACTION_STATE_EXECUTED"
    assert done["action"]["outputDigest"] == digest
    assert kinds(done) == ["action.executed"]
    payload = envelope_from_json(done["receipts"][0]["envelope"]).payload
    assert parse_statement(payload)["predicate"]["outcome"]["outputDigest"] == digest


def test_a_failure_is_recorded_with_the_digest_of_the_error(agent: Client) -> None:
    action = submit(agent, action_body())["action"]
    done = agent.rest.post(
        f"/v1/actions/{action['actionId']}:complete",
        json={"outcome": "OUTCOME_FAILED", "error": "desk is down"},
    ).json()
    assert done["action"]["state"] == "ACTION_STATE_FAILED"
    payload = envelope_from_json(done["receipts"][0]["envelope"]).payload
    outcome = parse_statement(payload)["predicate"]["outcome"]
    assert outcome["errorDigest"] == hashlib.sha256(b"desk is down").hexdigest()


def test_a_completed_action_is_not_completed_again(agent: Client) -> None:
    action = submit(agent, action_body())["action"]
    path = f"/v1/actions/{action['actionId']}:complete"
    assert agent.rest.post(path, json={"outcome": "OUTCOME_SUCCEEDED"}).status_code == 200
    second = agent.rest.post(path, json={"outcome": "OUTCOME_SUCCEEDED"})
    assert second.status_code == 400
    assert second.json()["details"][0]["reason"] == "INVALID_STATE_TRANSITION"


def test_only_the_submitting_caller_completes(agent: Client, operator: Client) -> None:
    action = submit(agent, action_body())["action"]
    refused = operator.rest.post(
        f"/v1/actions/{action['actionId']}:complete", json={"outcome": "OUTCOME_SUCCEEDED"}
    )
    assert refused.status_code == 403
    assert refused.json()["details"][0]["reason"] == "NOT_THE_CALLER"


def test_a_denied_action_says_which_rule_forbids_it(agent: Client) -> None:
    answer = submit(agent, action_body("delete_repository"))
    assert answer["action"]["state"] == "ACTION_STATE_DENIED"
    assert kinds(answer) == ["action.requested", "action.denied"]
    assert answer["decision"]["defaultDeny"] is False


def test_an_unknown_operation_is_denied_because_nothing_permits_it(agent: Client) -> None:
    answer = submit(agent, action_body("frobnicate"))
    assert answer["action"]["state"] == "ACTION_STATE_DENIED"
    assert answer["decision"]["defaultDeny"] is True


def test_an_approval_by_a_person_approves_the_action(agent: Client, approver: Client) -> None:
    answer = submit(agent, action_body("transfer_funds", context=RISKY))
    assert answer["action"]["state"] == "ACTION_STATE_APPROVAL_REQUIRED"
    assert kinds(answer) == ["action.requested", "action.approval_required"]
    approval = answer["approval"]
    decided = approver.rest.post(
        f"/v1/approvals/{approval['approvalId']}/decision",
        json={
            "verdict": "VERDICT_APPROVE",
            "actionDigest": approval["actionDigest"],
            "displayDigest": approval["displayDigest"],
        },
    ).json()
    assert decided["approval"]["state"] == "APPROVAL_STATE_APPROVED"
    assert kinds(decided) == ["action.approval_decided", "action.approved"]
    action = agent.rest.get(f"/v1/actions/{answer['action']['actionId']}").json()["action"]
    assert action["state"] == "ACTION_STATE_APPROVED"


def test_a_rejection_denies_the_action_over_grpc(agent: Client, approver: Client) -> None:
    body = action_body("transfer_funds", context=RISKY)
    request = action_pb2.SubmitActionRequest(agent_id="agent-1")
    request.resource.tool_id, request.resource.operation = "bank", body["resource"]["operation"]
    request.context.environment = "production"
    submitted = agent.actions.SubmitAction(request, timeout=10)
    decided = approver.approvals.DecideApproval(
        approval_pb2.DecideApprovalRequest(
            approval_id=submitted.approval.approval_id,
            verdict=approval_pb2.VERDICT_REJECT,
            action_digest=submitted.approval.action_digest,
            display_digest=submitted.approval.display_digest,
        ),
        timeout=10,
    )
    assert [receipt.type for receipt in decided.receipts][-1] == "action.denied"
    second = approver.rest.post(
        f"/v1/approvals/{submitted.approval.approval_id}/decision",
        json={
            "verdict": "VERDICT_APPROVE",
            "actionDigest": submitted.approval.action_digest,
            "displayDigest": submitted.approval.display_digest,
        },
    )
    assert second.json()["details"][0]["reason"] == "APPROVAL_NOT_PENDING"


def test_rest_and_grpc_answer_the_same(agent: Client) -> None:
    submitted = submit(agent, action_body(), idempotency_key="parity-1")
    request = action_pb2.GetActionRequest(action_id=submitted["action"]["actionId"])
    over_grpc = agent.actions.GetAction(request, timeout=10)
    assert over_grpc.action.action_digest == submitted["action"]["actionDigest"]
    assert over_grpc.decision.explanation == submitted["decision"]["explanation"]
    receipt_id = submitted["receipts"][1]["receiptId"]
    receipt = agent.receipts.GetReceipt(
        receipt_pb2.GetReceiptRequest(receipt_id=receipt_id), timeout=10
    ).receipt
    assert (
        receipt.envelope.payload == envelope_from_json(submitted["receipts"][1]["envelope"]).payload
    )


def test_a_quarantined_action_is_released_into_approval(
    agent: Client, admin: Client, operator: Client
) -> None:
    quarantine = {
        "name": "quarantine exports",
        "rules": [
            {
                "id": "q1",
                "effect": "EFFECT_QUARANTINE",
                "match": {"operations": ["export_report"]},
            },
            {"id": "a1", "effect": "EFFECT_ALLOW"},
        ],
    }
    created = admin.rest.post("/v1/policies", json={"document": quarantine}).json()["policy"]
    assert admin.rest.post(f"/v1/policies/{created['policyId']}/publish", json={}).is_success
    try:
        answer = submit(agent, action_body("export_report"))
        assert answer["action"]["state"] == "ACTION_STATE_QUARANTINED"
        assert kinds(answer) == ["action.requested", "action.quarantined"]
        released = operator.rest.post(
            f"/v1/actions/{answer['action']['actionId']}:release", json={"reason": "looked at it"}
        ).json()
        assert released["action"]["state"] == "ACTION_STATE_APPROVAL_REQUIRED"
        assert released["approval"]["state"] == "APPROVAL_STATE_PENDING"
    finally:
        back = admin.rest.post(f"/v1/policies/{created['policyId']}/rollback", json={})
        assert back.is_success, back.text


def test_a_watch_ends_with_an_explicit_final_event(agent: Client) -> None:
    action = submit(agent, action_body("delete_repository"))["action"]
    events = agent.rest.get(f"/v1/actions/{action['actionId']}:watch").json()
    assert events[-1]["final"] is True
    assert json.dumps(events[-1]["action"]["state"]) == '"ACTION_STATE_DENIED"'


def test_the_id_of_a_request_comes_back_with_its_answer(agent: Client) -> None:
    request = action_pb2.ListActionsRequest(page_size=1)
    _, call = agent.actions.ListActions.with_call(
        request, timeout=30, metadata=(("x-request-id", "mine-1"),)
    )
    assert ("x-request-id", "mine-1") in [tuple(trailer) for trailer in call.trailing_metadata()]
    _, call = agent.actions.ListActions.with_call(request, timeout=30)
    assert dict(call.trailing_metadata())["x-request-id"]
    answer = agent.rest.get("/v1/actions", headers={"x-request-id": "mine-2"})
    assert answer.headers.get_list("x-request-id") == ["mine-2"]
    assert len(agent.rest.get("/v1/actions").headers.get_list("x-request-id")) == 1
