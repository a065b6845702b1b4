"""How an action stands on its evidence: support, coherence, conflict, novelty, each in [0, 1].

`proto/README.md` defines them and says what they do not show. With c the cosines, t the trust of
an item, k closeness to the action (`kriging.py`), w the weights t k over their sum:

    support    R of the action from the items, as trusted as they are
    coherence  sum_ij w_i w_j max(0, c_ij): 1 - Rao's quadratic entropy of the items in use
    conflict   max(against, strain): R from what speaks against, each item trusted t * adverse;
               and the heaviest of the items that join what does not belong together, each
               weighing t k times how far its tension lies above the least that counts
    novelty    (19 (1 - support) + items better explained by the rest than the action is) / (19 + n)

Items come in a canonical order, so that the order in which they were sent cannot show.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from oars_grpc.core.lattice.arrays import Float32Array, Float64Array, Int64Array
from oars_grpc.core.lattice.conflicts import Conflicts, conflicts
from oars_grpc.core.lattice.directions import directions_of, query_cosines
from oars_grpc.core.lattice.kriging import closeness, explained_share, leave_one_out_shares
from oars_grpc.core.lattice.neighbors import cosine_rows, nearest_neighbors
from oars_grpc.core.lattice.outcome_risk import OutcomeRisk, outcome_risk
from oars_grpc.core.lattice.progress import Proceed, between, keep_going

# Of a larger collection the nearest are used: the rest is too far from the action to matter.
MAXIMUM_USED = 256
NEIGHBORS = 6
# With few items, how the action compares with them says little: so many count for the support. It
# takes 19 for a p-value of 5 %.
NOVELTY_PRIOR = 19.0
# Items that speak against, at most so many, and only such as weigh anything.
MAXIMUM_AGAINST = 8
_LEAST_AGAINST = 0.01
# Shares that differ by less are equal: what is left of copies is rounding.
_SHARE_QUANTUM = 2.0**-20
_BLOCK = 8192


class AgainstReason(StrEnum):
    """Why an item speaks against the action."""

    ADVERSE = "adverse"  # its outcome or statement is known to be bad
    TENSION = "tension"  # it joins what does not belong together


@dataclass(frozen=True, slots=True)
class Against:
    """An item that speaks against the action, by its place, and how heavily, in (0, 1]."""

    place: int
    reason: AgainstReason
    weight: float


@dataclass(frozen=True, slots=True)
class Grounding:
    """The scores and what they are made of."""

    support: float
    coherence: float
    conflict: float
    novelty: float
    p_value: float  # conformal: of the action being one more item like the others
    risk: OutcomeRisk | None
    against: tuple[Against, ...]  # heaviest first
    used: int


def ground(
    anchors: Float32Array,
    action: Float32Array,
    trust: Float64Array,
    adverse: Float64Array,
    proceed: Proceed = keep_going,
) -> Grounding:
    """Score an action's embedding against canonical anchors, none of them all zeros.

    `trust` is in [0, 1]; `adverse` is in [0, 1], or NaN where no outcome is known.
    """
    to_action = _cosines_to(anchors, action, between(proceed, 0.0, 0.3))
    places = _nearest(to_action * trust)
    chosen = directions_of(anchors[places])
    lists = nearest_neighbors(chosen, NEIGHBORS, between(proceed, 0.3, 0.4))
    among = cosine_rows(chosen, np.arange(places.size))
    to_action, trust, adverse = to_action[places], trust[places], adverse[places]

    kernel, near = closeness(among), closeness(to_action)
    support = explained_share(kernel, near, trust)
    proceed(0.5)
    known_bad = trust * np.where(np.isfinite(adverse), adverse, 0.0)
    strained = trust * near * _strains(conflicts(anchors[places], lists), places.size)
    conflict = max(explained_share(kernel, near, known_bad), float(strained.max(initial=0.0)))
    proceed(0.7)
    better, p_value = _rank(kernel, near)
    return Grounding(
        support=support,
        coherence=_coherence(among, trust * near),
        conflict=conflict,
        novelty=(NOVELTY_PRIOR * (1.0 - support) + better) / (NOVELTY_PRIOR + places.size),
        p_value=p_value,
        risk=outcome_risk(lists, among, to_action, trust, adverse, between(proceed, 0.9, 1.0)),
        against=_against(places, known_bad * near, strained),
        used=int(places.size),
    )


def _cosines_to(anchors: Float32Array, action: Float32Array, proceed: Proceed) -> Float64Array:
    """The cosine of every item and the action; of a large lattice a block at a time."""
    count = len(anchors)
    found = np.empty(count)
    for start in range(0, count, _BLOCK):
        proceed(start / count)
        part = slice(start, start + _BLOCK)
        found[part] = query_cosines(directions_of(anchors[part]), action)
    return found


def _nearest(weights: Float64Array) -> Int64Array:
    """The places of the items to use, in order."""
    if weights.size <= MAXIMUM_USED:
        return np.arange(weights.size, dtype=np.int64)
    return np.sort(np.argsort(-weights, kind="stable")[:MAXIMUM_USED]).astype(np.int64)


def _coherence(among: Float64Array, weights: Float64Array) -> float:
    """The cosine to expect of two items drawn by weight; 0 where nothing weighs anything."""
    total = float(np.add.reduce(weights))
    if not total > 0:
        return 0.0
    alike = np.clip(among, 0.0, 1.0)
    np.fill_diagonal(alike, 1.0)
    share = weights / total
    expected = np.add.reduce(np.add.reduce(share[:, None] * alike * share[None, :]))
    return min(1.0, max(0.0, float(expected)))


def _strains(found: Conflicts, count: int) -> Float64Array:
    """How far each item's tension lies between the least that counts as a conflict and 1."""
    strained = np.zeros(count)
    strained[found.nodes] = (found.tensions - found.tension) / (1.0 - found.tension)
    return np.clip(strained, 0.0, 1.0)


def _rank(kernel: Float64Array, near: Float64Array) -> tuple[int, float]:
    """How many items the rest explains better than the action, and the conformal p-value.

    The action is one of the rest for each item: were it one more item like the others, all
    orders would be equally likely, and p at most x with probability at most x.
    """
    count = near.size
    whole = np.ones((count + 1, count + 1))
    whole[:count, :count] = kernel
    whole[:count, count] = whole[count, :count] = near
    shares = np.rint(leave_one_out_shares(whole) / _SHARE_QUANTUM)
    better = int(np.count_nonzero(shares[:count] > shares[count]))
    return better, (1.0 + count - better) / (1.0 + count)


def _against(
    places: Int64Array,
    adverse: Float64Array,
    strained: Float64Array,
) -> tuple[Against, ...]:
    """The items that weigh against the action, the heaviest first, ties by place."""
    found = [
        Against(int(places[at]), reason, float(weights[at]))
        for reason, weights in ((AgainstReason.ADVERSE, adverse), (AgainstReason.TENSION, strained))
        for at in np.flatnonzero(weights >= _LEAST_AGAINST)
    ]
    found.sort(key=lambda each: (-each.weight, each.place, each.reason))
    return tuple(found[:MAXIMUM_AGAINST])
