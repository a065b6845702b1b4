"""The risk that outcomes known of the evidence speak of, with its interval.

Relevance to the action, a, walks over the graph of the items until it is absorbed where an outcome
is known, or lost in the background:

    (diag(label) + BACKGROUND I + SMOOTHING L) h = a

where `label` is the trust of an item whose outcome is known and 0 of any other. L is the
combinatorial Laplacian, so that h >= 0, and label h is what each outcome absorbs: its weight, at
most that of one observation by an item so trusted. An item without an outcome so speaks through its
neighbours. The interval is the Beta posterior of the outcomes with these weights, copies counted
once. Where no outcome is near it is nearly the prior's, however many there are elsewhere.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import betaincinv

from oars_grpc.core.lattice.arrays import Float64Array
from oars_grpc.core.lattice.graph import mutual_graph
from oars_grpc.core.lattice.neighbors import NeighborLists
from oars_grpc.core.lattice.parameters import LatticeParameters
from oars_grpc.core.lattice.progress import Proceed, keep_going
from oars_grpc.core.lattice.solver import solve
from oars_grpc.core.lattice.system import build_system

# Jeffreys' prior: one observation, half of it bad.
PRIOR, PRIOR_WEIGHT = 0.5, 1.0
BACKGROUND, SMOOTHING = 0.02, 0.5
NEAREST = 32
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


def outcome_risk(
    lists: NeighborLists,
    cosines: Float64Array,
    to_action: Float64Array,
    trust: Float64Array,
    adverse: Float64Array,
    proceed: Proceed = keep_going,
) -> OutcomeRisk | None:
    """The risk of an action; None where no outcome is known. Unknown outcomes are NaN.

    `cosines` are those among the items, `to_action` those between them and the action.
    """
    known = np.asarray(np.isfinite(adverse) & (trust > 0))
    if not known.any():
        return None
    label = np.where(known, trust, 0.0)
    heard = label * np.minimum(_absorbed(lists, label, _relevance(to_action, trust), proceed), 1.0)
    total = float(np.add.reduce(heard))
    share, observations = PRIOR, 0.0
    if total > 0:
        share = min(1.0, float(np.add.reduce(heard * np.where(known, adverse, 0.0))) / total)
        # How much a mean over copies varies more than one over as many independent outcomes.
        same = heard[:, None] * _sameness(cosines) * heard[None, :]
        spread = float(np.add.reduce(np.add.reduce(same)) / np.add.reduce(heard * heard))
        observations = total / max(1.0, spread)
    bad = PRIOR_WEIGHT * PRIOR + observations * share
    good = PRIOR_WEIGHT * (1.0 - PRIOR) + observations * (1.0 - share)
    return OutcomeRisk(
        estimate=bad / (bad + good),
        low=float(betaincinv(bad, good, _LOW)),
        high=float(betaincinv(bad, good, _HIGH)),
        disagreement=4.0 * share * (1.0 - share),
        observations=observations,
        outcomes=int(np.count_nonzero(known)),
    )


def _sameness(cosines: Float64Array) -> Float64Array:
    """1 for copies, next to nothing for items that are merely about the same: cosine^32."""
    same = np.clip(cosines, 0.0, 1.0)
    for _ in range(5):
        same = same * same
    return same


def _relevance(to_action: Float64Array, trust: Float64Array) -> Float64Array:
    """Trust times the squared cosine, of the nearest; 0 of all others."""
    closest = np.clip(to_action, 0.0, 1.0)
    weights = trust * closest * closest
    kept = np.zeros_like(weights)
    nearest = np.argsort(-weights, kind="stable")[:NEAREST]
    kept[nearest] = weights[nearest]
    return kept


def _absorbed(
    lists: NeighborLists, label: Float64Array, relevance: Float64Array, proceed: Proceed
) -> Float64Array:
    """What an outcome of full trust at each item would absorb."""
    system = build_system(mutual_graph(lists), label, None, _FIELD)
    found = np.asarray(solve(system, relevance, proceed).values, dtype=np.float64)
    # The solver stops within its tolerance of the bound that the solution keeps to.
    return np.maximum(found, 0.0)
