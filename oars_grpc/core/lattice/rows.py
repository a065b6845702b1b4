"""Entries of many rows as one table, so that every row is sorted in the same call."""

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from oars_grpc.core.lattice.arrays import Int64Array

ScalarT = TypeVar("ScalarT", bound=np.generic)


def table_of(
    rows: Int64Array, values: npt.NDArray[ScalarT], count: int, missing: Any
) -> npt.NDArray[ScalarT]:
    """Each row's values in their order, as wide as the fullest row; `rows` must ascend."""
    sizes = np.bincount(rows, minlength=count)
    starts = np.cumsum(sizes) - sizes
    table = np.full((count, int(sizes.max(initial=0))), missing, dtype=values.dtype)
    table[rows, np.arange(rows.size) - starts[rows]] = values
    return table
