"""Receipts, keys and verifications: messages ↔ core values."""

from collections.abc import Mapping

from oars_grpc.core.envelope import Envelope, Signature
from oars_grpc.core.keys import ALGORITHM, KeyState, TrustedKey
from oars_grpc.core.receipt import Receipt
from oars_grpc.core.verification import CheckResult
from oars_grpc.generated.oars.v1 import receipt_pb2
from oars_grpc.transport.reading import Reader, inverse
from oars_grpc.transport.writing import timestamp
from oars_grpc.use_cases.receipts import VerifiedReceipt

KEY_STATES: Mapping[int, KeyState] = {
    receipt_pb2.KEY_STATE_ACTIVE: KeyState.ACTIVE,
    receipt_pb2.KEY_STATE_RETIRED: KeyState.RETIRED,
    receipt_pb2.KEY_STATE_REVOKED: KeyState.REVOKED,
}
CHECK_RESULTS: Mapping[int, CheckResult] = {
    receipt_pb2.CHECK_RESULT_PASSED: CheckResult.PASSED,
    receipt_pb2.CHECK_RESULT_FAILED: CheckResult.FAILED,
    receipt_pb2.CHECK_RESULT_NOT_CHECKED: CheckResult.NOT_CHECKED,
}
_KEY_STATE_NUMBERS = inverse(KEY_STATES)
_CHECK_RESULT_NUMBERS = inverse(CHECK_RESULTS)
MAXIMUM_PAYLOAD_BYTES = 256 * 1024
MAXIMUM_KEYS = 64


def write_envelope(envelope: Envelope) -> receipt_pb2.Envelope:
    """The message of an envelope."""
    return receipt_pb2.Envelope(
        payload_type=envelope.payload_type,
        payload=envelope.payload,
        signatures=[
            receipt_pb2.Signature(keyid=signature.keyid, sig=signature.sig)
            for signature in envelope.signatures
        ],
    )


def read_envelope(reader: Reader, message: receipt_pb2.Envelope, field: str) -> Envelope:
    """The envelope of a message, as it came: verification judges it, not the parser."""
    if len(message.payload) > MAXIMUM_PAYLOAD_BYTES:
        reader.wrong(f"{field}.payload", f"is longer than {MAXIMUM_PAYLOAD_BYTES} bytes")
    if len(message.signatures) > MAXIMUM_KEYS:
        reader.wrong(f"{field}.signatures", f"has more than {MAXIMUM_KEYS} entries")
    signatures = tuple(Signature(entry.keyid, entry.sig) for entry in message.signatures)
    return Envelope(message.payload_type, message.payload, signatures)


def write_receipt(receipt: Receipt) -> receipt_pb2.Receipt:
    """The message of a receipt."""
    return receipt_pb2.Receipt(
        receipt_id=receipt.receipt_id,
        tenant_id=receipt.tenant_id,
        action_id=receipt.action_id,
        type=receipt.type,
        sequence=receipt.sequence,
        previous_receipt_digest=receipt.previous_receipt_digest,
        recorded_at=timestamp(receipt.recorded_at),
        key_id=receipt.key_id,
        receipt_digest=receipt.envelope.digest(),
        envelope=write_envelope(receipt.envelope),
    )


def write_key(key: TrustedKey) -> receipt_pb2.TrustedKey:
    """The message of a public key."""
    return receipt_pb2.TrustedKey(
        key_id=key.key_id,
        tenant_id=key.tenant_id,
        algorithm=ALGORITHM,
        public_key=key.public_key,
        state=_KEY_STATE_NUMBERS[key.state],
        valid_from=timestamp(key.valid_from),
        valid_until=timestamp(key.valid_until),
        revoked_at=timestamp(key.revoked_at),
        revocation_reason=key.revocation_reason,
    )


def read_key(reader: Reader, message: receipt_pb2.TrustedKey, field: str) -> TrustedKey:
    """A key that the caller trusts."""
    if message.algorithm not in ("", ALGORITHM):
        reader.wrong(f"{field}.algorithm", f"must be {ALGORITHM}")
    if not message.public_key or len(message.public_key) > 1024:
        reader.wrong(f"{field}.public_key", "must be a DER SubjectPublicKeyInfo")
    if not message.HasField("valid_from"):
        reader.wrong(f"{field}.valid_from", "is required")
    state = reader.one_of(message.state, f"{field}.state", KEY_STATES, KeyState.ACTIVE)
    ends = message.HasField("valid_until")
    revoked = message.HasField("revoked_at")
    return TrustedKey(
        key_id=message.key_id,
        tenant_id=reader.tenant_id(message.tenant_id, f"{field}.tenant_id", required=True),
        public_key=message.public_key,
        state=state or KeyState.ACTIVE,
        valid_from=reader.moment(message.valid_from, f"{field}.valid_from"),
        valid_until=reader.moment(message.valid_until, f"{field}.valid_until") if ends else None,
        revoked_at=reader.moment(message.revoked_at, f"{field}.revoked_at") if revoked else None,
        revocation_reason=message.revocation_reason,
    )


def write_verification(verified: VerifiedReceipt) -> receipt_pb2.VerifyReceiptResponse:
    """The message of a verification."""
    verification = verified.verification
    return receipt_pb2.VerifyReceiptResponse(
        valid=verification.valid,
        checks=[
            receipt_pb2.Check(
                name=check.name,
                result=_CHECK_RESULT_NUMBERS[check.result],
                detail=check.detail,
            )
            for check in verification.checks
        ],
        errors=verification.errors,
        key_id=verification.key_id,
        trust_source=verified.trust_source if verification.key_id else "",
        receipt=write_receipt(verification.receipt) if verification.receipt else None,
    )
