import numpy as np
import pytest

from oars_grpc.core.lattice.dynamics import dynamics
from oars_grpc.core.lattice.energy import Query
from oars_grpc.core.lattice.settled import lattice_of
from oars_grpc.core.lattice.settling import settle_step, unsettled
from tests.support.lattice import dense_adjacency
from tests.support.settled_lattices import built, sample


def test_dynamics_are_those_of_their_definitions() -> None:
    example = sample()
    inputs, system, query = example.inputs, example.lattice.system, Query.of(example.query)
    before = lattice_of(inputs, system, unsettled(inputs))
    after = lattice_of(inputs, system, settle_step(inputs, system, before.state))
    found = dynamics(before, after, query)

    one, other = (lattice.states(query).astype(np.float64) for lattice in (before, after))
    moves = np.sum((other - one) ** 2, axis=1)
    assert found.temperature == pytest.approx(moves.mean(), rel=1e-5)
    assert found.largest_move == pytest.approx(moves.max(), rel=1e-5)
    drop = before.energies(query).after.total - after.energies(query).after.total
    assert found.energy_drop == pytest.approx(drop)
    assert found.viscosity == pytest.approx(after.state.outcome.iterations / drop)
    flows = {}
    for (i, j), weight in zip(inputs.graph.edges, inputs.graph.edge_weights, strict=True):
        lost = np.sum((one[i] - one[j]) ** 2) - np.sum((other[i] - other[j]) ** 2)
        flows[int(i), int(j)] = max(0.0, 0.5 * float(weight) * float(lost))
    assert found.flow == pytest.approx(sum(flows.values()), rel=1e-4)
    best = sorted(flows.values(), reverse=True)[: len(found.flows)]
    assert found.flows.tolist() == pytest.approx(best, rel=1e-3)
    assert flows[int(found.flow_edges[0, 0]), int(found.flow_edges[0, 1])] == pytest.approx(
        best[0], rel=1e-3
    )

    adjacent = dense_adjacency(inputs.graph) > 0
    reached = moves >= 0.01 * moves.max()
    hops = 0
    while True:
        grown = reached | (adjacent @ reached)
        if (grown == reached).all():
            break
        reached, hops = grown, hops + 1
    assert found.radius == hops


def test_standing_still_is_cold_and_reaches_nowhere() -> None:
    example = sample()
    found = dynamics(example.lattice, example.lattice, Query.of(example.query))
    assert found.temperature == found.largest_move == found.flow == found.energy_drop == 0.0
    assert found.viscosity is None
    assert found.radius == 0
    assert len(found.flows) == 0


def test_nodes_without_edges_move_and_flow_nowhere() -> None:
    example = built(np.eye(4))
    inputs, system = example.inputs, example.lattice.system
    before = lattice_of(inputs, system, unsettled(inputs))
    found = dynamics(before, example.lattice, Query.of(example.query))
    assert found.temperature > 0
    assert found.flow == 0.0
    assert found.radius == 0
