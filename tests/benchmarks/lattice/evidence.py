"""How well the scores of evidence tell grounded actions from ungrounded ones.

The classes come from labels (`cases.py`), not from the embedding. Half of the actions calibrate,
half are reported. Two more questions: contradicted evidence, of which an embedding cannot tell,
and risk by known outcomes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oars_grpc.core.lattice.arrays import checked_anchors
from oars_grpc.core.lattice.grounding import Grounding, ground
from tests.benchmarks.lattice.cases import GROUNDED, KINDS, LOOK_ALIKE, Case, CaseMaker
from tests.benchmarks.lattice.embedding import embedded
from tests.benchmarks.lattice.measures import (
    auroc,
    bootstrap_auroc,
    brier,
    calibration_error,
    reliability,
    roc,
)
from tests.benchmarks.lattice.retrieval import text_collections
from tests.benchmarks.lattice.texts import LabelledText

# Each turned so that more of it speaks for the action.
SCORES = ("support", "coherence", "1 - conflict", "1 - novelty")
CONTRADICTED_ACTIONS = 150
STATED = "It is true that this describes it: "
DENIED = "It is not true that this describes it: "
# All kinds but the one that is made by the embedding itself.
NATURAL = "all but look-alike"
_POINTS = 200

Floats = NDArray[np.float32]
Table = NDArray[np.float64]
Flags = NDArray[np.bool_]


def row_of(found: Grounding) -> list[float]:
    """The scores in the order of `SCORES`."""
    return [found.support, found.coherence, 1 - found.conflict, 1 - found.novelty]


def scored(vectors: Floats, cases: Sequence[Case]) -> Table:
    """Cases x scores, all evidence fully trusted and no outcome known."""
    rows = []
    for case in cases:
        trust, unknown = np.ones(len(case.evidence)), np.full(len(case.evidence), np.nan)
        anchors = checked_anchors(vectors[case.evidence])
        rows.append(row_of(ground(anchors, vectors[case.action], trust, unknown)))
    return np.array(rows)


def grounding(cache: Path | None, most: int | None, actions: int) -> list[dict[str, Any]]:
    """Every collection of texts that this machine has."""
    return [
        {"set": name, "source": source, **_of_collection(texts, cache, actions)}
        for name, source, texts in text_collections(most)
    ]


def _of_collection(
    texts: Sequence[LabelledText], cache: Path | None, actions: int
) -> dict[str, Any]:
    vectors = embedded([item.text for item in texts], cache)
    cases = CaseMaker(texts, vectors).cases(actions)
    table = scored(vectors, cases)
    kinds = np.array([case.kind for case in cases])
    # Cases of one action stay on one side.
    order = {action: at for at, action in enumerate(dict.fromkeys(c.action for c in cases))}
    held_out = np.array([order[case.action] >= len(order) // 2 for case in cases])
    natural = kinds != LOOK_ALIKE
    return {
        "actions": len(order),
        "held_out_actions": len(order) - len(order) // 2,
        "auroc": _separation(table[held_out], kinds[held_out]),
        "roc": _curves(table[held_out & natural], kinds[held_out & natural]),
        "calibrated": _calibrated(table[natural], kinds[natural], held_out[natural]),
        "contradiction": contradiction(texts, cache, actions),
        # What all of this is computed from: of each held-out case its kind and its scores.
        "scores": list(SCORES),
        "rows": [
            [kind, *np.round(row, 4).tolist()]
            for kind, row in zip(kinds[held_out].tolist(), table[held_out], strict=True)
        ],
    }


def _separation(table: Table, kinds: NDArray[np.str_]) -> dict[str, Any]:
    """AUROC of each score, grounded against each kind and against the natural ones together."""
    found: dict[str, Any] = {}
    for kind in (*KINDS, NATURAL):
        chosen = (kinds == GROUNDED) | (kinds == kind)
        if kind == NATURAL:
            chosen = kinds != LOOK_ALIKE
        found[kind] = {
            name: bootstrap_auroc(table[chosen, at], kinds[chosen] == GROUNDED).to_json()
            for at, name in enumerate(SCORES)
        }
    return found


def _curves(table: Table, kinds: NDArray[np.str_]) -> dict[str, Any]:
    """ROC curves of each score against the kinds together, thinned for plotting."""
    found = {}
    for at, name in enumerate(SCORES):
        false, true = roc(table[:, at], kinds == GROUNDED)
        kept = np.unique(np.linspace(0, len(false) - 1, _POINTS).astype(np.int64))
        found[name] = {
            "false_positive": np.round(false[kept], 4).tolist(),
            "true_positive": np.round(true[kept], 4).tolist(),
        }
    return found


def _calibrated(table: Table, kinds: NDArray[np.str_], held_out: Flags) -> dict[str, Any]:
    """Support as a probability as it stands, and all four scores by logistic regression.

    Grounded cases are a quarter of all; both are judged at that base rate.
    """
    from sklearn.linear_model import LogisticRegression

    positive = kinds == GROUNDED
    model = LogisticRegression(C=100.0).fit(table[~held_out], positive[~held_out])
    predictions = {
        "support as it stands": np.clip(table[held_out, 0], 0, 1),
        "all four, logistic": model.predict_proba(table[held_out])[:, 1],
    }
    found = {}
    for name, predicted in predictions.items():
        bins = reliability(predicted, positive[held_out])
        found[name] = {
            "auroc": bootstrap_auroc(predicted, positive[held_out]).to_json(),
            "brier": round(brier(predicted, positive[held_out]), 4),
            "ece": round(calibration_error(bins), 4),
            "base_rate": round(float(positive[held_out].mean()), 4),
            "bins": [[round(b.predicted, 4), round(b.observed, 4), b.cases] for b in bins],
        }
    return found


def contradiction(
    texts: Sequence[LabelledText], cache: Path | None, actions: int
) -> dict[str, Any]:
    """Evidence that states what the action stands on, against evidence that denies it.

    The same eight texts, in half of which "It is true" becomes "It is not true". Without stances
    only the embedding can tell; with them (a denying item's `adverse` is 1) they are told.
    """
    plain = embedded([item.text for item in texts], cache)
    grounded = [
        case
        for case in CaseMaker(texts, plain).cases(min(actions, CONTRADICTED_ACTIONS))
        if case.kind == GROUNDED
    ]
    # Only what is used is embedded once more, so that a quick run stays quick.
    used = sorted({place for case in grounded for place in case.evidence.tolist()})
    stated = dict(zip(used, embedded([STATED + texts[at].text for at in used], cache), strict=True))
    denied = dict(zip(used, embedded([DENIED + texts[at].text for at in used], cache), strict=True))
    rows: dict[str, list[list[float]]] = {"agreeing": [], "contradicted": [], "told": []}
    for case in grounded:
        places = case.evidence.tolist()
        half = len(places) // 2
        trust, unknown = np.ones(len(places)), np.full(len(places), np.nan)
        against = np.where(np.arange(len(places)) < half, 1.0, 0.0)
        agreeing = checked_anchors(np.stack([stated[at] for at in places]))
        mixed = [denied[at] for at in places[:half]] + [stated[at] for at in places[half:]]
        contradicted = checked_anchors(np.stack(mixed))
        action = plain[case.action]
        rows["agreeing"].append(row_of(ground(agreeing, action, trust, unknown)))
        rows["contradicted"].append(row_of(ground(contradicted, action, trust, unknown)))
        rows["told"].append(row_of(ground(contradicted, action, trust, against)))
    agreeing = np.array(rows["agreeing"])
    found: dict[str, Any] = {"actions": len(grounded)}
    for name in ("contradicted", "told"):
        table = np.concatenate([agreeing, np.array(rows[name])])
        positive = np.arange(len(table)) < len(agreeing)
        found[name] = {
            score: round(auroc(table[:, at], positive), 4) for at, score in enumerate(SCORES)
        }
    return found
