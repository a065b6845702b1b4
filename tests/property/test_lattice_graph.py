"""What holds for the lattice's graph and operator whatever the embeddings."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from oars_grpc.core.lattice.arrays import checked_anchors, checked_chain
from oars_grpc.core.lattice.directions import directions_of
from oars_grpc.core.lattice.graph import mutual_graph
from oars_grpc.core.lattice.incremental import Neighborhood, remove, upsert
from oars_grpc.core.lattice.neighbors import NOBODY, nearest_neighbors
from oars_grpc.core.lattice.parameters import LaplacianKind, LatticeParameters
from oars_grpc.core.lattice.solver import solve
from oars_grpc.core.lattice.system import build_system
from tests.support.lattice import Table, dense_adjacency, gaussian

# Small whole numbers: copies, zero rows, opposite rows and ties are common among them.
coarse = st.integers(-2, 2).map(float)


def tables(elements: st.SearchStrategy[float], max_rows: int = 24) -> st.SearchStrategy[Table]:
    shapes = st.tuples(st.integers(1, max_rows), st.integers(1, 5))
    return shapes.flatmap(lambda shape: nps.arrays(np.float32, shape, elements=elements))


@given(rows=tables(coarse), neighbors=st.integers(1, 7))
def test_lists_hold_no_one_twice_and_never_oneself(rows: Table, neighbors: int) -> None:
    lists = nearest_neighbors(checked_anchors(rows), neighbors)
    for i, row in enumerate(lists.indices):
        listed = [int(j) for j in row if j != NOBODY]
        assert i not in listed
        assert len(set(listed)) == len(listed)
        known = np.count_nonzero(rows.any(axis=1))
        assert len(listed) == (min(neighbors, known - 1) if rows[i].any() else 0)
        assert (np.diff(lists.cosines[i][: len(listed)]) <= 0).all()


@given(
    rows=tables(coarse | st.floats(-10, 10, width=32)),
    neighbors=st.integers(1, 7),
    cap=st.none() | st.floats(0.01, 3),
)
def test_the_graph_is_symmetric_and_within_its_bounds(
    rows: Table, neighbors: int, cap: float | None
) -> None:
    graph = mutual_graph(nearest_neighbors(checked_anchors(rows), neighbors), cap)
    full = dense_adjacency(graph)
    assert np.array_equal(full, full.T)
    assert ((full >= 0) & (full <= 1)).all()
    assert not full.diagonal().any()
    assert ((full > 0).sum(axis=1) <= neighbors).all()
    assert np.array_equal(graph.degrees, full.sum(axis=1))
    if cap is not None:
        assert graph.degrees.max() <= cap


@given(
    rows=tables(coarse),
    kind=st.sampled_from(LaplacianKind),
    anchor=st.floats(0.05, 5),
    graph_weight=st.floats(0, 5),
    query=st.floats(0, 5),
    chained=st.booleans(),
    chance=st.integers(0, 2**16),
)
@settings(deadline=None)
def test_the_operator_is_positive_definite_and_solved(
    rows: Table,
    kind: LaplacianKind,
    anchor: float,
    graph_weight: float,
    query: float,
    chained: bool,  # noqa: FBT001 - Hypothesis passes arguments by name
    chance: int,
) -> None:
    count = len(rows)
    random = np.random.default_rng(chance)
    graph = mutual_graph(nearest_neighbors(checked_anchors(rows), 4))
    chain = None
    if chained and count > 1:
        chain = checked_chain(random.permutation(count), count, random.uniform(0.1, 2, count - 1))
    parameters = LatticeParameters(4, None, kind, anchor, graph_weight, query)
    system = build_system(graph, random.random(count), chain, parameters)
    full = system.matrix.toarray()
    assert np.array_equal(full, full.T)
    eigenvalues = np.linalg.eigvalsh(full)
    assert eigenvalues[0] >= system.minimum_eigenvalue * (1 - 1e-9) > 0
    side = random.standard_normal((count, 3))
    solution = solve(system, side)
    assert solution.outcome.converged
    exact = np.linalg.solve(full, side)
    allowed = 1e-6 * np.linalg.norm(side) / system.minimum_eigenvalue
    assert np.linalg.norm(solution.values - exact) <= allowed * (1 + 1e-6)


@given(count=st.integers(1, 60), chance=st.integers(0, 2**16), neighbors=st.integers(1, 7))
@settings(deadline=None)
def test_renumbering_anchors_renumbers_the_graph(count: int, chance: int, neighbors: int) -> None:
    # Without ties: those go to the lower index, which renumbering changes.
    rows = gaussian(count, 6, seed=chance)
    order = np.random.default_rng(chance).permutation(count)
    plain = mutual_graph(nearest_neighbors(checked_anchors(rows), neighbors))
    renumbered = mutual_graph(nearest_neighbors(checked_anchors(rows[order]), neighbors))
    assert np.array_equal(dense_adjacency(plain)[np.ix_(order, order)], dense_adjacency(renumbered))


@given(
    rows=tables(coarse, max_rows=30),
    neighbors=st.integers(1, 6),
    added=st.integers(0, 4),
    chance=st.integers(0, 2**16),
)
@settings(deadline=None)
def test_changing_anchors_leaves_what_a_rebuild_makes(
    rows: Table, neighbors: int, added: int, chance: int
) -> None:
    random = np.random.default_rng(chance)
    count, dimension = rows.shape
    places = np.concatenate(
        [
            random.choice(count, random.integers(0, min(count, 4) + 1), replace=False),
            np.arange(count, count + added),
        ]
    )
    fresh = random.integers(-2, 3, (places.size, dimension)).astype(np.float32)
    after = np.concatenate([rows, np.zeros((added, dimension), dtype=np.float32)])
    after[places] = fresh
    known = Neighborhood(
        directions_of(checked_anchors(rows)), nearest_neighbors(checked_anchors(rows), neighbors)
    )
    changed = upsert(known, places, directions_of(fresh))
    assert_lists_of(changed, after, neighbors)
    gone = random.choice(len(after), random.integers(0, len(after)), replace=False)
    assert_lists_of(remove(changed, gone), np.delete(after, gone, axis=0), neighbors)


def assert_lists_of(known: Neighborhood, rows: Table, neighbors: int) -> None:
    rebuilt = nearest_neighbors(checked_anchors(rows), neighbors)
    assert np.array_equal(known.lists.indices, rebuilt.indices)
    assert known.lists.cosines.tobytes() == rebuilt.cosines.tobytes()
