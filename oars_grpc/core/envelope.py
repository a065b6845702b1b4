"""DSSE v1 envelopes (https://github.com/secure-systems-lab/dsse, protocol.md).

What is signed is the pre-authentication encoding, not the JSON around it:

    PAE(type, body) = "DSSEv1" SP LEN(type) SP type SP LEN(body) SP body     LEN in ASCII decimal
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from oars_grpc.core.canonical import decode_base64, encode_base64, sha256_hex
from oars_grpc.core.keys import SigningKey, ed25519_key
from oars_grpc.core.merkle import leaf_hash

PAYLOAD_TYPE = "application/vnd.in-toto+json"


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature and the hint which key made it."""

    keyid: str
    sig: bytes


@dataclass(frozen=True, slots=True)
class Envelope:
    """Signed bytes."""

    payload_type: str
    payload: bytes
    signatures: tuple[Signature, ...]

    def signed_bytes(self) -> bytes:
        """The bytes that the signatures are over."""
        return pre_authentication_encoding(self.payload_type, self.payload)

    def digest(self) -> str:
        """Lower-case hex SHA-256 over the payload: what the next receipt of the chain names."""
        return sha256_hex(self.payload)

    def leaf_hash(self) -> bytes:
        """RFC 9162 leaf hash over the signed bytes, 32 bytes."""
        return leaf_hash(self.signed_bytes())

    def to_json(self) -> dict[str, Any]:
        """The standard's JSON form."""
        return {
            "payloadType": self.payload_type,
            "payload": encode_base64(self.payload),
            "signatures": [
                {"keyid": s.keyid, "sig": encode_base64(s.sig)} for s in self.signatures
            ],
        }


def pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """The bytes to sign for a payload of a type."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign_payload(payload: bytes, key: SigningKey) -> Envelope:
    """An in-toto payload signed by one key."""
    signed = pre_authentication_encoding(PAYLOAD_TYPE, payload)
    return Envelope(PAYLOAD_TYPE, payload, (Signature(key.key_id, key.sign(signed)),))


def signature_verifies(envelope: Envelope, signature: Signature, public_key: bytes) -> bool:
    """Whether the key (DER SubjectPublicKeyInfo) made the signature over this envelope."""
    try:
        ed25519_key(public_key).verify(signature.sig, envelope.signed_bytes())
    except (InvalidSignature, ValueError, UnsupportedAlgorithm):
        return False
    return True


def envelope_from_json(value: Mapping[str, Any]) -> Envelope:
    """Parse the standard's JSON form, standard base64 only.

    Raises:
        ValueError: naming what is wrong.
    """
    signatures = value.get("signatures", [])  # printers of proto JSON leave empty lists out
    if not isinstance(signatures, list):
        raise ValueError("signatures: must be a list")
    parsed = []
    for position, entry in enumerate(signatures):
        if not isinstance(entry, Mapping) or not isinstance(entry.get("keyid", ""), str):
            raise ValueError(f"signatures[{position}]: must be an object with keyid and sig")
        parsed.append(
            Signature(entry.get("keyid", ""), _decoded(entry, "sig", f"signatures[{position}]."))
        )
    kind = value.get("payloadType", value.get("payload_type"))
    if not isinstance(kind, str):
        raise ValueError("payloadType: must be text")
    return Envelope(kind, _decoded(value, "payload", ""), tuple(parsed))


def _decoded(value: Mapping[str, Any], name: str, prefix: str) -> bytes:
    text = value.get(name)
    if not isinstance(text, str):
        raise ValueError(f"{prefix}{name}: must be base64 text")
    try:
        return decode_base64(text)
    except ValueError as error:
        raise ValueError(f"{prefix}{name}: {error}") from error
