from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from oars_grpc.core.approval import (
    Approval,
    ApprovalDecision,
    ApprovalState,
    Verdict,
    check_approver,
    close_approval,
    decide_approval,
)
from oars_grpc.core.identity import Role
from oars_grpc.errors import FailedPrecondition, PermissionDenied
from tests.support.factories import NOW, make_action, make_approval, make_principal, make_request

ASKING = make_principal("spiffe://example/agent", service_account_id="sa-1")
ACTION = make_action(
    make_request(
        caller=ASKING, agent_id="agent-1", user_id="user-1", delegation_chain=("alice", "planner")
    )
)
APPROVER = make_principal("spiffe://example/bob", role=Role.APPROVER, service_account_id="sa-bob")
MOMENT = timedelta(microseconds=1)


def pending(**changes: Any) -> Approval:
    return make_approval(ACTION, **changes)


def test_a_principal_that_had_no_part_in_asking_may_approve() -> None:
    check_approver(APPROVER, ACTION)
    check_approver(replace(APPROVER, service_account_id=""), ACTION)


@pytest.mark.parametrize(
    ("subject", "service_account_id"),
    [
        ("spiffe://example/agent", "sa-bob"),  # the caller's certificate
        ("spiffe://example/bob", "sa-1"),  # the caller's service account
        ("sa-1", ""),
        ("user-1", ""),  # the user it asked for
        ("spiffe://example/bob", "user-1"),
        ("agent-1", ""),  # the agent
        ("spiffe://example/bob", "agent-1"),
        ("alice", ""),  # everyone who delegated
        ("planner", ""),
        ("spiffe://example/bob", "planner"),
        ("SPIFFE://example/AGENT", ""),  # whatever the case
        ("spiffe://example/bob", "SA-1"),
        ("User-1", ""),
        ("ALICE", ""),
    ],
)
def test_nobody_on_the_asking_side_may_approve(subject: str, service_account_id: str) -> None:
    approver = replace(APPROVER, subject=subject, service_account_id=service_account_id)
    with pytest.raises(PermissionDenied) as refused:
        check_approver(approver, ACTION)
    assert refused.value.reason == "SELF_APPROVAL"


def test_case_is_folded_as_unicode_folds_it() -> None:
    action = make_action(make_request(user_id="GROẞMANN"))
    with pytest.raises(PermissionDenied):
        check_approver(replace(APPROVER, subject="großmann"), action)


def test_names_left_empty_on_both_sides_are_not_the_same_name() -> None:
    request = make_request(
        caller=replace(ASKING, service_account_id=""), user_id="", delegation_chain=()
    )
    check_approver(replace(APPROVER, service_account_id=""), make_action(request))


def test_one_approval_suffices_where_one_is_required() -> None:
    before = pending()
    after = decide_approval(before, APPROVER, Verdict.APPROVE, "looks right", NOW)
    assert after == replace(
        before,
        state=ApprovalState.APPROVED,
        decisions=(ApprovalDecision(APPROVER.subject, Verdict.APPROVE, "looks right", NOW),),
        version=before.version + 1,
    )


def test_several_required_approvals_are_of_several_principals() -> None:
    approval = pending(required_approvals=3)
    for number in range(3):
        assert approval.state is ApprovalState.PENDING
        approver = replace(APPROVER, subject=f"spiffe://example/approver-{number}")
        approval = decide_approval(approval, approver, Verdict.APPROVE, "", NOW)
    assert approval.state is ApprovalState.APPROVED
    assert (len(approval.decisions), approval.version) == (3, 4)


@pytest.mark.parametrize("again", list(Verdict))
def test_a_principal_decides_once(again: Verdict) -> None:
    once = decide_approval(pending(required_approvals=2), APPROVER, Verdict.APPROVE, "", NOW)
    with pytest.raises(FailedPrecondition) as refused:
        decide_approval(once, APPROVER, again, "", NOW)
    assert refused.value.reason == "APPROVER_DECIDED_BEFORE"


def test_any_reject_ends_it() -> None:
    half = decide_approval(pending(required_approvals=2), APPROVER, Verdict.APPROVE, "", NOW)
    other = replace(APPROVER, subject="spiffe://example/carol")
    ended = decide_approval(half, other, Verdict.REJECT, "no", NOW)
    assert ended.state is ApprovalState.REJECTED
    assert [decision.verdict for decision in ended.decisions] == [Verdict.APPROVE, Verdict.REJECT]


@pytest.mark.parametrize("verdict", list(Verdict))
@pytest.mark.parametrize("state", [state for state in ApprovalState if state != "pending"])
def test_what_is_decided_or_over_stays_so(state: ApprovalState, verdict: Verdict) -> None:
    with pytest.raises(FailedPrecondition) as refused:
        decide_approval(pending(state=state), APPROVER, verdict, "", NOW)
    assert refused.value.reason == "APPROVAL_NOT_PENDING"


@pytest.mark.parametrize("verdict", list(Verdict))
def test_an_approval_may_be_decided_until_it_expires_and_not_at_that_moment(
    verdict: Verdict,
) -> None:
    approval = pending(expires_at=NOW + timedelta(hours=1))
    last = approval.expires_at - MOMENT
    assert decide_approval(approval, APPROVER, verdict, "", last).decisions[0].decided_at == last
    for late in (approval.expires_at, approval.expires_at + timedelta(days=1)):
        with pytest.raises(FailedPrecondition) as refused:
            decide_approval(approval, APPROVER, verdict, "", late)
        assert refused.value.reason == "APPROVAL_EXPIRED"


@pytest.mark.parametrize("state", [ApprovalState.EXPIRED, ApprovalState.CANCELED])
def test_an_approval_that_ends_with_its_action_keeps_its_decisions(state: ApprovalState) -> None:
    half = decide_approval(pending(required_approvals=2), APPROVER, Verdict.APPROVE, "", NOW)
    closed = close_approval(half, state)
    assert closed == replace(half, state=state, version=half.version + 1)
