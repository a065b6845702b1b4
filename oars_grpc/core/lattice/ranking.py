"""Ranking by a relevance field over the graph, lightly diversified.

    h = (I + spread L)^-1 s,   s_i = max(cos(y_i, psi), 0)^power

with the combinatorial Laplacian: every h_i is a weighted mean of the s around it, so that items
among relevant ones rise over items that resemble the query alone. Items are then chosen one by
one by the largest h_i (1 - diversity max(cos(y_i, chosen), 0)): a share, so that likeness to what
is chosen weighs the same among the strongest items and among the weakest. Items that relevance
does not reach come after all others, by cosine.

The field is not solved for but *defined* as a fixed number of Chebyshev steps, counted from the
graph's largest degree, over the items most similar to the query and the edges among them; whoever
repeats them gets the same field up to rounding.
"""

from dataclasses import dataclass

import numpy as np

from oars_grpc.core.lattice.arrays import Float64Array, Int64Array, frozen
from oars_grpc.core.lattice.diversity import Valuation, choose
from oars_grpc.core.lattice.graph import Graph
from oars_grpc.core.lattice.laplacian import SparseMatrix, adjacency
from oars_grpc.core.lattice.settled import Reading
from oars_grpc.errors import FieldViolation, InvalidArgument

MAXIMUM_TOP = 1000
MAXIMUM_POWER = 16
MAXIMUM_SPREAD = 16.0
# What the steps leave of the difference from the exact field, relative to it.
FIELD_PRECISION = 1e-3
# Items that the field spreads over: what is less similar than so many is out of the running.
FIELD_ITEMS = 2048


@dataclass(frozen=True, slots=True)
class RankingParameters:
    """How far relevance spreads, how sharp it is, and how much repeats are held back."""

    top: int = 8
    spread: float = 1.0
    power: int = 6
    diversity: float = 0.05


DEFAULT_RANKING = RankingParameters()


@dataclass(frozen=True, slots=True)
class Ranking:
    """The items chosen, first the best, and the least margin by which one was chosen."""

    nodes: Int64Array
    scores: Float64Array  # the value that each was chosen by
    relevance: Float64Array  # h / max(h), at the chosen
    cosines: Float64Array  # with the query, at the chosen
    margin: float | None  # the least by which a choice was better than all others left
    parameters: RankingParameters


@dataclass(frozen=True, slots=True)
class Spreading:
    """The graph made ready for relevance fields: h = share s + pull h."""

    pull: SparseMatrix
    share: Float64Array  # 1 / diagonal
    rho: float
    steps: int


def checked_ranking(parameters: RankingParameters, field: str = "ranking") -> RankingParameters:
    """The parameters, if all are in range."""
    violations = [
        FieldViolation(f"{field}.{name}", f"must be from {low:g} to {high:g}, not {value!r}")
        for name, value, low, high in (
            ("top", parameters.top, 1, MAXIMUM_TOP),
            ("spread", parameters.spread, 0.0, MAXIMUM_SPREAD),
            ("power", parameters.power, 1, MAXIMUM_POWER),
            ("diversity", parameters.diversity, 0.0, 1.0),
        )
        if not low <= value <= high
    ]
    if violations:
        raise InvalidArgument(violations)
    return parameters


def spreading(graph: Graph, spread: float = DEFAULT_RANKING.spread) -> Spreading:
    """Make a graph ready; once for all its queries."""
    share = 1.0 / (1.0 + spread * graph.degrees)
    pull = adjacency(graph).copy()
    pull.data *= np.repeat(spread * share, np.diff(graph.indptr))
    # Row sums of `pull` bound its spectral radius, here and on any part of the graph.
    rho = float((1.0 - share).max())
    rate = rho / (1.0 + float(np.sqrt(1.0 - rho * rho)))
    # Counted by multiplication: a logarithm differs from one C library to the next.
    bound, steps = 2.0 * rho, 0
    while bound > FIELD_PRECISION:
        bound *= rate
        steps += 1
    return Spreading(pull, frozen(share), rho, steps)


def query_cosines_of(reading: Reading) -> Float64Array:
    """The cosine of each anchor with the query; 0 where either has no direction."""
    products = reading.anchor_products
    lengths = np.sqrt(reading.lattice.nodes.anchor_squares * reading.query.square)
    found = np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)
    return np.clip(found, -1.0, 1.0, out=found)


def relevance_field(
    ready: Spreading, cosines: Float64Array, parameters: RankingParameters
) -> Float64Array:
    """The field h of cosines with a query; 0 outside the items that it spreads over."""
    items = _most_similar(cosines, max(FIELD_ITEMS, 4 * parameters.top))
    if items is None:
        return _spread(ready.pull, ready.share, _source(cosines, parameters.power), ready)
    pull = _part(ready.pull, items)
    # What edges that leave the part would have pulled goes to the item's own source.
    share = 1.0 - np.asarray(pull.sum(axis=1)).ravel()
    field = np.zeros_like(cosines)
    field[items] = _spread(pull, share, _source(cosines[items], parameters.power), ready)
    return field


def _source(cosines: Float64Array, power: int) -> Float64Array:
    positive = np.maximum(cosines, 0.0)
    source = positive.copy()
    for _ in range(power - 1):
        source *= positive
    return source


def _spread(
    pull: SparseMatrix, share: Float64Array, source: Float64Array, ready: Spreading
) -> Float64Array:
    """Chebyshev steps over Jacobi's, from Jacobi's guess."""
    guess = source * share
    before, now = guess, guess
    omega, quarter = 1.0, ready.rho * ready.rho / 4.0
    for step in range(ready.steps):
        following: Float64Array = pull @ now
        following += guess
        if step:
            omega = 1.0 / (1.0 - (2.0 if step == 1 else 1.0) * quarter * omega)
            following -= before
            following *= omega
            following += before
        before, now = now, following
    return np.maximum(now, 0.0)


def _most_similar(cosines: Float64Array, size: int) -> Int64Array | None:
    """The items of at least the `size`-th cosine, ascending; None if those are all."""
    if size >= cosines.size:
        return None
    threshold = np.partition(cosines, cosines.size - size)[cosines.size - size]
    items = np.flatnonzero(cosines >= threshold)
    return None if items.size == cosines.size else items


def _part(matrix: SparseMatrix, items: Int64Array) -> SparseMatrix:
    """The rows and columns of some items, ascending."""
    starts = matrix.indptr[items].astype(np.int64)
    counts = matrix.indptr[items + 1] - starts
    ends = np.cumsum(counts)
    entries = np.repeat(starts - (ends - counts), counts) + np.arange(int(ends[-1]))
    rows = np.repeat(np.arange(items.size), counts)
    places = np.full(matrix.shape[0], -1, dtype=np.int32)
    places[items] = np.arange(items.size, dtype=np.int32)
    columns = places[matrix.indices[entries]]
    inside = columns >= 0
    indptr = np.zeros(items.size + 1, dtype=np.int32)
    np.cumsum(np.bincount(rows[inside], minlength=items.size), out=indptr[1:])
    kept = (matrix.data[entries[inside]], columns[inside], indptr)
    return SparseMatrix(kept, shape=(items.size, items.size))


def merits_of(field: Float64Array, cosines: Float64Array) -> Float64Array:
    """The field relative to its largest value; below 0 and by cosine where nothing reaches."""
    best = float(field.max())
    if best <= 0:
        return cosines - 1.0
    return np.where(field > 0, field / best, cosines - 1.0)


def held_back(diversity: float) -> Valuation:
    """A merit less the share that likeness to the chosen takes of it."""

    def value(merits: Float64Array, nearest: Float64Array) -> Float64Array:
        shares = np.maximum(nearest, 0.0)
        # What has no merit has none to lose; -inf marks the chosen.
        shares *= diversity * np.maximum(merits, 0.0)
        return merits - shares

    return value


def rank(
    reading: Reading,
    parameters: RankingParameters = DEFAULT_RANKING,
    ready: Spreading | None = None,
) -> Ranking:
    """The best items for the reading's query."""
    checked_ranking(parameters)
    inputs = reading.lattice.inputs
    ready = ready or spreading(inputs.graph, parameters.spread)
    cosines = query_cosines_of(reading)
    field = relevance_field(ready, cosines, parameters)
    merits = merits_of(field, cosines)
    choice = choose(
        inputs.anchors,
        reading.lattice.nodes.anchor_squares,
        merits,
        parameters.top,
        held_back(parameters.diversity),
    )
    nodes = choice.nodes
    return Ranking(
        nodes=frozen(nodes),
        scores=frozen(choice.values),
        relevance=frozen(merits[nodes]),
        cosines=frozen(cosines[nodes]),
        margin=choice.margin,
        parameters=parameters,
    )
