"""Where a lattice's items are drawn: on the plane in which they lie apart the most."""

from dataclasses import dataclass

import numpy as np

from oars_grpc.core.lattice.arrays import Float32Array, Float64Array, Int64Array

_BLOCK_ROWS = 8192


@dataclass(frozen=True, slots=True)
class Plane:
    """Two principal axes of a table's rows, the first the longer."""

    middle: Float64Array  # D
    axes: Float64Array  # D x 2

    @classmethod
    def of(cls, rows: Float32Array) -> "Plane":
        """The plane of a table; the same for the same table."""
        dimension = rows.shape[1]
        middle = rows.mean(axis=0, dtype=np.float64)
        spread = np.zeros((dimension, dimension))
        for start in range(0, len(rows), _BLOCK_ROWS):
            block = rows[start : start + _BLOCK_ROWS] - middle
            spread += block.T @ block
        _, vectors = np.linalg.eigh(spread)
        axes = np.zeros((dimension, 2))
        # Of one dimension there is but one axis: the second stays 0.
        found = vectors[:, ::-1][:, :2]
        # Both signs are right: the largest part is made positive, so that it is always the same.
        largest = np.abs(found).argmax(axis=0)
        signs = np.where(found[largest, range(found.shape[1])] < 0, -1.0, 1.0)
        axes[:, : found.shape[1]] = found * signs
        return cls(middle, axes)

    def places(self, rows: Float32Array) -> Float64Array:
        """Where rows lie on the plane."""
        return np.asarray((rows - self.middle) @ self.axes)


def drawn_nodes(cosines: Float64Array, most: int, always: Int64Array) -> Int64Array:
    """The items to draw, ascending: all, or those most like the query and some that must be."""
    if cosines.size <= most:
        return np.arange(cosines.size)
    near = np.argsort(-cosines, kind="stable")[:most]
    return np.union1d(near, always)
