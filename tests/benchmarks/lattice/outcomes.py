"""How well the risk that known outcomes speak of predicts an unseen outcome, and its interval.

*Predicted*: bad is what people labelled in a certain way; the evidence for a text are the 64
nearest others, of all or of some of which the outcome is known. *Coverage*: an outcome tells
nothing of whether an interval for its probability holds it, so outcomes are drawn by a probability
that is known: one that varies with the embedding as a logistic regression on labels has it, or one
that is the same everywhere.

The constants of the risk were chosen on texts that are left out here.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oars_grpc.core.lattice.arrays import checked_anchors
from oars_grpc.core.lattice.grounding import ground
from oars_grpc.core.lattice.outcome_risk import OutcomeRisk
from tests.benchmarks.lattice.embedding import embedded
from tests.benchmarks.lattice.measures import (
    bootstrap_auroc,
    brier,
    calibration_error,
    reliability,
)
from tests.benchmarks.lattice.retrieval import SEED, text_collections
from tests.benchmarks.lattice.texts import LabelledText

NEAREST = 64
KNOWN_SHARES = (1.0, 0.3, 0.1)
# Nearest texts as evidence, and the share of which the outcome is known.
COVERED = ((64, 1.0), (64, 0.3), (64, 0.1), (16, 1.0), (8, 1.0))
NOMINAL = 0.9
# The first half of this order chose the constants.
DEVELOPMENT_SEED = 77
BAD: dict[str, tuple[str, ...]] = {
    "Debian packages": ("admin::", "security::", "network::server"),
    "documentation": ("scipy.special", "scipy.stats"),
}
EVERYWHERE = 0.2

Flags = NDArray[np.bool_]
Floats = NDArray[np.float32]
Odds = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Collection:
    """Texts with outcomes, and the order in which they are asked about."""

    name: str
    vectors: Floats
    bad: Flags
    held_out: NDArray[np.int64]


def outcome_risks(
    cache: Path | None, most: int | None, actions: int
) -> dict[str, list[dict[str, Any]]]:
    """Rows of predictions and of coverage; none without the texts."""
    collections = [
        _collection(name, texts, cache) for name, _, texts in text_collections(most) if name in BAD
    ]
    return {
        "predicted": [
            _predicted(each, share, actions) for each in collections for share in KNOWN_SHARES
        ],
        "coverage": [row for each in collections for row in _coverage(each, actions // 3)],
    }


def _collection(name: str, texts: Sequence[LabelledText], cache: Path | None) -> Collection:
    bad = np.array([any(label.startswith(BAD[name]) for label in item.labels) for item in texts])
    order = np.random.default_rng(DEVELOPMENT_SEED).permutation(len(texts))
    vectors = embedded([item.text for item in texts], cache)
    return Collection(name, vectors, bad, order[len(order) // 2 :])


def risk_of(
    vectors: Floats,
    action: int,
    outcomes: Flags,
    *,
    nearest: int,
    share: float,
    random: np.random.Generator,
) -> OutcomeRisk | None:
    """The risk of one text by outcomes of the nearest others, each known by chance."""
    likeness = vectors @ vectors[action]
    likeness[action] = -np.inf
    places = np.argsort(-likeness, kind="stable")[:nearest]
    known = random.random(places.size) < share
    adverse = np.where(known, outcomes[places].astype(float), np.nan)
    trust = np.ones(places.size)
    return ground(checked_anchors(vectors[places]), vectors[action], trust, adverse).risk


def _predicted(given: Collection, share: float, actions: int) -> dict[str, Any]:
    random = np.random.default_rng(SEED)
    risks = {
        action: risk_of(
            given.vectors, action, given.bad, nearest=NEAREST, share=share, random=random
        )
        for action in given.held_out[:actions].tolist()
    }
    found = [(action, risk) for action, risk in risks.items() if risk is not None]
    predicted = np.array([risk.estimate for _, risk in found])
    positive = given.bad[[action for action, _ in found]]
    bins = reliability(predicted, positive)
    return {
        "set": given.name,
        "outcomes_known": share,
        "actions": len(found),
        "calibrated": round(float(np.mean([risk.calibrated_by > 0 for _, risk in found])), 4),
        "base_rate": round(float(positive.mean()), 4),
        "auroc": bootstrap_auroc(predicted, positive).to_json(),
        "brier": round(brier(predicted, positive), 4),
        "ece": round(calibration_error(bins), 4),
        "mean_interval_width": round(
            float(np.mean([risk.high - risk.low for _, risk in found])), 4
        ),
        "bins": [[round(b.predicted, 4), round(b.observed, 4), b.cases] for b in bins],
    }


def _coverage(given: Collection, actions: int) -> Iterator[dict[str, Any]]:
    probabilities: dict[str, Callable[[], Odds]] = {
        "by the embedding": lambda: _learnt(given),
        f"{EVERYWHERE:g} everywhere": lambda: np.full(len(given.vectors), EVERYWHERE),
    }
    for name, made in probabilities.items():
        truth = made()
        for nearest, share in COVERED:
            yield {
                "set": given.name,
                "probability": name,
                "evidence": nearest,
                "outcomes_known": share,
                **covered(given, truth, nearest, share, actions),
            }


def covered(
    given: Collection, truth: Odds, nearest: int, share: float, actions: int
) -> dict[str, Any]:
    """How often the interval holds the probability that outcomes were drawn by."""
    random = np.random.default_rng(SEED)
    below, above, widths, errors = 0, 0, [], []
    for action in given.held_out[:actions].tolist():
        # Drawn anew for each action: of one draw all of them would share the luck.
        drawn = random.random(len(truth)) < truth
        risk = risk_of(given.vectors, action, drawn, nearest=nearest, share=share, random=random)
        if risk is None:
            continue
        below += bool(truth[action] < risk.low)
        above += bool(truth[action] > risk.high)
        widths.append(risk.high - risk.low)
        errors.append(abs(risk.estimate - truth[action]))
    asked = len(widths)
    return {
        "actions": asked,
        "nominal": NOMINAL,
        "coverage": round(1 - (below + above) / asked, 4),
        "above_the_interval": round(above / asked, 4),
        "mean_interval_width": round(float(np.mean(widths)), 4),
        "mean_error": round(float(np.mean(errors)), 4),
    }


def _learnt(given: Collection) -> Odds:
    """A probability for each text that its embedding tells much about, and not everything."""
    from sklearn.linear_model import LogisticRegression

    scaled = given.vectors.astype(np.float64) * 3.0
    model = LogisticRegression(max_iter=500).fit(scaled, given.bad)
    found: Odds = model.predict_proba(scaled)[:, 1]
    return found
