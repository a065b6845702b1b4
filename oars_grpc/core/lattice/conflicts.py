"""Items that join what does not belong together, by partial correlation among their nearest.

Of an item i with neighbours a and b, rho_ab|i = (c_ab - c_ia c_ib) / sqrt((1 - c_ia^2)(1 - c_ib^2))
is how a and b correlate once what they share with i is taken out. Near -1, the item lies between
the two. That alone is true of any point on a line, so a conflict also asks that a and b be unlike
each other. It depends on no query, and costs about k^2/2 products a node.

The nearest are asked, not the graph's neighbours: what lies between two groups is near to both,
but they are nearer to their own, so that the mutual graph often leaves it alone.
"""

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.special import stdtrit

from oars_grpc.core.lattice.arrays import Float32Array, Float64Array, Int32Array, Int64Array, frozen
from oars_grpc.core.lattice.neighbors import NOBODY, NeighborLists
from oars_grpc.core.lattice.progress import Proceed, keep_going
from oars_grpc.core.lattice.threads import side_by_side
from oars_grpc.errors import InvalidArgument

# Measured on planted mixtures of sentences.
LEAST_TENSION = 0.6
# How often a pair of random directions may be as tense as that: in few dimensions most are.
_BY_CHANCE = 3e-4
DEFAULT_LIKENESS = 0.5
# Of more than these nearest, pairs grow too many, and the far ones say little.
MOST_NEIGHBORS = 16
# A copy of an item, or its opposite, says nothing of what it joins.
_SAME = 1.0 - 1e-6
_BLOCK_VALUES = 1 << 19
_LINE = 2


@dataclass(frozen=True, slots=True)
class Conflicts:
    """The items in conflict, the tensest first, each with the pair that it joins."""

    nodes: Int64Array
    pairs: Int64Array  # beside `nodes`: two neighbours, the lower first
    tensions: Float64Array  # -rho of the pair, in (0, 1]
    tension: float  # the least that counts as one
    likeness: float  # how alike the pair may be at most

    def __len__(self) -> int:
        return self.nodes.size


def conflicts(
    anchors: Float32Array,
    lists: NeighborLists,
    tension: float | None = None,
    likeness: float = DEFAULT_LIKENESS,
    proceed: Proceed = keep_going,
) -> Conflicts:
    """Each item whose tensest pair of neighbours is at least so tense and at most so alike."""
    if tension is None:
        tension = default_tension(anchors.shape[1])
    if not 0.0 < tension <= 1.0:
        raise InvalidArgument.of("tension", f"must be over 0 and at most 1, not {tension!r}")
    if not -1.0 <= likeness <= 1.0:
        raise InvalidArgument.of("likeness", f"must be from -1 to 1, not {likeness!r}")
    count = len(anchors)
    # On a line or a circle everything lies between its neighbours.
    width = MOST_NEIGHBORS if anchors.shape[1] > _LINE else 0
    nearest: Int32Array = lists.indices[:, :width]
    tensest, pairs = np.zeros(count), np.zeros((count, 2), dtype=np.int64)
    lengths = _lengths(anchors)

    def weigh(part: slice, within: Proceed) -> None:
        within(0.0)
        tensest[part], pairs[part] = _tensest(anchors, lengths, part, nearest[part], likeness)

    values = nearest.size * anchors.shape[1]
    # Blocks of one size: two of them keep two threads busy for as long.
    step = -(-count // -(-max(1, values) // _BLOCK_VALUES))
    blocks = [partial(weigh, slice(start, start + step)) for start in range(0, count, step)]
    side_by_side(blocks, values, proceed)
    found = np.flatnonzero(tensest >= tension)
    order = found[np.argsort(-tensest[found], kind="stable")]
    return Conflicts(
        nodes=frozen(order),
        pairs=frozen(np.sort(pairs[order], axis=1)),
        tensions=frozen(tensest[order]),
        tension=tension,
        likeness=likeness,
    )


def default_tension(dimension: int) -> float:
    """The tension that counts: `LEAST_TENSION`, or more where chance alone makes as much.

    What is left of random directions once one is taken out correlates as Student's t tells, with
    two degrees of freedom less than there are dimensions.
    """
    freedom = dimension - 2
    if freedom < 1:
        return 1.0
    quantile = float(stdtrit(freedom, 1.0 - _BY_CHANCE))
    return max(LEAST_TENSION, quantile / math.sqrt(freedom + quantile * quantile))


def pair_tension(anchors: Float32Array, item: int, pair: tuple[int, int]) -> tuple[float, float]:
    """-rho of one pair about an item, and the pair's cosine."""
    rows = anchors[[item, *pair]]
    lengths = _lengths(rows)
    block = rows[None, 1:]
    near = np.einsum("nd,nad->na", rows[:1], block) * _inverse(lengths[:1, None] * lengths[1:])
    tensions, alike = _tensions(near.T, block, lengths[1:, None])
    return float(tensions[0, 0]), float(alike[0, 0])


def _tensest(
    anchors: Float32Array,
    lengths: Float64Array,
    part: slice,
    nearest: Int32Array,
    likeness: float,
) -> tuple[Float64Array, Int64Array]:
    """Of some items the tension of the tensest unlike pair, 0 without one, and that pair."""
    count, width = nearest.shape
    best, pairs = np.zeros(count), np.zeros((count, 2), dtype=np.int64)
    if width < 2:
        return best, pairs
    places = np.maximum(nearest, 0)
    rows, long = anchors.take(places, axis=0), lengths.take(places)
    near = np.einsum("nd,nad->na", anchors[part], rows) * _inverse(lengths[part, None] * long)
    # Places of nobody count as copies, which say nothing.
    near[nearest == NOBODY] = 1.0
    tensions, alike = _tensions(near.T, rows, long.T)
    tensions[alike > likeness] = 0.0
    # The first of equals: of the pair whose places are the least apart.
    place = tensions.argmax(axis=0)
    found = tensions[place, np.arange(count)]
    tense = np.flatnonzero(found > 0)
    first, second = _pairs(width)
    best[tense] = found[tense]
    pairs[tense, 0] = nearest[tense, first[place[tense]]]
    pairs[tense, 1] = nearest[tense, second[place[tense]]]
    return best, pairs


def _tensions(
    near: Float64Array, rows: Float32Array, lengths: Float64Array
) -> tuple[Float64Array, Float64Array]:
    """-rho of every pair of neighbours, and the pairs' cosines: a row for each of `_pairs`.

    `near` and `lengths` have a row for each place, so that what is computed lies side by side.
    """
    spans = _spans(len(near))
    dots = np.empty((spans[-1][1].stop, len(rows)), dtype=np.float32)
    for apart, pairs in spans:
        np.einsum("nad,nad->an", rows[:, :-apart], rows[:, apart:], out=dots[pairs])
    alike = _inverse(_products(lengths))
    alike *= dots
    left = np.maximum(1.0 - near * near, 0.0)
    left[near >= _SAME] = 0.0
    rest, partials = _products(left), _products(near)
    partials -= alike
    sound = rest > 0
    np.sqrt(rest, out=rest)
    np.divide(partials, rest, out=partials, where=sound)
    partials[~sound] = 0.0
    return np.minimum(partials, 1.0, out=partials), alike


def _products(values: Float64Array) -> Float64Array:
    """The products of every two rows, in the order of `_pairs`."""
    spans, rows = _spans(len(values)), np.ascontiguousarray(values)
    found = np.empty((spans[-1][1].stop, values.shape[1]))
    for apart, pairs in spans:
        np.multiply(rows[:-apart], rows[apart:], out=found[pairs])
    return found


def _spans(width: int) -> list[tuple[int, slice]]:
    """How far apart pairs are, and where such pairs stand in the order of `_pairs`."""
    ends = np.cumsum(np.arange(width - 1, 0, -1)).tolist()
    return [(apart, slice(end - width + apart, end)) for apart, end in enumerate(ends, start=1)]


def _pairs(width: int) -> tuple[Int64Array, Int64Array]:
    """The places of every pair among so many, those next to each other first."""
    starts = [np.arange(width - apart) for apart in range(1, width)]
    ends = [np.arange(apart, width) for apart in range(1, width)]
    return np.concatenate(starts), np.concatenate(ends)


def _lengths(rows: Float32Array) -> Float64Array:
    return np.asarray(np.sqrt(np.einsum("nd,nd->n", rows, rows).astype(np.float64)))


def _inverse(lengths: Float64Array) -> Float64Array:
    """1 over each product of lengths; 0 where one has none."""
    return np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0)
