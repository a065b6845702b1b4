"""Opens approvals, and finds out whether a grant still covers what policy asks for now."""

from collections import Counter
from datetime import datetime
from typing import Any

from oars_grpc.core import ids
from oars_grpc.core.action import Action, ActionRequest
from oars_grpc.core.approval import Approval, ApprovalState, open_approval
from oars_grpc.core.canonical import sha256_hex, statement_json
from oars_grpc.core.decision import Decision, decide, first_within
from oars_grpc.core.display import approval_display, display_digest
from oars_grpc.core.policy import Effect, PolicyDocument
from oars_grpc.core.ports import Chance
from oars_grpc.core.receipt import format_time
from oars_grpc.core.risk import RiskTier
from oars_grpc.core.stored import Basis
from oars_grpc.core.workflow import WorkflowPlan, plan_workflows
from oars_grpc.use_cases.keyring import PolicyShelf
from oars_grpc.use_cases.recorder import Recorder


def asked_workflows(decision: Decision, document: PolicyDocument) -> set[str]:
    """The workflows of the approve rules that counted; the default one where there are none."""
    counted = {
        outcome.rule_id
        for outcome in decision.evaluation.matched
        if outcome.effect is Effect.APPROVE
    }
    return {rule.workflow_id for rule in document.rules if rule.id in counted} or {""}


def decide_now(
    request: ActionRequest, policies: PolicyShelf, basis: Basis, now: datetime
) -> tuple[Decision, PolicyDocument]:
    """What the policy that is published now says of a stored action, which has its input."""
    policy = policies.compiled(basis.policy)
    risk = basis.tenant.settings.risk
    decision = decide(request, basis.policy.reference(), policy, risk, now)
    return decision, policy.document


def plan_of(decision: Decision, document: PolicyDocument, basis: Basis) -> WorkflowPlan:
    """What has to happen for a decision to be approved.

    Raises:
        FailedPrecondition: a rule names a workflow that the tenant does not have.
    """
    return plan_workflows(asked_workflows(decision, document), basis.tenant.settings.workflows)


def new_approval(
    recorder: Recorder,
    basis: Basis,
    shown: tuple[Action, Decision],
    plan: WorkflowPlan,
    chance: Chance,
    *,
    released_by: tuple[str, ...] = (),
    critical: bool = False,
) -> Approval:
    """A pending approval, bound to the action, to the policy, and to what is `shown` of them.

    The action must have its input. `critical` tells that its risk is, whatever is shown of it.
    """
    action, decision = shown
    return open_approval(
        approval_id=chance.new_id(ids.APPROVAL),
        action=recorder.action,
        policy_digest=basis.policy.digest,
        display_digest=display_digest(approval_display(action, decision)),
        plan=plan,
        approval_seconds=basis.tenant.settings.approval_seconds,
        step_up=critical or decision.risk.tier is RiskTier.CRITICAL,
        released_by=released_by,
        now=recorder.now,
    )


# A receipt that names stages has the decision, too, and must fit the log.
_STAGES_BYTES = 4_096


def approval_json(approval: Approval) -> dict[str, Any]:
    """What a receipt says about the approval that an action waits for.

    `workflowDigest` is SHA-256 over the canonical JSON of all stages, their approvers included.
    """
    stages = [
        {"workflowId": stage.workflow_id, **stage.stage.to_json()} for stage in approval.stages
    ]
    named = ("workflowId", "name", "mode", "requiredApprovals", "slaSeconds")
    listed = first_within(
        [{name: stage[name] for name in named} for stage in stages], _STAGES_BYTES
    )
    return {
        "approvalId": approval.approval_id,
        "policyDigest": approval.policy_digest,
        "displayDigest": approval.display_digest,
        "requiredApprovals": approval.required_approvals,
        "stages": listed,
        "omittedStages": len(stages) - len(listed),
        "workflowDigest": sha256_hex(statement_json(stages)),
        "stepUpRequired": approval.step_up,
        "signatureRequired": approval.signed_grants,
        "expiresAt": format_time(approval.expires_at),
    }


def is_covered(
    before: Effect, approval: Approval | None, decision: Decision, plan: WorkflowPlan | None
) -> bool:
    """Whether what was allowed or approved before may go on under what policy says now.

    `before` is what policy said when the action was submitted, `plan` what an approval would take
    now. Nothing stricter than before goes on. Where policy asks for people, people must have
    answered, in every stage that is asked for now, and as strongly.
    """
    now = decision.effect
    if now is Effect.DENY or now.strictness > before.strictness:
        return False
    if now is Effect.ALLOW:
        return True
    if approval is None or approval.state is not ApprovalState.APPROVED or plan is None:
        return False
    # Counted: where a stage is asked for twice, people have to have gone through it twice.
    answered = Counter((stage.workflow_id, stage.stage) for stage in approval.stages)
    critical = decision.risk.tier is RiskTier.CRITICAL
    return (
        answered >= Counter(plan.stages)
        and (approval.step_up or not (plan.step_up or critical))
        and (approval.signed_grants or not plan.signed_grants)
    )
