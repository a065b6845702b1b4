"""Keys that approvers hold: Ed25519, registered for one principal, their private halves elsewhere.

Whoever registers a key shows a signature by it over what is registered, as a DSSE envelope would
have it: no key can be registered for a principal without the one who holds it.
"""

from dataclasses import dataclass
from datetime import datetime

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
    load_pem_public_key,
)

from oars_grpc.core.canonical import statement_json
from oars_grpc.core.envelope import pre_authentication_encoding
from oars_grpc.core.keys import key_id_of

REGISTRATION_TYPE = "urn:oars:approver-key-registration:v1"
REGISTRATION_PAYLOAD_TYPE = "application/vnd.oars.approver-key-registration+json"
_PEM = b"-----BEGIN PUBLIC KEY-----"
_P = 2**255 - 19
_SIGN_BIT = 2**255
# y coordinates of the points whose order divides 8, where RFC 8032 section 5.1 puts them: those of
# order 1, 2 and 4, and of order 8. OpenSSL takes them, and under such a key a signature over one
# message may hold for others. As y is read modulo p, 0 and 1 have a second spelling.
_ORDER_8 = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
_WEAK = frozenset({0, 1, _P - 1, _P, _P + 1, _ORDER_8, _P - _ORDER_8})


@dataclass(frozen=True, slots=True)
class ApproverKey:
    """A registered key; once revoked it stays so, and its id is never registered again."""

    tenant_id: str
    key_id: str
    subject: str
    public_key: bytes
    registered_at: datetime
    registered_by: str
    revoked_at: datetime | None = None
    revocation_reason: str = ""


def parse_public_key(data: bytes) -> bytes:
    """The DER SubjectPublicKeyInfo of an Ed25519 key, given as that or as PEM.

    Raises:
        ValueError: no Ed25519 key, another spelling of one, or one that is no good.
    """
    if not data.lstrip().startswith(_PEM):
        return parse_der_key(data)
    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError("is not a public key in PEM") from error
    return parse_der_key(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def parse_der_key(data: bytes) -> bytes:
    """As `parse_public_key`, of DER only; the bytes given are those of the answer."""
    try:
        key = load_der_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError("is not a SubjectPublicKeyInfo in DER") from error
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError("is not an Ed25519 key")
    if key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) != data:
        raise ValueError("is not canonical DER")
    raw = key.public_bytes(Encoding.Raw, PublicFormat.Raw)
    if int.from_bytes(raw, "little") % _SIGN_BIT in _WEAK:
        raise ValueError("is a point of small order, under which signatures prove nothing")
    return data


def registration_payload(tenant_id: str, subject: str, public_key: bytes) -> bytes:
    """What the key's holder signs to have it registered: canonical JSON."""
    return statement_json(
        {
            "type": REGISTRATION_TYPE,
            "tenantId": tenant_id,
            "subject": subject,
            "keyId": key_id_of(public_key),
        }
    )


def registration_message(tenant_id: str, subject: str, public_key: bytes) -> bytes:
    """The bytes that the signature is over: the payload's DSSE encoding."""
    payload = registration_payload(tenant_id, subject, public_key)
    return pre_authentication_encoding(REGISTRATION_PAYLOAD_TYPE, payload)


def is_possession_proven(tenant_id: str, subject: str, public_key: bytes, proof: bytes) -> bool:
    """Whether the proof is the key's signature over its registration."""
    key = load_der_public_key(public_key)
    if not isinstance(key, Ed25519PublicKey):
        return False
    try:
        key.verify(proof, registration_message(tenant_id, subject, public_key))
    except InvalidSignature:
        return False
    return True
