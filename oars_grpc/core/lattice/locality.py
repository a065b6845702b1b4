"""Rows worked on a few at a time, and in an order in which linked nodes lie near each other.

Neighbours may lie anywhere among the anchors. What one row needs of others is then fetched from
far away, the farther the larger the lattice. In the reverse Cuthill-McKee order it mostly was
there a moment ago.
"""

from dataclasses import dataclass

import numpy as np
from scipy.sparse.csgraph import reverse_cuthill_mckee

from oars_grpc.core.lattice.arrays import Int64Array, frozen
from oars_grpc.core.lattice.laplacian import SparseMatrix

# Up to here all rows lie near anyway, and an order takes longer than it saves.
LEAST_ORDERED = 2_000


def near_order(matrix: SparseMatrix, least: int = LEAST_ORDERED) -> Int64Array | None:
    """The rows of a symmetric matrix so that those it links are near; None if it has few."""
    if matrix.shape[0] < least:
        return None
    order: Int64Array = reverse_cuthill_mckee(matrix, symmetric_mode=True).astype(np.int64)
    return frozen(order)


def places_of(order: Int64Array) -> Int64Array:
    """Where in an order each row stands."""
    places = np.empty_like(order)
    places[order] = np.arange(order.size)
    return places


def arranged(matrix: SparseMatrix, order: Int64Array) -> SparseMatrix:
    """A square matrix with its rows and columns in an order.

    The entries of a row stay in theirs, whatever their new columns: its sums keep their bits.
    """
    sizes = np.diff(matrix.indptr)[order]
    indptr = np.zeros_like(matrix.indptr)
    np.cumsum(sizes, out=indptr[1:])
    entries = np.arange(indptr[-1]) + np.repeat(matrix.indptr[:-1][order] - indptr[:-1], sizes)
    columns = places_of(order)[matrix.indices[entries]].astype(matrix.indices.dtype)
    return SparseMatrix((matrix.data[entries], columns, indptr), shape=matrix.shape)


def row_slices(count: int, most: int) -> list[slice]:
    """All rows, so many at a time."""
    return [slice(start, min(start + most, count)) for start in range(0, count, most)]


def rows_of(matrix: SparseMatrix, rows: slice) -> SparseMatrix:
    """Some rows of a matrix, without a copy."""
    entries = slice(matrix.indptr[rows.start], matrix.indptr[rows.stop])
    indptr = matrix.indptr[rows.start : rows.stop + 1] - matrix.indptr[rows.start]
    shape = (rows.stop - rows.start, matrix.shape[1])
    return SparseMatrix((matrix.data[entries], matrix.indices[entries], indptr), shape=shape)


def row_parts(matrix: SparseMatrix, most: int) -> list[tuple[slice, SparseMatrix]]:
    """All rows of a matrix, so many at a time."""
    if matrix.shape[0] <= most:
        return [(slice(0, matrix.shape[0]), matrix)]
    return [(rows, rows_of(matrix, rows)) for rows in row_slices(matrix.shape[0], most)]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Some rows that lie together, and behind them those elsewhere that they need."""

    rows: slice
    others: Int64Array  # ascending

    @classmethod
    def of(cls, rows: slice, needed: Int64Array) -> "Surroundings":
        """Of rows that need such others, or themselves."""
        return cls(rows, np.unique(needed[(needed < rows.start) | (needed >= rows.stop)]))

    @property
    def own(self) -> int:
        """How many lie together: these are the first of all."""
        return int(self.rows.stop - self.rows.start)

    def __len__(self) -> int:
        return self.own + self.others.size

    def nodes(self, order: Int64Array | None) -> Int64Array:
        """All of them, as an order has them."""
        local = np.concatenate([np.arange(self.rows.start, self.rows.stop), self.others])
        return local if order is None else order[local]

    def local(self, needed: Int64Array) -> Int64Array:
        """Where each needed row stands among these."""
        places: Int64Array = needed - self.rows.start
        away = (places < 0) | (places >= self.own)
        places[away] = self.own + np.searchsorted(self.others, needed[away])
        return places
