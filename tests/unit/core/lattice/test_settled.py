import numpy as np
import pytest

from oars_grpc.core.lattice.arrays import checked_chain, checked_gates, checked_query
from oars_grpc.core.lattice.energy import Query
from oars_grpc.core.lattice.graph import graph_of_edges
from oars_grpc.core.lattice.parameters import LaplacianKind, LatticeParameters
from oars_grpc.core.lattice.progress import Proceed
from oars_grpc.core.lattice.settled import (
    LatticeInputs,
    read,
    read_all,
    restored_lattice,
    settle_lattice,
)
from tests.support.lattice import ReferenceCase, clustered, gaussian, reference_cases
from tests.support.settled_lattices import built, dense_system, inputs_of, sample


def reference_inputs(case: ReferenceCase) -> LatticeInputs:
    edges = np.array([(i, j) for i, j, _ in case.edges], dtype=np.int64)
    weights = np.array([weight for _, _, weight in case.edges])
    count = len(case.anchors)
    return LatticeInputs(
        anchors=case.anchors,
        graph=graph_of_edges(count, edges[:, 0], edges[:, 1], weights),
        gates=checked_gates(case.gates, count),
        chain=None,
        parameters=LatticeParameters(
            neighbors=case.neighbors,
            laplacian=LaplacianKind.NORMALIZED,
            anchor_weight=case.anchor_weight,
            graph_weight=case.graph_weight,
            query_weight=case.query_weight,
        ),
    )


@pytest.mark.parametrize("case", reference_cases(), ids=lambda case: case.name)
def test_settled_states_are_those_of_the_reference_cases(case: ReferenceCase) -> None:
    lattice = settle_lattice(reference_inputs(case))
    state = lattice.states(Query.of(checked_query(case.query, len(case.query))))
    assert np.abs(state - case.stationary_state).max() < 1e-5


@pytest.mark.parametrize("kind", list(LaplacianKind))
def test_the_rank_one_state_is_the_dense_solution_for_every_query(kind: LaplacianKind) -> None:
    lattice = sample(parameters=LatticeParameters(laplacian=kind, tolerance=1e-7)).lattice
    for seed in range(3):
        query = checked_query(gaussian(1, 16, seed)[0], 16)
        matrix, side = dense_system(lattice.inputs, query)
        expected = np.linalg.solve(matrix, side)
        assert np.abs(lattice.states(Query.of(query)) - expected).max() < 2e-6


def test_rows_asked_for_are_those_of_the_whole_state() -> None:
    example = sample()
    query = Query.of(example.query)
    rows = np.array([7, 0, 59])
    whole = example.lattice.states(query)
    assert np.array_equal(example.lattice.states(query, rows), whole[rows])


def test_a_batch_of_readings_is_the_single_ones_to_the_bit() -> None:
    lattice = sample().lattice
    queries = [checked_query(row, 16) for row in gaussian(5, 16, 1)]
    for reading, query in zip(read_all(lattice, queries), queries, strict=True):
        alone = read(lattice, query)
        assert np.array_equal(reading.field_products, alone.field_products)
        assert np.array_equal(reading.anchor_products, alone.anchor_products)
        assert lattice.energies(reading.query) == lattice.energies(alone.query)


def test_a_stored_state_restores_the_lattice_without_a_solve() -> None:
    example = sample()
    again = restored_lattice(example.inputs, example.lattice.state)
    query = Query.of(example.query)
    assert again.energies(query) == example.lattice.energies(query)


def test_nodes_off_the_graph_and_the_chain_settle_between_anchor_and_query_alone() -> None:
    anchors = clustered(40, 8, 3, 2)
    anchors[11] = 0.0  # no direction, hence no neighbour
    chained = built(anchors, chain=checked_chain([1, 2, 3], 40))
    plain = built(anchors)
    query = Query.of(plain.query)
    alone = 4.0 * plain.query / 5.0
    assert np.allclose(chained.lattice.states(query)[11], alone, atol=1e-7)
    # Nor does the chain touch a part of the graph that it does not reach.
    matrix, _ = dense_system(chained.inputs, chained.query)
    reached = {1, 2, 3}
    while True:
        more = {int(j) for i in reached for j in np.flatnonzero(matrix[i])}
        if more == reached:
            break
        reached = more
    others = [node for node in range(40) if node not in reached]
    assert others
    assert np.allclose(
        chained.lattice.states(query)[others], plain.lattice.states(query)[others], atol=2e-6
    )


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_scaling_all_embeddings_changes_no_relative_result(factor: float) -> None:
    anchors = clustered(50, 12, 4, 3)
    one = built(anchors)
    other = built(anchors * np.float32(factor), one.query * np.float32(factor))
    energies, scaled = (b.lattice.energies(Query.of(b.query)) for b in (one, other))
    assert scaled.drop.total == pytest.approx(energies.drop.total * factor**2, rel=1e-6)
    assert scaled.residual / scaled.side < 1e-5
    state = other.lattice.states(Query.of(other.query)) / np.float32(factor)
    assert np.allclose(state, one.lattice.states(Query.of(one.query)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "anchors",
    [
        np.ones((1, 1)),
        np.ones((2, 1)),
        np.array([[1.0], [-1.0]]),
        np.zeros((3, 4)),
        np.ones((9, 5)),
        np.eye(4),
        np.linspace(1, 2, 7)[:, None],
    ],
    ids=["one", "two", "opposite", "zeros", "copies", "orthogonal", "one-dimension"],
)
def test_small_and_degenerate_lattices_settle(anchors: np.ndarray) -> None:
    example = built(anchors, parameters=LatticeParameters(neighbors=12))
    matrix, side = dense_system(example.inputs, example.query)
    state = example.lattice.states(Query.of(example.query))
    assert np.abs(state - np.linalg.solve(matrix, side)).max() < 1e-5
    assert example.lattice.state.outcome.converged


def test_settling_stops_when_told_to() -> None:
    class Stopped(Exception):
        pass

    inputs, _ = inputs_of(clustered(30, 8, 2, 1))
    shares: list[float] = []

    def until_half(share: float, /) -> None:
        shares.append(share)
        if share >= 0.5:
            raise Stopped

    stop: Proceed = until_half
    with pytest.raises(Stopped):
        settle_lattice(inputs, stop)
    assert shares == sorted(shares)
    seen: list[float] = []
    settle_lattice(inputs, seen.append)
    assert seen == sorted(seen)
    assert 0.0 <= seen[0] <= seen[-1] <= 1.0
