"""The graph of anchors that are each other's neighbours."""

from dataclasses import dataclass

import numpy as np

from oars_grpc.core.lattice.arrays import (
    Float64Array,
    Int32Array,
    Int64Array,
    frozen,
)
from oars_grpc.core.lattice.neighbors import NOBODY, NeighborLists
from oars_grpc.core.lattice.progress import Proceed, keep_going

# Weights are multiples of 2^-24, exact in float32, so that sums of them are exact in any order
# and a receipt can tell them as whole numbers.
WEIGHT_SCALE = float(1 << 24)
_CAP_ROUNDS = 16


@dataclass(frozen=True, slots=True)
class Graph:
    """A symmetric weighted graph in compressed rows, columns ascending, without loops."""

    indptr: Int32Array  # N + 1
    indices: Int32Array  # twice the edges
    weights: Float64Array  # beside `indices`
    edges: Int32Array  # E x 2, i < j, ascending
    edge_weights: Float64Array  # E
    degrees: Float64Array  # N: sums of weights

    def __len__(self) -> int:
        return self.degrees.size


def mutual_graph(
    lists: NeighborLists, row_cap: float | None = None, proceed: Proceed = keep_going
) -> Graph:
    """The graph of mutual neighbours, weighing max(cosine, 0), its row sums at most `row_cap`."""
    count, width = lists.indices.shape
    proceed(0.0)
    rows = np.repeat(np.arange(count, dtype=np.int64), width)
    columns = lists.indices.ravel().astype(np.int64)
    values = lists.cosines.ravel()
    real = (columns != NOBODY) & (values > 0)
    rows, columns, values = rows[real], columns[real], values[real]
    low, high = np.minimum(rows, columns), np.maximum(rows, columns)
    keys = low * count + high
    order = np.argsort(keys)
    keys = keys[order]
    # A pair that stands twice was listed from both sides.
    twice = np.flatnonzero(keys[1:] == keys[:-1])
    weights = np.rint(values[order][twice] * WEIGHT_SCALE) / WEIGHT_SCALE
    return graph_of_edges(count, keys[twice] // count, keys[twice] % count, weights, row_cap)


def graph_of_edges(
    count: int,
    low: Int64Array,
    high: Int64Array,
    weights: Float64Array,
    row_cap: float | None = None,
) -> Graph:
    """The graph of edges (low < high, ascending) after capping; edges of weight 0 vanish."""
    if row_cap is not None:
        weights = capped_weights(count, low, high, weights, row_cap)
    kept = weights > 0
    low, high, weights = low[kept], high[kept], weights[kept]
    rows = np.concatenate([low, high])
    columns = np.concatenate([high, low])
    order = np.argsort(rows * count + columns)
    indptr = np.zeros(count + 1, dtype=np.int32)
    np.cumsum(np.bincount(rows, minlength=count), out=indptr[1:])
    return Graph(
        indptr=frozen(indptr),
        indices=frozen(columns[order].astype(np.int32)),
        weights=frozen(np.concatenate([weights, weights])[order]),
        edges=frozen(np.stack([low, high], axis=1).astype(np.int32)),
        edge_weights=frozen(weights),
        degrees=frozen(row_sums_of_edges(count, low, high, weights)),
    )


def row_sums_of_edges(
    count: int, low: Int64Array, high: Int64Array, weights: Float64Array
) -> Float64Array:
    """The sum of weights at each node."""
    sums = np.bincount(low, weights, minlength=count) + np.bincount(high, weights, minlength=count)
    # Without edges, bincount forgets that weights are not whole numbers.
    return np.asarray(sums, dtype=np.float64)


def capped_weights(
    count: int, low: Int64Array, high: Int64Array, weights: Float64Array, row_cap: float
) -> Float64Array:
    """Weights scaled down, the same on both sides, until no row sums to more than `row_cap`.

    Each round scales an edge by the root of what its two ends ask for, as Sinkhorn does; that
    nears the cap from above, so the last round takes the smaller of the two, and rounds down.
    """
    for _ in range(_CAP_ROUNDS):
        asked = _asked(row_sums_of_edges(count, low, high, weights), row_cap)
        if asked.min(initial=1.0) >= 1.0:
            break
        weights = weights * np.sqrt(asked[low] * asked[high])
    asked = _asked(row_sums_of_edges(count, low, high, weights), row_cap)
    weights = weights * np.minimum(asked[low], asked[high])
    return np.asarray(np.floor(weights * WEIGHT_SCALE) / WEIGHT_SCALE)


def _asked(sums: Float64Array, row_cap: float) -> Float64Array:
    """The factor that each row asks for: 1, or what brings its sum just under the cap."""
    # Just under: a quotient may be rounded up by one part in 2^53.
    goal = row_cap * (1.0 - 2.0**-40)
    return np.divide(goal, sums, out=np.ones_like(sums), where=sums > row_cap)
