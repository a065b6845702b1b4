"""Actions with evidence whose standing is known, made from labelled texts.

The action is one text, its evidence are eight others. Grounded: all eight share the action's
subject, as the people say who labelled them. Ungrounded, in four kinds:

* another subject: all eight share a subject, but none of the action's labels;
* scattered: eight at random, none with any of the action's labels;
* mixed: two of the action's subject among six that share nothing with it;
* look-alike: the eight that the embedding finds nearest of all that share no label. The hardest:
  the embedding itself says that they belong here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tests.benchmarks.lattice.retrieval import SEED, label_members, overlaps
from tests.benchmarks.lattice.texts import LabelledText

ITEMS = 8
MIXED_RELATED = 2
GROUNDED = "grounded"
LOOK_ALIKE = "look-alike"
KINDS = ("another subject", "scattered", "mixed", LOOK_ALIKE)

Floats = NDArray[np.float32]
Places = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Case:
    """An action's place among the texts, and the places of its evidence."""

    action: int
    evidence: Places
    kind: str


class CaseMaker:
    """Draws cases from one collection of texts."""

    def __init__(self, texts: Sequence[LabelledText], vectors: Floats) -> None:
        members = label_members(texts)
        self._related = overlaps(texts)
        np.fill_diagonal(self._related, val=False)
        self._unrelated = members @ members.T == 0
        self._vectors = vectors
        self._random = np.random.default_rng(SEED)

    def cases(self, actions: int) -> list[Case]:
        """Every kind of evidence for each of so many actions, in an order of chance."""
        enough = np.flatnonzero(self._related.sum(axis=1) >= ITEMS)
        chosen = self._random.choice(enough, min(actions, len(enough)), replace=False)
        return [case for action in chosen.tolist() for case in self._of(action, enough)]

    def _of(self, action: int, subjects: Places) -> list[Case]:
        related = np.flatnonzero(self._related[action])
        unrelated = np.flatnonzero(self._unrelated[action])
        drawn = {
            GROUNDED: self._draw(related, ITEMS),
            "another subject": self._other_subject(action, subjects),
            "scattered": self._draw(unrelated, ITEMS),
            "mixed": np.concatenate(
                [
                    self._draw(related, MIXED_RELATED),
                    self._draw(unrelated, ITEMS - MIXED_RELATED),
                ]
            ),
            LOOK_ALIKE: self._nearest(action, unrelated),
        }
        return [Case(action, places, kind) for kind, places in drawn.items()]

    def _other_subject(self, action: int, subjects: Places) -> Places:
        unrelated = self._unrelated[action]
        for other in self._random.permutation(subjects[unrelated[subjects]]).tolist():
            places = np.flatnonzero(self._related[other] & unrelated)
            if len(places) >= ITEMS:
                return self._draw(places, ITEMS)
        raise ValueError("no other subject has texts enough")

    def _nearest(self, action: int, places: Places) -> Places:
        likeness = self._vectors[places] @ self._vectors[action]
        return places[np.argsort(-likeness, kind="stable")[:ITEMS]]

    def _draw(self, places: Places, count: int) -> Places:
        return self._random.choice(places, count, replace=False)
