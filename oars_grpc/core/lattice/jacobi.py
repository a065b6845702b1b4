"""A system as Jacobi steps, each taken some rows at a time."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from oars_grpc.core.lattice.arrays import Float32Array, Float64Array
from oars_grpc.core.lattice.laplacian import SparseMatrix
from oars_grpc.core.lattice.locality import row_parts
from oars_grpc.core.lattice.system import System

Table = npt.NDArray[np.floating[Any]]

# Values stepped on together: few enough to stay near the processor.
STEP_VALUES = 1 << 17


@dataclass(frozen=True, slots=True)
class Jacobi:
    """The system as U = side / diagonal + pull U, where an isolated node's pull is nothing."""

    pull: list[tuple[slice, SparseMatrix]]  # some rows after the other
    diagonal: Float32Array | Float64Array
    rho: float
    limit: int
    tolerance: float

    @classmethod
    def of(cls, system: System, dtype: np.dtype[Any], width: int) -> "Jacobi":
        """For tables of so many columns."""
        matrix, count = system.matrix, len(system)
        rows = np.repeat(np.arange(count), np.diff(matrix.indptr))
        aside = (matrix.indices != rows) & (matrix.data != 0)
        rows = rows[aside]
        indptr = np.zeros(count + 1, dtype=matrix.indptr.dtype)
        np.cumsum(np.bincount(rows, minlength=count), out=indptr[1:])
        pull = (-matrix.data[aside] / system.diagonal[rows]).astype(dtype)
        parameters = system.parameters
        whole = SparseMatrix((pull, matrix.indices[aside], indptr), shape=(count, count))
        return cls(
            row_parts(whole, STEP_VALUES // width),
            system.diagonal.astype(dtype),
            system.rho,
            parameters.max_iterations,
            parameters.tolerance,
        )

    def sweep(
        self, guess: Table, values: Table, pace: float = 1.0, before: Table | None = None
    ) -> Table:
        """One Jacobi step from `values`; given what came before, `pace` times as far from it."""
        alone = len(self.pull) == 1
        # A row asks for no other row of what came before: but for the guess, that place is free.
        into = guess if before is None else before
        if into is guess and not alone:
            into = np.empty_like(guess)
        for rows, pull in self.pull:
            moved: Table = pull @ values
            moved += guess[rows]
            if before is not None:
                moved -= before[rows]
                moved *= pace
                moved += before[rows]
            if alone:
                return moved
            into[rows] = moved
        return into
