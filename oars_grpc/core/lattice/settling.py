"""Settling step by step: implicit Euler along the energy's gradient.

    (I + dt M) U+ = U + dt F

A state stays of the form V + w psi^T, so that a step is one for every query: V and w each take
their own. Whatever dt, no step raises the energy, and the steps near the settled state.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp

from oars_grpc.core.lattice.arrays import Float32Array, Float64Array, frozen
from oars_grpc.core.lattice.energy import Query
from oars_grpc.core.lattice.laplacian import SparseMatrix
from oars_grpc.core.lattice.progress import Proceed, between, keep_going
from oars_grpc.core.lattice.settled import (
    LatticeInputs,
    SettledLattice,
    SettledState,
    worse,
)
from oars_grpc.core.lattice.solver import SolveMethod, SolveOutcome, SolveStop, solve
from oars_grpc.core.lattice.system import System, gate_side
from oars_grpc.errors import FieldViolation, InvalidArgument

MINIMUM_DT, MAXIMUM_DT = 1e-6, 1e6
_COLUMNS = 16


@dataclass(frozen=True, slots=True)
class StepParameters:
    """One step's length and how its system is solved.

    A warm start begins at the present state, a cold one at the anchors; with inertia, a warm
    start begins that share of the way from the anchors to the state. Where it begins changes how
    many iterations a step takes, and its result within the tolerance only.
    """

    dt: float = 1.0
    tolerance: float = 1e-3
    max_iterations: int = 12
    warm_start: bool = True
    inertia: float = 1.0


DEFAULT_STEP = StepParameters()


def checked_step(parameters: StepParameters, field: str = "step") -> StepParameters:
    """The parameters, if all are in range."""
    violations = [
        FieldViolation(f"{field}.{name}", f"must be from {low:g} to {high:g}, not {value!r}")
        for name, value, low, high in (
            ("dt", parameters.dt, MINIMUM_DT, MAXIMUM_DT),
            ("tolerance", parameters.tolerance, 1e-7, 1e-1),
            ("max_iterations", parameters.max_iterations, 1, 10_000),
            ("inertia", parameters.inertia, 0.0, 1.0),
        )
        # Not "value < low or": a NaN fails this too.
        if not low <= value <= high
    ]
    if violations:
        raise InvalidArgument(violations)
    return parameters


def unsettled(inputs: LatticeInputs) -> SettledState:
    """The state before any step: the anchors, whatever the query."""
    return SettledState(
        field=inputs.anchors,
        response=frozen(np.zeros(len(inputs))),
        outcome=SolveOutcome(
            SolveMethod.CHEBYSHEV_JACOBI,
            SolveStop.ITERATION_LIMIT,
            iterations=0,
            residual=math.inf,
            tolerance=inputs.parameters.tolerance,
        ),
    )


def settle_step(
    inputs: LatticeInputs,
    system: System,
    state: SettledState,
    parameters: StepParameters = DEFAULT_STEP,
    proceed: Proceed = keep_going,
) -> SettledState:
    """The state one step on."""
    checked_step(parameters)
    dt = parameters.dt
    shifted = _shifted(system, parameters)
    share = parameters.inertia if parameters.warm_start else 0.0
    weight = np.float32(system.parameters.anchor_weight * dt)

    field = np.empty(state.field.shape, dtype=np.float32)
    outcome: SolveOutcome | None = None
    dimension = inputs.dimension
    for start in range(0, dimension, _COLUMNS):
        columns = slice(start, start + _COLUMNS)
        part = between(
            proceed, 0.9 * start / dimension, 0.9 * min(1.0, (start + _COLUMNS) / dimension)
        )
        given = inputs.anchors[:, columns].astype(np.float64)
        now = state.field[:, columns].astype(np.float64)
        following, done = _solved(
            shifted, now + weight * given, given + share * (now - given), part
        )
        field[:, columns] = following
        outcome = done if outcome is None else worse(outcome, done)
    response, done = _solved(
        shifted,
        (state.response + dt * gate_side(system))[:, None],
        share * state.response[:, None],
        between(proceed, 0.9, 1.0),
    )
    return SettledState(
        field=frozen(field),
        response=frozen(response[:, 0].copy()),
        outcome=done if outcome is None else worse(outcome, done),
    )


def settle_gap(state: SettledLattice, settled: SettledLattice, query: Query) -> float:
    """How much energy a state has left over the settled one: at least 0."""
    # Rounding may put a state that is settled a hair below.
    return max(0.0, state.energies(query).after.total - settled.energies(query).after.total)


def _shifted(system: System, parameters: StepParameters) -> System:
    """I + dt M, with its own bounds."""
    dt = parameters.dt
    diagonal = 1.0 + dt * system.diagonal
    given = system.parameters
    screen = given.anchor_weight + given.query_weight * system.gates
    rho = float((dt * (system.diagonal - screen) / diagonal).max())
    matrix = SparseMatrix(sp.eye_array(len(system), format="csr") + dt * system.matrix)
    matrix.sort_indices()
    return replace(
        system,
        matrix=matrix,
        diagonal=frozen(diagonal),
        rho=rho,
        condition_bound=(1.0 + rho) / (1.0 - rho),
        minimum_eigenvalue=1.0 + dt * system.minimum_eigenvalue,
        parameters=replace(
            given, tolerance=parameters.tolerance, max_iterations=parameters.max_iterations
        ),
    )


def _solved(
    system: System, side: Float64Array, guess: Float64Array, proceed: Proceed
) -> tuple[Float64Array, SolveOutcome]:
    """The solution from a guess: what is missing of it is solved for, as coarsely as will do."""
    missing = side - system.matrix @ guess
    goal = system.parameters.tolerance * _length(side)
    gap = _length(missing)
    if gap <= goal:
        done = SolveOutcome(
            SolveMethod.CHEBYSHEV_JACOBI,
            SolveStop.TOLERANCE_REACHED,
            iterations=0,
            residual=gap / _length(side) if goal > 0 else 0.0,
            tolerance=system.parameters.tolerance,
        )
        return guess, done
    coarse = replace(system, parameters=replace(system.parameters, tolerance=goal / gap))
    solution = solve(coarse, missing, proceed)
    outcome = replace(
        solution.outcome,
        residual=solution.outcome.residual * gap / _length(side),
        tolerance=system.parameters.tolerance,
    )
    return guess + solution.values, outcome


def _length(table: Float64Array | Float32Array) -> float:
    return math.sqrt(float(np.add.reduce(np.add.reduce(table * table, axis=0))))
