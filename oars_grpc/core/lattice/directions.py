"""Anchors as directions: unit vectors in whole numbers, whose products are exact.

A float32 product of two embeddings depends on the order in which a BLAS adds, hence on the
machine and on its number of threads. Unit vectors rounded to multiples of 2^-24 do not: a product
of two is a whole number under 2^53 whatever the order (every partial sum is under |a||b| by
Cauchy-Schwarz), and a cosine is three exact sums, a correctly rounded root and a correctly rounded
quotient. The rounding moves a cosine by less than 1e-6, typically 1e-8.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np

from oars_grpc.core.lattice.arrays import Float32Array, Float64Array, Int64Array, frozen
from oars_grpc.core.lattice.progress import Proceed, keep_going
from oars_grpc.core.lattice.threads import side_by_side

FINE_SCALE = float(1 << 24)
_BLOCK_VALUES = 1 << 18
_NARROW = 16


@dataclass(frozen=True, slots=True)
class Directions:
    """Unit vectors times 2^24, rounded to whole numbers, and their exact squared lengths.

    A zero anchor has no direction: its row and its square are 0.
    """

    codes: Float32Array
    squares: Float64Array

    def __len__(self) -> int:
        return int(self.squares.size)


def directions_of(anchors: Float32Array, proceed: Proceed = keep_going) -> Directions:
    """The directions of canonical anchors; the same bits on every machine."""
    count, dimension = anchors.shape
    codes = np.empty((count, dimension), dtype=np.float32)
    squares = np.empty(count)

    def direct(part: slice, within: Proceed) -> None:
        within(0.0)
        rows = anchors[part].astype(np.float64)
        norms = np.sqrt(row_sums(rows * rows))
        scale = np.divide(FINE_SCALE, norms, out=np.zeros_like(norms), where=norms > 0)
        np.multiply(rows, scale[:, None], out=rows)
        np.rint(rows, out=rows)
        codes[part] = rows
        # Exact in any order: whole numbers that add up to little over 2^48.
        np.vecdot(rows, rows, out=squares[part])

    step = max(1, _BLOCK_VALUES // dimension)
    blocks = [partial(direct, slice(start, start + step)) for start in range(0, count, step)]
    side_by_side(blocks, anchors.size, proceed)
    return Directions(codes=frozen(codes), squares=frozen(squares))


def row_sums(rows: Float64Array) -> Float64Array:
    """Each row's sum, added by halves: an order that no library and no machine changes.

    The rows are overwritten.
    """
    width = rows.shape[1]
    while width > _NARROW:
        half = width // 2
        rows[:, :half] += rows[:, width - half : width]
        width -= half
    # What is left of a row is too short to be worth a loop: the same additions, column by column.
    columns: Float64Array = np.ascontiguousarray(rows[:, :width].T)
    while width > 1:
        half = width // 2
        columns[:half] += columns[width - half : width]
        width -= half
    return columns[0, :].copy()


def cosines(dots: Float64Array, left: Float64Array, right: Float64Array) -> Float64Array:
    """Cosines from exact products and squares, at most 1; 0 where a square is 0.

    The root of a rounded square is exact, so that equal directions have a cosine of exactly 1.
    """
    scale = np.sqrt(left * right)
    found = np.divide(dots, scale, out=np.zeros_like(dots), where=scale > 0)
    return np.clip(found, -1.0, 1.0, out=found)


def pair_cosines(directions: Directions, left: Int64Array, right: Int64Array) -> Float64Array:
    """The cosines of pairs of rows."""
    codes, squares = directions.codes, directions.squares
    dots = np.empty(left.size)
    step = max(1, _BLOCK_VALUES // codes.shape[1])
    for start in range(0, left.size, step):
        part = slice(start, start + step)
        first = codes.take(left[part], axis=0).astype(np.float64)
        second = codes.take(right[part], axis=0).astype(np.float64)
        # Whole numbers: a BLAS may add them in any order.
        np.vecdot(first, second, out=dots[part])
    return cosines(dots, squares[left], squares[right])


def query_cosines(directions: Directions, query: Float32Array) -> Float64Array:
    """The cosine of every row with a query."""
    asked = directions_of(query[None, :])
    code = asked.codes[0].astype(np.float64)
    dots = np.empty(len(directions))
    step = max(1, _BLOCK_VALUES // code.size)
    for start in range(0, dots.size, step):
        dots[start : start + step] = (
            directions.codes[start : start + step].astype(np.float64) @ code
        )
    return cosines(dots, directions.squares, asked.squares)
