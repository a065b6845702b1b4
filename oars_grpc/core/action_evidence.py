"""The evidence that an action is submitted with, and what is kept of how it was scored.

Scores are whole millionths: what policy sees, what receipts state and what a replay reads are one
number. `core/evidence_scoring.py` makes them; `proto/README.md` defines them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from oars_grpc.core.canonical import sha256_hex, statement_json

SCORES_PER_UNIT = 1_000_000
# Which definitions the scores are by: raised with every change that may change a number.
DEFINITION = 2
MAXIMUM_ITEM_ID = 128
MAXIMUM_ITEM_TEXT = 2_048
INLINE = "inline"
# What a receipt repeats of the list of items; the digest stands for all of it.
_ITEMS_BYTES = 8_192


@dataclass(frozen=True, slots=True)
class EvidenceItem:
    """One thing that the action stands on.

    `content_digest` is SHA-256 (hex) of the text, or of what lies elsewhere. `embedding` is packed
    little-endian float32. Trust and `adverse` are millionths; `adverse` None means that no outcome
    is known, 0 a good one, a whole unit a bad one.
    """

    item_id: str
    text: str
    content_digest: str
    embedding: bytes
    trust: int = SCORES_PER_UNIT
    adverse: int | None = None

    def to_json(self) -> dict[str, Any]:
        """What stands for the item: digests, never the text."""
        return {
            "id": self.item_id,
            "digest": self.content_digest,
            "embeddingDigest": sha256_hex(self.embedding),
            "trust": self.trust,
            "adverse": self.adverse,
        }


@dataclass(frozen=True, slots=True)
class AnchorOutcome:
    """What the caller knows of an anchor of a stored lattice; `adverse` in millionths.

    `content_digest` is SHA-256 (hex) of the anchor: an index alone would come to mean another one
    when anchors are removed.
    """

    index: int
    content_digest: str
    adverse: int

    def to_json(self) -> dict[str, Any]:
        """Restricted canonical JSON."""
        return {"index": self.index, "digest": self.content_digest, "adverse": self.adverse}


@dataclass(frozen=True, slots=True)
class ActionEvidence:
    """What was submitted: items or the id of a stored lattice, and the action's own embedding.

    A lattice stores no outcomes: those that the caller knows come beside its id.
    """

    action_embedding: bytes
    items: tuple[EvidenceItem, ...] = ()
    lattice_id: str = ""
    outcomes: tuple[AnchorOutcome, ...] = ()

    def outcomes_in_order(self) -> tuple[AnchorOutcome, ...]:
        """The outcomes by index."""
        return tuple(sorted(self.outcomes, key=lambda outcome: outcome.index))

    def in_order(self) -> tuple[EvidenceItem, ...]:
        """The items by id: the order in which they were sent means nothing."""
        return tuple(sorted(self.items, key=lambda item: item.item_id))


@dataclass(frozen=True, slots=True)
class AgainstItem:
    """An item that speaks against the action: why, and how heavily in millionths."""

    item_id: str
    content_digest: str
    reason: str
    weight: int

    def to_json(self) -> dict[str, Any]:
        """Restricted canonical JSON."""
        return {
            "id": self.item_id,
            "digest": self.content_digest,
            "reason": self.reason,
            "weight": self.weight,
        }


@dataclass(frozen=True, slots=True)
class EvidenceRisk:
    """The share of bad outcomes to expect and its 90 % interval, in millionths.

    `observations`, too, is in millionths: what the estimate rests on besides its prior.
    `outcomes` counts the items whose outcome is known, `calibrated_by` those of them that the
    estimate was calibrated by; None of the first definition, which did not calibrate.
    """

    estimate: int
    low: int
    high: int
    disagreement: int
    observations: int
    outcomes: int
    calibrated_by: int | None

    def to_json(self) -> dict[str, Any]:
        """Restricted canonical JSON."""
        calibrated = {} if self.calibrated_by is None else {"calibratedBy": self.calibrated_by}
        return {
            "estimate": self.estimate,
            "low": self.low,
            "high": self.high,
            "disagreement": self.disagreement,
            "observations": self.observations,
            "outcomes": self.outcomes,
            **calibrated,
        }


@dataclass(frozen=True, slots=True)
class EvidenceDetail:
    """What retention may erase: the list of items, and the texts of those that speak against.

    Of a lattice the list is of the outcomes that came with it.
    """

    items: tuple[Mapping[str, Any], ...]
    texts: Mapping[str, str]

    def to_bytes(self) -> bytes:
        """How storage keeps it."""
        texts = [{"id": name, "text": text} for name, text in sorted(self.texts.items())]
        return statement_json({"items": list(self.items), "texts": texts})

    @classmethod
    def from_bytes(cls, raw: bytes) -> "EvidenceDetail":
        """The inverse of `to_bytes`."""
        value = orjson.loads(raw)
        return cls(tuple(value["items"]), {each["id"]: each["text"] for each in value["texts"]})


@dataclass(frozen=True, slots=True)
class EvidenceAssessment:
    """How the evidence of an action was scored; scores are millionths.

    `digest` stands for all that was scored. `source` is `inline` or the id of a lattice, whose
    digest then is `lattice_digest`. `detail` None means not read, as with the action's input.
    """

    digest: str
    source: str
    lattice_digest: str
    action_embedding_digest: str
    dimension: int
    items: int
    used: int
    support: int
    coherence: int
    conflict: int
    novelty: int
    p_value: int
    risk: EvidenceRisk | None = None
    against: tuple[AgainstItem, ...] = ()
    detail: EvidenceDetail | None = None
    definition: int = DEFINITION

    def facts(self) -> dict[str, float]:
        """The facts `evidence.*`, without the prefix; those of the risk where there is one."""
        found = {
            "coherence": self.coherence,
            "support": self.support,
            "conflict": self.conflict,
            "novelty": self.novelty,
        }
        if self.risk is not None:
            found["risk"] = self.risk.estimate
            found["risk_low"] = self.risk.low
            found["risk_high"] = self.risk.high
        return {name: value / SCORES_PER_UNIT for name, value in found.items()}

    def to_json(self) -> dict[str, Any]:
        """The statement with its digest, as receipts, displays and storage carry it."""
        statement = {
            "definition": self.definition,
            "digest": self.digest,
            "source": self.source,
            "latticeDigest": self.lattice_digest,
            "actionEmbeddingDigest": self.action_embedding_digest,
            "dimension": self.dimension,
            "items": self.items,
            "used": self.used,
            "scoresPerUnit": SCORES_PER_UNIT,
            "scores": {
                "support": self.support,
                "coherence": self.coherence,
                "conflict": self.conflict,
                "novelty": self.novelty,
            },
            "pValue": self.p_value,
            "risk": None if self.risk is None else self.risk.to_json(),
            "against": [each.to_json() for each in self.against],
        }
        return {**statement, "statementDigest": sha256_hex(statement_json(statement))}

    def shown(self) -> dict[str, Any]:
        """As `to_json`, with the texts of the items that speak against, for who is to decide.

        Raises:
            ValueError: the detail was not read.
        """
        if self.detail is None:
            raise ValueError("the detail of this evidence was not read")
        value = self.to_json()
        for each in value["against"]:
            each["text"] = self.detail.texts.get(each["id"], "")
        return value


def assessment_from_json(value: Mapping[str, Any]) -> EvidenceAssessment:
    """The inverse of `EvidenceAssessment.to_json`, and of `shown` but for the texts.

    Raises:
        KeyError: a member is missing.
        ValueError: it is not what this version writes.
    """
    scores, risk = value["scores"], value["risk"]
    found = EvidenceAssessment(
        digest=value["digest"],
        source=value["source"],
        lattice_digest=value["latticeDigest"],
        action_embedding_digest=value["actionEmbeddingDigest"],
        dimension=value["dimension"],
        items=value["items"],
        used=value["used"],
        support=scores["support"],
        coherence=scores["coherence"],
        conflict=scores["conflict"],
        novelty=scores["novelty"],
        p_value=value["pValue"],
        risk=None
        if risk is None
        else EvidenceRisk(
            risk["estimate"],
            risk["low"],
            risk["high"],
            risk["disagreement"],
            risk["observations"],
            risk["outcomes"],
            risk.get("calibratedBy"),
        ),
        against=tuple(
            AgainstItem(each["id"], each["digest"], each["reason"], each["weight"])
            for each in value["against"]
        ),
        definition=value["definition"],
    )
    if found.to_json()["statementDigest"] != value["statementDigest"]:
        raise ValueError("the statement about the evidence does not have its digest")
    return found


def listed_items(detail: EvidenceDetail) -> dict[str, Any]:
    """The items as the first receipt lists them, and how many did not fit."""
    listed: list[Mapping[str, Any]] = []
    size = 0
    for item in detail.items:
        size += len(statement_json(item)) + 1
        if size > _ITEMS_BYTES:
            break
        listed.append(item)
    return {"evidenceItems": listed, "omittedEvidenceItems": len(detail.items) - len(listed)}
