"""Approvals: messages ↔ core values."""

import re
from collections.abc import Mapping

from oars_grpc.core.approval import Approval, ApprovalStage, ApprovalState, Verdict
from oars_grpc.generated.oars.v1 import approval_pb2
from oars_grpc.transport.reading import Reader, inverse
from oars_grpc.transport.receipt_messages import write_receipt
from oars_grpc.transport.workflow_messages import write_stage
from oars_grpc.transport.writing import timestamp, write_time
from oars_grpc.use_cases.action_change import ActionOutcome
from oars_grpc.use_cases.approvals import Answered, ShownApproval

APPROVAL_STATES: Mapping[int, ApprovalState] = {
    approval_pb2.ApprovalState.Value(f"APPROVAL_STATE_{state.name}"): state
    for state in ApprovalState
}
VERDICTS: Mapping[int, Verdict] = {
    approval_pb2.VERDICT_APPROVE: Verdict.APPROVE,
    approval_pb2.VERDICT_REJECT: Verdict.REJECT,
}
_APPROVAL_STATE_NUMBERS = inverse(APPROVAL_STATES)
_VERDICT_NUMBERS = inverse(VERDICTS)
_DIGEST = re.compile(r"[0-9a-f]{64}")
_CODE = re.compile(r"[0-9]{6}", re.ASCII)
MAXIMUM_REASON = 1024
MAXIMUM_GRANT = 8192


def read_answered(reader: Reader, request: approval_pb2.DecideApprovalRequest) -> Answered:
    """What an approver answers; `reader` collects what is wrong with it."""
    verdict = reader.one_of(request.verdict, "verdict", VERDICTS)
    reason = reader.text(request.reason, "reason", MAXIMUM_REASON, lines=True)
    for field in ("action_digest", "display_digest"):
        digest = getattr(request, field)
        if not _DIGEST.fullmatch(digest):
            reader.wrong(field, "must be 64 lower-case hex digits" if digest else "is required")
    if request.one_time_code and not _CODE.fullmatch(request.one_time_code):
        reader.wrong("one_time_code", "must be six digits")
    grant = reader.text(request.signed_grant, "signed_grant", MAXIMUM_GRANT, lines=True)
    return Answered(
        verdict or Verdict.REJECT,
        reason,
        request.action_digest,
        request.display_digest,
        request.one_time_code,
        grant.encode(),
    )


def write_approval(approval: Approval) -> approval_pb2.Approval:
    """The message of an approval."""
    message = approval_pb2.Approval(
        approval_id=approval.approval_id,
        tenant_id=approval.tenant_id,
        action_id=approval.action_id,
        action_digest=approval.action_digest,
        policy_digest=approval.policy_digest,
        state=_APPROVAL_STATE_NUMBERS[approval.state],
        required_approvals=approval.required_approvals,
        decisions=[
            approval_pb2.ApprovalDecision(
                approver=decision.approver,
                verdict=_VERDICT_NUMBERS[decision.verdict],
                reason=decision.reason,
                decided_at=timestamp(decision.decided_at),
                stage=decision.stage,
                service_account_id=decision.service_account_id,
                carried_by=decision.carried_by,
                stepped_up=decision.time_step > 0,
                key_id=decision.key_id,
            )
            for decision in approval.decisions
        ],
        created_at=timestamp(approval.created_at),
        expires_at=timestamp(approval.expires_at),
        version=approval.version,
        caller_subject=approval.caller_subject,
        display_digest=approval.display_digest,
        stages=[_write_approval_stage(stage) for stage in approval.stages],
        current_stage=approval.current_stage,
        step_up_required=approval.step_up,
        signature_required=approval.signed_grants,
    )
    if approval.escalates_at is not None:
        write_time(message.escalates_at, approval.escalates_at)
    return message


def _write_approval_stage(stage: ApprovalStage) -> approval_pb2.ApprovalStage:
    message = approval_pb2.ApprovalStage(
        workflow_id=stage.workflow_id, stage=write_stage(stage.stage)
    )
    if stage.started_at is not None:
        write_time(message.started_at, stage.started_at)
    if stage.escalated_at is not None:
        write_time(message.escalated_at, stage.escalated_at)
    if stage.completed_at is not None:
        write_time(message.completed_at, stage.completed_at)
    return message


def write_shown(shown: ShownApproval) -> approval_pb2.GetApprovalResponse:
    """The answer of GetApproval."""
    return approval_pb2.GetApprovalResponse(
        approval=write_approval(shown.approval),
        display="" if shown.display is None else shown.display.decode(),
        grant_payload=shown.grant_payload,
    )


def write_decided(outcome: ActionOutcome) -> approval_pb2.DecideApprovalResponse:
    """The answer of DecideApproval."""
    return approval_pb2.DecideApprovalResponse(
        approval=write_approval(outcome.approval) if outcome.approval else None,
        receipts=[write_receipt(receipt) for receipt in outcome.receipts],
    )
