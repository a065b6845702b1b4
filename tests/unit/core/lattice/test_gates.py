import numpy as np
import pytest

from oars_grpc.core.lattice.arrays import checked_anchors, checked_query
from oars_grpc.core.lattice.gates import (
    DIRECT_NODES,
    GateMethod,
    diffusion_gates,
    query_sources,
)
from oars_grpc.core.lattice.graph import Graph, mutual_graph
from oars_grpc.core.lattice.neighbors import nearest_neighbors
from oars_grpc.errors import InvalidArgument
from tests.support.lattice import clustered, dense_adjacency, dense_laplacian, gaussian


def graph_of(count: int = 200, seed: int = 1) -> Graph:
    return mutual_graph(nearest_neighbors(checked_anchors(clustered(count, 10, 8, seed)), 6))


@pytest.mark.parametrize("screening", [0.02, 0.1, 1.0, 50.0])
@pytest.mark.parametrize("method", list(GateMethod))
def test_gates_solve_the_screened_poisson_problem(screening: float, method: GateMethod) -> None:
    graph = graph_of()
    sources = np.random.default_rng(2).random(200)
    found = diffusion_gates(graph, sources, screening, method)
    operator = dense_laplacian(dense_adjacency(graph)) + screening * np.eye(200)
    exact = np.linalg.solve(operator, screening * sources)
    np.testing.assert_allclose(found.gates, exact, atol=2e-5)
    assert (found.outcome is None) == (method is GateMethod.DIRECT)
    if found.outcome:
        assert found.outcome.converged


def test_gates_stay_within_the_range_of_their_sources() -> None:
    graph = graph_of()
    chance = np.random.default_rng(3)
    for low, high in ((0.0, 1.0), (0.2, 0.3), (0.0, 0.0), (1.0, 1.0)):
        gates = diffusion_gates(graph, chance.uniform(low, high, 200)).gates
        assert gates.min() >= low - 1e-5
        assert gates.max() <= high + 1e-5


def test_where_nothing_is_relevant_every_gate_is_near_zero() -> None:
    # The ancestor scaled by the extremes of each query: the best of nothing had gate 1.
    rows = np.abs(clustered(100, 10, 8, seed=4))
    query = checked_query(-np.ones(10), 10)
    sources = query_sources(checked_anchors(rows), query)
    assert not sources.any()
    assert not diffusion_gates(graph_of(100), sources).gates.any()


def test_relevance_reaches_neighbours_and_the_less_the_larger_the_screening() -> None:
    graph = graph_of()
    source = int(np.argmax(graph.degrees))
    sources = np.zeros(200)
    sources[source] = 1.0
    near = graph.indices[graph.indptr[source] : graph.indptr[source + 1]]
    reach = [diffusion_gates(graph, sources, screening).gates for screening in (0.1, 1.0, 10.0)]
    assert all((gates[near] > 0).all() for gates in reach)
    shares = [float(gates[near].sum() / gates[source]) for gates in reach]
    assert shares == sorted(shares, reverse=True)


def test_an_isolated_node_keeps_its_own_relevance() -> None:
    graph = mutual_graph(nearest_neighbors(checked_anchors(np.eye(5)), 3))
    sources = np.array([0.1, 0.2, 0.3, 0.4, 1.0])
    assert diffusion_gates(graph, sources).gates.tolist() == sources.astype(np.float32).tolist()


def test_sources_are_the_power_of_the_positive_cosine() -> None:
    rows = gaussian(50, 6, seed=5)
    query = gaussian(1, 6, seed=6)[0]
    cosine = rows @ query / np.linalg.norm(rows, axis=1) / np.linalg.norm(query)
    for power in (1, 4):
        np.testing.assert_allclose(
            query_sources(checked_anchors(rows), checked_query(query, 6), power),
            np.maximum(cosine, 0) ** power,
            atol=1e-6,
        )


@pytest.mark.parametrize(
    ("sources", "screening", "field"),
    [
        (np.zeros(3), 0.1, "sources"),
        (np.full(200, -0.1), 0.1, "sources[0]"),
        (np.where(np.arange(200) == 7, np.nan, 0.5), 0.1, "sources[7]"),
        (np.full(200, 1.1), 0.1, "sources[0]"),
        (np.zeros(200), 0.0, "screening"),
        (np.zeros(200), np.nan, "screening"),
        (np.zeros(200), 1e9, "screening"),
    ],
)
def test_wrong_input_is_refused_with_its_field(
    sources: np.ndarray[tuple[int], np.dtype[np.float64]], screening: float, field: str
) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        diffusion_gates(graph_of(), sources, screening)
    assert refusal.value.violations[0].field == field


def test_the_direct_method_is_for_small_lattices() -> None:
    count = DIRECT_NODES + 1
    with pytest.raises(InvalidArgument, match="method: direct is for at most"):
        diffusion_gates(graph_of(count), np.zeros(count), method=GateMethod.DIRECT)


def test_a_screening_too_small_for_the_graph_is_refused_by_its_name() -> None:
    crowd = mutual_graph(nearest_neighbors(checked_anchors(np.ones((80, 3))), 40))
    with pytest.raises(InvalidArgument, match="screening: is too small"):
        diffusion_gates(crowd, np.zeros(80), 0.01)
