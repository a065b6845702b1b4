from itertools import pairwise

import numpy as np
import pytest

from oars_grpc.core.lattice.arrays import Float64Array
from oars_grpc.core.lattice.energy import Query
from oars_grpc.core.lattice.settled import lattice_of
from oars_grpc.core.lattice.settling import (
    StepParameters,
    settle_gap,
    settle_step,
    unsettled,
)
from oars_grpc.errors import InvalidArgument
from tests.support.settled_lattices import dense_system, sample


def test_a_step_is_the_implicit_euler_step_of_its_definition() -> None:
    example = sample()
    matrix, side = dense_system(example.inputs, example.query)
    step = StepParameters(dt=0.7, tolerance=1e-7, max_iterations=200)
    state = unsettled(example.inputs)
    expected: Float64Array = example.inputs.anchors.astype(np.float64)
    for _ in range(3):
        state = settle_step(example.inputs, example.lattice.system, state, step)
        expected = np.asarray(
            np.linalg.solve(np.eye(60) + 0.7 * matrix, expected + 0.7 * side), np.float64
        )
        found = state.field + np.outer(state.response, example.query)
        assert np.abs(found - expected).max() < 5e-6
        assert state.outcome.converged


@pytest.mark.parametrize("dt", [0.05, 1.0, 100.0])
def test_the_gap_falls_with_every_step_and_ends_at_nothing(dt: float) -> None:
    example = sample()
    query = Query.of(example.query)
    state, gaps = unsettled(example.inputs), []
    for _ in range(12):
        read = lattice_of(example.inputs, example.lattice.system, state)
        gaps.append(settle_gap(read, example.lattice, query))
        state = settle_step(
            example.inputs, example.lattice.system, state, StepParameters(dt=dt, tolerance=1e-6)
        )
    assert gaps[0] == pytest.approx(example.lattice.energies(query).drop.total)
    assert all(after <= before * (1 + 1e-9) for before, after in pairwise(gaps[:4]))
    if dt >= 1.0:
        assert gaps[-1] < 1e-4 * gaps[0]


def test_where_a_step_starts_changes_its_iterations_and_not_its_result() -> None:
    example = sample()
    system = example.lattice.system
    # Nearly settled: from there a step has little to do.
    state = settle_step(
        example.inputs, system, unsettled(example.inputs), StepParameters(dt=1e4, tolerance=1e-6)
    )
    starts = {
        "warm": StepParameters(tolerance=1e-6, max_iterations=100),
        "inert": StepParameters(tolerance=1e-6, max_iterations=100, inertia=0.5),
        "cold": StepParameters(tolerance=1e-6, max_iterations=100, warm_start=False),
    }
    found = {name: settle_step(example.inputs, system, state, p) for name, p in starts.items()}
    for one in found.values():
        assert one.outcome.converged
        assert np.abs(one.field - found["cold"].field).max() < 2e-5
    iterations = {name: one.outcome.iterations for name, one in found.items()}
    assert iterations["warm"] < iterations["inert"] <= iterations["cold"]


def test_too_few_iterations_are_told_not_hidden() -> None:
    example = sample()
    state = settle_step(
        example.inputs,
        example.lattice.system,
        unsettled(example.inputs),
        StepParameters(tolerance=1e-6, max_iterations=1),
    )
    assert not state.outcome.converged
    assert state.outcome.residual > 1e-6


@pytest.mark.parametrize(
    ("step", "field"),
    [
        (StepParameters(dt=0.0), "step.dt"),
        (StepParameters(dt=float("nan")), "step.dt"),
        (StepParameters(tolerance=0.0), "step.tolerance"),
        (StepParameters(max_iterations=0), "step.max_iterations"),
        (StepParameters(inertia=1.5), "step.inertia"),
    ],
)
def test_bad_steps_are_refused_by_name(step: StepParameters, field: str) -> None:
    example = sample()
    with pytest.raises(InvalidArgument) as refusal:
        settle_step(example.inputs, example.lattice.system, unsettled(example.inputs), step)
    assert [violation.field for violation in refusal.value.violations] == [field]
