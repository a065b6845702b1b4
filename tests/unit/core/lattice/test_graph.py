import numpy as np
import pytest

from oars_grpc.core.lattice.arrays import checked_anchors, checked_chain
from oars_grpc.core.lattice.graph import WEIGHT_SCALE, Graph, mutual_graph
from oars_grpc.core.lattice.laplacian import chain_laplacian, laplacian
from oars_grpc.core.lattice.neighbors import nearest_neighbors
from oars_grpc.core.lattice.parameters import LaplacianKind
from tests.support.lattice import (
    ReferenceCase,
    Table,
    clustered,
    dense_adjacency,
    gaussian,
    plain_cosines,
    reference_cases,
)


def graph_of(rows: Table, neighbors: int = 6, row_cap: float | None = None) -> Graph:
    return mutual_graph(nearest_neighbors(checked_anchors(rows), neighbors), row_cap)


@pytest.mark.parametrize("case", reference_cases(), ids=lambda case: case.name)
def test_the_graph_of_a_reference_case(case: ReferenceCase) -> None:
    graph = graph_of(case.anchors, case.neighbors)
    assert graph.edges.tolist() == [[i, j] for i, j, _ in case.edges]
    np.testing.assert_allclose(graph.edge_weights, [w for _, _, w in case.edges], atol=1e-6)
    assert np.count_nonzero(graph.degrees == 0) == case.isolated_nodes


def test_an_edge_joins_rows_that_list_each_other_and_weighs_their_cosine() -> None:
    rows = clustered(300, 12, 8, seed=1)
    graph = graph_of(rows, 5)
    exact = plain_cosines(rows)
    listed = np.argsort(-exact, axis=1, kind="stable")[:, :5]
    expected = {
        (i, int(j))
        for i in range(300)
        for j in listed[i]
        if i < j and i in listed[j] and exact[i, j] > 0
    }
    assert {(int(i), int(j)) for i, j in graph.edges} == expected
    np.testing.assert_allclose(graph.edge_weights, [exact[i, j] for i, j in graph.edges], atol=1e-6)


def test_rows_and_edges_tell_the_same_symmetric_graph() -> None:
    graph = graph_of(clustered(200, 10, 6, seed=2))
    full = np.zeros((200, 200))
    for i in range(200):
        row = slice(graph.indptr[i], graph.indptr[i + 1])
        assert (np.diff(graph.indices[row]) > 0).all()
        full[i, graph.indices[row]] = graph.weights[row]
    assert np.array_equal(full, full.T)
    assert np.array_equal(full, dense_adjacency(graph))
    assert np.array_equal(graph.degrees, full.sum(axis=1))
    assert (graph.edges[:, 0] < graph.edges[:, 1]).all()


def test_weights_are_whole_numbers_of_their_quantum() -> None:
    weights = graph_of(gaussian(200, 10, seed=3)).edge_weights * WEIGHT_SCALE
    assert weights.size
    assert np.array_equal(weights, np.rint(weights))


def test_opposite_rows_are_listed_but_not_joined() -> None:
    graph = graph_of(np.array([[1.0, 0.0], [-1.0, 0.1]], dtype=np.float32), 1)
    assert graph.edges.shape == (0, 2)
    assert graph.degrees.tolist() == [0.0, 0.0]
    assert graph.degrees.dtype == np.float64


def test_a_graph_without_edges_may_be_capped() -> None:
    graph = graph_of(np.eye(4, dtype=np.float32), 3, row_cap=0.5)
    assert graph.edges.shape == (0, 2)
    assert graph.degrees.tolist() == [0.0] * 4


@pytest.mark.parametrize("cap", [0.01, 0.25, 0.5, 1.0, 2.0])
def test_the_row_cap_caps_and_stays_symmetric(cap: float) -> None:
    rows = clustered(400, 12, 10, seed=4)
    free, capped = graph_of(rows), graph_of(rows, row_cap=cap)
    assert free.degrees.max() > cap
    assert capped.degrees.max() <= cap
    # It takes no more than it must: the fullest rows still reach the cap.
    assert capped.degrees.max() > 0.99 * cap
    full = dense_adjacency(capped)
    assert np.array_equal(full, full.T)
    assert (full <= dense_adjacency(free)).all()


def test_rows_under_the_cap_and_away_from_others_stay_as_they_are() -> None:
    rows = clustered(300, 12, 10, seed=5)
    free = graph_of(rows)
    high = graph_of(rows, row_cap=float(free.degrees.max()))
    assert np.array_equal(free.edge_weights, high.edge_weights)


def test_the_combinatorial_laplacian_leaves_constants_alone() -> None:
    graph = graph_of(clustered(250, 12, 10, seed=6))
    matrix = laplacian(graph, LaplacianKind.COMBINATORIAL)
    assert np.array_equal(matrix @ np.ones(250), np.zeros(250))
    full = dense_adjacency(graph)
    assert np.array_equal(matrix.toarray(), np.diag(full.sum(axis=1)) - full)


def test_the_normalised_laplacian_has_zero_rows_for_isolated_nodes() -> None:
    graph = graph_of(reference_cases()[0].anchors, reference_cases()[0].neighbors)
    matrix = laplacian(graph, LaplacianKind.NORMALIZED).toarray()
    alone = graph.degrees == 0
    assert alone.sum() == 7
    assert not matrix[alone].any()
    assert np.array_equal(np.diag(matrix)[~alone], np.ones((~alone).sum()))
    root = np.sqrt(graph.degrees)
    np.testing.assert_allclose(matrix @ root, np.zeros(len(graph)), atol=1e-12)
    assert np.linalg.eigvalsh(matrix).max() <= 2.0 + 1e-12


def test_a_chains_laplacian_is_zero_off_the_chain() -> None:
    chain = checked_chain([5, 2, 9, 2, 5], 12, [1.0, 2.0, 0.5, 0.25])
    matrix = chain_laplacian(chain, 12).toarray()
    on = [2, 5, 9]
    assert not np.delete(np.delete(matrix, on, axis=0), on, axis=1).any()
    # The link between 5 and 2 stands twice.
    assert matrix[np.ix_(on, on)].tolist() == [
        [3.75, -1.25, -2.5],
        [-1.25, 1.25, 0.0],
        [-2.5, 0.0, 2.5],
    ]
