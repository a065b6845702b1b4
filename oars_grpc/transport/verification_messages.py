"""Verifications: messages ↔ core values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from oars_grpc.core import ids
from oars_grpc.core.envelope import Envelope
from oars_grpc.core.ids import parse_id
from oars_grpc.core.keys import TrustedKey
from oars_grpc.core.verification import Check, CheckResult, Surroundings
from oars_grpc.generated.oars.v1 import receipt_pb2
from oars_grpc.transport.key_messages import read_key
from oars_grpc.transport.reading import Reader, inverse
from oars_grpc.transport.receipt_messages import (
    MAXIMUM_KEYS,
    read_envelope,
    write_receipt,
    write_stored_receipt,
)
from oars_grpc.use_cases.verification import MAXIMUM_CHAIN, VerifiedReceipt

CHECK_RESULTS: Mapping[int, CheckResult] = {
    receipt_pb2.CHECK_RESULT_PASSED: CheckResult.PASSED,
    receipt_pb2.CHECK_RESULT_FAILED: CheckResult.FAILED,
    receipt_pb2.CHECK_RESULT_NOT_CHECKED: CheckResult.NOT_CHECKED,
}
_CHECK_RESULT_NUMBERS = inverse(CHECK_RESULTS)
# A note of the largest size with the longest proof in front.
MAXIMUM_PROOF_BYTES = 128 * 1024


@dataclass(frozen=True, slots=True)
class VerificationRequest:
    """What to verify: a stored receipt by id, or a supplied envelope with what is beside it."""

    tenant_id: str
    receipt_id: str
    envelope: Envelope | None
    keys: tuple[TrustedKey, ...]
    beside: Surroundings


def read_verification(request: receipt_pb2.VerifyReceiptRequest) -> VerificationRequest:
    """The request of VerifyReceipt, within its limits; verification judges the rest."""
    reader = Reader()
    tenant_id = reader.tenant_id(request.tenant_id)
    supplied = request.HasField("envelope")
    if supplied == bool(request.receipt_id):
        reader.wrong("receipt_id", "takes exactly one of receipt_id and envelope")
    for field, count, maximum in (
        ("keys", len(request.keys), MAXIMUM_KEYS),
        ("chain", len(request.chain), MAXIMUM_CHAIN),
    ):
        if count > maximum:
            reader.wrong(field, f"has more than {maximum} entries")
    if len(request.proof) > MAXIMUM_PROOF_BYTES:
        reader.wrong("proof", f"is longer than {MAXIMUM_PROOF_BYTES} characters")
    has_previous = request.HasField("previous")
    if request.chain and has_previous:
        reader.wrong("previous", "is the last of the chain, and takes no chain beside it")
    for field, given in (
        ("previous", has_previous),
        ("chain", bool(request.chain)),
        ("proof", bool(request.proof)),
    ):
        if given and not supplied:
            reader.wrong(field, "is only for a supplied envelope")
    reader.done()  # what is too much is not read
    keys = tuple(
        read_key(reader, key, f"keys[{position}]") for position, key in enumerate(request.keys)
    )
    envelope = read_envelope(reader, request.envelope, "envelope")
    previous = read_envelope(reader, request.previous, "previous") if has_previous else None
    chain = tuple(
        read_envelope(reader, entry, f"chain[{position}]")
        for position, entry in enumerate(request.chain)
    )
    reader.done()
    if not supplied:
        receipt_id = parse_id(ids.RECEIPT, request.receipt_id, "receipt_id")
        return VerificationRequest(tenant_id, receipt_id, None, keys, Surroundings())
    beside = Surroundings(previous=previous, chain=chain or None, proof=request.proof or None)
    return VerificationRequest(tenant_id, "", envelope, keys, beside)


def write_verification(verified: VerifiedReceipt) -> receipt_pb2.VerifyReceiptResponse:
    """The message of a verification."""
    verification = verified.verification
    return receipt_pb2.VerifyReceiptResponse(
        valid=verification.valid,
        checks=write_checks(verification.checks),
        errors=verification.errors,
        key_id=verification.key_id,
        trust_source=verified.trust_source if verification.key_id else "",
        receipt=_write_verified(verified),
    )


def write_checks(checks: Sequence[Check]) -> list[receipt_pb2.Check]:
    """The messages of checks."""
    return [
        receipt_pb2.Check(
            name=check.name,
            result=_CHECK_RESULT_NUMBERS[check.result],
            detail=check.detail,
        )
        for check in checks
    ]


def _write_verified(verified: VerifiedReceipt) -> receipt_pb2.Receipt | None:
    receipt = verified.verification.receipt
    if receipt is None:
        return None
    if verified.stored is None:
        return write_receipt(receipt)
    return write_stored_receipt(verified.stored)
