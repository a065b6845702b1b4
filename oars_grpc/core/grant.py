"""Grants: what an approver signs with a key of its own, beside answering over the API.

A DSSE envelope whose payload is canonical JSON (RFC 8785, restricted profile) of exactly these:

    {"actionDigest", "actionId", "approvalId", "approver", "displayDigest", "policyDigest",
     "stage", "tenantId", "type": "urn:oars:approval-grant:v1", "verdict": "approve" | "reject"}

All are texts but `stage`, an integer. The server makes the payload that it expects, so that nothing
but its exact bytes is ever taken; the receipt keeps the envelope and the key, and whoever reads it
later needs no server to see who said what.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from oars_grpc.core.canonical import encode_base64, statement_json
from oars_grpc.core.envelope import (
    Envelope,
    Signature,
    envelope_from_json,
    pre_authentication_encoding,
    signature_verifies,
)
from oars_grpc.core.keys import SigningKey, key_id_of

GRANT_TYPE = "urn:oars:approval-grant:v1"
GRANT_PAYLOAD_TYPE = "application/vnd.oars.approval-grant+json"
# A grant repeats a few ids and digests, and one name.
MAXIMUM_ENVELOPE_BYTES = 16 * 1024
KEY_ID = re.compile(r"[0-9a-f]{16}", re.ASCII)


class GrantMismatch(ValueError):
    """The envelope is over another statement than the one expected."""


class GrantSignatureInvalid(ValueError):
    """The signature is not one of the key over the statement."""


@dataclass(frozen=True, slots=True)
class SignedGrant:
    """A grant whose signature was checked, and the key (DER SubjectPublicKeyInfo) that made it."""

    envelope: Envelope
    public_key: bytes

    @property
    def key_id(self) -> str:
        """The id of the key."""
        return key_id_of(self.public_key)


def grant_payload(
    *,
    tenant_id: str,
    approval_id: str,
    action_id: str,
    action_digest: str,
    policy_digest: str,
    display_digest: str,
    approver: str,
    verdict: str,
    stage: int,
) -> bytes:
    """The one payload that states this grant; `approver` is the subject of the principal."""
    return statement_json(
        {
            "type": GRANT_TYPE,
            "tenantId": tenant_id,
            "approvalId": approval_id,
            "actionId": action_id,
            "actionDigest": action_digest,
            "policyDigest": policy_digest,
            "displayDigest": display_digest,
            "approver": approver,
            "verdict": verdict,
            "stage": stage,
        }
    )


def sign_grant(payload: bytes, key: SigningKey) -> Envelope:
    """The envelope of a payload, by an approver's key."""
    signed = pre_authentication_encoding(GRANT_PAYLOAD_TYPE, payload)
    return Envelope(GRANT_PAYLOAD_TYPE, payload, (Signature(key.key_id, key.sign(signed)),))


def parse_grant_envelope(given: bytes | Mapping[str, Any]) -> Envelope:
    """The envelope of a grant, as JSON or already parsed; its signature is not judged.

    Raises:
        ValueError: not a DSSE envelope of a grant with exactly one signature, spelled strictly.
    """
    value: Any = given
    if isinstance(given, bytes):
        if len(given) > MAXIMUM_ENVELOPE_BYTES:
            raise ValueError(f"is longer than {MAXIMUM_ENVELOPE_BYTES} bytes")
        try:
            value = orjson.loads(given)
        except orjson.JSONDecodeError as error:
            raise ValueError(f"is not JSON: {error}") from error
    if not isinstance(value, Mapping):
        raise ValueError("is not a JSON object")
    envelope = envelope_from_json(value)
    if envelope.to_json() != value:
        raise ValueError("has other members than those of an envelope")
    if envelope.payload_type != GRANT_PAYLOAD_TYPE:
        raise ValueError(f"payloadType is not {GRANT_PAYLOAD_TYPE}")
    if len(envelope.signatures) != 1:
        raise ValueError(f"expected one signature, found {len(envelope.signatures)}")
    if not KEY_ID.fullmatch(envelope.signatures[0].keyid):
        raise ValueError("signatures[0].keyid: must be 16 hexadecimal digits in lower case")
    return envelope


def check_signed_grant(
    given: bytes | Mapping[str, Any] | Envelope, expected_payload: bytes, public_key: bytes
) -> SignedGrant:
    """The grant, if it is the key's signature over exactly the expected payload.

    Raises:
        GrantMismatch: it is over other bytes.
        GrantSignatureInvalid: it is not by this key.
        ValueError: it is not an envelope of a grant.
    """
    envelope = given if isinstance(given, Envelope) else parse_grant_envelope(given)
    if envelope.payload != expected_payload:
        raise GrantMismatch("the signed statement is not the one expected")
    (signature,) = envelope.signatures
    key_id = key_id_of(public_key)
    if signature.keyid != key_id:
        raise GrantSignatureInvalid(f"the envelope names key {signature.keyid!r}, not {key_id}")
    if not signature_verifies(envelope, signature, public_key):
        raise GrantSignatureInvalid(f"the signature is not one of key {key_id} over this grant")
    return SignedGrant(envelope, public_key)


def signed_grant_json(grant: SignedGrant) -> dict[str, Any]:
    """What a receipt keeps of a grant: `predicate.approval.grant`, restricted profile."""
    return {
        "envelope": grant.envelope.to_json(),
        "publicKey": encode_base64(grant.public_key),
        "keyId": grant.key_id,
    }
