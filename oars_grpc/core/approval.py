"""Approvals: what people decide about an action that policy will not decide alone.

    PENDING ──▶ APPROVED ◀──▶ CONSUMED      a grant is used by starting the action, and given back
       │           │                        where the start failed before any effect
       │           └──▶ EXPIRED, CANCELED   it was not used in time; withdrawn, or stopped by policy
       └─────▶ REJECTED, EXPIRED, CANCELED

A pending approval goes through its stages in order (`workflow.py`). Each decision is taken on top
of the version before, so that of racing ones every one sees what the others left.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from oars_grpc.core.action import Action
from oars_grpc.core.workflow import Stage, WorkflowPlan
from oars_grpc.errors import FailedPrecondition

MAXIMUM_RELEASES = 3


class ApprovalState(StrEnum):
    """Where an approval stands."""

    PENDING = "pending"
    APPROVED = "approved"
    REJECTED = "rejected"
    EXPIRED = "expired"
    CANCELED = "canceled"
    CONSUMED = "consumed"


class Verdict(StrEnum):
    """What a person decides."""

    APPROVE = "approve"
    REJECT = "reject"


@dataclass(frozen=True, slots=True)
class ApprovalDecision:
    """One decision of one principal; `stage` is the index of the stage in which it counts.

    `time_step` names the one-time code that was given along (0: none), `key_id` the key that
    signed the grant (empty: none). `aliases` are what else the approver's token called the person.
    """

    approver: str
    verdict: Verdict
    reason: str
    decided_at: datetime
    stage: int = 0
    service_account_id: str = ""
    carried_by: str = ""
    time_step: int = 0
    key_id: str = ""
    aliases: tuple[str, ...] = ()

    def names(self) -> frozenset[str]:
        """What the approver is known by; of a token's person also the name that the token gives."""
        person = self.approver.partition("#")[2] if self.carried_by else ""
        return frozenset({self.approver, self.service_account_id, person, *self.aliases} - {""})


@dataclass(frozen=True, slots=True)
class ApprovalStage:
    """A stage of one approval and how far it is."""

    workflow_id: str
    stage: Stage
    started_at: datetime | None = None
    escalated_at: datetime | None = None
    completed_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Approval:
    """A request for human decision, bound to one action, one policy and what is shown of them.

    `asking` may not decide: who asked, for whom and through whom, and whoever released the action
    from quarantine. It and `display_digest` are empty in approvals of before there were these.
    """

    approval_id: str
    tenant_id: str
    action_id: str
    caller_subject: str
    action_digest: str
    policy_digest: str
    display_digest: str
    state: ApprovalState
    stages: tuple[ApprovalStage, ...]
    current_stage: int
    decisions: tuple[ApprovalDecision, ...]
    created_at: datetime
    expires_at: datetime
    version: int
    asking: tuple[str, ...] = ()
    step_up: bool = False
    signed_grants: bool = False
    releases: int = 0

    @property
    def required_approvals(self) -> int:
        """Distinct principals that must approve, in all stages together."""
        return sum(stage.stage.required_approvals for stage in self.stages)

    @property
    def granted(self) -> int:
        """How many have approved in the stage under way."""
        return sum(
            decision.stage == self.current_stage and decision.verdict is Verdict.APPROVE
            for decision in self.decisions
        )

    @property
    def escalates_at(self) -> datetime | None:
        """When the stage under way is over its time; None where nothing waits for that."""
        if self.state is not ApprovalState.PENDING:
            return None
        under_way = self.stages[self.current_stage]
        if (
            under_way.started_at is None
            or under_way.escalated_at
            or not under_way.stage.sla_seconds
        ):
            return None
        return under_way.started_at + timedelta(seconds=under_way.stage.sla_seconds)

    def is_overdue(self, now: datetime) -> bool:
        """Whether it waits for a stage that is past its time, escalated or not."""
        if self.state is not ApprovalState.PENDING:
            return False
        ends = self.escalates_at
        return self.stages[self.current_stage].escalated_at is not None or (
            ends is not None and now >= ends
        )


def asking_side(action: Action) -> frozenset[str]:
    """Who asks for the action: its caller, its agent and user, and all between them."""
    request = action.request
    names = {request.user_id, request.agent_id, *request.caller.names(), *request.delegation_chain}
    return frozenset(names - {""})


def open_approval(
    *,
    approval_id: str,
    action: Action,
    policy_digest: str,
    display_digest: str,
    plan: WorkflowPlan,
    approval_seconds: int,
    step_up: bool,
    released_by: tuple[str, ...],
    now: datetime,
) -> Approval:
    """A pending approval whose first stage has begun."""
    first, *rest = (ApprovalStage(workflow_id, stage) for workflow_id, stage in plan.stages)
    return Approval(
        approval_id=approval_id,
        tenant_id=action.request.tenant_id,
        action_id=action.action_id,
        caller_subject=action.request.caller.subject,
        action_digest=action.action_digest,
        policy_digest=policy_digest,
        display_digest=display_digest,
        state=ApprovalState.PENDING,
        stages=(replace(first, started_at=now), *rest),
        current_stage=0,
        decisions=(),
        created_at=now,
        expires_at=now + timedelta(seconds=plan.expires_seconds or approval_seconds),
        version=1,
        asking=tuple(sorted(asking_side(action) | set(released_by))),
        step_up=step_up or plan.step_up,
        signed_grants=plan.signed_grants,
    )


def decide_approval(approval: Approval, decision: ApprovalDecision) -> Approval:
    """The approval after a decision that was found admissible.

    A rejection ends it. The approval that a stage still lacked begins the next one, or grants.
    """
    now = decision.decided_at
    decided = replace(
        approval, decisions=(*approval.decisions, decision), version=approval.version + 1
    )
    if decision.verdict is Verdict.REJECT:
        return replace(decided, state=ApprovalState.REJECTED)
    at = approval.current_stage
    if decided.granted < approval.stages[at].stage.required_approvals:
        return decided
    stages = list(approval.stages)
    stages[at] = replace(stages[at], completed_at=now)
    if at + 1 == len(stages):
        state = ApprovalState.APPROVED
    else:
        state = ApprovalState.PENDING
        stages[at + 1] = replace(stages[at + 1], started_at=now)
    return replace(decided, stages=tuple(stages), current_stage=at + 1, state=state)


def escalate_approval(approval: Approval, now: datetime) -> Approval:
    """The approval with the stage under way escalated: its targets decide along.

    Raises:
        FailedPrecondition: that is not due.
    """
    ends = approval.escalates_at
    if ends is None or now < ends:
        raise FailedPrecondition(
            f"approval {approval.approval_id} is not overdue", reason="NOT_DUE"
        )
    stages = list(approval.stages)
    at = approval.current_stage
    stages[at] = replace(stages[at], escalated_at=now)
    return replace(approval, stages=tuple(stages), version=approval.version + 1)


def close_approval(approval: Approval, state: ApprovalState) -> Approval:
    """The approval ended by expiry or withdrawal of its action."""
    return replace(approval, state=state, version=approval.version + 1)


def consume_grant(approval: Approval) -> Approval:
    """The approval used up by the start of its action.

    Raises:
        FailedPrecondition: it is not granted, or used already.
    """
    if approval.state is not ApprovalState.APPROVED:
        raise FailedPrecondition(
            f"approval {approval.approval_id} is {approval.state.value}: there is no grant to use",
            reason="GRANT_NOT_AVAILABLE",
        )
    return replace(approval, state=ApprovalState.CONSUMED, version=approval.version + 1)


def release_grant(approval: Approval) -> Approval:
    """The grant given back by a start that failed before any effect.

    That it had none is the caller's word, so it is taken a few times only.

    Raises:
        FailedPrecondition: it is not in use, or was given back too often.
    """
    if approval.state is not ApprovalState.CONSUMED:
        raise FailedPrecondition(
            f"approval {approval.approval_id} is {approval.state.value}, not in use",
            reason="GRANT_NOT_CONSUMED",
        )
    if approval.releases >= MAXIMUM_RELEASES:
        raise FailedPrecondition(
            f"approval {approval.approval_id} was given back {approval.releases} times: the action"
            " has failed, and needs to be asked for again",
            reason="GRANT_RELEASED_TOO_OFTEN",
        )
    return replace(
        approval,
        state=ApprovalState.APPROVED,
        version=approval.version + 1,
        releases=approval.releases + 1,
    )
