"""Approvals: what people decide about an action that policy will not decide alone."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from oars_grpc.core.action import Action
from oars_grpc.core.identity import Principal
from oars_grpc.errors import FailedPrecondition, PermissionDenied


class ApprovalState(StrEnum):
    """Where an approval stands."""

    PENDING = "pending"
    APPROVED = "approved"
    REJECTED = "rejected"
    EXPIRED = "expired"
    CANCELED = "canceled"


class Verdict(StrEnum):
    """What a person decides."""

    APPROVE = "approve"
    REJECT = "reject"


@dataclass(frozen=True, slots=True)
class ApprovalDecision:
    """One decision of one principal."""

    approver: str
    verdict: Verdict
    reason: str
    decided_at: datetime


@dataclass(frozen=True, slots=True)
class Approval:
    """A request for human decision, bound to one action by its digest."""

    approval_id: str
    tenant_id: str
    action_id: str
    action_digest: str
    policy_digest: str
    state: ApprovalState
    required_approvals: int
    decisions: tuple[ApprovalDecision, ...]
    created_at: datetime
    expires_at: datetime
    version: int


def check_approver(approver: Principal, action: Action) -> None:
    """Nobody approves what he, his agent's user or a delegator of it asked for.

    An approver is known by its subject and by its service account: a caller may name either.

    Raises:
        PermissionDenied: the approver stands on the asking side.
    """
    request = action.request
    names = {approver.subject, approver.service_account_id} - {""}
    asking: Iterable[str] = (
        request.caller.subject,
        request.caller.service_account_id,
        request.user_id,
        request.agent_id,
        *request.delegation_chain,
    )
    folded = {name.casefold() for name in names}
    if any(name.casefold() in folded for name in asking):
        raise PermissionDenied(
            f"{approver.subject} asked for action {action.action_id} and may not approve it",
            reason="SELF_APPROVAL",
        )


def decide_approval(
    approval: Approval, approver: Principal, verdict: Verdict, reason: str, now: datetime
) -> Approval:
    """The approval after one principal's decision.

    Raises:
        FailedPrecondition: it is no longer pending, its time is over, or this principal has
            decided before.
    """
    if approval.state is not ApprovalState.PENDING:
        raise FailedPrecondition(
            f"approval {approval.approval_id} is {approval.state.value}, not pending",
            reason="APPROVAL_NOT_PENDING",
        )
    if now >= approval.expires_at:
        raise FailedPrecondition(
            f"approval {approval.approval_id} expired at {approval.expires_at.isoformat()}",
            reason="APPROVAL_EXPIRED",
        )
    if any(decision.approver == approver.subject for decision in approval.decisions):
        raise FailedPrecondition(
            f"{approver.subject} has decided approval {approval.approval_id} before",
            reason="APPROVER_DECIDED_BEFORE",
        )
    decisions = (*approval.decisions, ApprovalDecision(approver.subject, verdict, reason, now))
    granted = sum(decision.verdict is Verdict.APPROVE for decision in decisions)
    state = ApprovalState.PENDING
    if verdict is Verdict.REJECT:
        state = ApprovalState.REJECTED
    elif granted >= approval.required_approvals:
        state = ApprovalState.APPROVED
    return replace(approval, decisions=decisions, state=state, version=approval.version + 1)


def close_approval(approval: Approval, state: ApprovalState) -> Approval:
    """The approval ended by expiry or withdrawal of its action."""
    return replace(approval, state=state, version=approval.version + 1)
