"""However admins come and go, no hold is released by fewer than two of them."""

from dataclasses import replace
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from oars_grpc.core.identity import Principal, Role
from oars_grpc.core.legal_hold import (
    RELEASE_REQUEST_LIFETIME,
    HoldState,
    HoldStep,
    LegalHold,
    StepKind,
    next_release_step,
)
from oars_grpc.core.receipt_filter import ReceiptFilter
from oars_grpc.errors import FailedPrecondition
from tests.support.factories import NOW, make_principal, new_id


def admin(subject: int, certificate: int, account: int) -> Principal:
    """Of few of each kind, so that identities overlap in every way."""
    return make_principal(
        f"spiffe://example/admin-{subject}",
        role=Role.ADMIN,
        fingerprint_sha256=f"{certificate:064x}" if certificate else "",
        service_account_id=f"sa-{account}" if account else "",
    )


ADMINS = st.builds(admin, st.integers(1, 3), st.integers(0, 3), st.integers(0, 2))
# Who wishes for a release, and how much later than the one before.
WISHES = st.lists(st.tuples(ADMINS, st.integers(0, 10)), max_size=12)


@given(placer=ADMINS, wishes=WISHES)
def test_a_release_is_the_work_of_two_admins_within_a_week(
    placer: Principal, wishes: list[tuple[Principal, int]]
) -> None:
    now = NOW
    hold = LegalHold("acme", new_id("hold"), "case", ReceiptFilter(), ())
    hold = taken(hold, StepKind.PLACED, placer, 0)
    days = 0
    for who, later in wishes:
        days += later
        now = NOW + timedelta(days=days)
        try:
            kind = next_release_step(hold, who, now)
        except FailedPrecondition:
            continue
        hold = taken(hold, kind, who, days)
    kinds = [step.kind for step in hold.steps]
    assert kinds.count(StepKind.PLACED) == 1
    assert kinds.count(StepKind.RELEASED) <= 1
    assert (hold.state_at(now) is HoldState.RELEASED) is (StepKind.RELEASED in kinds)
    if StepKind.RELEASED in kinds:
        assert kinds[-1] is StepKind.RELEASED
        request, release = hold.steps[-2:]
        assert request.kind is StepKind.RELEASE_REQUESTED
        assert release.taken_at - request.taken_at < RELEASE_REQUEST_LIFETIME
        assert release.subject != request.subject
        assert release.fingerprint_sha256 != request.fingerprint_sha256
        assert not release.service_account_id or (
            release.service_account_id != request.service_account_id
        )


def taken(hold: LegalHold, kind: StepKind, who: Principal, days: int) -> LegalHold:
    at = NOW + timedelta(days=days)
    step = HoldStep(
        kind, who.subject, who.fingerprint_sha256, who.service_account_id, at, "why", "rcpt"
    )
    return replace(hold, steps=(*hold.steps, step))
