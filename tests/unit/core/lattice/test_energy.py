import numpy as np
import pytest

from oars_grpc.core.lattice.arrays import checked_query
from oars_grpc.core.lattice.components import alignments, node_components
from oars_grpc.core.lattice.energy import Query
from oars_grpc.core.lattice.parameters import LaplacianKind, LatticeParameters
from oars_grpc.core.lattice.settled import read
from tests.support.lattice import gaussian
from tests.support.settled_lattices import dense_system, dense_terms, sample


@pytest.mark.parametrize("kind", list(LaplacianKind))
def test_energies_are_those_of_their_definition(kind: LaplacianKind) -> None:
    lattice = sample(parameters=LatticeParameters(laplacian=kind)).lattice
    for seed in range(3):
        query = checked_query(gaussian(1, 16, seed)[0], 16)
        read_ = lattice.energies(Query.of(query))
        state = lattice.state.field.astype(np.float64) + np.outer(lattice.state.response, query)
        for terms, values in (
            (read_.before, lattice.inputs.anchors.astype(np.float64)),
            (read_.after, state),
        ):
            found = (terms.anchor, terms.graph, terms.query, terms.chain)
            assert found == pytest.approx(dense_terms(lattice.inputs, query, values), rel=1e-10)


def test_the_residual_is_that_of_the_state() -> None:
    lattice = sample().lattice
    query = checked_query(gaussian(1, 16, 4)[0], 16)
    matrix, side = dense_system(lattice.inputs, query)
    state = lattice.state.field.astype(np.float64) + np.outer(lattice.state.response, query)
    energies = lattice.energies(Query.of(query))
    assert energies.residual == pytest.approx(
        float(np.linalg.norm(side - matrix @ state)), rel=1e-6
    )
    assert energies.side == pytest.approx(float(np.linalg.norm(side)), rel=1e-12)


def test_the_drop_is_how_far_above_the_settled_state_the_anchors_stand() -> None:
    example = sample()
    matrix, side = dense_system(example.inputs, example.query)
    above = example.inputs.anchors.astype(np.float64) - np.linalg.solve(matrix, side)
    drop = example.lattice.energies(Query.of(example.query)).drop
    assert drop.total == pytest.approx(float(np.sum(above * (matrix @ above))), rel=1e-9)
    assert drop.anchor < 0 < drop.query
    assert drop.total == drop.anchor + drop.graph + drop.query + drop.chain


@pytest.mark.parametrize("kind", list(LaplacianKind))
def test_components_of_nodes_sum_to_the_terms(kind: LaplacianKind) -> None:
    example = sample(parameters=LatticeParameters(laplacian=kind))
    parts = node_components(read(example.lattice, example.query))
    energies = example.lattice.energies(Query.of(example.query))
    assert float(parts.anchor.sum()) == pytest.approx(energies.after.anchor, rel=1e-5)
    assert float(parts.query.sum()) == pytest.approx(energies.after.query, rel=1e-5)
    assert float(parts.coherence_drop.sum()) == pytest.approx(energies.drop.graph, rel=1e-5)
    assert float(parts.chain_drop.sum()) == pytest.approx(energies.drop.chain, rel=1e-5)


def test_components_of_a_node_are_those_of_its_row() -> None:
    example = sample(chained=False)
    inputs = example.inputs
    state = example.lattice.states(Query.of(example.query)).astype(np.float64)
    anchors = inputs.anchors.astype(np.float64)
    parts = node_components(read(example.lattice, example.query))
    expected = np.zeros(len(inputs))
    for (i, j), weight in zip(inputs.graph.edges, inputs.graph.edge_weights, strict=True):
        drop = np.sum((anchors[i] - anchors[j]) ** 2) - np.sum((state[i] - state[j]) ** 2)
        expected[[i, j]] += 0.5 * 0.5 * weight * drop
    assert np.allclose(parts.coherence_drop, expected, rtol=1e-4, atol=1e-4)
    assert np.allclose(parts.anchor, np.sum((state - anchors) ** 2, axis=1), rtol=1e-4, atol=1e-5)
    near = 4.0 * inputs.gates * np.sum((state - example.query) ** 2, axis=1)
    assert np.allclose(parts.query, near, rtol=1e-4, atol=1e-5)
    assert not parts.chain_drop.any()


def test_alignment_is_the_cosine_with_the_query_and_0_without_a_direction() -> None:
    example = sample()
    reading = read(example.lattice, example.query)
    state = example.lattice.states(reading.query).astype(np.float64)
    lengths = np.linalg.norm(state, axis=1) * np.linalg.norm(example.query)
    assert np.allclose(alignments(reading), state @ example.query / lengths, atol=1e-5)
    nothing = read(example.lattice, checked_query(np.zeros(16), 16))
    assert not alignments(nothing).any()
