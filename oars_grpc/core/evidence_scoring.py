"""Scores the evidence of an action, and states what was scored."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from oars_grpc.core.action_evidence import (
    INLINE,
    SCORES_PER_UNIT,
    ActionEvidence,
    AgainstItem,
    EvidenceAssessment,
    EvidenceDetail,
    EvidenceRisk,
)
from oars_grpc.core.canonical import sha256_hex, statement_json
from oars_grpc.core.lattice.arrays import Float32Array
from oars_grpc.core.lattice.grounding import Grounding, ground
from oars_grpc.core.lattice.outcome_risk import OutcomeRisk
from oars_grpc.core.lattice.progress import Proceed, keep_going
from oars_grpc.errors import FailedPrecondition

_EMBEDDING = np.dtype("<f4")
MAXIMUM_MAGNITUDE = 1e15


@dataclass(frozen=True, slots=True)
class LatticeEvidence:
    """A stored lattice as evidence.

    `digest` stands for all that is scored of it: anchors and gates. A gate is the trust in an
    anchor; one over 1 counts as 1.
    """

    digest: str
    anchors: Float32Array
    gates: Float32Array


class EvidenceLattices(Protocol):
    """Stored lattices, looked up as evidence."""

    def find(self, tenant_id: str, lattice_id: str, proceed: Proceed) -> LatticeEvidence:
        """The lattice as it is now.

        Raises:
            NotFound: the tenant has no such lattice.
            FailedPrecondition: it is not ready to be asked.
        """


def embedding_fault(raw: bytes) -> str:
    """What is wrong with the numbers of a packed embedding; empty where nothing is."""
    values = np.frombuffer(raw, dtype=_EMBEDDING)
    wrong = np.flatnonzero(~(np.abs(values) <= MAXIMUM_MAGNITUDE))  # a NaN fails this too
    if wrong.size:
        return f"number {wrong[0]} is {values[wrong[0]]}; must be finite and within +-1e15"
    return "" if values.any() else "must not be all zeros: it would have no direction"


def assess_inline(evidence: ActionEvidence, proceed: Proceed = keep_going) -> EvidenceAssessment:
    """Score items that came along with the action; they are checked, and at least one."""
    items = evidence.in_order()
    listed = tuple(item.to_json() for item in items)
    unknown = float("nan")
    found = ground(
        np.stack([_embedding(item.embedding) for item in items]),
        _embedding(evidence.action_embedding),
        np.array([item.trust / SCORES_PER_UNIT for item in items]),
        np.array(
            [unknown if item.adverse is None else item.adverse / SCORES_PER_UNIT for item in items]
        ),
        proceed,
    )
    against = _against(found, [(item.item_id, item.content_digest) for item in items].__getitem__)
    texts = {item.item_id: item.text for item in items}
    return _assessment(
        evidence,
        found,
        against,
        lattice_digest="",
        count=len(items),
        scored={"items": list(listed)},
        detail=EvidenceDetail(listed, {each.item_id: texts[each.item_id] for each in against}),
    )


def assess_lattice(
    evidence: ActionEvidence, lattice: LatticeEvidence, proceed: Proceed = keep_going
) -> EvidenceAssessment:
    """Score a stored lattice.

    Raises:
        FailedPrecondition: it is of another dimension than the action's embedding, or an outcome is
            of an anchor that it does not have.
    """
    action = _embedding(evidence.action_embedding)
    if lattice.anchors.shape[1] != action.size:
        raise FailedPrecondition(
            f"lattice {evidence.lattice_id} has dimension {lattice.anchors.shape[1]},"
            f" the action's embedding {action.size}",
            reason="EVIDENCE_DIMENSION",
        )

    def name_of(place: int) -> tuple[str, str]:
        return str(place), sha256_hex(lattice.anchors[place].tobytes())

    trust = np.clip(lattice.gates.astype(np.float64), 0.0, 1.0)
    outcomes = evidence.outcomes_in_order()
    adverse = np.full(trust.size, np.nan)
    for outcome in outcomes:
        if outcome.index >= trust.size or name_of(outcome.index)[1] != outcome.content_digest:
            raise FailedPrecondition(
                f"anchor {outcome.index} of lattice {evidence.lattice_id} does not have the digest"
                " that its outcome came with",
                reason="EVIDENCE_ANCHOR",
            )
        adverse[outcome.index] = outcome.adverse / SCORES_PER_UNIT
    found = ground(lattice.anchors, action, trust, adverse, proceed)
    listed = tuple(outcome.to_json() for outcome in outcomes)

    return _assessment(
        evidence,
        found,
        _against(found, name_of),
        lattice_digest=lattice.digest,
        count=len(lattice.anchors),
        scored={
            "latticeId": evidence.lattice_id,
            "latticeDigest": lattice.digest,
            "outcomes": list(listed),
        },
        detail=EvidenceDetail(listed, {}),
    )


def _assessment(
    evidence: ActionEvidence,
    found: Grounding,
    against: tuple[AgainstItem, ...],
    *,
    lattice_digest: str,
    count: int,
    scored: dict[str, object],
    detail: EvidenceDetail,
) -> EvidenceAssessment:
    embedding_digest = sha256_hex(evidence.action_embedding)
    whole = {**scored, "actionEmbeddingDigest": embedding_digest}
    return EvidenceAssessment(
        digest=sha256_hex(statement_json(whole)),
        source=evidence.lattice_id or INLINE,
        lattice_digest=lattice_digest,
        action_embedding_digest=embedding_digest,
        dimension=len(evidence.action_embedding) // _EMBEDDING.itemsize,
        items=count,
        used=found.used,
        support=_score(found.support),
        coherence=_score(found.coherence),
        conflict=_score(found.conflict),
        novelty=_score(found.novelty),
        p_value=_score(found.p_value),
        risk=None if found.risk is None else _risk(found.risk),
        against=against,
        detail=detail,
    )


def _risk(risk: OutcomeRisk) -> EvidenceRisk:
    return EvidenceRisk(
        estimate=_score(risk.estimate),
        low=_score(risk.low),
        high=_score(risk.high),
        disagreement=_score(risk.disagreement),
        observations=round(risk.observations * SCORES_PER_UNIT),
        outcomes=risk.outcomes,
        calibrated_by=risk.calibrated_by,
    )


def _against(
    found: Grounding, name_of: Callable[[int], tuple[str, str]]
) -> tuple[AgainstItem, ...]:
    """The items by name and digest."""
    return tuple(
        AgainstItem(*name_of(each.place), each.reason.value, _score(each.weight))
        for each in found.against
    )


def _score(value: float) -> int:
    return min(SCORES_PER_UNIT, max(0, round(value * SCORES_PER_UNIT)))


def _embedding(raw: bytes) -> Float32Array:
    # Adding zero turns -0 into +0: equal numbers, equal sums.
    return np.asarray(np.frombuffer(raw, dtype=_EMBEDDING) + np.float32(0), dtype=np.float32)
