"""Takes an action where policy, asked for the first time, sends it."""

from datetime import timedelta
from typing import Any

from oars_grpc.core.action import ActionState
from oars_grpc.core.approval import Approval
from oars_grpc.core.decision import Decision, decision_for_receipt
from oars_grpc.core.policy import Effect
from oars_grpc.core.policy_document import CompiledPolicy
from oars_grpc.core.ports import Chance
from oars_grpc.core.receipt import format_time
from oars_grpc.core.stored import Basis
from oars_grpc.use_cases.grants import approval_json, new_approval, plan_of
from oars_grpc.use_cases.recorder import Recorder


def record_decision(
    recorder: Recorder,
    decision: Decision,
    policy: CompiledPolicy,
    basis: Basis,
    chance: Chance,
) -> Approval | None:
    """Take the state that the effect asks for; the approval that is opened along with it."""
    settings = basis.tenant.settings
    permit_ends = recorder.now + timedelta(seconds=settings.permit_seconds)
    wait_ends = recorder.now + timedelta(seconds=settings.approval_seconds)
    detail: dict[str, Any] = {
        "policy": decision.policy.to_json(),
        "decision": decision_for_receipt(decision),
    }
    match decision.effect:
        case Effect.ALLOW:
            detail["permit"] = {"expiresAt": format_time(permit_ends)}
            recorder.move(ActionState.APPROVED, detail, expires_at=permit_ends)
        case Effect.APPROVE:
            plan = plan_of(decision, policy.document, basis)
            shown = (recorder.action, decision)
            approval = new_approval(recorder, basis, shown, plan, chance)
            detail["approval"] = approval_json(approval)
            recorder.move(
                ActionState.APPROVAL_REQUIRED,
                detail,
                expires_at=approval.expires_at,
                approval_id=approval.approval_id,
            )
            return approval
        case Effect.QUARANTINE:
            detail["quarantine"] = {"expiresAt": format_time(wait_ends)}
            recorder.move(ActionState.QUARANTINED, detail, expires_at=wait_ends)
        case Effect.DENY:
            recorder.move(ActionState.DENIED, detail)
    return None
