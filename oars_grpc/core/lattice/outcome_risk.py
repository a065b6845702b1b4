"""The risk that outcomes known of the evidence speak of, with its interval.

Relevance to the action, a, walks over the graph of the items until it is absorbed where an outcome
is known, or lost in the background:

    (diag(label) + BACKGROUND I + SMOOTHING L) h = a

where `label` is the trust of an item whose outcome is known and 0 of any other. L is the
combinatorial Laplacian, so that h >= 0, and label h is what each outcome absorbs: its weight, at
most that of one observation by an item so trusted. An item without an outcome so speaks through its
neighbours. Copies count once.

The share of bad outcomes by these weights, drawn to Jeffreys' prior, is calibrated: each outcome
known is predicted in the same way by the others, and `calibration.py` finds by how much such
predictions are off, those of items close to the action counting most. The interval is that of the
Beta posterior with the calibrated share. Where no outcome is near it is nearly the prior's, however
many there are elsewhere.
"""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from scipy.special import betaincinv

from oars_grpc.core.lattice.arrays import Float64Array, Int64Array
from oars_grpc.core.lattice.calibration import calibrated_by
from oars_grpc.core.lattice.graph import mutual_graph
from oars_grpc.core.lattice.neighbors import NeighborLists
from oars_grpc.core.lattice.parameters import LatticeParameters
from oars_grpc.core.lattice.progress import Proceed, between, keep_going
from oars_grpc.core.lattice.system import build_system

# Jeffreys' prior: one observation, half of it bad.
PRIOR, PRIOR_WEIGHT = 0.5, 1.0
BACKGROUND, SMOOTHING = 0.02, 0.5
NEAREST = 32
# Of fewer outcomes than these nothing can be told about how predictions by them are off.
FEWEST_TO_CALIBRATE = 5.0
# Neighbours are not drawn at random: by so much of them the posterior narrows.
COUNTED = 0.75
_LEAST_SHARE = 1e-6
_LOW, _HIGH = 0.05, 0.95
_FIELD = LatticeParameters(anchor_weight=BACKGROUND, graph_weight=SMOOTHING, query_weight=1.0)


@dataclass(frozen=True, slots=True)
class OutcomeRisk:
    """The share of bad outcomes to expect, its 90 % interval, and how divided the outcomes are."""

    estimate: float
    low: float
    high: float
    disagreement: float  # 0 unanimous, 1 half and half
    observations: float  # what the posterior counts beyond the prior
    outcomes: int  # items whose outcome is known and that are trusted at all
    calibrated_by: int  # as many, or 0 where they were too few


def outcome_risk(
    lists: NeighborLists,
    cosines: Float64Array,
    to_action: Float64Array,
    trust: Float64Array,
    adverse: Float64Array,
    proceed: Proceed = keep_going,
) -> OutcomeRisk | None:
    """The risk of an action; None where no outcome is known. Unknown outcomes are NaN.

    `cosines` are those among the items, `to_action` those between them and the action. Time grows
    with the cube of the items: a few hundred, not more.
    """
    known = np.flatnonzero(np.isfinite(adverse) & (trust > 0))
    if not known.size:
        return None
    outcomes = np.where(np.isfinite(adverse), adverse, 0.0)
    label = np.zeros_like(trust)
    label[known] = trust[known]
    same = _sameness(cosines)
    walks = _walks(lists, label, between(proceed, 0.0, 0.5))
    heard = label * np.clip(_mixed(_relevance(to_action, trust)[None, :], walks)[0], 0.0, 1.0)
    shares, counts = _tallies(heard[None, :], outcomes, same)
    share, observations = float(shares[0]), float(counts[0])
    estimate = float(_drawn(shares, counts)[0])
    weights, amount = _weights(known, to_action, trust, same)
    calibrated = amount >= FEWEST_TO_CALIBRATE
    if calibrated:
        predicted = _left_out(known, cosines, trust, label, walks, outcomes, same, proceed)
        estimate = calibrated_by(predicted, outcomes[known], weights).applied(estimate)
    low, high = _interval(estimate, observations, amount)
    return OutcomeRisk(
        estimate=estimate,
        low=low,
        high=high,
        disagreement=4.0 * share * (1.0 - share),
        observations=observations,
        outcomes=int(known.size),
        calibrated_by=int(known.size) if calibrated else 0,
    )


def _weights(
    known: Int64Array, to_action: Float64Array, trust: Float64Array, same: Float64Array
) -> tuple[Float64Array, float]:
    """How much each outcome tells of the action, copies once; and how many equal ones that is.

    The number is Kish's: of outcomes one of which outweighs all others, about one.
    """
    near = np.clip(to_action[known], 0.0, 1.0)
    whole = trust[known] * near * near
    weights = whole / np.add.reduce(same[np.ix_(known, known)], axis=1)
    squares = float(np.add.reduce(weights * whole))
    total = float(np.add.reduce(weights))
    return weights, total * total / squares if squares > 0 else 0.0


def _interval(estimate: float, observations: float, amount: float) -> tuple[float, float]:
    """The 90 % interval: of the Beta posterior, and no narrower than so many outcomes permit.

    Of n outcomes that all went well, 5 % of the time the share of bad ones is over 1 - 0.05^(1/n)
    (Clopper and Pearson): nothing makes the interval end below that, however far the estimate lies.
    """
    count = PRIOR_WEIGHT + COUNTED * observations
    # A share of 0 or 1 is the limit of a posterior, and none itself.
    share = min(max(estimate, _LEAST_SHARE), 1.0 - _LEAST_SHARE)
    low, high = betaincinv(share * count, (1.0 - share) * count, (_LOW, _HIGH))
    possible = _LOW ** (1.0 / max(amount, 1.0))
    return min(float(low), possible, estimate), max(float(high), 1.0 - possible, estimate)


def _left_out(
    known: Int64Array,
    cosines: Float64Array,
    trust: Float64Array,
    label: Float64Array,
    walks: Float64Array,
    outcomes: Float64Array,
    same: Float64Array,
    proceed: Proceed,
) -> Float64Array:
    """What the other outcomes predict of each that is known."""
    relevance = np.zeros((known.size, trust.size))
    for row, place in enumerate(known):
        others = cosines[place].copy()
        others[place] = 0.0
        relevance[row] = _relevance(others, trust)
    proceed(0.6)
    found = _mixed(relevance, walks)
    rows = np.arange(known.size)
    # Without its label the place absorbs nothing: Sherman and Morrison's update of the inverse.
    own = found[rows, known] * label[known] / (1.0 - label[known] * walks[known, known])
    found += own[:, None] * walks[known]
    heard = label * np.clip(found, 0.0, 1.0)
    heard[rows, known] = 0.0
    proceed(0.8)
    return _drawn(*_tallies(heard, outcomes, same))


def _tallies(
    heard: Float64Array, outcomes: Float64Array, same: Float64Array
) -> tuple[Float64Array, Float64Array]:
    """By each row of weights: the share of bad outcomes, and how many observations they are."""
    total = np.add.reduce(heard, axis=1)
    squares = np.add.reduce(heard * heard, axis=1)
    some = squares > 0
    bad = np.add.reduce(heard * outcomes, axis=1)
    share = np.divide(bad, total, out=np.full_like(total, PRIOR), where=some)
    # How much a mean over copies varies more than one over as many independent outcomes.
    alike = np.add.reduce(_mixed(heard, same) * heard, axis=1)
    spread = np.divide(alike, squares, out=np.ones_like(total), where=some)
    return np.clip(share, 0.0, 1.0), np.where(some, total / np.maximum(spread, 1.0), 0.0)


def _drawn(share: Float64Array, observations: Float64Array) -> Float64Array:
    """The mean of the posterior."""
    bad = PRIOR_WEIGHT * PRIOR + observations * share
    return np.asarray(bad / (PRIOR_WEIGHT + observations))


def _sameness(cosines: Float64Array) -> Float64Array:
    """1 for copies, next to nothing for items that are merely about the same: cosine^32."""
    same = np.clip(cosines, 0.0, 1.0)
    for _ in range(5):
        same = same * same
    # Also of an item without direction, whose cosine with itself is none.
    np.fill_diagonal(same, 1.0)
    return same


def _relevance(to_action: Float64Array, trust: Float64Array) -> Float64Array:
    """Trust times the squared cosine, of the nearest; 0 of all others."""
    closest = np.clip(to_action, 0.0, 1.0)
    weights = trust * closest * closest
    kept = np.zeros_like(weights)
    nearest = np.argsort(-weights, kind="stable")[:NEAREST]
    kept[nearest] = weights[nearest]
    return kept


def _walks(lists: NeighborLists, label: Float64Array, proceed: Proceed) -> Float64Array:
    """The inverse of the system: where a walk from each item ends, for outcomes of full trust.

    By Gauss and Jordan's elimination, which needs no pivots here: the matrix is an M-matrix, its
    diagonal outweighs the rest.
    """
    inverse = build_system(mutual_graph(lists), label, None, _FIELD).matrix.toarray()
    count = len(inverse)
    for step in range(count):
        proceed(step / count)
        pivot = 1.0 / inverse[step, step]
        row, column = inverse[step] * pivot, inverse[:, step].copy()
        inverse -= column[:, None] * row[None, :]
        inverse[step] = row
        inverse[:, step] = -column * pivot
        inverse[step, step] = pivot
    return np.asarray(inverse)


def _mixed(weights: Float64Array, rows: Float64Array) -> Float64Array:
    """The rows in such mixtures, added up in their order: no BLAS takes part."""
    return np.asarray(sp.csr_array(weights) @ rows)
