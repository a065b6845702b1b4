"""Legal holds: what retention must not erase, and the two admins that it takes to let go.

    place ─▶ ACTIVE ─▶ RELEASE_REQUESTED ─▶ RELEASED
               ▲               │
               └── 7 days ─────┘          a request that nobody confirms lapses

A hold is its steps: each says who took it, and none is ever changed or removed. Where the hold
stands follows from them and the time.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from oars_grpc.core.identity import Principal
from oars_grpc.core.receipt_filter import ReceiptFilter
from oars_grpc.errors import FailedPrecondition

HOLD_PLACED = "hold.placed"
HOLD_RELEASE_REQUESTED = "hold.release_requested"
HOLD_RELEASED = "hold.released"

# What a scope may restrict: what all receipts of an action say alike, and when they were written.
SCOPE_FIELDS = (
    "action_id",
    "agent_id",
    "user_id",
    "caller_subject",
    "tool_id",
    "operation",
    "recorded_from",
    "recorded_until",
)

# How long the second admin may take. The migration that checks the steps says the same.
RELEASE_REQUEST_LIFETIME = timedelta(days=7)


class HoldState(StrEnum):
    """Where a hold stands; all but `RELEASED` keep what is in scope."""

    ACTIVE = "active"
    RELEASE_REQUESTED = "release_requested"
    RELEASED = "released"


class StepKind(StrEnum):
    """What one step does."""

    PLACED = "placed"
    RELEASE_REQUESTED = "release_requested"
    RELEASED = "released"


EVENT_TYPES = {
    StepKind.PLACED: HOLD_PLACED,
    StepKind.RELEASE_REQUESTED: HOLD_RELEASE_REQUESTED,
    StepKind.RELEASED: HOLD_RELEASED,
}


@dataclass(frozen=True, slots=True)
class HoldStep:
    """One step: who took it, as TLS verified them, when and why, and the event that records it."""

    kind: StepKind
    subject: str
    fingerprint_sha256: str
    service_account_id: str
    taken_at: datetime
    reason: str
    receipt_id: str


@dataclass(frozen=True, slots=True)
class LegalHold:
    """A hold with its steps, the first of which placed it.

    The scope restricts `SCOPE_FIELDS` only; an empty one is the whole tenant. An action with any
    receipt in scope is kept whole.
    """

    tenant_id: str
    hold_id: str
    name: str
    scope: ReceiptFilter
    steps: tuple[HoldStep, ...]

    @property
    def version(self) -> int:
        """Counts the steps."""
        return len(self.steps)

    def state_at(self, now: datetime) -> HoldState:
        """Where it stands."""
        if self.steps[-1].kind is StepKind.RELEASED:
            return HoldState.RELEASED
        if self.pending_request(now) is not None:
            return HoldState.RELEASE_REQUESTED
        return HoldState.ACTIVE

    def pending_request(self, now: datetime) -> HoldStep | None:
        """The request that a second admin can confirm."""
        last = self.steps[-1]
        if last.kind is StepKind.RELEASE_REQUESTED and now < request_expiry(last):
            return last
        return None


def request_expiry(request: HoldStep) -> datetime:
    """When a request to release lapses."""
    return request.taken_at + RELEASE_REQUEST_LIFETIME


def next_release_step(hold: LegalHold, admin: Principal, now: datetime) -> StepKind:
    """What an admin's wish to release the hold comes to: a request, or its confirmation.

    Raises:
        FailedPrecondition: it is released already, or the admin is the one who requested it.
    """
    if hold.state_at(now) is HoldState.RELEASED:
        raise FailedPrecondition(
            f"legal hold {hold.hold_id} is released already", reason="HOLD_RELEASED"
        )
    request = hold.pending_request(now)
    if request is None:
        return StepKind.RELEASE_REQUESTED
    if not is_another(admin, request):
        raise FailedPrecondition(
            f"the release of legal hold {hold.hold_id} takes a second admin: whoever requested it"
            " cannot confirm it",
            reason="SECOND_ADMIN_REQUIRED",
        )
    return StepKind.RELEASED


def is_another(admin: Principal, request: HoldStep) -> bool:
    """Whether the admin is surely not the one who made the request.

    Two subjects with one service account are one party with two certificates; two subjects with one
    certificate (or, in development, without any) are the same caller.
    """
    return (
        admin.subject != request.subject
        and admin.fingerprint_sha256 != request.fingerprint_sha256
        and (not admin.service_account_id or admin.service_account_id != request.service_account_id)
    )
