"""Candidates for nearest neighbours: single-precision products, and a bound on what they miss.

The fastest matrix product there is differs from the exact one with the BLAS, its threads and its
order of adding, but by no more than is known of any order. What is within that of a row's k-th
best includes the k nearest for certain, and hardly more: cosines of those are computed exactly, so
that the neighbours have the same bits everywhere though the candidates may not.

Products are symmetric: only those on and above the diagonal are computed. A row's k-th best is
bounded from below by maxima of groups of columns; only what passes that is looked at one by one.
"""

import math
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from oars_grpc.core.lattice.arrays import (
    BoolArray,
    Float32Array,
    Int64Array,
)
from oars_grpc.core.lattice.directions import Directions
from oars_grpc.core.lattice.progress import Proceed, between, keep_going
from oars_grpc.core.lattice.rows import table_of
from oars_grpc.core.lattice.threads import side_by_side

_STRIP_ROWS = 512
_TILE_VALUES = 1 << 21
_STRIPS = 4  # at least: with fewer, the half below the diagonal would be computed after all
_SQUARE_ROWS = 2048  # the whole square at once takes less time than passing over it in strips
_PENDING = 1 << 22
_GROUPS = 8  # times k, at least: groups whose maxima bound the k-th best from below
_UNIT = math.ldexp(1.0, -24)  # a single-precision rounding is off by so much at most
# Nodes, the others of each, and their products.
_Hits = tuple[Int64Array, Int64Array, Float32Array]
_NOTHING = np.float32(-np.inf)
_CLOSED = np.float32(np.inf)


@dataclass(frozen=True, slots=True)
class Candidates:
    """Who may be among whose nearest, by node, then by other; `crowded` rows are not covered."""

    nodes: Int64Array
    others: Int64Array
    crowded: Int64Array


def candidate_pairs(
    directions: Directions, neighbors: int, proceed: Proceed = keep_going, /
) -> Candidates:
    """Pairs that hold every row's nearest, for rows without too many near ties."""
    count, codes = len(directions), directions.codes
    search = _Search.over(count, neighbors, _margin(directions))
    if count <= _SQUARE_ROWS:
        square = _square(codes, between(proceed, 0.0, 0.7))
        search.take_square(square, between(proceed, 0.7, 1.0))
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
            _multiply(codes[top:bottom], codes[left:right], tile)
            search.take(tile, top, left)
    return search.result()


def pairs_of(count: int, nodes: Int64Array, others: Int64Array, crowded: Int64Array) -> Candidates:
    """Each pair both ways, whichever of its two rows found it."""
    keys = np.sort(np.concatenate([nodes * count + others, others * count + nodes]))
    low, high = np.divmod(keys[np.diff(keys, prepend=-1) > 0], count)
    return Candidates(nodes=low, others=high, crowded=crowded)


def _margin(directions: Directions) -> float:
    """How far two products of one row may be out of the order of their cosines."""
    squares = directions.squares
    # |fl(a.b) - a.b| <= gamma |a||b| whatever the order of adding, fused or not (Higham, section
    # 3.1). Codes are not quite of one length, and the margin is subtracted in single precision.
    roundings = float(directions.codes.shape[1]) * _UNIT
    gamma = roundings / (1.0 - roundings)
    longest = float(squares.max())
    uneven = 1.0 - math.sqrt(float(squares.min()) / longest) if longest > 0 else 0.0
    return longest * (2.0 * gamma + uneven + 4.0 * _UNIT) * 1.001


def _square(codes: Float32Array, proceed: Proceed) -> Float32Array:
    """The products of all with all, with nothing on the diagonal."""
    count = len(codes)
    square = np.empty((count, count), dtype=np.float32)
    strip = -(-count // _STRIPS)

    def multiply(top: int, within: Proceed) -> None:
        within(0.0)
        bottom = min(top + strip, count)
        np.matmul(codes[top:bottom], codes[top:].T, out=square[top:bottom, top:])
        square[bottom:, top:bottom] = square[top:bottom, bottom:].T

    side_by_side([partial(multiply, top) for top in range(0, count, strip)], square.size, proceed)
    np.fill_diagonal(square, _NOTHING)
    return square


def _multiply(rows: Float32Array, columns: Float32Array, tile: Float32Array) -> None:
    """The products of rows and columns, a tile."""

    def multiply(part: slice, _: Proceed) -> None:
        np.matmul(rows, columns[part].T, out=tile[:, part])

    step = -(-len(columns) // _STRIPS)
    starts = range(0, len(columns), step)
    side_by_side([partial(multiply, slice(at, at + step)) for at in starts], tile.size)


def _reaching(
    tile: Float32Array, floor: Float32Array, mask: BoolArray
) -> tuple[Int64Array, Int64Array]:
    """Where a tile reaches the floor: rows and columns, row after row."""
    reaching = mask[: tile.size]
    np.greater_equal(tile, floor, out=reaching.reshape(tile.shape))
    row, column = np.divmod(np.flatnonzero(reaching), tile.shape[1])
    return row, column


@dataclass(slots=True)
class _Search:
    """What has been found so far."""

    neighbors: int
    margin: np.float32
    crowd: int
    best: Float32Array  # N x k: the k best products of each node, in no order
    floor: Float32Array  # N: a product under this cannot be among the k nearest
    kept: list[_Hits] = field(default_factory=list)
    pending: int = 0
    masks: list[BoolArray] = field(default_factory=lambda: [np.empty(0, dtype=np.bool_)] * 2)

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
        """Look through the products of rows from `top` and columns from `left`.

        Its rows and its columns are different nodes, but for the square on the diagonal, in which
        each pair stands twice: once as a row's is enough.
        """
        square = max(0, top + len(tile) - left)
        if square:
            np.fill_diagonal(tile, _NOTHING)
        parts = [partial(self._take_rows, tile, top, left)]
        if square < tile.shape[1]:
            parts.append(partial(self._take_columns, tile[:, square:], top, left + square))
        found = side_by_side(parts, tile.size)
        self.kept += found
        self.pending += sum(nodes.size for nodes, _, _ in found)
        if self.pending > _PENDING:
            self._compact()

    def take_square(self, square: Float32Array, proceed: Proceed) -> None:
        """Look through all products at once; being symmetric, its columns bound its rows."""
        count = len(square)
        self.floor[:] = self._bound_of_columns(square)

        def hits(top: int, within: Proceed) -> _Hits:
            within(0.0)
            rows = square[top : top + strip]
            mask = np.empty(rows.size, dtype=np.bool_)
            row, column = _reaching(rows, self.floor[top : top + strip, None], mask)
            return row + top, column, rows[row, column]

        strip = -(-count // _STRIPS)
        parts = [partial(hits, top) for top in range(0, count, strip)]
        self.kept = side_by_side(parts, square.size, proceed)

    def _take_rows(self, tile: Float32Array, top: int, left: int, proceed: Proceed) -> _Hits:
        proceed(0.0)
        rows = slice(top, top + len(tile))
        floor = self.floor[rows]
        if (floor == _NOTHING).any():
            np.maximum(floor, self._bound_of_rows(tile), out=floor)
        row, column = _reaching(tile, floor[:, None], self._mask(0, tile.size))
        values = tile[row, column]
        self._raise_floors(rows, row, values)
        return row + top, column + left, values

    def _take_columns(self, tile: Float32Array, top: int, left: int, proceed: Proceed) -> _Hits:
        proceed(0.0)
        columns = slice(left, left + tile.shape[1])
        floor = self.floor[columns]
        if (floor == _NOTHING).any():
            np.maximum(floor, self._bound_of_columns(tile), out=floor)
        row, column = _reaching(tile, floor, self._mask(1, tile.size))
        by_column = np.argsort(column)
        row, column = row[by_column], column[by_column]
        values = tile[row, column]
        self._raise_floors(columns, column, values)
        return column + left, row + top, values

    def _mask(self, place: int, size: int) -> BoolArray:
        """Room for the comparison of a tile's rows, or of its columns.

        It is kept: new memory would have to be cleared and brought near for every tile.
        """
        if self.masks[place].size < size:
            self.masks[place] = np.empty(size, dtype=np.bool_)
        return self.masks[place]

    def _bound_of_rows(self, tile: Float32Array) -> Float32Array:
        """For each row, less than its k-th largest by the margin: from maxima of groups.

        Columns far apart make a group: neighbours that lie side by side fall into several.
        """
        maxima = tile
        while maxima.shape[1] >= 2 * _GROUPS * self.neighbors:
            half = maxima.shape[1] // 2
            # An odd one is left out: what bounds the others' k-th largest bounds that of all.
            maxima = np.maximum(maxima[:, :half], maxima[:, half : 2 * half])
        return self._kth_largest(maxima)

    def _bound_of_columns(self, tile: Float32Array) -> Float32Array:
        """The same for each column."""
        rows = len(tile)
        group = max(1, rows // (_GROUPS * self.neighbors))
        groups = rows // group
        parted = tile[: groups * group].reshape(group, groups, tile.shape[1])
        return self._kth_largest(np.ascontiguousarray(parted.max(axis=0).T))

    def _kth_largest(self, maxima: Float32Array) -> Float32Array:
        """Less than each row's k-th largest by the margin."""
        place = maxima.shape[1] - self.neighbors
        if place < 0:
            return np.full(len(maxima), _NOTHING)
        return np.asarray(np.partition(maxima, place, axis=1)[:, place] - self.margin)

    def _raise_floors(self, nodes: slice, found: Int64Array, values: Float32Array) -> None:
        """Raise the floors of some nodes by what each has found, ascending by place among them."""
        best = self.best[nodes]
        merged = np.concatenate([best, table_of(found, values, len(best), _NOTHING)], axis=1)
        place = merged.shape[1] - self.neighbors
        merged.partition(place, axis=1)
        best[:] = merged[:, place:]
        np.maximum(self.floor[nodes], merged[:, place] - self.margin, out=self.floor[nodes])

    def _compact(self) -> None:
        """Let go of what has fallen under its floor, and of nodes with too many near ties."""
        nodes = np.concatenate([nodes for nodes, _, _ in self.kept])
        others = np.concatenate([others for _, others, _ in self.kept])
        values = np.concatenate([values for _, _, values in self.kept])
        crowds = np.bincount(nodes[values >= self.floor[nodes]], minlength=self.floor.size)
        self.floor[crowds > self.crowd] = _CLOSED
        kept = values >= self.floor[nodes]
        self.kept = [(nodes[kept], others[kept], values[kept])]
        self.pending = int(np.count_nonzero(kept))

    def result(self) -> Candidates:
        """The pairs that are left."""
        self._compact()
        count = self.floor.size
        [(nodes, others, _)] = self.kept
        nodes, others = np.divmod(np.sort(nodes * count + others), count)
        return Candidates(nodes, others, np.flatnonzero(self.floor == _CLOSED))
