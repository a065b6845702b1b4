from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from oars_grpc.core.approval import (
    Approval,
    ApprovalDecision,
    ApprovalStage,
    ApprovalState,
    Verdict,
    close_approval,
    consume_grant,
    decide_approval,
    escalate_approval,
    release_grant,
)
from oars_grpc.core.approver import check_approver, check_pending, check_turn, may_decide
from oars_grpc.core.identity import Principal, Role
from oars_grpc.core.workflow import Approver, Stage, StageMode
from oars_grpc.errors import FailedPrecondition, OarsError, PermissionDenied
from tests.support.factories import NOW, make_action, make_approval, make_principal, make_request

ASKING = make_principal("spiffe://example/agent", service_account_id="sa-1")
ACTION = make_action(
    make_request(
        caller=ASKING, agent_id="agent-1", user_id="user-1", delegation_chain=("alice", "planner")
    )
)
BOB = make_principal("spiffe://example/bob", role=Role.APPROVER, service_account_id="sa-bob")
CAROL = make_principal("spiffe://example/carol", role=Role.APPROVER, service_account_id="")
BOSS = make_principal("spiffe://example/boss", role=Role.ADMIN, service_account_id="")
MOMENT = timedelta(microseconds=1)


def pending(*stages: Stage, **changes: Any) -> Approval:
    first, *rest = [ApprovalStage("w", stage) for stage in stages or (Stage("approval"),)]
    given = (replace(first, started_at=NOW), *rest)
    return make_approval(ACTION, stages=given, **changes)


def named(*principals: Principal) -> tuple[Approver, ...]:
    return tuple(Approver(principal.subject) for principal in principals)


def answer(
    approval: Approval,
    approver: Principal = BOB,
    verdict: Verdict = Verdict.APPROVE,
    now: datetime = NOW,
) -> Approval:
    """Decide as the service does: check, then decide."""
    check_pending(approval, approver, now)
    check_approver(approval, approver)
    check_turn(approval, approver)
    decision = ApprovalDecision(
        approver.subject,
        verdict,
        "looked at it",
        now,
        approval.current_stage,
        approver.service_account_id,
        approver.carried_by,
    )
    return decide_approval(approval, decision)


def reason_of(work: Callable[[], object]) -> str:
    with pytest.raises(OarsError) as refused:
        work()
    return refused.value.reason


def test_a_principal_that_had_no_part_in_asking_may_approve() -> None:
    check_approver(pending(), BOB)
    check_approver(pending(), replace(BOB, service_account_id=""))


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
        ("oidc:https://issuer#user-1", ""),  # a person, known to the agent by its name there
        ("oidc:https://issuer#Alice", ""),
    ],
)
def test_nobody_on_the_asking_side_may_approve(subject: str, service_account_id: str) -> None:
    approver = replace(BOB, subject=subject, service_account_id=service_account_id)
    with pytest.raises(PermissionDenied) as refused:
        check_approver(pending(), approver)
    assert refused.value.reason == "SELF_APPROVAL"
    # Of before the names were kept with the approval: they come from the action.
    old = pending(asking=())
    with pytest.raises(PermissionDenied):
        check_approver(old, approver, pending().asking)


def test_a_token_that_the_asking_service_carries_does_not_approve() -> None:
    carried = replace(BOB, subject="oidc:https://issuer#bob", carried_by="spiffe://example/agent")
    assert reason_of(lambda: check_approver(pending(), carried)) == "SELF_APPROVAL"
    check_approver(pending(), replace(carried, carried_by="spiffe://example/portal"))


def test_case_is_folded_as_unicode_folds_it() -> None:
    approval = pending(asking=("GROẞMANN",))
    with pytest.raises(PermissionDenied):
        check_approver(approval, replace(BOB, subject="großmann"))


def test_names_left_empty_on_both_sides_are_not_the_same_name() -> None:
    request = make_request(
        caller=replace(ASKING, service_account_id=""), user_id="", delegation_chain=()
    )
    approval = make_approval(make_action(request))
    assert "" not in approval.asking
    check_approver(approval, replace(BOB, service_account_id=""))


def test_one_approval_suffices_where_one_is_required() -> None:
    before = pending()
    after = answer(before)
    assert (after.state, after.version) == (ApprovalState.APPROVED, before.version + 1)
    assert [decision.approver for decision in after.decisions] == [BOB.subject]
    assert (after.current_stage, after.stages[0].completed_at) == (1, NOW)


def test_several_required_approvals_are_of_several_principals() -> None:
    approval = pending(Stage("three", required_approvals=3))
    for number in range(3):
        assert approval.state is ApprovalState.PENDING
        approver = replace(BOB, subject=f"spiffe://example/{number}", service_account_id="")
        approval = answer(approval, approver)
    assert approval.state is ApprovalState.APPROVED
    assert (len(approval.decisions), approval.version) == (3, 4)


@pytest.mark.parametrize("again", list(Verdict))
@pytest.mark.parametrize(
    "same",
    [
        BOB,
        replace(BOB, subject="SPIFFE://EXAMPLE/BOB"),
        replace(BOB, subject="spiffe://example/other-certificate"),  # the same service account
        replace(BOB, subject="sa-bob", service_account_id=""),
    ],
)
def test_a_principal_counts_once_under_whatever_name(same: Principal, again: Verdict) -> None:
    once = answer(pending(Stage("two", required_approvals=2)))
    assert reason_of(lambda: answer(once, same, again)) == "APPROVER_DECIDED_BEFORE"


def test_a_person_counts_once_by_certificate_and_by_token() -> None:
    two = pending(Stage("two", required_approvals=2))
    token = replace(
        BOB,
        subject=f"oidc:https://issuer#{BOB.subject}",
        service_account_id="",
        carried_by="spiffe://example/portal",
    )
    for first, second in ((BOB, token), (token, BOB)):
        once = answer(two, first)
        assert reason_of(lambda o=once, s=second: answer(o, s)) == (  # type: ignore[misc]
            "APPROVER_DECIDED_BEFORE"
        )
    # Two people of one portal are two.
    other = replace(token, subject="oidc:https://issuer#carol")
    assert answer(answer(two, token), other).state is ApprovalState.APPROVED


def test_a_principal_counts_once_in_all_stages_together() -> None:
    second = answer(pending(Stage("first"), Stage("second")))
    assert (second.current_stage, second.state) == (1, ApprovalState.PENDING)
    assert reason_of(lambda: answer(second)) == "APPROVER_DECIDED_BEFORE"
    assert answer(second, CAROL).state is ApprovalState.APPROVED


def test_stages_come_one_after_the_other_and_begin_when_the_one_before_is_complete() -> None:
    first, second = Stage("first", approvers=named(BOB)), Stage("second", approvers=named(CAROL))
    approval = pending(first, second)
    assert approval.stages[1].started_at is None
    assert reason_of(lambda: answer(approval, CAROL)) == "NOT_AN_APPROVER"
    later = NOW + timedelta(minutes=5)
    approval = answer(approval, BOB, now=later)
    assert (approval.stages[0].completed_at, approval.stages[1].started_at) == (later, later)
    assert answer(approval, CAROL).state is ApprovalState.APPROVED


def test_in_a_serial_stage_approvers_decide_in_their_order() -> None:
    stage = Stage("chain", StageMode.SERIAL, 2, named(BOB, CAROL))
    approval = pending(stage)
    for verdict in Verdict:
        assert reason_of(lambda v=verdict: answer(approval, CAROL, v)) == "NOT_YOUR_TURN"  # type: ignore[misc]
    approval = answer(approval, BOB)
    assert answer(approval, CAROL).state is ApprovalState.APPROVED


def test_in_a_parallel_stage_they_decide_in_any_order() -> None:
    stage = Stage("both", required_approvals=2, approvers=named(BOB, CAROL))
    assert answer(answer(pending(stage), CAROL), BOB).state is ApprovalState.APPROVED


def test_roles_and_service_accounts_name_approvers_too() -> None:
    stage = Stage("admins", approvers=(Approver(role=Role.ADMIN), Approver("sa-bob")))
    assert reason_of(lambda: answer(pending(stage), CAROL)) == "NOT_AN_APPROVER"
    for approver in (BOSS, BOB):
        assert answer(pending(stage), approver).state is ApprovalState.APPROVED


@pytest.mark.parametrize("role", [Role.AGENT, Role.GATEWAY, Role.AUDITOR, Role.OPERATOR])
def test_who_is_named_but_has_no_role_to_decide_does_not(role: Role) -> None:
    stage = Stage("named", approvers=named(BOB))
    assert reason_of(lambda: check_turn(pending(stage), replace(BOB, role=role))) == (
        "NOT_AN_APPROVER"
    )


def test_any_reject_ends_it() -> None:
    half = answer(pending(Stage("two", required_approvals=2), Stage("then")))
    ended = answer(half, CAROL, Verdict.REJECT)
    assert ended.state is ApprovalState.REJECTED
    assert [decision.verdict for decision in ended.decisions] == [Verdict.APPROVE, Verdict.REJECT]
    assert ended.escalates_at is None


@pytest.mark.parametrize("verdict", list(Verdict))
@pytest.mark.parametrize("state", [state for state in ApprovalState if state != "pending"])
def test_what_is_decided_or_over_stays_so(state: ApprovalState, verdict: Verdict) -> None:
    over = pending(state=state)
    assert reason_of(lambda: answer(over, BOB, verdict)) == "APPROVAL_NOT_PENDING"
    assert not may_decide(over, BOB, NOW)


@pytest.mark.parametrize("verdict", list(Verdict))
def test_an_approval_may_be_decided_until_it_expires_and_not_at_that_moment(
    verdict: Verdict,
) -> None:
    approval = pending(expires_at=NOW + timedelta(hours=1))
    last = approval.expires_at - MOMENT
    assert answer(approval, BOB, verdict, last).decisions[0].decided_at == last
    for late in (approval.expires_at, approval.expires_at + timedelta(days=1)):
        with pytest.raises(FailedPrecondition) as refused:
            answer(approval, BOB, verdict, late)
        assert refused.value.reason == "APPROVAL_EXPIRED"


@pytest.mark.parametrize("state", [ApprovalState.EXPIRED, ApprovalState.CANCELED])
def test_an_approval_that_ends_with_its_action_keeps_its_decisions(state: ApprovalState) -> None:
    half = answer(pending(Stage("two", required_approvals=2)))
    closed = close_approval(half, state)
    assert closed == replace(half, state=state, version=half.version + 1)


LATE = Stage(
    "on time", approvers=named(BOB), sla_seconds=60, escalate_to=(Approver(role=Role.ADMIN),)
)


def test_escalation_lets_its_targets_decide_along_and_no_sooner() -> None:
    approval = pending(LATE, Stage("then"))
    due = NOW + timedelta(seconds=60)
    assert approval.escalates_at == due
    assert reason_of(lambda: answer(approval, BOSS)) == "NOT_AN_APPROVER"
    assert reason_of(lambda: escalate_approval(approval, due - MOMENT)) == "NOT_DUE"
    assert (approval.is_overdue(due - MOMENT), approval.is_overdue(due)) == (False, True)
    escalated = escalate_approval(approval, due)
    assert (escalated.version, escalated.escalates_at) == (approval.version + 1, None)
    assert escalated.is_overdue(due)
    assert reason_of(lambda: escalate_approval(escalated, due)) == "NOT_DUE"
    for approver in (BOB, BOSS):
        done = answer(escalated, approver, now=due)
        assert (done.current_stage, done.is_overdue(due)) == (1, False)


def test_in_a_serial_stage_whoever_it_was_escalated_to_takes_any_turn() -> None:
    stage = replace(LATE, mode=StageMode.SERIAL, required_approvals=2, approvers=named(BOB, CAROL))
    escalated = escalate_approval(pending(stage), NOW + timedelta(seconds=60))
    assert answer(answer(escalated, BOSS), CAROL).state is ApprovalState.APPROVED


def test_the_time_of_a_stage_counts_from_its_own_beginning() -> None:
    later = NOW + timedelta(hours=2)
    approval = answer(pending(Stage("first"), LATE), CAROL, now=later)
    assert approval.escalates_at == later + timedelta(seconds=60)


def test_a_grant_is_used_once_and_may_be_given_back() -> None:
    granted = answer(pending())
    used = consume_grant(granted)
    assert (used.state, used.version) == (ApprovalState.CONSUMED, granted.version + 1)
    assert reason_of(lambda: consume_grant(used)) == "GRANT_NOT_AVAILABLE"
    again = release_grant(used)
    assert (again.state, again.version) == (ApprovalState.APPROVED, used.version + 1)
    assert reason_of(lambda: release_grant(again)) == "GRANT_NOT_CONSUMED"
    assert consume_grant(again).state is ApprovalState.CONSUMED


@pytest.mark.parametrize("state", [s for s in ApprovalState if s != ApprovalState.APPROVED])
def test_nothing_but_a_grant_is_used(state: ApprovalState) -> None:
    assert reason_of(lambda: consume_grant(pending(state=state))) == "GRANT_NOT_AVAILABLE"
