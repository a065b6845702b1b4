"""Choosing items one by one, each held back by its likeness to those chosen before.

Greedy choice over all N would need the likeness of every item to every choice. An item's value
is at most its merit, so that a prefix of the items in order of merit is provably enough as soon
as the best value within it is above the merit of the first item outside; else the prefix grows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from oars_grpc.core.lattice.arrays import BoolArray, Float32Array, Float64Array, Int64Array

_FIRST_CANDIDATES = 64
# Below any cosine, rounding included.
_LEAST_COSINE = -1.0 - 2.0**-16
_GROWTH = 4

# From merits and the greatest cosine with a chosen item (0 while none is) to values; at a cosine
# of -1 it bounds the value from above.
Valuation = Callable[[Float64Array, Float64Array], Float64Array]


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen, in order, beside the best that could have been."""

    nodes: Int64Array
    values: Float64Array  # of each when it was chosen
    rivals: Float64Array  # the best value, or bound on it, of all others at that moment

    @property
    def margin(self) -> float | None:
        """The least by which a choice was better than its rivals; None where it had none."""
        rivaled = np.isfinite(self.rivals)
        if not rivaled.any():
            return None
        return float((self.values[rivaled] - self.rivals[rivaled]).min())


def choose(
    anchors: Float32Array,
    squares: Float64Array,
    merits: Float64Array,
    count: int,
    valuation: Valuation,
    order: Int64Array | None = None,
) -> Choice:
    """Choose `count` items, ties by the lower index, or follow a given order of choices.

    `squares` are the anchors' squared lengths, `merits` what an item is worth alone.
    """
    count = min(count, merits.size) if order is None else order.size
    size = _FIRST_CANDIDATES
    while True:
        pool, outside = _best(merits, max(size, 2 * count))
        if order is not None:
            pool = np.union1d(pool, order)
        found = _greedy(anchors, squares, merits, pool, count, valuation, order)
        if outside is None:
            return found
        bound = float(valuation(np.array([outside]), np.array([_LEAST_COSINE]))[0])
        if order is not None or bound < found.values.min(initial=np.inf):
            return Choice(found.nodes, found.values, np.maximum(found.rivals, bound))
        size *= _GROWTH


def _best(merits: Float64Array, size: int) -> tuple[Int64Array, float | None]:
    """The items of at least the `size`-th merit, ascending, and the best merit of the others."""
    if size >= merits.size:
        return np.arange(merits.size), None
    threshold = np.partition(merits, merits.size - size)[merits.size - size]
    inside: BoolArray = merits >= threshold
    if inside.all():
        return np.arange(merits.size), None
    return np.flatnonzero(inside), float(merits[~inside].max())


def _greedy(
    anchors: Float32Array,
    squares: Float64Array,
    merits: Float64Array,
    pool: Int64Array,
    count: int,
    valuation: Valuation,
    order: Int64Array | None,
) -> Choice:
    rows, worth = _units(anchors[pool], squares[pool]), merits[pool]
    nearest = np.zeros(pool.size)
    places: Sequence[int] | None = None
    if order is not None:
        places = np.searchsorted(pool, order).tolist()
    values = valuation(worth, nearest)
    chosen, taken, rivals = np.empty(count, np.int64), np.empty(count), np.empty(count)
    for step in range(count):
        # The first of equals, hence the lower index.
        place = int(values.argmax()) if places is None else places[step]
        chosen[step], taken[step] = pool[place], values[place]
        worth[place] = values[place] = -np.inf
        rivals[step] = values.max()
        if step + 1 < count:
            near = np.einsum("nd,d->n", rows, rows[place])
            nearest = near.astype(np.float64) if step == 0 else np.maximum(nearest, near)
            values = valuation(worth, nearest)
    return Choice(chosen, taken, rivals)


def _units(rows: Float32Array, squares: Float64Array) -> Float32Array:
    """The rows at length 1; a zero row stays one."""
    lengths = np.sqrt(squares)[:, None]
    units = np.zeros_like(rows)
    return np.divide(rows, lengths, out=units, where=lengths > 0, casting="same_kind")
