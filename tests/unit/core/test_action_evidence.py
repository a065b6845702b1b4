"""Evidence of actions as it is digested, scored, stated and kept."""

import hashlib
import json
import struct
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from oars_grpc.core.action_evidence import (
    INLINE,
    SCORES_PER_UNIT,
    ActionEvidence,
    AnchorOutcome,
    EvidenceAssessment,
    EvidenceDetail,
    EvidenceItem,
    assessment_from_json,
    listed_items,
)
from oars_grpc.core.canonical import is_restricted, sha256_hex
from oars_grpc.core.decision import PolicyReference, decide
from oars_grpc.core.display import approval_display
from oars_grpc.core.evidence_limits import evidence_limits
from oars_grpc.core.evidence_scoring import (
    LatticeEvidence,
    assess_inline,
    assess_lattice,
    embedding_fault,
)
from oars_grpc.core.facts import FACT_TYPES
from oars_grpc.core.identity import Role
from oars_grpc.core.policy import Effect, Rule
from oars_grpc.core.receipt import MAXIMUM_PAYLOAD_BYTES
from oars_grpc.core.risk import RiskConfig
from oars_grpc.core.stored import StoredAction
from oars_grpc.errors import FailedPrecondition
from oars_grpc.storage.ledger_codecs import action_of, action_row, evidence_detail
from tests.support.factories import (
    NOW,
    append_receipt,
    make_action,
    make_decision,
    make_request,
)
from tests.support.replays import policy_of


def packed(*numbers: float) -> bytes:
    return struct.pack(f"<{len(numbers)}f", *numbers)


def item(name: str, *numbers: float, **changes: Any) -> EvidenceItem:
    text = changes.pop("text", f"Item {name}")
    return EvidenceItem(name, text, sha256_hex(text.encode()), packed(*numbers), **changes)


GOOD = item("good", 1, 0.1, 0, adverse=0)
BAD = item("bad", 1, 0, 0.2, trust=750_000, adverse=SCORES_PER_UNIT)
UNKNOWN = item("unknown", 0, 1, 0)
EVIDENCE = ActionEvidence(packed(1, 0, 0), (GOOD, BAD, UNKNOWN))


def test_scores_are_millionths_and_facts_their_quotients() -> None:
    found = assess_inline(EVIDENCE)
    assert found.source == INLINE
    assert (found.items, found.used, found.dimension) == (3, 3, 3)
    facts = found.facts()
    assert {f"evidence.{name}" for name in facts} == {
        name for name in FACT_TYPES if name.startswith("evidence.")
    }
    assert facts["support"] == found.support / 1_000_000
    assert found.risk is not None
    assert facts["risk_low"] < facts["risk"] < facts["risk_high"]
    unknown = assess_inline(replace(EVIDENCE, items=(UNKNOWN,)))
    assert unknown.risk is None
    assert set(unknown.facts()) == {"support", "coherence", "conflict", "novelty"}


@given(st.permutations([GOOD, BAD, UNKNOWN, *(item(f"i{n}", 1, n, -n) for n in range(6))]))
@settings(max_examples=30, deadline=None)
def test_the_order_of_the_items_means_nothing(items: list[EvidenceItem]) -> None:
    again = assess_inline(replace(EVIDENCE, items=tuple(items)))
    assert again == assess_inline(replace(EVIDENCE, items=tuple(reversed(items))))


@pytest.mark.parametrize(
    "changed",
    [
        replace(EVIDENCE, action_embedding=packed(1, 0, 0.001)),
        replace(EVIDENCE, items=(GOOD, BAD)),
        replace(EVIDENCE, items=(GOOD, BAD, replace(UNKNOWN, item_id="other"))),
        replace(EVIDENCE, items=(GOOD, BAD, replace(UNKNOWN, content_digest="0" * 64))),
        replace(EVIDENCE, items=(GOOD, BAD, replace(UNKNOWN, embedding=packed(0, 1, 1e-6)))),
        replace(EVIDENCE, items=(GOOD, BAD, replace(UNKNOWN, trust=999_999))),
        replace(EVIDENCE, items=(GOOD, BAD, replace(UNKNOWN, adverse=0))),
    ],
)
def test_whatever_is_scored_is_under_the_digest(changed: ActionEvidence) -> None:
    once, other = assess_inline(EVIDENCE), assess_inline(changed)
    assert once.digest != other.digest
    request = make_request(evidence=once)
    digest = sha256_hex(request.input_bytes())
    assert request.digest(digest) != replace(request, evidence=other).digest(digest)
    assert request.digest(digest) != replace(request, evidence=None).digest(digest)


def test_the_digest_can_be_derived_by_anyone() -> None:
    listed = [each.to_json() for each in (BAD, GOOD, UNKNOWN)]
    own = hashlib.sha256(EVIDENCE.action_embedding).hexdigest()
    whole = rfc8785.dumps({"items": listed, "actionEmbeddingDigest": own})
    assert assess_inline(EVIDENCE).digest == hashlib.sha256(whole).hexdigest()


def test_the_statement_round_trips_and_is_under_its_own_digest() -> None:
    found = assess_inline(EVIDENCE)
    value = found.to_json()
    assert is_restricted(value)
    assert assessment_from_json(value) == replace(found, detail=None)
    assert found.detail is not None
    assert EvidenceDetail.from_bytes(found.detail.to_bytes()) == found.detail
    for name in ("digest", "items", "pValue", "source"):
        changed = {**value, name: "0" if isinstance(value[name], str) else value[name] + 1}
        with pytest.raises(ValueError, match="does not have its digest"):
            assessment_from_json(changed)
    # What was scored by other definitions is read as it was scored.
    later = replace(found, definition=3)
    assert assessment_from_json(later.to_json()) == replace(later, detail=None)
    # The first said nothing of calibration, for there was none.
    assert found.risk is not None
    first = replace(found, definition=1, risk=replace(found.risk, calibrated_by=None))
    assert "calibratedBy" not in first.to_json()["risk"]
    assert assessment_from_json(first.to_json()) == replace(first, detail=None)
    with pytest.raises(KeyError):
        assessment_from_json({"coherence": "0.5"})


def test_texts_are_kept_of_what_speaks_against_only() -> None:
    found = assess_inline(EVIDENCE)
    assert found.detail is not None
    assert found.detail.texts == {"bad": "Item bad"}
    assert [each.item_id for each in found.against] == ["bad"]
    assert "Item" not in json.dumps(found.to_json())
    assert found.shown()["against"][0]["text"] == "Item bad"
    with pytest.raises(ValueError, match="not read"):
        replace(found, detail=None).shown()


def test_what_is_stored_of_an_action_has_the_scores_and_its_body_the_detail() -> None:
    request = make_request(evidence=assess_inline(EVIDENCE))
    action = make_action(request)
    stored = StoredAction(action, make_decision(request))
    row = action_row(stored)
    assert b"Item" not in row["body"]
    read = action_of(row).action.request.evidence
    assert request.evidence is not None
    assert read == replace(request.evidence, detail=None)
    assert EvidenceDetail.from_bytes(evidence_detail(request)) == request.evidence.detail
    assert evidence_detail(make_request()) == b""
    with pytest.raises(ValueError, match="not read"):
        evidence_detail(replace(request, evidence=read))


def test_policy_sees_the_evidence_of_the_request() -> None:
    request = make_request(evidence=assess_inline(EVIDENCE))
    assert request.evidence is not None
    asks = policy_of(
        Rule("least", Effect.ALLOW, condition=f"evidence.support >= {request.evidence.support}e-6"),
        Rule("more", Effect.DENY, condition=f"evidence.support > {request.evidence.support}e-6"),
    )
    decision = decide(request, PolicyReference("", 0, asks.digest), asks, RiskConfig(), NOW)
    assert decision.effect is Effect.ALLOW
    bare = replace(request, evidence=None)
    decision = decide(bare, PolicyReference("", 0, asks.digest), asks, RiskConfig(), NOW)
    assert decision.effect is Effect.DENY
    assert decision.evaluation.missing_facts == ("evidence.support",)


def test_an_approver_is_shown_the_evidence_and_without_any_nothing_of_it() -> None:
    request = make_request(evidence=assess_inline(EVIDENCE))
    shown = json.loads(approval_display(make_action(request), make_decision(request)))
    assert shown["evidence"]["against"][0]["text"] == "Item bad"
    bare = make_request()
    assert "evidence" not in json.loads(approval_display(make_action(bare), make_decision(bare)))


def largest() -> EvidenceAssessment:
    items = tuple(
        item(f"{number:0>128}", 1, number, text="\U0001f600" * 2048, adverse=SCORES_PER_UNIT)
        for number in range(256)
    )
    return assess_inline(ActionEvidence(packed(1, 0), items))


def test_the_most_evidence_fits_the_receipts() -> None:
    found = largest()
    assert found.detail is not None
    listed = listed_items(found.detail)
    assert len(listed["evidenceItems"]) + listed["omittedEvidenceItems"] == 256
    action, requested = append_receipt(
        make_action(make_request(evidence=found)), "action.requested", listed
    )
    decided = append_receipt(action, "action.denied", {"decision": {"effect": "deny"}})[1]
    plain = append_receipt(make_action(), "action.denied", {"decision": {"effect": "deny"}})[1]
    assert len(requested.envelope.payload) <= 12_000
    more = len(decided.envelope.payload) - len(plain.envelope.payload)
    assert more <= 4_096  # `test_receipt_size` keeps room for so much
    assert MAXIMUM_PAYLOAD_BYTES == 65_000


def test_people_may_send_more_than_programs() -> None:
    agent, admin = evidence_limits(Role.AGENT), evidence_limits(Role.ADMIN)
    assert (agent.items, agent.dimension, agent.outcomes) == (128, 2048, 1024)
    assert agent == evidence_limits(Role.GATEWAY)
    assert admin.items > agent.items
    assert admin.bytes > agent.bytes
    assert admin.outcomes > agent.outcomes


@pytest.mark.parametrize(
    ("numbers", "fault"),
    [
        ((1, 2), ""),
        ((0, -0.0), "all zeros"),
        ((1, float("nan")), "number 1 is nan"),
        ((float("-inf"), 1), "number 0 is -inf"),
        ((1, 2e15), "number 1 is"),
    ],
)
def test_embeddings_are_finite_and_have_a_direction(numbers: tuple[float, ...], fault: str) -> None:
    assert (fault in embedding_fault(packed(*numbers))) == bool(fault) or not fault
    assert bool(embedding_fault(packed(*numbers))) == bool(fault)


def lattice(*rows: tuple[float, ...], gates: tuple[float, ...] = ()) -> LatticeEvidence:
    anchors = np.array(rows, dtype=np.float32)
    return LatticeEvidence(
        "d" * 64, anchors, np.array(gates or [1.0] * len(rows), dtype=np.float32)
    )


def test_a_lattice_is_scored_as_its_anchors_would_be() -> None:
    rows = ((1.0, 0.1, 0.0), (1.0, 0.0, 0.2), (0.0, 1.0, 0.0))
    asked = ActionEvidence(packed(1, 0, 0), lattice_id="lat_1")
    found = assess_lattice(asked, lattice(*rows, gates=(1, 0.5, 7)))
    inline = assess_inline(
        ActionEvidence(
            packed(1, 0, 0),
            tuple(
                item(str(at), *row, trust=trust)
                for at, (row, trust) in enumerate(zip(rows, (10**6, 5 * 10**5, 10**6), strict=True))
            ),
        )
    )
    assert (found.source, found.lattice_digest) == ("lat_1", "d" * 64)
    assert found.facts() == inline.facts()
    other = replace(lattice(*rows, gates=(1, 0.5, 7)), digest="e" * 64)
    assert assess_lattice(asked, other).digest != found.digest


def test_a_lattice_of_another_dimension_is_refused() -> None:
    asked = ActionEvidence(packed(1, 0), lattice_id="lat_1")
    with pytest.raises(FailedPrecondition) as refused:
        assess_lattice(asked, lattice((1.0, 0.0, 0.0)))
    assert refused.value.reason == "EVIDENCE_DIMENSION"


ROWS = ((1.0, 0.1, 0.0), (1.0, 0.0, 0.2), (0.0, 1.0, 0.0))


def outcome(index: int, adverse: int) -> AnchorOutcome:
    return AnchorOutcome(index, sha256_hex(packed(*ROWS[index])), adverse)


def test_outcomes_of_anchors_are_scored_as_those_of_items_would_be() -> None:
    known = (outcome(1, SCORES_PER_UNIT), outcome(0, 0))
    asked = ActionEvidence(packed(1, 0, 0), lattice_id="lat_1", outcomes=known)
    found = assess_lattice(asked, lattice(*ROWS, gates=(1, 0.5, 1)))
    adverse = (0, SCORES_PER_UNIT, None)
    inline = assess_inline(
        ActionEvidence(
            packed(1, 0, 0),
            tuple(
                item(str(at), *row, trust=(10**6, 5 * 10**5, 10**6)[at], adverse=adverse[at])
                for at, row in enumerate(ROWS)
            ),
        )
    )
    assert found.risk == inline.risk
    assert found.risk is not None
    assert found.facts() == inline.facts()
    assert [(each.item_id, each.reason) for each in found.against] == [("1", "adverse")]
    assert found.detail is not None
    listed = listed_items(found.detail)["evidenceItems"]
    assert listed == [known[1].to_json(), known[0].to_json()]  # by index
    without = assess_lattice(replace(asked, outcomes=()), lattice(*ROWS, gates=(1, 0.5, 1)))
    assert without.risk is None
    assert without.digest != found.digest


@pytest.mark.parametrize(
    "changed",
    [(outcome(0, 1),), (outcome(1, 0),), (), (outcome(0, 0), outcome(1, 0))],
)
def test_outcomes_of_anchors_are_under_the_digest(changed: tuple[AnchorOutcome, ...]) -> None:
    asked = ActionEvidence(packed(1, 0, 0), lattice_id="lat_1", outcomes=(outcome(0, 0),))
    other = assess_lattice(replace(asked, outcomes=changed), lattice(*ROWS))
    found = assess_lattice(asked, lattice(*ROWS))
    assert found.digest != other.digest
    listed = [{"index": 0, "digest": sha256_hex(packed(*ROWS[0])), "adverse": 0}]
    whole: dict[str, Any] = {
        "latticeId": "lat_1",
        "latticeDigest": "d" * 64,
        "outcomes": listed,
        "actionEmbeddingDigest": hashlib.sha256(asked.action_embedding).hexdigest(),
    }
    assert found.digest == hashlib.sha256(rfc8785.dumps(whole)).hexdigest()


@pytest.mark.parametrize(
    "wrong",
    [
        replace(outcome(2, 0), index=3),
        replace(outcome(2, 0), index=2**31 - 1),
        # What stood there before an anchor was removed.
        replace(outcome(2, 0), index=1),
        replace(outcome(2, 0), content_digest="0" * 64),
    ],
)
def test_an_outcome_of_another_anchor_than_is_meant_is_refused(wrong: AnchorOutcome) -> None:
    asked = ActionEvidence(packed(1, 0, 0), lattice_id="lat_1", outcomes=(outcome(0, 0), wrong))
    with pytest.raises(FailedPrecondition, match=f"anchor {wrong.index} of") as refused:
        assess_lattice(asked, lattice(*ROWS))
    assert refused.value.reason == "EVIDENCE_ANCHOR"
