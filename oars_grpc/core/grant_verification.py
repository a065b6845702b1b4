"""Verification of what approvers signed: from a receipt alone, with no server.

The receipt keeps the grant, its signature and the key; that they belong together and say what the
receipt says needs nothing else. Whose the key is, is another question, and the answer tells where
it was taken from: keys that the verifier brings along, the registration among the receipts that are
verified together, or else nothing but the receipt's own word.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import orjson

from oars_grpc.core.approver_key import parse_der_key
from oars_grpc.core.canonical import decode_base64, statement_json
from oars_grpc.core.envelope import Envelope, signature_verifies
from oars_grpc.core.event import APPROVER_KEY_REGISTERED, APPROVER_KEY_REVOKED
from oars_grpc.core.grant import GRANT_TYPE, parse_grant_envelope
from oars_grpc.core.keys import key_id_of
from oars_grpc.core.receipt import APPROVAL_DECIDED, NO_ACTION, Receipt

_MEMBERS = {"envelope", "keyId", "publicKey"}


class KeySource(StrEnum):
    """What says whose key it is that signed a grant."""

    SUPPLIED = "one of the approver keys supplied"
    REGISTERED = "registered for the approver in the log"
    RECEIPT = "on the word of the receipt itself"


@dataclass(frozen=True, slots=True)
class GrantFinding:
    """What came of the grant in a receipt; it holds where there are no problems."""

    problems: tuple[str, ...]
    key_id: str = ""
    source: KeySource = KeySource.RECEIPT

    @property
    def detail(self) -> str:
        """The problems, or whose signature it is and who says so."""
        return "; ".join(self.problems) or f"by approver key {self.key_id}, {self.source.value}"


@dataclass(frozen=True, slots=True)
class Registration:
    """A key as the events of a log tell of it."""

    subject: str
    public_key: str
    revoked: bool = False


@dataclass(frozen=True, slots=True)
class ApproverTrust:
    """What a verifier knows about approvers' keys.

    Args:
        pinned: keys (DER SubjectPublicKeyInfo) that alone are accepted; None accepts any.
        registered: by tenant and key id, what `note_registration` has found so far.
        in_order: the receipts come in the order of the log, so that a key that is revoked by now
            was revoked before what comes next was decided.
    """

    pinned: frozenset[bytes] | None = None
    registered: dict[tuple[str, str], Registration] = field(default_factory=dict)
    in_order: bool = False


def note_registration(trust: ApproverTrust, receipt: Receipt) -> None:
    """Learn of a key from an event; the event's own signature must have been verified."""
    if receipt.action_id != NO_ACTION:
        return
    if receipt.type not in {APPROVER_KEY_REGISTERED, APPROVER_KEY_REVOKED}:
        return
    event = orjson.loads(receipt.envelope.payload)["predicate"]["event"]
    subject, key_id, public_key = (event.get(n) for n in ("subject", "keyId", "publicKey"))
    if not (isinstance(subject, str) and isinstance(key_id, str) and isinstance(public_key, str)):
        return  # another program's event of the same name: it registers nothing
    place = (receipt.tenant_id, key_id)
    revoked = receipt.type == APPROVER_KEY_REVOKED
    # An id is registered once; whichever event comes first, a revocation is not undone.
    known = trust.registered.get(place)
    revoked = revoked or (known is not None and known.revoked)
    trust.registered[place] = Registration(subject, public_key, revoked)


def judge_grant(receipt: Receipt, trust: ApproverTrust) -> GrantFinding | None:
    """What came of the grant in a receipt that was parsed; None where it carries none."""
    if receipt.type != APPROVAL_DECIDED:
        return None
    statement = orjson.loads(receipt.envelope.payload)
    approval = statement["predicate"].get("approval")
    grant = approval.get("grant") if isinstance(approval, dict) else None
    if grant is None:
        return None
    if not isinstance(grant, dict) or set(grant) != _MEMBERS:
        return GrantFinding((f"is not an object of {', '.join(sorted(_MEMBERS))}",))
    problems: list[str] = []
    envelope = _envelope(grant, problems)
    public_key = _public_key(grant, problems)
    if envelope is not None:
        problems += _differences(envelope.payload, _expected(statement))
    if envelope is not None and public_key is not None:
        problems += _signature_problems(envelope, public_key)
    source = KeySource.RECEIPT
    key_id = "" if public_key is None else key_id_of(public_key)
    if public_key is not None:
        source = _source(receipt, approval, grant["publicKey"], public_key, trust, problems)
    return GrantFinding(tuple(problems), key_id, source)


def _envelope(grant: Mapping[str, Any], problems: list[str]) -> Envelope | None:
    if not isinstance(grant["envelope"], dict):
        problems.append("envelope: is not a JSON object")
        return None
    try:
        return parse_grant_envelope(grant["envelope"])
    except ValueError as error:
        problems.append(f"envelope: {error}")
        return None


def _public_key(grant: Mapping[str, Any], problems: list[str]) -> bytes | None:
    if not isinstance(grant["publicKey"], str):
        problems.append("publicKey: is not text")
        return None
    try:
        public_key = parse_der_key(decode_base64(grant["publicKey"]))
    except ValueError as error:
        problems.append(f"publicKey: {error}")
        return None
    if grant["keyId"] != key_id_of(public_key):
        problems.append("keyId is not that of publicKey")
    return public_key


def _expected(statement: Mapping[str, Any]) -> dict[str, Any]:
    """What the grant must state, as far as the receipt says it."""
    predicate, (subject,) = statement["predicate"], statement["subject"]
    approval = predicate["approval"]
    approver, policy = approval.get("approver"), predicate.get("policy")
    digest = subject.get("digest")
    return {
        "type": GRANT_TYPE,
        "tenantId": predicate["tenantId"],
        "approvalId": approval.get("approvalId"),
        "actionId": predicate.get("actionId"),
        "actionDigest": digest.get("sha256") if isinstance(digest, dict) else None,
        "policyDigest": approval.get(
            "policyDigest", policy.get("digest") if isinstance(policy, dict) else None
        ),
        "displayDigest": approval.get("displayDigest"),
        "approver": approver.get("subject") if isinstance(approver, dict) else None,
        "verdict": approval.get("verdict"),
        "stage": approval.get("stage"),
    }


def _differences(payload: bytes, expected: Mapping[str, Any]) -> list[str]:
    """Every member in which the grant says something else than the receipt."""
    try:
        stated = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        return [f"the grant is not JSON: {error}"]
    if not isinstance(stated, dict):
        return ["the grant is not a JSON object"]
    problems = []
    for name, value in expected.items():
        if type(value) is not (int if name == "stage" else str):
            problems.append(f"the receipt does not say {name}")
        elif name not in stated:
            problems.append(f"the grant does not say {name}")
        elif type(stated[name]) is not type(value) or stated[name] != value:
            problems.append(f"the grant is about another {name} than the receipt")
    if set(stated) - set(expected):
        problems.append("the grant has other members than those of a grant")
    if not problems and statement_json(stated) != payload:
        problems.append("the grant is not canonical JSON (RFC 8785)")
    return problems


def _signature_problems(envelope: Envelope, public_key: bytes) -> list[str]:
    (signature,) = envelope.signatures
    key_id = key_id_of(public_key)
    problems = []
    if signature.keyid != key_id:
        problems.append(f"the envelope names key {signature.keyid}, not {key_id}")
    if not signature_verifies(envelope, signature, public_key):
        problems.append(f"the signature is not one of key {key_id} over this grant")
    return problems


def _source(
    receipt: Receipt,
    approval: Mapping[str, Any],
    encoded: str,
    public_key: bytes,
    trust: ApproverTrust,
    problems: list[str],
) -> KeySource:
    """Where it is known from whose key it is; what is known against it is a problem."""
    key_id = key_id_of(public_key)
    found = trust.registered.get((receipt.tenant_id, key_id))
    if found is not None:
        approver = approval.get("approver")
        subject = approver.get("subject") if isinstance(approver, dict) else None
        if (found.subject, found.public_key) != (subject, encoded):
            problems.append(f"key {key_id} is registered for {found.subject!r}")
        if found.revoked and trust.in_order:
            problems.append(f"key {key_id} was revoked before")
    if trust.pinned is not None:
        if public_key not in trust.pinned:
            problems.append(f"key {key_id} is none of the approver keys supplied")
        return KeySource.SUPPLIED
    return KeySource.RECEIPT if found is None else KeySource.REGISTERED
