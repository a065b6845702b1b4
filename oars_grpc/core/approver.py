"""Who may decide an approval now: not those who asked, only those whose turn it is, each once."""

from collections.abc import Iterable
from datetime import datetime

from oars_grpc.core.approval import Approval, ApprovalState
from oars_grpc.core.identity import Principal
from oars_grpc.core.workflow import APPROVING_ROLES, StageMode
from oars_grpc.errors import FailedPrecondition, PermissionDenied


def check_approver(approval: Approval, approver: Principal, asking: Iterable[str] = ()) -> None:
    """Nobody approves what he, his agent's user or a delegator of it asked for.

    An approver is known by its subject, its service account and, with a token, the aliases that the
    token gives: a caller may name any. Whoever carries a person's token stands for it here, too: an
    agent's service must not. `asking` are names besides those that the approval has.

    Raises:
        PermissionDenied: the approver stands on the asking side.
    """
    asked = {name.casefold() for name in (*approval.asking, *asking)}
    if not asked.isdisjoint(name.casefold() for name in approver.names_of_party()):
        raise PermissionDenied(
            f"{approver.subject} asked for action {approval.action_id} and may not approve it",
            reason="SELF_APPROVAL",
        )


def may_decide(approval: Approval, approver: Principal, now: datetime) -> bool:
    """Whether a decision of the principal would be taken now."""
    try:
        check_pending(approval, approver, now)
        check_approver(approval, approver)
        check_turn(approval, approver)
    except (FailedPrecondition, PermissionDenied):
        return False
    return True


def had_turn(approval: Approval, principal: Principal) -> bool:
    """Whether the principal may have been asked: in a stage that has begun, decided or not."""
    try:
        check_approver(approval, principal)
    except PermissionDenied:
        return False
    return principal.role in APPROVING_ROLES and any(
        not entry.stage.approvers
        or any(candidate.covers(principal) for candidate in entry.stage.approvers)
        or (entry.escalated_at and any(one.covers(principal) for one in entry.stage.escalate_to))
        for entry in approval.stages
        if entry.started_at is not None
    )


def check_turn(approval: Approval, approver: Principal) -> None:
    """Whether the principal may decide the stage under way.

    Raises:
        PermissionDenied: the stage is for others, or for others first.
    """
    under_way = approval.stages[approval.current_stage]
    stage = under_way.stage
    if approver.role not in APPROVING_ROLES:
        raise PermissionDenied(
            f"role {approver.role.value} does not decide approvals", reason="NOT_AN_APPROVER"
        )
    if under_way.escalated_at and any(target.covers(approver) for target in stage.escalate_to):
        return
    candidates = stage.approvers
    if not candidates:
        return
    if not any(candidate.covers(approver) for candidate in candidates):
        raise PermissionDenied(
            f"{approver.subject} is not an approver of stage {stage.name}",
            reason="NOT_AN_APPROVER",
        )
    if stage.mode is StageMode.SERIAL and not candidates[approval.granted].covers(approver):
        raise PermissionDenied(
            f"in stage {stage.name} others decide before {approver.subject}",
            reason="NOT_YOUR_TURN",
        )


def check_pending(approval: Approval, approver: Principal, now: datetime) -> None:
    """Whether a decision of the principal can still count.

    Raises:
        FailedPrecondition: it is no longer pending, its time is over, or this principal has
            decided before, in whatever stage.
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
    # The same person, by a certificate once and by a token then; who carries it is nobody here.
    own = {name.casefold() for name in approver.names_of_party() - {approver.carried_by}}
    if any(name.casefold() in own for decision in approval.decisions for name in decision.names()):
        raise FailedPrecondition(
            f"{approver.subject} has decided approval {approval.approval_id} before",
            reason="APPROVER_DECIDED_BEFORE",
        )
