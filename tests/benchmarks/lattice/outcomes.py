"""How well the risk that known outcomes speak of predicts an unseen outcome.

Debian packages; bad is what people tagged as administration, security or a network server. The
evidence for a package are the 64 nearest others, of all or of some of which the outcome is known.
"""

from pathlib import Path
from typing import Any

import numpy as np

from oars_grpc.core.lattice.arrays import checked_anchors
from oars_grpc.core.lattice.grounding import ground
from tests.benchmarks.lattice.embedding import embedded
from tests.benchmarks.lattice.measures import (
    bootstrap_auroc,
    brier,
    calibration_error,
    reliability,
)
from tests.benchmarks.lattice.retrieval import SEED, text_collections

NEAREST = 64
KNOWN_SHARES = (1.0, 0.3, 0.1)
BAD = ("admin::", "security::", "network::server")


def outcome_risks(cache: Path | None, most: int | None, actions: int) -> list[dict[str, Any]]:
    """One row for each share of outcomes that are known; none without the texts."""
    found = [texts for name, _, texts in text_collections(most) if name == "Debian packages"]
    if not found:
        return []
    texts = found[0]
    vectors = embedded([item.text for item in texts], cache)
    bad = np.array([any(label.startswith(BAD) for label in item.labels) for item in texts])
    random = np.random.default_rng(SEED)
    chosen = random.choice(len(texts), min(actions, len(texts)), replace=False)
    rows = []
    for share in KNOWN_SHARES:
        estimates, actual, widths = [], [], []
        for action in chosen.tolist():
            likeness = vectors @ vectors[action]
            likeness[action] = -np.inf
            places = np.argsort(-likeness, kind="stable")[:NEAREST]
            adverse = np.where(random.random(NEAREST) < share, bad[places].astype(float), np.nan)
            risk = ground(
                checked_anchors(vectors[places]), vectors[action], np.ones(NEAREST), adverse
            ).risk
            if risk is not None:
                estimates.append(risk.estimate)
                actual.append(bad[action])
                widths.append(risk.high - risk.low)
        predicted, positive = np.array(estimates), np.array(actual)
        bins = reliability(predicted, positive)
        rows.append(
            {
                "outcomes_known": share,
                "actions": len(predicted),
                "base_rate": round(float(positive.mean()), 4),
                "auroc": bootstrap_auroc(predicted, positive).to_json(),
                "brier": round(brier(predicted, positive), 4),
                "ece": round(calibration_error(bins), 4),
                "mean_interval_width": round(float(np.mean(widths)), 4),
                "bins": [[round(b.predicted, 4), round(b.observed, 4), b.cases] for b in bins],
            }
        )
    return rows
