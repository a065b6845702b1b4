"""Receipts: one signed in-toto Statement v1 for each fact about an action.

Payload, canonical JSON (RFC 8785); the order of members is the alphabet's:

    {"_type": "https://in-toto.io/Statement/v1",
     "predicate": {"actionId", "type", "sequence", "previousReceiptDigest", "recordedAt",
                   "caller", "agentId", …                       who and what, in every receipt
                   "decision" | "approval" | "outcome" | …      what this receipt is about},
     "predicateType": "urn:oars:receipt:action:v1",
     "subject": [{"digest": {"sha256": <action digest>}, "name": <action id>}]}

`proto/README.md` specifies every member. The profile is restricted: ASCII member names, no floats.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson

from oars_grpc.core import ids
from oars_grpc.core.action import Action
from oars_grpc.core.canonical import canonical_json, is_restricted, statement_json
from oars_grpc.core.envelope import PAYLOAD_TYPE, Envelope, sign_payload
from oars_grpc.core.identity import Principal
from oars_grpc.core.keys import SigningKey
from oars_grpc.core.receipt_members import check_event_members, check_members
from oars_grpc.core.receipt_terms import terms_by_name
from oars_grpc.core.tenant import TENANT_ID

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:oars:receipt:action:v1"
# What befalls a tenant and no action of it: `core/event.py`. Its chain is that of no action.
EVENT_PREDICATE_TYPE = "urn:oars:receipt:event:v1"
# What a lattice said: of the tenant, too, in the same chain.
LATTICE_PREDICATE_TYPE = "urn:oars:receipt:lattice:v1"
LATTICE_TYPES = "lattice."  # what their types begin with
# The member that tells what a receipt in a tenant's chain is about.
TENANT_MEMBERS = {EVENT_PREDICATE_TYPE: "event", LATTICE_PREDICATE_TYPE: "lattice"}
NO_ACTION = ""
APPROVAL_DECIDED = "action.approval_decided"
APPROVAL_ESCALATED = "action.approval_escalated"
APPROVAL_JOINED = "action.approval_joined"
SYSTEM = "system"
# What a log entry can hold (C2SP tlog-tiles: a 16-bit length). The limits on requests and on what
# a receipt repeats of a decision keep every payload below; a test tries the largest of all.
MAXIMUM_PAYLOAD_BYTES = 65_000
# Of an identity's attributes as a decision's receipt repeats them; what is longer it leaves out.
MAXIMUM_ATTRIBUTES_BYTES = 4_096


@dataclass(frozen=True, slots=True)
class Receipt:
    """A receipt: the envelope is the truth, the rest is read from its payload.

    `action_id` is empty where it tells of an event in the tenant's own chain.
    """

    receipt_id: str
    tenant_id: str
    action_id: str
    type: str
    sequence: int
    previous_receipt_digest: str
    recorded_at: datetime
    envelope: Envelope
    # As they stand in the payload, for whoever has just composed it; None where it is to be read.
    terms: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)

    @property
    def key_id(self) -> str:
        """The key named in the envelope; empty where there is no signature."""
        return self.envelope.signatures[0].keyid if self.envelope.signatures else ""


def format_time(moment: datetime) -> str:
    """RFC 3339 in UTC with six decimals."""
    # Ten times as fast as strftime.
    utc = (moment if moment.tzinfo is UTC else moment.astimezone(UTC)).replace(tzinfo=None)
    return f"{utc.isoformat(timespec='microseconds')}Z"


def parse_time(text: str) -> datetime:
    """The inverse of `format_time`; refuses every other spelling.

    Raises:
        ValueError: not written as `format_time` writes.
    """
    moment = datetime.fromisoformat(text)  # ten times as fast as strptime, and far less strict
    if not text.endswith("Z") or format_time(moment) != text:
        raise ValueError(f"{text!r} is not RFC 3339 UTC with six decimals")
    return moment


def caller_json(caller: Principal) -> dict[str, str]:
    """The verified identity as receipts name it."""
    return {
        "subject": caller.subject,
        "fingerprintSha256": caller.fingerprint_sha256,
        "role": caller.role.value,
        "serviceAccountId": caller.service_account_id,
    }


def caller_attributes_json(caller: Principal) -> list[dict[str, str]] | None:
    """The verified identity's attributes, which policy may ask about; None if they are too long."""
    listed = [{"name": name, "value": value} for name, value in sorted(caller.attributes.items())]
    return listed if len(statement_json(listed)) <= MAXIMUM_ATTRIBUTES_BYTES else None


def write_receipt(
    *,
    receipt_id: str,
    action: Action,
    type_: str,
    detail: Mapping[str, Any],
    now: datetime,
    key: SigningKey,
) -> Receipt:
    """Compose and sign the receipt that follows the action's last one.

    `detail` holds what this receipt is about, in the restricted profile.
    """
    request, resource, context = action.request, action.request.resource, action.request.context
    sequence = action.last_sequence + 1
    predicate: dict[str, Any] = {
        "receiptId": receipt_id,
        "tenantId": request.tenant_id,
        "actionId": action.action_id,
        "type": type_,
        "sequence": sequence,
        "previousReceiptDigest": action.last_receipt_digest,
        "recordedAt": format_time(now),
        "caller": caller_json(request.caller),
        "agentId": request.agent_id,
        "userId": request.user_id,
        "delegationChain": list(request.delegation_chain),
        "resource": {
            "toolId": resource.tool_id,
            "operation": resource.operation,
            "target": resource.target,
        },
        "context": {
            "environment": context.environment,
            "dataTypes": None if context.data_types is None else list(context.data_types),
            "attributes": [
                {"name": name, "value": value} for name, value in sorted(context.attributes.items())
            ],
        },
        "execution": request.execution.value,
        "inputDigest": action.input_digest,
    }
    if not predicate.keys().isdisjoint(detail):
        raise ValueError("a receipt's detail must not replace what every receipt says")
    predicate.update(detail)
    if "decision" in detail:
        # Beside the decision: a replay of it needs every fact that policy was asked about.
        predicate["callerAttributes"] = caller_attributes_json(request.caller)
        if request.evidence is not None:
            predicate["evidence"] = request.evidence.to_json()
    payload = statement_json(
        {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": action.action_id, "digest": {"sha256": action.action_digest}}],
            "predicateType": PREDICATE_TYPE,
            "predicate": predicate,
        }
    )
    if len(payload) > MAXIMUM_PAYLOAD_BYTES:
        raise ValueError(f"a receipt of {len(payload)} bytes is too large for the log")
    return Receipt(
        receipt_id=receipt_id,
        tenant_id=request.tenant_id,
        action_id=action.action_id,
        type=type_,
        sequence=sequence,
        previous_receipt_digest=action.last_receipt_digest,
        recorded_at=now,
        envelope=sign_payload(payload, key),
        terms=terms_by_name(predicate),
    )


def parse_receipt(envelope: Envelope) -> Receipt:
    """Read the view out of an envelope, strictly.

    Raises:
        ValueError: the payload is not a receipt that OARS would have written.
    """
    if envelope.payload_type != PAYLOAD_TYPE:
        raise ValueError(f"payloadType is not {PAYLOAD_TYPE}")
    statement = parse_statement(envelope.payload)
    predicate = statement["predicate"]
    of_action = statement["predicateType"] == PREDICATE_TYPE
    if of_action:
        check_members(predicate)
        if not ids.is_id(ids.ACTION, predicate["actionId"]):
            raise ValueError("predicate.actionId is not an id")
    else:
        check_event_members(predicate, TENANT_MEMBERS[statement["predicateType"]])
        # Or what reads an event by its type would look for a member that is not there.
        of_lattice = statement["predicateType"] == LATTICE_PREDICATE_TYPE
        if of_lattice is not predicate["type"].startswith(LATTICE_TYPES):
            raise ValueError("predicate.type is not one of the predicateType")
    if not ids.is_id(ids.RECEIPT, predicate["receiptId"]):
        raise ValueError("predicate.receiptId is not an id")
    if not TENANT_ID.fullmatch(predicate["tenantId"]):
        raise ValueError("predicate.tenantId is not an id")
    sequence = predicate.get("sequence")
    if not isinstance(sequence, int) or isinstance(sequence, bool) or sequence < 1:
        raise ValueError("predicate.sequence is not a positive integer")
    if (sequence == 1) != (predicate["previousReceiptDigest"] == ""):
        raise ValueError("only the first receipt of a chain has no previousReceiptDigest")
    subject = "actionId" if of_action else "tenantId"
    if statement["subject"][0].get("name") != predicate[subject]:
        raise ValueError(f"subject does not name predicate.{subject}")
    return Receipt(
        receipt_id=predicate["receiptId"],
        tenant_id=predicate["tenantId"],
        action_id=predicate["actionId"] if of_action else NO_ACTION,
        type=predicate["type"],
        sequence=sequence,
        previous_receipt_digest=predicate["previousReceiptDigest"],
        recorded_at=parse_time(predicate["recordedAt"]),
        envelope=envelope,
    )


def parse_statement(payload: bytes) -> dict[str, Any]:
    """An in-toto Statement v1 with our predicate, in canonical form.

    Raises:
        ValueError: anything else.
    """
    try:
        statement = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"payload is not JSON: {error}") from error
    if not isinstance(statement, dict):
        raise ValueError("payload is not a JSON object")
    if canonical_json(statement) != payload:
        raise ValueError("payload is not canonical JSON (RFC 8785)")
    if not is_restricted(statement):
        raise ValueError("payload has a member name beyond ASCII or a number that is no integer")
    if statement.get("_type") != STATEMENT_TYPE:
        raise ValueError(f"_type is not {STATEMENT_TYPE}")
    # A tuple: a stranger's list or object cannot be looked up in a set.
    if statement.get("predicateType") not in (PREDICATE_TYPE, *TENANT_MEMBERS):
        types = " nor ".join((PREDICATE_TYPE, *TENANT_MEMBERS))
        raise ValueError(f"predicateType is neither {types}")
    if not isinstance(statement.get("predicate"), dict):
        raise ValueError("predicate is not an object")
    subject = statement.get("subject")
    if not isinstance(subject, list) or len(subject) != 1 or not isinstance(subject[0], dict):
        raise ValueError("subject is not a list of one")
    return statement
