"""Legal holds: messages ↔ core values."""

from collections.abc import Mapping
from dataclasses import fields

from oars_grpc.core.legal_hold import SCOPE_FIELDS, HoldState, HoldStep, StepKind, request_expiry
from oars_grpc.core.receipt_filter import ReceiptFilter
from oars_grpc.generated.oars.v1 import receipt_pb2, retention_pb2
from oars_grpc.transport.filter_messages import read_filter, write_filter
from oars_grpc.transport.reading import Reader, inverse
from oars_grpc.transport.writing import timestamp
from oars_grpc.use_cases.legal_holds import HoldNow

HOLD_STATES: Mapping[int, HoldState] = {
    retention_pb2.LEGAL_HOLD_STATE_ACTIVE: HoldState.ACTIVE,
    retention_pb2.LEGAL_HOLD_STATE_RELEASE_REQUESTED: HoldState.RELEASE_REQUESTED,
    retention_pb2.LEGAL_HOLD_STATE_RELEASED: HoldState.RELEASED,
}
STEP_KINDS: Mapping[int, StepKind] = {
    retention_pb2.LEGAL_HOLD_STEP_KIND_PLACED: StepKind.PLACED,
    retention_pb2.LEGAL_HOLD_STEP_KIND_RELEASE_REQUESTED: StepKind.RELEASE_REQUESTED,
    retention_pb2.LEGAL_HOLD_STEP_KIND_RELEASED: StepKind.RELEASED,
}
_HOLD_STATE_NUMBERS = inverse(HOLD_STATES)
_STEP_KIND_NUMBERS = inverse(STEP_KINDS)
# What a hold must not restrict: an action is kept or erased whole, whatever each receipt tells.
_REFUSED = tuple(field.name for field in fields(ReceiptFilter) if field.name not in SCOPE_FIELDS)


def read_scope(reader: Reader, message: receipt_pb2.ReceiptFilter) -> ReceiptFilter:
    """The scope of a hold; what a hold cannot be about is refused, not ignored."""
    scope = read_filter(reader, message, "scope.")
    for name in _REFUSED:
        if getattr(scope, name):
            reader.wrong(f"scope.{name}", "cannot restrict a legal hold")
    return scope


def write_hold(held: HoldNow) -> retention_pb2.LegalHold:
    """The message of a hold."""
    hold = held.hold
    pending = held.state is HoldState.RELEASE_REQUESTED
    return retention_pb2.LegalHold(
        hold_id=hold.hold_id,
        tenant_id=hold.tenant_id,
        name=hold.name,
        scope=write_filter(hold.scope),
        state=_HOLD_STATE_NUMBERS[held.state],
        steps=[_write_step(step) for step in hold.steps],
        release_expires_at=timestamp(request_expiry(hold.steps[-1])) if pending else None,
        version=hold.version,
    )


def _write_step(step: HoldStep) -> retention_pb2.LegalHoldStep:
    return retention_pb2.LegalHoldStep(
        kind=_STEP_KIND_NUMBERS[step.kind],
        subject=step.subject,
        fingerprint_sha256=step.fingerprint_sha256,
        service_account_id=step.service_account_id,
        taken_at=timestamp(step.taken_at),
        reason=step.reason,
        receipt_id=step.receipt_id,
    )
