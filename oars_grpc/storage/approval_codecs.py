"""Rows to core values and back: approvals."""

from typing import Any

import orjson

from oars_grpc.core.approval import (
    Approval,
    ApprovalDecision,
    ApprovalStage,
    ApprovalState,
    Verdict,
)
from oars_grpc.core.receipt import format_time, parse_time
from oars_grpc.core.workflow import DEFAULT_WORKFLOW, Stage
from oars_grpc.storage.codecs import Row, utc


def approval_row(approval: Approval) -> dict[str, Any]:
    """The columns of an approval."""
    return {
        "tenant_id": approval.tenant_id,
        "approval_id": approval.approval_id,
        "action_id": approval.action_id,
        "action_digest": approval.action_digest,
        "policy_digest": approval.policy_digest,
        "state": approval.state.value,
        "required_approvals": approval.required_approvals,
        "decisions": orjson.dumps([_decision_json(decision) for decision in approval.decisions]),
        "created_at": approval.created_at,
        "expires_at": approval.expires_at,
        "version": approval.version,
        "caller_subject": approval.caller_subject,
        "escalates_at": approval.escalates_at,
        "body": orjson.dumps(
            {
                "displayDigest": approval.display_digest,
                "stages": [_stage_json(stage) for stage in approval.stages],
                "currentStage": approval.current_stage,
                "asking": approval.asking,
                "stepUp": approval.step_up,
                "signedGrants": approval.signed_grants,
                "releases": approval.releases,
            }
        ),
    }


def approval_of(row: Row) -> Approval:
    """The approval of a row; one of before there were stages has a single one."""
    body = orjson.loads(row["body"])
    decisions = tuple(map(_decision_of, orjson.loads(row["decisions"])))
    state, created_at = ApprovalState(row["state"]), utc(row["created_at"])
    only = ApprovalStage(
        DEFAULT_WORKFLOW,
        Stage("approval", required_approvals=row["required_approvals"]),
        started_at=created_at,
    )
    granted = state in {ApprovalState.APPROVED, ApprovalState.CONSUMED}
    return Approval(
        approval_id=row["approval_id"],
        tenant_id=row["tenant_id"],
        action_id=row["action_id"],
        caller_subject=row["caller_subject"],
        action_digest=row["action_digest"],
        policy_digest=row["policy_digest"],
        display_digest=body.get("displayDigest", ""),
        state=state,
        stages=tuple(map(_stage_of, body["stages"])) if "stages" in body else (only,),
        current_stage=body.get("currentStage", int(granted)),
        decisions=decisions,
        created_at=created_at,
        expires_at=utc(row["expires_at"]),
        version=row["version"],
        asking=tuple(body.get("asking", ())),
        step_up=body.get("stepUp", False),
        signed_grants=body.get("signedGrants", False),
        releases=body.get("releases", 0),
    )


def _decision_json(decision: ApprovalDecision) -> dict[str, Any]:
    return {
        "approver": decision.approver,
        "verdict": decision.verdict.value,
        "reason": decision.reason,
        "decidedAt": format_time(decision.decided_at),
        "stage": decision.stage,
        "serviceAccountId": decision.service_account_id,
        "carriedBy": decision.carried_by,
        "timeStep": decision.time_step,
        "keyId": decision.key_id,
        "aliases": decision.aliases,
    }


def _decision_of(value: dict[str, Any]) -> ApprovalDecision:
    return ApprovalDecision(
        approver=value["approver"],
        verdict=Verdict(value["verdict"]),
        reason=value["reason"],
        decided_at=parse_time(value["decidedAt"]),
        stage=value.get("stage", 0),
        service_account_id=value.get("serviceAccountId", ""),
        carried_by=value.get("carriedBy", ""),
        time_step=value.get("timeStep", 0),
        key_id=value.get("keyId", ""),
        aliases=tuple(value.get("aliases", ())),
    )


_TIMES = {"startedAt": "started_at", "escalatedAt": "escalated_at", "completedAt": "completed_at"}


def _stage_json(stage: ApprovalStage) -> dict[str, Any]:
    times = {name: getattr(stage, attribute) for name, attribute in _TIMES.items()}
    return {
        "workflowId": stage.workflow_id,
        "stage": stage.stage.to_json(),
        **{name: format_time(time) for name, time in times.items() if time is not None},
    }


def _stage_of(value: dict[str, Any]) -> ApprovalStage:
    times = {
        attribute: parse_time(value[name]) for name, attribute in _TIMES.items() if name in value
    }
    return ApprovalStage(value["workflowId"], Stage.from_json(value["stage"]), **times)
