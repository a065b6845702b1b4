"""Labelled sets to rank: corpora, queries that are not in them, and which items answer which.

Every set is cut into four parts by chance. Each part in turn is asked of the other three, so that
each item is a query once and never finds itself. Parameters may be chosen by the first two folds;
the last two are held out for reporting.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.benchmarks.lattice.embedding import embedded, missing_for_text
from tests.benchmarks.lattice.texts import LabelledText, debian_packages, documentation

SEED = 20260311
PARTS = 4
# A text answers a query when their sets of labels overlap by at least this (Jaccard).
OVERLAP = 0.5
# A query that fewer items answer says little about a ranking.
FEWEST_RELEVANT = 5
# In a sample each text comes with so many of its subject.
SUBJECT = 20

Floats = NDArray[np.float32]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Fold:
    """One corpus with the queries that are asked of it."""

    corpus: Floats
    queries: Floats
    relevant: Flags  # queries x corpus


@dataclass(frozen=True, slots=True)
class RetrievalSet:
    """One labelled set, in folds."""

    name: str
    source: str
    development: tuple[Fold, ...]
    held_out: tuple[Fold, ...]


def digits(most: int | None = None) -> RetrievalSet:
    """Handwritten digits, 8 x 8 pixels; relevant is what shows the same digit."""
    from sklearn import __version__
    from sklearn.datasets import load_digits

    pixels, labels = (array[:most] for array in load_digits(return_X_y=True))
    return in_folds(
        "digits",
        f"scikit-learn {__version__}, load_digits",
        pixels.astype(np.float32),
        labels[:, None] == labels[None, :],
    )


def text_sets(cache: Path | None, most: int | None = None) -> list[RetrievalSet]:
    """The sets of texts that this machine has; none without a model to embed them."""
    return [
        in_folds(
            name,
            f"{source}; {len(texts)} texts",
            embedded([item.text for item in texts], cache),
            overlaps(texts),
        )
        for name, source, texts in text_collections(most)
    ]


@cache
def text_collections(most: int | None = None) -> tuple[tuple[str, str, list[LabelledText]], ...]:
    """Name, source and texts of each collection that this machine has and can embed.

    Read once: three parts of a run ask, and reading takes several seconds.
    """
    if most == 0 or missing_for_text():
        return ()
    collections = [
        ("Debian packages", "apt lists: synopsis, topical debtags", debian_packages()),
        ("documentation", "SciPy and scikit-learn: paragraph, subpackage", documentation()),
    ]
    return tuple((name, source, _some(texts, most)) for name, source, texts in collections if texts)


def _some(texts: list[LabelledText], most: int | None) -> list[LabelledText]:
    """A sample of about so many: texts at random, each with some of its subject."""
    if most is None or len(texts) <= most:
        return texts
    random = np.random.default_rng(SEED)
    related = overlaps(texts)
    chosen: set[int] = set()
    for seed in random.permutation(len(texts)).tolist():
        subject = np.flatnonzero(related[seed])
        if len(subject) >= SUBJECT:
            chosen.update(random.choice(subject, SUBJECT, replace=False).tolist())
        if len(chosen) >= most:
            break
    return [texts[at] for at in sorted(chosen)]


def in_folds(name: str, source: str, vectors: Floats, relevant: Flags) -> RetrievalSet:
    """The set in folds; queries that hardly anything answers are left out."""
    parts = np.array_split(np.random.default_rng(SEED).permutation(len(vectors)), PARTS)
    folds = []
    for own, part in enumerate(parts):
        others = [each for at, each in enumerate(parts) if at != own]
        corpus = np.sort(np.concatenate(others))
        queries = part[relevant[np.ix_(part, corpus)].sum(axis=1) >= FEWEST_RELEVANT]
        answers = relevant[np.ix_(queries, corpus)]
        folds.append(Fold(vectors[corpus], vectors[queries], answers))
    return RetrievalSet(name, source, tuple(folds[: PARTS // 2]), tuple(folds[PARTS // 2 :]))


def overlaps(texts: Sequence[LabelledText]) -> Flags:
    """Which texts share enough of their labels."""
    members = label_members(texts)
    shared = members @ members.T
    sizes = members.sum(axis=1)
    enough: Flags = shared >= OVERLAP * (sizes[:, None] + sizes[None, :] - shared)
    return enough


def label_members(texts: Sequence[LabelledText]) -> Floats:
    """Texts x labels: 1 where a text has the label."""
    column = {
        label: at for at, label in enumerate(sorted({each for t in texts for each in t.labels}))
    }
    members = np.zeros((len(texts), len(column)), np.float32)
    for row, item in enumerate(texts):
        members[row, [column[label] for label in item.labels]] = 1
    return members
