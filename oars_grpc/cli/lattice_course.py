"""How the energy falls while a lattice settles: by the solver's iterations, and by settle steps.

A Chebyshev iteration may raise the energy for a moment, since its steps are chosen for where they
end; a settle step never does.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from oars_grpc.core.lattice.energy import Query
from oars_grpc.core.lattice.progress import Proceed, between
from oars_grpc.core.lattice.settled import SettledLattice, SettledState, lattice_of, worse
from oars_grpc.core.lattice.settling import StepParameters, settle_step, unsettled
from oars_grpc.core.lattice.solver import solve
from oars_grpc.core.lattice.system import anchor_side, gate_side

# Each point takes all iterations up to it: of long runs these many are shown.
_POINTS = 32
_STEPS = 16


@dataclass(frozen=True, slots=True)
class EnergyCourse:
    """Energies by the number of iterations or of steps; the first of both is at the anchors."""

    iterations: tuple[int, ...]
    energies: tuple[float, ...]
    by_steps: tuple[float, ...]
    settled: float


def energy_course(settled: SettledLattice, query: Query, proceed: Proceed) -> EnergyCourse:
    """The energy after each of the solver's iterations, and of settle steps, under a query."""
    own = settled.energies(query)
    counts = _counts(settled.state.outcome.iterations)
    energies, by_steps = [own.before.total], [own.before.total]
    for place, count in enumerate(counts):
        part = between(proceed, 0.8 * place / len(counts), 0.8 * (place + 1) / len(counts))
        energies.append(_stopped_at(settled, count, part).energies(query).after.total)
    inputs, system = settled.inputs, settled.system
    step = StepParameters(
        tolerance=inputs.parameters.tolerance, max_iterations=inputs.parameters.max_iterations
    )
    state = unsettled(inputs)
    for place in range(_STEPS):
        part = between(proceed, 0.8 + 0.2 * place / _STEPS, 0.8 + 0.2 * (place + 1) / _STEPS)
        state = settle_step(inputs, system, state, step, part)
        by_steps.append(lattice_of(inputs, system, state).energies(query).after.total)
    return EnergyCourse((0, *counts), tuple(energies), tuple(by_steps), own.after.total)


def _counts(last: int) -> Sequence[int]:
    if last <= _POINTS:
        return range(1, last + 1)
    return sorted({round(count) for count in np.geomspace(1, last, _POINTS).tolist()})


def _stopped_at(settled: SettledLattice, iterations: int, proceed: Proceed) -> SettledLattice:
    """The lattice as it was after so many iterations."""
    inputs = settled.inputs
    parameters = replace(inputs.parameters, max_iterations=iterations)
    system = replace(settled.system, parameters=parameters)
    field = solve(system, anchor_side(system, inputs.anchors), between(proceed, 0.0, 0.7))
    response = solve(system, gate_side(system), between(proceed, 0.7, 0.8))
    state = SettledState(
        field=field.values.astype(np.float32, copy=False),
        response=response.values.astype(np.float64, copy=False),
        outcome=worse(field.outcome, response.outcome),
    )
    return lattice_of(inputs, system, state, between(proceed, 0.8, 1.0))
