from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp

from oars_grpc.core.lattice.arrays import (
    Chain,
    checked_anchors,
    checked_chain,
    checked_gates,
    checked_query,
)
from oars_grpc.core.lattice.graph import Graph, mutual_graph
from oars_grpc.core.lattice.neighbors import nearest_neighbors
from oars_grpc.core.lattice.parameters import LaplacianKind, LatticeParameters
from oars_grpc.core.lattice.solver import (
    SolveMethod,
    SolveStop,
    chebyshev_steps,
    solve,
)
from oars_grpc.core.lattice.system import System, anchor_side, build_system, gate_side
from oars_grpc.errors import InvalidArgument
from tests.support.lattice import (
    Dense,
    ReferenceCase,
    clustered,
    dense_adjacency,
    dense_laplacian,
    gaussian,
    reference_cases,
)

DEFAULTS = LatticeParameters()
STIFF = LatticeParameters(anchor_weight=0.2, graph_weight=20.0, query_weight=0.0)


def graph_of(rows: object, neighbors: int = 6) -> Graph:
    return mutual_graph(nearest_neighbors(checked_anchors(rows), neighbors))


def random_gates(count: int, seed: int) -> Dense:
    return np.random.default_rng(seed).random(count)


def random_system(
    parameters: LatticeParameters = DEFAULTS, chain: Chain | None = None, count: int = 300
) -> System:
    return build_system(
        graph_of(clustered(count, 12, 9, seed=1)), random_gates(count, 2), chain, parameters
    )


@pytest.mark.parametrize("case", reference_cases(), ids=lambda case: case.name)
def test_the_settled_state_of_a_reference_case(case: ReferenceCase) -> None:
    count, dimension = case.anchors.shape
    parameters = LatticeParameters(
        neighbors=case.neighbors,
        laplacian=LaplacianKind.NORMALIZED,
        anchor_weight=case.anchor_weight,
        graph_weight=case.graph_weight,
        query_weight=case.query_weight,
    )
    anchors = checked_anchors(case.anchors)
    system = build_system(
        graph_of(anchors, case.neighbors), checked_gates(case.gates, count), None, parameters
    )
    anchored = solve(system, anchor_side(system, anchors))
    gated = solve(system, gate_side(system))
    query = checked_query(case.query, dimension)
    state = anchored.values + gated.values[:, None] * query
    assert anchored.outcome.converged
    assert gated.outcome.converged
    np.testing.assert_allclose(state, case.stationary_state, atol=1e-5)


def test_edges_that_weigh_nothing_are_not_stored_and_the_graph_stays_as_it_is() -> None:
    graph = graph_of(clustered(120, 8, 5, seed=3))
    before = graph.indices.copy()
    matrix = build_system(
        graph, random_gates(120, 4), None, replace(DEFAULTS, graph_weight=0)
    ).matrix
    assert matrix.indices.tolist() == list(range(120))
    assert matrix.indptr.tolist() == list(range(121))
    assert np.array_equal(graph.indices, before)


@pytest.mark.parametrize("kind", list(LaplacianKind))
def test_the_operator_is_the_sum_of_its_terms(kind: LaplacianKind) -> None:
    rows = clustered(120, 8, 5, seed=3)
    graph, gates = graph_of(rows), random_gates(120, 4)
    chain = checked_chain([3, 99, 40], 120, [1.0, 2.0])
    parameters = LatticeParameters(0, None, kind, 1.5, 0.7, 3.0, 0.4)
    system = build_system(graph, gates, chain, parameters)
    weights = dense_adjacency(graph)
    lattice = dense_laplacian(weights)
    if kind is LaplacianKind.NORMALIZED:
        degrees = weights.sum(axis=1)
        scale = np.where(degrees > 0, 1 / np.sqrt(np.where(degrees > 0, degrees, 1)), 0)
        lattice = lattice * scale[:, None] * scale
    path = np.zeros((120, 120))
    for i, j, weight in ((3, 99, 1.0), (99, 40, 2.0)):
        path[i, j] = path[j, i] = weight
    expected = 1.5 * np.eye(120) + 0.7 * lattice + 3.0 * np.diag(gates)
    expected += 0.4 * dense_laplacian(path)
    full = system.matrix.toarray()
    np.testing.assert_allclose(full, expected, atol=1e-12)
    assert np.array_equal(full, full.T)
    eigenvalues = np.linalg.eigvalsh(full)
    assert eigenvalues.min() >= system.minimum_eigenvalue - 1e-12
    root = np.sqrt(system.diagonal)
    scaled = np.linalg.eigvalsh(np.eye(120) - full / root[:, None] / root)
    assert np.abs(scaled).max() <= system.rho + 1e-12


@pytest.mark.parametrize("kind", list(LaplacianKind))
@pytest.mark.parametrize(
    ("weights", "method"),
    [
        ((1.0, 0.5, 4.0), SolveMethod.CHEBYSHEV_JACOBI),
        ((1.0, 5.0, 4.0), SolveMethod.CHEBYSHEV_JACOBI),
        ((1.0, 0.0, 0.0), SolveMethod.CHEBYSHEV_JACOBI),
        ((0.2, 20.0, 0.0), SolveMethod.CONJUGATE_GRADIENT),
    ],
)
def test_the_solution_is_that_of_a_dense_solve(
    kind: LaplacianKind, weights: tuple[float, float, float], method: SolveMethod
) -> None:
    anchor, graph_weight, query = weights
    if kind is LaplacianKind.NORMALIZED and method is SolveMethod.CONJUGATE_GRADIENT:
        graph_weight = 60.0
    system = random_system(LatticeParameters(6, None, kind, anchor, graph_weight, query))
    side = gaussian(300, 70, seed=5)
    solution = solve(system, side)
    exact = np.linalg.solve(system.matrix.toarray(), side.astype(np.float64))
    assert solution.outcome.method is method
    assert solution.outcome.converged
    assert solution.values.dtype == np.float32
    error = np.linalg.norm(solution.values - exact) / np.linalg.norm(exact)
    # |U - U*| <= |F - M U| / smallest eigenvalue, and float32 rounds what is stored.
    allowed = 1e-6 * np.linalg.norm(side) / system.minimum_eigenvalue / np.linalg.norm(exact)
    assert error <= allowed + 2.0**-24
    assert solve(system, np.zeros(300)).outcome.residual == 0.0


def handmade(matrix: Dense, parameters: LatticeParameters) -> System:
    """A system of any symmetric matrix; `rho` as its eigenvalues have it."""
    diagonal = np.diag(matrix).copy()
    root = np.sqrt(np.abs(diagonal))
    rho = float(
        np.abs(np.linalg.eigvalsh(np.eye(len(matrix)) - matrix / root[:, None] / root)).max()
    )
    return System(
        matrix=sp.csr_array(matrix),
        diagonal=diagonal,
        gates=np.zeros(len(matrix)),
        rho=min(rho, 0.999),
        condition_bound=(1 + rho) / (1 - rho) if rho < 1 else 1e9,
        minimum_eigenvalue=float(np.linalg.eigvalsh(matrix).min()),
        parameters=parameters,
    )


@pytest.mark.parametrize("seed", range(8))
def test_random_positive_definite_systems_are_solved_to_the_residual(seed: int) -> None:
    chance = np.random.default_rng(seed)
    factor = chance.standard_normal((60, 60)) * (0.2 if seed % 2 else 1.0)
    matrix = factor @ factor.T + np.diag(chance.uniform(1, 50, 60))
    matrix = (matrix + matrix.T) / 2
    side = chance.standard_normal((60, 5)) * 10.0 ** chance.uniform(-9, 9, 5)
    tolerance = 10.0 ** -chance.uniform(3, 6)
    system = handmade(matrix, replace(DEFAULTS, tolerance=tolerance))
    solution = solve(system, side)
    residual = np.linalg.norm(side - matrix @ solution.values) / np.linalg.norm(side)
    assert solution.outcome.converged
    assert residual <= tolerance
    assert solution.outcome.residual == pytest.approx(residual, rel=1e-6)


@pytest.mark.parametrize("graph_weight", [0.1, 1.0, 5.0, 12.0])
def test_the_number_of_chebyshev_steps_is_known_and_suffices(graph_weight: float) -> None:
    for tolerance in (1e-3, 1e-6):
        system = random_system(LatticeParameters(graph_weight=graph_weight, tolerance=tolerance))
        outcome = solve(system, gaussian(300, 8, seed=6).astype(np.float64)).outcome
        assert outcome.method is SolveMethod.CHEBYSHEV_JACOBI
        assert outcome.iterations == chebyshev_steps(system)
        assert outcome.residual <= tolerance


def test_the_step_count_does_not_grow_with_the_lattice() -> None:
    steps = [
        chebyshev_steps(
            build_system(
                graph_of(clustered(count, 12, count // 30, seed=7)), np.ones(count), None, DEFAULTS
            )
        )
        for count in (150, 600, 2400)
    ]
    assert max(steps) <= 10


def test_the_scale_of_the_side_changes_nothing_but_the_scale() -> None:
    system = random_system()
    side = gaussian(300, 5, seed=8)
    plain = solve(system, side)
    for power in (-20, 20):
        scaled = solve(system, side * np.float32(2.0**power))
        assert scaled.outcome == plain.outcome
        assert np.array_equal(scaled.values, plain.values * np.float32(2.0**power))
    tiny = solve(system, (side * 1e-6).astype(np.float32))
    assert tiny.outcome.converged
    np.testing.assert_allclose(tiny.values * 1e6, plain.values, atol=2e-6)


@pytest.mark.parametrize("kind", list(LaplacianKind))
@pytest.mark.parametrize("graph_weight", [0.5, 200.0])
def test_an_isolated_node_is_its_own_anchor_and_query(
    kind: LaplacianKind, graph_weight: float
) -> None:
    rows = clustered(100, 8, 4, seed=9)
    rows[17] = 0.0
    graph, gates = graph_of(rows), random_gates(100, 3)
    assert graph.degrees[17] == 0
    parameters = LatticeParameters(laplacian=kind, graph_weight=graph_weight)
    system = build_system(graph, gates, None, parameters)
    side = gaussian(100, 4, seed=10).astype(np.float64)
    solution = solve(system, side)
    assert np.array_equal(solution.values[17], side[17] / (1.0 + 4.0 * gates[17]))


def test_a_chain_changes_nothing_where_it_does_not_reach() -> None:
    rows = np.concatenate([clustered(60, 8, 3, seed=11), np.zeros((60, 8), dtype=np.float32)])
    rows[60:] = clustered(60, 8, 3, seed=12)
    graph = graph_of(rows)
    parts = sp.csgraph.connected_components(
        sp.csr_array((graph.weights, graph.indices, graph.indptr), shape=(120, 120))
    )[1]
    chained = np.flatnonzero(parts == parts[0])[:3]
    apart = parts != parts[0]
    assert apart.any()
    without = build_system(graph, np.ones(120), None, DEFAULTS)
    with_chain = build_system(
        graph, np.ones(120), checked_chain(chained, 120), replace(DEFAULTS, chain_weight=1.0)
    )
    off = np.setdiff1d(np.arange(120), chained)
    assert np.array_equal(with_chain.diagonal[off], without.diagonal[off])
    side = gaussian(120, 4, seed=13).astype(np.float64)
    left, right = solve(without, side).values, solve(with_chain, side).values
    np.testing.assert_allclose(left[apart], right[apart], rtol=2e-6, atol=2e-6)
    assert np.abs(left[chained] - right[chained]).max() > 1e-3


def test_a_row_of_the_state_is_a_convex_combination() -> None:
    system = random_system()
    side = anchor_side(system, np.ones((300, 1), dtype=np.float32))
    field = solve(system, side).values[:, 0] + solve(system, gate_side(system)).values
    np.testing.assert_allclose(field, 1.0, atol=2e-6)


def test_identical_anchors_settle_where_they_are() -> None:
    rows = np.tile(gaussian(1, 6, seed=14), (40, 1))
    graph = graph_of(rows, 4)
    assert (graph.degrees == 4.0).all()
    system = build_system(graph, np.zeros(40), None, DEFAULTS)
    np.testing.assert_allclose(solve(system, anchor_side(system, rows)).values, rows, rtol=1e-5)


def test_one_node_and_two() -> None:
    single = build_system(graph_of([[1.0, 2.0]]), np.array([0.5]), None, DEFAULTS)
    assert solve(single, np.array([[3.0, 6.0]])).values.tolist() == [[1.0, 2.0]]
    pair = build_system(graph_of([[1.0, 2.0], [2.0, 1.0]]), np.zeros(2), None, DEFAULTS)
    exact = np.linalg.solve(pair.matrix.toarray(), np.array([1.0, 0.0]))
    np.testing.assert_allclose(solve(pair, np.array([1.0, 0.0])).values, exact, rtol=1e-6)


def test_weights_that_no_solver_here_bears_are_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"parameters\.anchor_weight: is too small"):
        random_system(LatticeParameters(anchor_weight=1e-4, graph_weight=100.0, query_weight=0.0))


def test_an_honest_outcome_when_the_iterations_do_not_suffice() -> None:
    few = LatticeParameters(graph_weight=5.0, max_iterations=3)
    system = random_system(few)
    outcome = solve(system, gaussian(300, 4, seed=15)).outcome
    assert outcome.stop is SolveStop.ITERATION_LIMIT
    assert not outcome.converged
    assert outcome.iterations == 3
    assert outcome.residual > few.tolerance
    stiff = random_system(replace(few, anchor_weight=0.2, graph_weight=20.0, query_weight=0.0))
    outcome = solve(stiff, gaussian(300, 4, seed=15)).outcome
    assert (outcome.method, outcome.stop) == (
        SolveMethod.CONJUGATE_GRADIENT,
        SolveStop.ITERATION_LIMIT,
    )


def test_negative_curvature_is_told() -> None:
    matrix = np.array([[1.0, 3.0], [3.0, 1.0]])
    outcome = solve(handmade(matrix, DEFAULTS), np.array([1.0, -1.0])).outcome
    assert outcome.stop is SolveStop.NOT_POSITIVE_DEFINITE
    assert not outcome.converged


def test_what_is_not_finite_is_told() -> None:
    for system in (
        random_system(),
        random_system(STIFF),
    ):
        side = np.ones((300, 2))
        side[5, 1] = np.nan
        assert solve(system, side).outcome.stop is SolveStop.NOT_FINITE


def test_columns_are_solved_the_same_alone_and_together() -> None:
    for parameters in (DEFAULTS, LatticeParameters(graph_weight=20.0)):
        system = random_system(parameters)
        side = gaussian(300, 130, seed=16)
        together = solve(system, side).values
        for column in (0, 63, 64, 129):
            alone = solve(system, np.ascontiguousarray(side[:, column])).values
            assert np.array_equal(alone, together[:, column])


def test_the_callers_stop_is_heard_between_steps() -> None:
    class Stopped(Exception):
        pass

    shares: list[float] = []

    def stop_late(share: float) -> None:
        shares.append(share)
        if share > 0.3:
            raise Stopped

    for parameters in (DEFAULTS, STIFF):
        shares.clear()
        with pytest.raises(Stopped):
            solve(random_system(parameters), gaussian(300, 200, seed=17), stop_late)
        assert shares == sorted(shares)
        assert len(shares) > 2
