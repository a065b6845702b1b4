"""Signing keys: messages ↔ core values."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from cryptography.exceptions import UnsupportedAlgorithm

from oars_grpc.core.checkpoint import checkpoint_verifier
from oars_grpc.core.keys import ALGORITHM, KeyPurpose, KeyState, TrustedKey
from oars_grpc.core.note import ED25519, parse_vkey, raw_public_key
from oars_grpc.generated.oars.v1 import receipt_pb2, tenant_pb2
from oars_grpc.transport.reading import Reader, inverse
from oars_grpc.transport.writing import timestamp
from oars_grpc.use_cases.keys import Revocation

KEY_STATES: Mapping[int, KeyState] = {
    receipt_pb2.KEY_STATE_ACTIVE: KeyState.ACTIVE,
    receipt_pb2.KEY_STATE_RETIRED: KeyState.RETIRED,
    receipt_pb2.KEY_STATE_REVOKED: KeyState.REVOKED,
}
KEY_PURPOSES: Mapping[int, KeyPurpose] = {
    receipt_pb2.KEY_PURPOSE_RECEIPT: KeyPurpose.RECEIPT,
    receipt_pb2.KEY_PURPOSE_CHECKPOINT: KeyPurpose.CHECKPOINT,
}
_KEY_STATE_NUMBERS = inverse(KEY_STATES)
_KEY_PURPOSE_NUMBERS = inverse(KEY_PURPOSES)
_KEY_ID = re.compile(r"[0-9a-f]{16}", re.ASCII)
MAXIMUM_REASON = 512
_MAXIMUM_VKEY = 1024


def write_key(key: TrustedKey, vkey: str = "") -> receipt_pb2.TrustedKey:
    """The message of a public key; `vkey` is its C2SP form, where it is known beside the key."""
    if not vkey and key.origin:
        vkey = checkpoint_verifier(key.origin, key.public_key).vkey()
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
        purpose=_KEY_PURPOSE_NUMBERS[key.purpose],
        trusted_log_size=key.trusted_log_size,
        vkey=vkey,
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
    purpose = read_purpose(reader, message.purpose, f"{field}.purpose")
    ends = message.HasField("valid_until")
    revoked = message.HasField("revoked_at")
    trusted = message.HasField("trusted_log_size")
    if trusted and message.trusted_log_size < 0:
        reader.wrong(f"{field}.trusted_log_size", "is the size of a log and not negative")
    return TrustedKey(
        key_id=message.key_id,
        tenant_id=reader.tenant_id(message.tenant_id, f"{field}.tenant_id", required=True),
        public_key=message.public_key,
        state=state or KeyState.ACTIVE,
        valid_from=reader.moment(message.valid_from, f"{field}.valid_from"),
        valid_until=reader.moment(message.valid_until, f"{field}.valid_until") if ends else None,
        revoked_at=reader.moment(message.revoked_at, f"{field}.revoked_at") if revoked else None,
        revocation_reason=message.revocation_reason,
        purpose=purpose,
        trusted_log_size=message.trusted_log_size if trusted else None,
        origin=_read_origin(reader, message, purpose, f"{field}.vkey"),
    )


def read_purpose(reader: Reader, number: int, field: str) -> KeyPurpose:
    """What a key signs; receipts where it is not stated."""
    return reader.one_of(number, field, KEY_PURPOSES, KeyPurpose.RECEIPT) or KeyPurpose.RECEIPT


def _read_origin(
    reader: Reader, message: receipt_pb2.TrustedKey, purpose: KeyPurpose, field: str
) -> str:
    """The log that a key of a list says that it signs for; nothing where it does not say."""
    if not message.vkey:
        return ""
    if purpose is not KeyPurpose.CHECKPOINT:
        reader.wrong(field, "is only for a key that signs checkpoints")
        return ""
    if len(message.vkey) > _MAXIMUM_VKEY:
        reader.wrong(field, f"is longer than {_MAXIMUM_VKEY} characters")
        return ""
    try:
        verifier = parse_vkey(message.vkey)
        same = (verifier.kind, verifier.public_key) == (ED25519, raw_public_key(message.public_key))
    except (ValueError, UnsupportedAlgorithm) as error:
        reader.wrong(field, str(error))
        return ""
    if not same:
        reader.wrong(field, "is not of the key in public_key")
    return verifier.name


def read_rotation(request: tenant_pb2.RotateSigningKeyRequest) -> tuple[str, KeyPurpose]:
    """The tenant, and what the key to rotate signs."""
    reader = Reader()
    tenant_id = reader.tenant_id(request.tenant_id, required=True)
    purpose = read_purpose(reader, request.purpose, "purpose")
    reader.done()
    return tenant_id, purpose


@dataclass(frozen=True, slots=True)
class RevocationRequest:
    """A request to revoke a key, within its limits."""

    tenant_id: str
    key_id: str
    reason: str
    compromised_at: datetime | None


def read_revocation(request: tenant_pb2.RevokeSigningKeyRequest) -> RevocationRequest:
    """The request of RevokeSigningKey."""
    reader = Reader()
    tenant_id = reader.tenant_id(request.tenant_id, required=True)
    if not _KEY_ID.fullmatch(request.key_id):
        reader.wrong("key_id", "must be 16 hexadecimal digits in lower case")
    reason = reader.text(request.reason, "reason", MAXIMUM_REASON, required=True)
    if reason and not reason.strip():
        reader.wrong("reason", "is required")
    moment = None
    if request.HasField("compromised_at"):
        moment = reader.moment(request.compromised_at, "compromised_at")
    reader.done()
    return RevocationRequest(tenant_id, request.key_id, reason, moment)


# Gives the C2SP form of a key that signs checkpoints; nothing for every other.
FindVkey = Callable[[TrustedKey], str]


def write_rotation(key: TrustedKey, vkey: FindVkey) -> tenant_pb2.RotateSigningKeyResponse:
    """The answer of RotateSigningKey."""
    return tenant_pb2.RotateSigningKeyResponse(key=write_key(key, vkey(key)))


def write_revocation(revocation: Revocation, vkey: FindVkey) -> tenant_pb2.RevokeSigningKeyResponse:
    """The answer of RevokeSigningKey."""
    key, replacement = revocation.key, revocation.replacement
    return tenant_pb2.RevokeSigningKeyResponse(
        key=write_key(key, vkey(key)),
        replacement=None if replacement is None else write_key(replacement, vkey(replacement)),
    )
