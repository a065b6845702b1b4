"""Solving the system: steps known in advance, or conjugate gradients where that takes too many."""

from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any

import numpy as np

from oars_grpc.core.lattice.arrays import Float32Array, Float64Array, frozen
from oars_grpc.core.lattice.jacobi import STEP_VALUES, Jacobi, Table
from oars_grpc.core.lattice.locality import row_parts
from oars_grpc.core.lattice.progress import Proceed, between, keep_going
from oars_grpc.core.lattice.system import System
from oars_grpc.core.lattice.threads import side_by_side

# Up to here Chebyshev needs hardly more steps than conjugate gradients and no inner products.
CHEBYSHEV_CONDITION = 200.0


class SolveMethod(StrEnum):
    """How a system was solved."""

    CHEBYSHEV_JACOBI = "chebyshev_jacobi"
    CONJUGATE_GRADIENT = "conjugate_gradient"


class SolveStop(StrEnum):
    """Why a solver stopped."""

    TOLERANCE_REACHED = "tolerance_reached"
    ITERATION_LIMIT = "iteration_limit"
    NOT_POSITIVE_DEFINITE = "not_positive_definite"
    NOT_FINITE = "not_finite"


@dataclass(frozen=True, slots=True)
class SolveOutcome:
    """What the solver did, and how far from the solution it may be."""

    method: SolveMethod
    stop: SolveStop
    iterations: int
    residual: float  # |F - M U| / |F| in the Frobenius norm; 0 for F = 0
    tolerance: float

    @property
    def converged(self) -> bool:
        """Whether the tolerance was reached."""
        return self.stop is SolveStop.TOLERANCE_REACHED


@dataclass(frozen=True, slots=True)
class Solution:
    """The solution, of the right-hand side's shape and type, and how it came about."""

    values: Float32Array | Float64Array
    outcome: SolveOutcome


# Columns solved together: few enough that their work stays near the processor.
_COLUMNS = 64
# Columns from which an order of the rows saves more than it takes.
_LEAST_ORDERED = 16
# In float32 a residual cannot fall much under 1e-7 of what its condition magnifies.
_SINGLE_CONDITION = 20.0
_SINGLE_TOLERANCE = 1e-6


def solve(
    system: System, rhs: Float32Array | Float64Array, proceed: Proceed = keep_going
) -> Solution:
    """Solve M U = F for a vector or for the columns of a table.

    A float32 side is solved in float32 where that can meet the tolerance, and again in float64
    if it did not; its solution is stored as float32. The residual is measured in float64. No
    result depends on the number of threads.
    """
    table = rhs.reshape(len(system), -1)
    tolerance = system.parameters.tolerance
    single = (
        rhs.dtype == np.float32
        and system.condition_bound <= _SINGLE_CONDITION
        and tolerance >= _SINGLE_TOLERANCE
    )
    if single:
        half = between(proceed, 0.0, 0.5)
        values, outcome = _by_columns(system, table, np.dtype(np.float32), half)
        if outcome.residual > tolerance:
            values, outcome = _by_columns(
                system, table, np.dtype(np.float64), between(proceed, 0.5, 1.0)
            )
    else:
        values, outcome = _by_columns(system, table, np.dtype(np.float64), proceed)
    return Solution(values=frozen(values.reshape(rhs.shape)), outcome=outcome)


def _by_columns(
    system: System,
    table: Float32Array | Float64Array,
    dtype: np.dtype[Any],
    proceed: Proceed,
) -> tuple[Float32Array | Float64Array, SolveOutcome]:
    """Solve some columns after the other, computing in `dtype`."""
    chebyshev = system.condition_bound <= CHEBYSHEV_CONDITION
    method = SolveMethod.CHEBYSHEV_JACOBI if chebyshev else SolveMethod.CONJUGATE_GRADIENT
    steps, order = chebyshev_steps(system), system.order
    # Conjugate gradients add over all rows: in another order they would make other bits.
    if order is not None and chebyshev and table.shape[1] >= _LEAST_ORDERED:
        system = system.arranged()
    else:
        order = None
    width = min(table.shape[1], _COLUMNS)
    jacobi = Jacobi.of(system, dtype, width)
    parts = row_parts(system.matrix, STEP_VALUES // width)
    values = np.empty(table.shape, dtype=table.dtype)

    def solved(columns: slice, within: Proceed) -> tuple[int, SolveStop, float, float]:
        given, found = table[:, columns], values[:, columns]
        every = slice(None) if order is None else order
        # A copy in either case: steps take its place.
        side = given[every].astype(dtype, order="C", copy=order is None)
        if chebyshev:
            run = _chebyshev(jacobi, side, steps, within)
        else:
            run = _conjugate_gradient(system, jacobi, side, within)
        found[every] = run.values
        wide, missing, whole = run.values.astype(np.float64, copy=False), 0.0, 0.0
        for rows, matrix in parts:
            asked = given[rows if order is None else order[rows]]
            squares = matrix @ wide
            squares -= asked
            missing += _square_sum(squares)
            squares[:] = asked
            whole += _square_sum(squares)
        return run.iterations, run.stop, missing, whole

    starts = range(0, table.shape[1], _COLUMNS)
    blocks = [partial(solved, slice(start, start + _COLUMNS)) for start in starts]
    iterations, missing, whole, stop = 0, 0.0, 0.0, SolveStop.TOLERANCE_REACHED
    for taken, stopped, missing_here, whole_here in side_by_side(blocks, table.size, proceed):
        iterations = max(iterations, taken)
        stop = max(stop, stopped, key=_SEVERITY.index)
        missing += missing_here
        whole += whole_here
    share = 0.0 if whole == 0 else float(np.sqrt(missing / whole))
    tolerance = system.parameters.tolerance
    if not np.isfinite(share):
        stop = max(stop, SolveStop.NOT_FINITE, key=_SEVERITY.index)
    elif share > tolerance:
        stop = max(stop, SolveStop.ITERATION_LIMIT, key=_SEVERITY.index)
    return values, SolveOutcome(method, stop, iterations, share, tolerance)


def chebyshev_steps(system: System) -> int:
    """The steps after which the relative residual is within the tolerance, whatever the side.

    From the Jacobi guess the residual falls as rho * 2 q^n in the norm of diag(M)^-1, where
    q = rho / (1 + sqrt(1 - rho^2)); the spread of the diagonal brings that to the usual norm.
    Counted by multiplication: a logarithm differs from one C library to the next.
    """
    rho = system.rho
    rate = rho / (1.0 + np.sqrt(1.0 - rho * rho))
    spread = np.sqrt(system.diagonal.max() / system.diagonal.min())
    bound, steps = 2.0 * rho * spread, 0
    while bound > system.parameters.tolerance:
        bound *= rate
        steps += 1
    return steps


# Later is worse.
_SEVERITY = list(SolveStop)


@dataclass(frozen=True, slots=True)
class _Run:
    values: Table
    iterations: int
    stop: SolveStop


def _chebyshev(jacobi: Jacobi, side: Table, steps: int, proceed: Proceed) -> _Run:
    """The Chebyshev semi-iteration over Jacobi steps.

    It starts from side / diagonal, which takes the side's place: an isolated node's row is that
    from the first step to the last, to the bit.
    """
    guess = np.divide(side, jacobi.diagonal[:, None], out=side)
    taken = min(steps, jacobi.limit)
    before: Table | None = None
    now: Table = guess
    omega, quarter = 1.0, jacobi.rho * jacobi.rho / 4.0
    for step in range(taken):
        proceed(step / taken)
        if step:
            omega = 1.0 / (1.0 - (2.0 if step == 1 else 1.0) * quarter * omega)
        before, now = now, jacobi.sweep(guess, now, omega, before)
    stop = SolveStop.TOLERANCE_REACHED if taken == steps else SolveStop.ITERATION_LIMIT
    return _Run(now, taken, stop)


def _conjugate_gradient(
    system: System, jacobi: Jacobi, side: Float64Array, proceed: Proceed
) -> _Run:
    """Conjugate gradients on all columns at once, each with its own steps, Jacobi-scaled."""
    scale = jacobi.diagonal[:, None]
    goals = (jacobi.tolerance * jacobi.tolerance) * _column_sums(side * side)
    values: Table = side / scale
    residual = side - system.matrix @ values
    scaled = residual / scale
    direction = scaled.copy()
    energy = _column_sums(residual * scaled)
    stop, taken = SolveStop.ITERATION_LIMIT, 0
    while True:
        missing = _column_sums(residual * residual)
        if not np.isfinite(missing).all():
            stop = SolveStop.NOT_FINITE
            break
        open_columns = missing > goals
        if not open_columns.any():
            stop = SolveStop.TOLERANCE_REACHED
            break
        if taken == jacobi.limit:
            break
        proceed(taken / jacobi.limit)
        product = system.matrix @ direction
        curvature = _column_sums(direction * product)
        if (curvature[open_columns] <= 0).any():
            stop = SolveStop.NOT_POSITIVE_DEFINITE
            break
        length = np.divide(energy, curvature, out=np.zeros_like(energy), where=open_columns)
        values += length * direction
        residual -= length * product
        scaled = residual / scale
        following = _column_sums(residual * scaled)
        direction *= np.divide(following, energy, out=np.zeros_like(energy), where=open_columns)
        direction += scaled
        energy = following
        taken += 1
    # A Jacobi step never worsens the residual, and sets isolated nodes right to the bit.
    return _Run(jacobi.sweep(side / scale, values), taken, stop)


def _column_sums(table: Float64Array) -> Float64Array:
    """Each column's sum, row after row."""
    return np.asarray(np.add.reduce(table, axis=0))


def _square_sum(table: Float64Array) -> float:
    """The sum of a table's squares, which take its place."""
    table *= table
    return float(np.add.reduce(_column_sums(table)))
