"""The steps of a legal hold: who may take which, and when."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

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


def admin(number: int) -> Principal:
    return make_principal(
        f"spiffe://example/admin-{number}",
        role=Role.ADMIN,
        fingerprint_sha256=f"{number:064x}",
        service_account_id=f"sa-{number}",
    )


def step(kind: StepKind, who: Principal, at: datetime = NOW) -> HoldStep:
    return HoldStep(
        kind,
        who.subject,
        who.fingerprint_sha256,
        who.service_account_id,
        at,
        "why",
        new_id("rcpt"),
    )


PLACED = LegalHold(
    "acme", new_id("hold"), "case 7", ReceiptFilter(), (step(StepKind.PLACED, admin(1)),)
)
REQUESTED = replace(PLACED, steps=(*PLACED.steps, step(StepKind.RELEASE_REQUESTED, admin(1))))
RELEASED = replace(REQUESTED, steps=(*REQUESTED.steps, step(StepKind.RELEASED, admin(2))))


def test_the_first_admin_requests_and_a_second_one_releases() -> None:
    assert PLACED.state_at(NOW) is HoldState.ACTIVE
    assert next_release_step(PLACED, admin(1), NOW) is StepKind.RELEASE_REQUESTED
    assert REQUESTED.state_at(NOW) is HoldState.RELEASE_REQUESTED
    assert next_release_step(REQUESTED, admin(2), NOW) is StepKind.RELEASED
    assert RELEASED.state_at(NOW) is HoldState.RELEASED
    assert [hold.version for hold in (PLACED, REQUESTED, RELEASED)] == [1, 2, 3]


@pytest.mark.parametrize(
    "same",
    [
        {},
        {"subject": "spiffe://example/other", "fingerprint_sha256": "f" * 64},
        {"subject": "spiffe://example/other", "service_account_id": "sa-9"},
        {"fingerprint_sha256": "f" * 64, "service_account_id": "sa-9"},
        {"subject": "spiffe://example/other", "service_account_id": ""},
    ],
    ids=["itself", "its account", "its certificate", "its subject", "its certificate, no account"],
)
def test_whoever_may_be_the_one_who_requested_does_not_confirm(same: dict[str, str]) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        next_release_step(REQUESTED, replace(admin(1), **same), NOW)  # type: ignore[arg-type] # texts only
    assert caught.value.reason == "SECOND_ADMIN_REQUIRED"


def test_admins_without_service_accounts_are_told_apart_by_the_rest() -> None:
    nobody = replace(admin(1), service_account_id="")
    hold = replace(PLACED, steps=(*PLACED.steps, step(StepKind.RELEASE_REQUESTED, nobody)))
    other = replace(admin(2), service_account_id="")
    assert next_release_step(hold, other, NOW) is StepKind.RELEASED


def test_a_request_lapses_at_its_end_and_can_be_made_again_by_anybody() -> None:
    ends = NOW + RELEASE_REQUEST_LIFETIME
    before = ends - timedelta(microseconds=1)
    assert next_release_step(REQUESTED, admin(2), before) is StepKind.RELEASED
    assert REQUESTED.state_at(ends) is HoldState.ACTIVE
    for number in (1, 2):
        assert next_release_step(REQUESTED, admin(number), ends) is StepKind.RELEASE_REQUESTED


def test_a_released_hold_stays_released() -> None:
    later = NOW + 2 * RELEASE_REQUEST_LIFETIME
    assert RELEASED.state_at(later) is HoldState.RELEASED
    for number in (1, 2, 3):
        with pytest.raises(FailedPrecondition) as caught:
            next_release_step(RELEASED, admin(number), later)
        assert caught.value.reason == "HOLD_RELEASED"
