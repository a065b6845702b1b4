"""Verification of what a receipt says of its action's evidence: from receipts alone.

A receipt with a decision embeds the statement of how the evidence was scored, and the digest of
that statement; the first receipt of the chain lists what was scored. That the digests are those of
what is stated needs nothing else. That the scores follow from the evidence does: the embeddings,
which no receipt holds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from oars_grpc.core.action_evidence import INLINE
from oars_grpc.core.canonical import sha256_hex, statement_json
from oars_grpc.core.envelope import Envelope
from oars_grpc.core.receipt import NO_ACTION, Receipt, parse_receipt

_LISTED, _OMITTED = "evidenceItems", "omittedEvidenceItems"

# By this definition no outcomes could come with a lattice.
_WITHOUT_OUTCOMES = 1


@dataclass(frozen=True, slots=True)
class EvidenceFinding:
    """What came of the evidence in a receipt.

    `problem` is of the statement, `items_problem` of what it was made of; `unchecked` says why the
    latter was not looked at, where it was not.
    """

    problem: str = ""
    items_problem: str = ""
    unchecked: str = ""


def judge_evidence(receipt: Receipt, first: Envelope | None) -> EvidenceFinding | None:
    """What came of the evidence in a receipt that was parsed; None where it tells of none.

    Args:
        receipt: the receipt.
        first: the first one of its chain, which lists the items; its own signature is not judged.
    """
    if receipt.action_id == NO_ACTION:
        return None
    # It was parsed: that it is in canonical form need not be found out again.
    predicate = orjson.loads(receipt.envelope.payload)["predicate"]
    if "decision" not in predicate and "evidence" not in predicate:
        return None
    evidence = predicate.get("evidence")
    listing = _listing(receipt, first)
    if evidence is None:
        if listing is not None and _LISTED in listing:
            problem = "the action came with evidence, and the decision does not say how it stood"
            return EvidenceFinding(problem, unchecked="the receipt has no statement of it")
        return None
    problem = _statement_problem(evidence)
    if problem:
        return EvidenceFinding(problem, unchecked="the statement of it does not hold")
    if listing is None:
        unchecked = "the first receipt of the chain, which lists the items, was not supplied"
        return EvidenceFinding(unchecked=unchecked)
    omitted = listing.get(_OMITTED)
    if isinstance(omitted, int) and omitted > 0:
        return EvidenceFinding(
            unchecked=f"the first receipt of the chain leaves out {omitted} of the items"
        )
    return EvidenceFinding(items_problem=_items_problem(evidence, listing))


def _statement_problem(evidence: object) -> str:
    if not isinstance(evidence, dict):
        return "evidence is not an object"
    statement = {name: value for name, value in evidence.items() if name != "statementDigest"}
    if evidence.get("statementDigest") != sha256_hex(statement_json(statement)):
        return "statementDigest is not the digest of the statement beside it"
    return ""


def _items_problem(evidence: Mapping[str, Any], listing: Mapping[str, Any]) -> str:
    """Why the evidence digest is not that of what the chain's first receipt lists."""
    listed = listing.get(_LISTED)
    if not isinstance(listed, list):
        return "the first receipt of the chain lists no items"
    source = evidence.get("source")
    scored: dict[str, Any]
    if source == INLINE:
        scored = {"items": listed}
    else:
        scored = {"latticeId": source, "latticeDigest": evidence.get("latticeDigest")}
        if evidence.get("definition") != _WITHOUT_OUTCOMES:
            scored["outcomes"] = listed
    whole = {**scored, "actionEmbeddingDigest": evidence.get("actionEmbeddingDigest")}
    if evidence.get("digest") != sha256_hex(statement_json(whole)):
        return "digest is not that of the items which the first receipt of the chain lists"
    if source == INLINE and evidence.get("items") != len(listed):
        return f"items is not {len(listed)}, as many as the first receipt of the chain lists"
    return ""


def _listing(receipt: Receipt, first: Envelope | None) -> Mapping[str, Any] | None:
    """The predicate of the chain's first receipt; None where that was not supplied."""
    if first is None:
        return None
    try:
        found = parse_receipt(first)
    except ValueError:
        return None
    place = (found.tenant_id, found.action_id, found.sequence)
    if place != (receipt.tenant_id, receipt.action_id, 1):
        return None
    predicate: Mapping[str, Any] = orjson.loads(first.payload)["predicate"]
    return predicate
