"""Events: receipts of what befalls a tenant and no single action of it.

A rotated or revoked key, a legal hold, an erasure: each is a leaf of the tenant's log like every
receipt, and stands in the tenant's own chain. Payload, canonical JSON (RFC 8785):

    {"_type": "https://in-toto.io/Statement/v1",
     "predicate": {"receiptId", "tenantId", "type", "sequence", "previousReceiptDigest",
                   "recordedAt", "caller", "event": {…}},      event: what this type tells
     "predicateType": "urn:oars:receipt:event:v1",
     "subject": [{"digest": {"sha256": <of the canonical event>}, "name": <tenant id>}]}

What a lattice said is written the same way, under predicate type `urn:oars:receipt:lattice:v1` and
with a member `lattice` in place of `event`.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from oars_grpc.core.canonical import sha256_hex, statement_json
from oars_grpc.core.envelope import sign_payload
from oars_grpc.core.identity import Principal
from oars_grpc.core.keys import SigningKey
from oars_grpc.core.receipt import (
    EVENT_PREDICATE_TYPE,
    MAXIMUM_PAYLOAD_BYTES,
    NO_ACTION,
    STATEMENT_TYPE,
    SYSTEM,
    TENANT_MEMBERS,
    Receipt,
    caller_json,
    format_time,
)

KEY_ROTATED = "key.rotated"
KEY_REVOKED = "key.revoked"
SECOND_FACTOR_ENROLLED = "second_factor.enrolled"
SECOND_FACTOR_REMOVED = "second_factor.removed"
APPROVER_KEY_REGISTERED = "approver_key.registered"
APPROVER_KEY_REVOKED = "approver_key.revoked"
_NOBODY = {"subject": SYSTEM, "fingerprintSha256": "", "role": "", "serviceAccountId": ""}


def write_event(
    *,
    receipt_id: str,
    tenant_id: str,
    type_: str,
    caller: Principal | None,
    event: Mapping[str, Any],
    sequence: int,
    previous_receipt_digest: str,
    now: datetime,
    key: SigningKey,
    predicate_type: str = EVENT_PREDICATE_TYPE,
) -> Receipt:
    """Compose and sign an event; `caller` None is the server itself.

    `event` is in the restricted profile: ASCII member names, no floats. The predicate type decides
    the name of the member that it stands in.
    """
    payload = statement_json(
        {
            "_type": STATEMENT_TYPE,
            "subject": [
                {"name": tenant_id, "digest": {"sha256": sha256_hex(statement_json(event))}}
            ],
            "predicateType": predicate_type,
            "predicate": {
                "receiptId": receipt_id,
                "tenantId": tenant_id,
                "type": type_,
                "sequence": sequence,
                "previousReceiptDigest": previous_receipt_digest,
                "recordedAt": format_time(now),
                "caller": _NOBODY if caller is None else caller_json(caller),
                TENANT_MEMBERS[predicate_type]: event,
            },
        }
    )
    if len(payload) > MAXIMUM_PAYLOAD_BYTES:
        raise ValueError(f"an event of {len(payload)} bytes is too large for the log")
    return Receipt(
        receipt_id=receipt_id,
        tenant_id=tenant_id,
        action_id=NO_ACTION,
        type=type_,
        sequence=sequence,
        previous_receipt_digest=previous_receipt_digest,
        recorded_at=now,
        envelope=sign_payload(payload, key),
    )
