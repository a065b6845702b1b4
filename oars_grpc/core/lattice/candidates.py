"""Candidates for nearest neighbours: exact single-precision products of coarse directions.

Unit vectors rounded to multiples of about 1/4096 have products under 2^24, whole numbers that
float32 holds: the fastest matrix product there is yields the same bits whatever the BLAS, its
threads or its order of adding. Each such product is within a known error of the true one, so what
is within twice that error of a row's k-th best includes the k nearest for certain; few more are.

Products are symmetric: only the tiles on and above the diagonal are computed, and each serves its
rows and its columns. A tile is compared with the k-th best that each node has found so far; only
what passes, ever less, is looked at one by one.
"""

from dataclasses import dataclass, field

import numpy as np

from oars_grpc.core.lattice.arrays import (
    BoolArray,
    Float32Array,
    Int64Array,
)
from oars_grpc.core.lattice.directions import FINE_SCALE, Directions
from oars_grpc.core.lattice.progress import Proceed, keep_going

_STRIP_ROWS = 512
_TILE_VALUES = 1 << 21
_STRIPS = 4  # at least: with fewer, the half below the diagonal would be computed after all
_SQUARE_ROWS = 2048  # the whole square at once takes less time than passing over it in strips
_PENDING = 1 << 22
_GROUPS = 8  # times k: groups whose maxima bound the k-th best from below
_VALUE_BITS = 26
_VALUE_HALF = 1 << 25
_NOTHING = np.float32(-np.inf)
_CLOSED = np.float32(np.inf)


@dataclass(frozen=True, slots=True)
class Candidates:
    """Pairs that may be neighbours, `low` < `high`, ascending; `crowded` rows are not covered."""

    low: Int64Array
    high: Int64Array
    crowded: Int64Array


def candidate_pairs(
    directions: Directions, neighbors: int, proceed: Proceed = keep_going, /
) -> Candidates:
    """Pairs that hold every row's nearest, for rows without too many near ties."""
    count = len(directions)
    coarse, margin = _coarse(directions)
    search = _Search.over(count, neighbors, margin)
    if count <= _SQUARE_ROWS:
        proceed(0.0)
        search.take_square(coarse @ np.ascontiguousarray(coarse.T))
        return search.result()
    strip = min(_STRIP_ROWS, -(-count // _STRIPS))
    width = max(strip, _TILE_VALUES // strip)
    buffer = np.empty(strip * width, dtype=np.float32)
    for top in range(0, count, strip):
        bottom = min(top + strip, count)
        for left in range(top, count, width):
            # Rows above `top` are done; of N^2 / 2 products (N - top)^2 / 2 remain.
            proceed(1.0 - ((count - top) / count) ** 2)
            right = min(left + width, count)
            size = (bottom - top, right - left)
            tile = buffer[: size[0] * size[1]].reshape(size)
            np.matmul(coarse[top:bottom], coarse[left:right].T, out=tile)
            search.take(tile, top, left)
    return search.result()


def _coarse(directions: Directions) -> tuple[Float32Array, float]:
    """Coarse whole-number directions, and how far two products with them may be out of order."""
    codes = directions.codes
    dimension = codes.shape[1]
    # |code| <= scale + sqrt(D) / 2 < 4096: by Cauchy-Schwarz no partial sum passes 2^24.
    scale = 4096.0 - np.sqrt(dimension) / 2.0 - 1.0
    coarse = np.empty_like(codes)
    worst = 0.0
    step = max(1, (1 << 18) // dimension)
    factor = np.float32(scale / FINE_SCALE)
    for start in range(0, len(directions), step):
        exact = codes[start : start + step] * factor
        rounded = np.rint(exact, out=coarse[start : start + step])
        exact -= rounded
        worst = max(worst, float(np.einsum("ij,ij->i", exact, exact).max()))
    # Fine codes are not quite of unit length themselves. The thousandth covers the rounding of
    # `factor`, of `exact` and of the sum above.
    uneven = float(np.abs(np.sqrt(directions.squares) / FINE_SCALE - 1.0).max())
    error = np.sqrt(worst) * 1.001 + scale * uneven + 0.001
    return coarse, 2.0 * (2.0 * scale * error + error * error) + 1.0


@dataclass(slots=True)
class _Search:
    """What has been found so far."""

    neighbors: int
    margin: np.float32
    crowd: int
    best: Float32Array  # N x k: the k best products of each node, in no order
    floor: Float32Array  # N: a product under this cannot be among the k nearest
    nodes: list[Int64Array] = field(default_factory=list)
    others: list[Int64Array] = field(default_factory=list)
    values: list[Float32Array] = field(default_factory=list)
    pending: int = 0
    mask: BoolArray = field(default_factory=lambda: np.empty(0, dtype=np.bool_))

    @classmethod
    def over(cls, count: int, neighbors: int, margin: float) -> "_Search":
        return cls(
            neighbors=neighbors,
            margin=np.float32(margin),
            crowd=64 + 8 * neighbors,
            best=np.full((count, neighbors), _NOTHING),
            floor=np.full(count, _NOTHING),
        )

    def take(self, tile: Float32Array, top: int, left: int) -> None:
        """Look through the products of rows from `top` and columns from `left`."""
        rows, columns = tile.shape
        # In the diagonal's square each pair stands twice: once as a row's is enough.
        square = max(0, top + rows - left)
        if square:
            corner = np.arange(min(rows, columns))
            tile[corner, corner] = _NOTHING
        beyond = tile[:, square:]
        row_floor = self.floor[top : top + rows]
        column_floor = self.floor[left + square : left + columns]
        if (row_floor == _NOTHING).any():
            np.maximum(row_floor, self._bound(tile.T), out=row_floor)
        if beyond.size and (column_floor == _NOTHING).any():
            np.maximum(column_floor, self._bound(beyond), out=column_floor)
        row, column = self._at_least(tile, row_floor[:, None])
        row_over, column_over = self._at_least(beyond, column_floor)
        self._add(
            np.concatenate([row + top, column_over + (left + square)]),
            np.concatenate([column + left, row_over + top]),
            np.concatenate([tile[row, column], beyond[row_over, column_over]]),
        )

    def take_square(self, square: Float32Array) -> None:
        """Look through all products at once; being symmetric, its columns stand for its rows."""
        np.fill_diagonal(square, _NOTHING)
        self.floor[:] = self._bound(square)
        others, nodes = self._at_least(square, self.floor)
        self.nodes, self.others, self.values = [nodes], [others], [square[others, nodes]]

    def _at_least(self, tile: Float32Array, floor: Float32Array) -> tuple[Int64Array, Int64Array]:
        """Where a tile reaches the floor: rows and columns."""
        if self.mask.size < tile.size:
            self.mask = np.empty(tile.size, dtype=np.bool_)
        mask = self.mask[: tile.size]
        np.greater_equal(tile, floor, out=mask.reshape(tile.shape))
        row, column = np.divmod(np.flatnonzero(mask), max(1, tile.shape[1]))
        return row, column

    def _bound(self, tile: Float32Array) -> Float32Array:
        """For each column, less than its k-th largest by the margin: from maxima of groups."""
        rows = tile.shape[0]
        group = max(1, rows // (_GROUPS * self.neighbors))
        groups = rows // group
        if groups < self.neighbors:
            return np.full(tile.shape[1], _NOTHING)
        maxima = tile[: groups * group].reshape(groups, group, tile.shape[1]).max(axis=1)
        kth = np.partition(maxima, groups - self.neighbors, axis=0)[groups - self.neighbors]
        return np.asarray(kth - self.margin)

    def _add(self, nodes: Int64Array, others: Int64Array, values: Float32Array) -> None:
        """Keep what passed, and raise the floors by it."""
        if not nodes.size:
            return
        self.nodes.append(nodes)
        self.others.append(others)
        self.values.append(values)
        self.pending += nodes.size
        k = self.neighbors
        # Products are whole numbers within 2^24: node and product sort as one number.
        keys = np.sort((nodes << _VALUE_BITS) + (_VALUE_HALF - values.astype(np.int64)))
        node = keys >> _VALUE_BITS
        value = (_VALUE_HALF - (keys & ((1 << _VALUE_BITS) - 1))).astype(np.float32)
        first = np.flatnonzero(np.concatenate([[True], node[1:] != node[:-1]]))
        slot = np.repeat(np.arange(first.size), np.diff(first, append=node.size))
        rank = np.arange(node.size) - first[slot]
        near = rank < k
        found = np.full((first.size, k), _NOTHING)
        found[slot[near], rank[near]] = value[near]
        touched = node[first]
        merged = np.concatenate([self.best[touched], found], axis=1)
        merged.partition(k, axis=1)
        self.best[touched] = merged[:, k:]
        floors = merged[:, k:].min(axis=1) - self.margin
        self.floor[touched] = np.maximum(self.floor[touched], floors)
        if self.pending > _PENDING:
            self._compact()

    def _compact(self) -> None:
        """Let go of what has fallen under its floor, and of nodes with too many near ties."""
        nodes = np.concatenate([*self.nodes, np.empty(0, dtype=np.int64)])
        others = np.concatenate([*self.others, np.empty(0, dtype=np.int64)])
        values = np.concatenate([*self.values, np.empty(0, dtype=np.float32)])
        kept = values >= self.floor[nodes]
        crowds = np.bincount(nodes[kept], minlength=self.floor.size) > self.crowd
        self.floor[crowds] = _CLOSED
        kept &= ~crowds[nodes]
        self.nodes, self.others, self.values = [nodes[kept]], [others[kept]], [values[kept]]
        self.pending = int(np.count_nonzero(kept))

    def result(self) -> Candidates:
        """The pairs that are left."""
        self._compact()
        count = self.floor.size
        nodes, others = self.nodes[0], self.others[0]
        return pairs_of(count, nodes, others, np.flatnonzero(self.floor == _CLOSED))


def pairs_of(count: int, nodes: Int64Array, others: Int64Array, crowded: Int64Array) -> Candidates:
    """Each pair once, whichever of its two rows found it."""
    keys = np.sort(np.minimum(nodes, others) * count + np.maximum(nodes, others))
    keys = keys[np.diff(keys, prepend=-1) > 0]
    low, high = np.divmod(keys, count)
    return Candidates(low=low, high=high, crowded=crowded)
