"""What a verifier finds out about the evidence in a receipt, from receipts alone."""

import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import orjson
import pytest

from oars_grpc.core.action_evidence import (
    SCORES_PER_UNIT,
    ActionEvidence,
    AnchorOutcome,
    EvidenceAssessment,
    EvidenceItem,
    listed_items,
)
from oars_grpc.core.canonical import sha256_hex, statement_json
from oars_grpc.core.envelope import Envelope, sign_payload
from oars_grpc.core.evidence_scoring import LatticeEvidence, assess_inline, assess_lattice
from oars_grpc.core.verification import (
    EVIDENCE,
    EVIDENCE_ITEMS,
    Check,
    CheckResult,
    Surroundings,
    Verification,
    verify_receipt,
)
from tests.support.factories import (
    append_receipt,
    make_action,
    make_request,
    make_signing_key,
    make_stored_key,
)

PASSED, FAILED, NOT_CHECKED = CheckResult
KEYS = (make_stored_key().trusted,)
DECISION = {"decision": {"effect": "deny"}}
Members = dict[str, Any]


def packed(*numbers: float) -> bytes:
    return struct.pack(f"<{len(numbers)}f", *numbers)


def items(count: int) -> tuple[EvidenceItem, ...]:
    return tuple(
        EvidenceItem(f"item-{at}", "text", sha256_hex(b"text"), packed(1, at), adverse=0)
        for at in range(count)
    )


def of_lattice() -> EvidenceAssessment:
    anchors = np.array([[1.0, 0.1], [1.0, 0.3]], dtype=np.float32)
    outcome = AnchorOutcome(1, sha256_hex(anchors[1].tobytes()), SCORES_PER_UNIT)
    given = ActionEvidence(packed(1, 0), lattice_id="lat_1", outcomes=(outcome,))
    return assess_lattice(given, LatticeEvidence("d" * 64, anchors, np.ones(2, np.float32)))


INLINE = assess_inline(ActionEvidence(packed(1, 0), items(3)))


def chain(assessment: EvidenceAssessment | None = INLINE) -> list[Envelope]:
    """Request, decision, and a decision anew, as services write them."""
    listed = {}
    if assessment is not None:
        assert assessment.detail is not None
        listed = listed_items(assessment.detail)
    action = make_action(make_request(evidence=assessment))
    found = []
    for type_, detail in (
        ("action.requested", listed),
        ("action.approved", DECISION),
        ("action.executing", DECISION),
    ):
        action, receipt = append_receipt(action, type_, detail)
        found.append(receipt.envelope)
    return found


def resigned(envelope: Envelope, change: Callable[[Members], object]) -> Envelope:
    """The receipt as it would be if its signer said something else."""
    statement = orjson.loads(envelope.payload)
    change(statement["predicate"])
    return sign_payload(statement_json(statement), make_signing_key())


def with_own_digest(change: Callable[[Members], object]) -> Callable[[Members], object]:
    """Change the statement, and its digest with it."""

    def changed(predicate: Members) -> None:
        evidence = predicate["evidence"]
        change(evidence)
        del evidence["statementDigest"]
        evidence["statementDigest"] = sha256_hex(statement_json(evidence))

    return changed


def verify(envelope: Envelope, first: Envelope | None = None) -> Verification:
    return verify_receipt(envelope, KEYS, Surroundings(first=first))


def checks(found: Verification) -> dict[str, CheckResult]:
    return {check.name: check.result for check in found.checks if check.name.startswith("evidence")}


def check(found: Verification, name: str) -> Check:
    return next(check for check in found.checks if check.name == name)


@pytest.mark.parametrize("assessment", [INLINE, of_lattice()], ids=["inline", "lattice"])
def test_statement_and_items_are_checked_where_the_chain_begins(
    assessment: EvidenceAssessment,
) -> None:
    first, second, third = chain(assessment)
    assert checks(verify(first)) == {}
    for envelope in (second, third):
        found = verify(envelope, first)
        assert checks(found) == {EVIDENCE: PASSED, EVIDENCE_ITEMS: PASSED}
        assert found.valid
    # Beside the one before it, and beside the whole chain, the same.
    for beside in (Surroundings(previous=first), Surroundings(chain=[first])):
        found = verify_receipt(second, KEYS, beside)
        assert checks(found) == {EVIDENCE: PASSED, EVIDENCE_ITEMS: PASSED}


def test_items_that_were_not_supplied_are_told_and_never_counted_as_checked() -> None:
    first, second, third = chain()
    found = verify_receipt(third, KEYS, Surroundings(previous=second))
    assert checks(found) == {EVIDENCE: PASSED, EVIDENCE_ITEMS: NOT_CHECKED}
    assert found.valid
    assert "was not supplied" in check(found, EVIDENCE_ITEMS).detail
    of_another = verify(third, chain()[0])
    assert checks(of_another)[EVIDENCE_ITEMS] is NOT_CHECKED
    assert checks(verify(third, replace(first, payload=b"")))[EVIDENCE_ITEMS] is NOT_CHECKED


def test_items_that_did_not_fit_are_told() -> None:
    first, second, _ = chain(assess_inline(ActionEvidence(packed(1, 0), items(60))))
    found = verify(second, first)
    assert checks(found) == {EVIDENCE: PASSED, EVIDENCE_ITEMS: NOT_CHECKED}
    omitted = orjson.loads(first.payload)["predicate"]["omittedEvidenceItems"]
    assert f"leaves out {omitted} of the items" in check(found, EVIDENCE_ITEMS).detail


@pytest.mark.parametrize(
    "change",
    [
        lambda told: told["scores"].update(support=999_999),
        lambda told: told.update(digest="0" * 64),
        lambda told: told["against"].append({"id": "made up"}),
        lambda told: told.update(more="member"),
        lambda told: told.update(statementDigest="0" * 64),
        lambda told: told.pop("statementDigest"),
        lambda told: told["risk"].update(high=0),
    ],
)
def test_a_statement_that_does_not_have_its_digest_is_not_valid(
    change: Callable[[Members], object],
) -> None:
    first, second, _ = chain()
    found = verify(resigned(second, lambda predicate: change(predicate["evidence"])), first)
    assert not found.valid
    assert checks(found) == {EVIDENCE: FAILED, EVIDENCE_ITEMS: NOT_CHECKED}
    assert "statementDigest is not the digest" in found.errors[0]


@pytest.mark.parametrize("evidence", ["text", [], 7])
def test_evidence_of_another_type_is_answered_and_never_raised(evidence: object) -> None:
    found = verify(resigned(chain()[1], lambda predicate: predicate.update(evidence=evidence)))
    assert checks(found)[EVIDENCE] is FAILED


@pytest.mark.parametrize(
    "change",
    [
        lambda told: told.update(digest="0" * 64),
        lambda told: told.update(actionEmbeddingDigest="0" * 64),
        lambda told: told.update(source="lat_2"),
        lambda told: told.update(items=told["items"] + 1),
    ],
)
def test_a_statement_of_other_items_than_were_listed_is_not_valid(
    change: Callable[[Members], object],
) -> None:
    first, second, _ = chain()
    found = verify(resigned(second, with_own_digest(change)), first)
    assert not found.valid
    assert checks(found) == {EVIDENCE: PASSED, EVIDENCE_ITEMS: FAILED}


@pytest.mark.parametrize("assessment", [INLINE, of_lattice()], ids=["inline", "lattice"])
def test_a_list_that_says_something_else_is_not_valid(assessment: EvidenceAssessment) -> None:
    first, second, _ = chain(assessment)

    def better(predicate: Members) -> None:
        predicate["evidenceItems"][0]["adverse"] = 1

    assert checks(verify(second, resigned(first, better)))[EVIDENCE_ITEMS] is FAILED
    nothing = resigned(first, lambda predicate: predicate.pop("evidenceItems"))
    assert checks(verify(second, nothing))[EVIDENCE_ITEMS] is FAILED


def test_a_decision_that_leaves_the_evidence_out_is_not_valid() -> None:
    first, second, _ = chain()
    silent = resigned(second, lambda predicate: predicate.pop("evidence"))
    assert checks(verify(silent)) == {}  # alone, it cannot be told
    found = verify(silent, first)
    assert checks(found) == {EVIDENCE: FAILED, EVIDENCE_ITEMS: NOT_CHECKED}
    assert not found.valid


def test_receipts_without_evidence_have_no_such_checks() -> None:
    first, second, _ = chain(None)
    assert checks(verify(second, first)) == {}


def test_what_the_first_definition_scored_of_a_lattice_holds_without_outcomes() -> None:
    anchors = np.array([[1.0, 0.1]], dtype=np.float32)
    given = ActionEvidence(packed(1, 0), lattice_id="lat_1")
    found = assess_lattice(given, LatticeEvidence("d" * 64, anchors, np.ones(1, np.float32)))
    own = found.action_embedding_digest
    scored = {"latticeId": "lat_1", "latticeDigest": "d" * 64, "actionEmbeddingDigest": own}
    earlier = replace(found, definition=1, digest=sha256_hex(statement_json(scored)))
    first, second, _ = chain(earlier)
    assert checks(verify(second, first)) == {EVIDENCE: PASSED, EVIDENCE_ITEMS: PASSED}
