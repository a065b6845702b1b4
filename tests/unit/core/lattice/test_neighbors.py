import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest

from oars_grpc.core.lattice.arrays import checked_anchors
from oars_grpc.core.lattice.candidates import candidate_pairs, pairs_of
from oars_grpc.core.lattice.directions import directions_of, pair_cosines, query_cosines
from oars_grpc.core.lattice.neighbors import (
    NOBODY,
    NeighborLists,
    nearest_neighbors,
    ranked_rows,
)
from tests.support.lattice import Table, clustered, gaussian, plain_cosines


def nearest(rows: Table, neighbors: int) -> NeighborLists:
    return nearest_neighbors(checked_anchors(rows), neighbors)


def by_plain_sorting(rows: Table, neighbors: int) -> list[list[int]]:
    """The lists from a full float64 matrix: highest first, ties by the lower index."""
    lists = []
    for row in plain_cosines(rows):
        order = np.argsort(-row, kind="stable")[:neighbors]
        lists.append([int(j) for j in order if np.isfinite(row[j])])
    return lists


def members(lists: NeighborLists) -> list[list[int]]:
    return [[int(j) for j in row if j != NOBODY] for row in lists.indices]


@pytest.mark.parametrize(
    ("rows", "neighbors"),
    [
        (gaussian(400, 24, seed=1), 6),
        (clustered(700, 16, 9, seed=2), 6),
        (clustered(300, 200, 5, seed=3), 11),
        # More than the square that is looked at in one go.
        (gaussian(2500, 12, seed=4), 5),
        (clustered(2300, 40, 20, seed=5), 3),
        (gaussian(7, 3, seed=6), 50),
    ],
)
def test_the_lists_are_those_of_plain_sorting(rows: Table, neighbors: int) -> None:
    found = nearest(rows, neighbors)
    assert members(found) == by_plain_sorting(rows, neighbors)
    exact = plain_cosines(rows)
    for i in range(0, len(rows), 37):
        listed = [j for j in found.indices[i] if j != NOBODY]
        np.testing.assert_allclose(found.cosines[i][: len(listed)], exact[i, listed], atol=1e-6)


@pytest.mark.parametrize("count", [900, 2400])
def test_rows_with_too_many_near_ties_are_still_exact(count: int) -> None:
    rows = (1.0 + 1e-3 * gaussian(count, 8, seed=7)).astype(np.float32)
    directions = directions_of(checked_anchors(rows))
    assert candidate_pairs(directions, 4).crowded.size == count
    found = nearest_neighbors(directions, 4)
    plain = ranked_rows(directions, np.arange(count), 4)
    assert np.array_equal(found.indices, plain.indices)
    assert np.array_equal(found.cosines, plain.cosines)


@pytest.mark.parametrize("count", [1000, 2400])
def test_what_single_precision_cannot_tell_apart_is_told_apart(count: int) -> None:
    # Crowds of twenty whose cosines differ by less than a rounding of their products.
    chance = np.random.default_rng(8)
    centres = chance.standard_normal((count // 20, 48)).repeat(20, axis=0)
    rows = (centres + 1e-4 * chance.standard_normal((count, 48))).astype(np.float32)
    directions = directions_of(checked_anchors(rows))
    assert candidate_pairs(directions, 5).crowded.size == 0
    found = nearest_neighbors(directions, 5)
    plain = ranked_rows(directions, np.arange(count), 5)
    assert np.array_equal(found.indices, plain.indices)
    assert np.array_equal(found.cosines, plain.cosines)
    single = directions.codes @ directions.codes.T
    np.fill_diagonal(single, -np.inf)
    first = single.argmax(axis=1)
    assert np.count_nonzero(first != plain.indices[:, 0]) > count // 20


def test_pairs_are_candidates_both_ways_whichever_of_them_found_the_other() -> None:
    found = pairs_of(5, np.array([3, 0, 3]), np.array([0, 3, 4]), np.array([2]))
    assert list(zip(found.nodes, found.others, strict=True)) == [(0, 3), (3, 0), (3, 4), (4, 3)]
    assert found.crowded.tolist() == [2]


def test_equal_similarities_go_to_the_lower_index() -> None:
    # Any two of these differ in the same way: every cosine is 1/2.
    rows = np.ones((40, 1), dtype=np.float32) * np.eye(40, dtype=np.float32)
    rows = np.concatenate([np.ones((40, 1), dtype=np.float32), rows], axis=1)
    found = nearest(rows, 3)
    assert found.indices[0].tolist() == [1, 2, 3]
    assert found.indices[1].tolist() == [0, 2, 3]
    assert all(row.tolist() == [0, 1, 2] for row in found.indices[3:])
    assert np.allclose(found.cosines, 0.5, atol=1e-7)


def test_ties_everywhere_still_go_to_the_lower_index() -> None:
    # Four entries of +-1: unit vectors of halves, whose cosines are exact quarters.
    chance = np.random.default_rng(15)
    rows = np.zeros((2600, 16), dtype=np.float32)
    for row in rows:
        row[chance.choice(16, 4, replace=False)] = chance.choice([-1.0, 1.0], 4)
    rows = chance.permutation(np.unique(rows, axis=0))
    assert len(rows) > 2048
    for few in (rows[:500], rows):
        assert members(nearest(few, 5)) == by_plain_sorting(few, 5)


def test_one_two_and_few_rows() -> None:
    assert members(nearest(gaussian(1, 5, seed=1), 6)) == [[]]
    assert members(nearest(gaussian(2, 5, seed=1), 6)) == [[1], [0]]
    assert [len(row) for row in members(nearest(gaussian(4, 5, seed=1), 6))] == [3, 3, 3, 3]
    assert nearest(gaussian(4, 5, seed=1), 6).indices.shape == (4, 6)


def test_a_single_dimension_knows_only_two_directions() -> None:
    found = nearest(np.array([[1.0], [-2.0], [3.0], [-4.0]], dtype=np.float32), 3)
    assert members(found)[0] == [2, 1, 3]
    assert found.cosines[0].tolist() == [1.0, -1.0, -1.0]


def test_zero_vectors_are_nobodys_neighbours() -> None:
    rows = gaussian(30, 6, seed=8)
    rows[[4, 11]] = 0.0
    found = nearest(rows, 29)
    assert members(found)[4] == members(found)[11] == []
    assert not np.isin(found.indices, [4, 11]).any()
    assert members(nearest(np.zeros((3, 2), dtype=np.float32), 2)) == [[], [], []]


@pytest.mark.parametrize("scale", [1e-6, 1e6, 2.0**-100])
def test_the_scale_of_embeddings_changes_no_neighbour(scale: float) -> None:
    rows = clustered(500, 32, 12, seed=9)
    found, scaled = nearest(rows, 6), nearest((rows * np.float32(scale)).astype(np.float32), 6)
    assert np.array_equal(found.indices, scaled.indices)
    np.testing.assert_allclose(found.cosines, scaled.cosines, atol=1e-6)
    if scale == 2.0**-100:
        assert np.array_equal(found.cosines, scaled.cosines)


def test_a_few_copies_list_each_other_first_and_then_the_next() -> None:
    rows = gaussian(50, 8, seed=10)
    rows[[3, 20, 41]] = rows[7]
    found = nearest(rows, 6)
    for row in (3, 7, 20, 41):
        assert found.indices[row][:3].tolist() == [j for j in (3, 7, 20, 41) if j != row]
        assert found.cosines[row][:3].tolist() == [1.0, 1.0, 1.0]
        assert found.cosines[row][3] < 1.0
    assert members(found) == by_plain_sorting_with_copies(rows, 6)


def by_plain_sorting_with_copies(rows: Table, neighbors: int) -> list[list[int]]:
    """As above, where rounding may not tell a copy from another."""
    exact = np.round(plain_cosines(rows), 12)
    return [np.argsort(-row, kind="stable")[:neighbors].tolist() for row in exact]


@pytest.mark.parametrize("neighbors", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("copies", [12, 13])
def test_a_crowd_of_copies_stands_in_a_ring(copies: int, neighbors: int) -> None:
    rows = gaussian(40, 6, seed=11)
    crowd = np.sort(np.random.default_rng(12).choice(40, copies, replace=False))
    # Also copies of another length: it is the direction that counts.
    rows[crowd] = rows[crowd[0]] * 2.0 ** np.arange(copies)[:, None]
    lists = members(nearest(rows, neighbors))
    mutual = [sum(1 for j in lists[i] if i in lists[j] and i != j and j in crowd) for i in crowd]
    odd_one = neighbors % 2 == 1 and copies % 2 == 1
    assert sorted(mutual) == [neighbors - odd_one] + [neighbors] * (copies - 1)
    others = [i for i in range(40) if i not in crowd]
    without = np.argsort(-np.round(plain_cosines(rows), 12), kind="stable", axis=1)
    assert all(lists[i] == without[i, :neighbors].tolist() for i in others)


def test_cosines_do_not_depend_on_which_row_is_first() -> None:
    directions = directions_of(checked_anchors(gaussian(60, 33, seed=13)))
    left, right = np.divmod(np.arange(3600), 60)
    there, back = pair_cosines(directions, left, right), pair_cosines(directions, right, left)
    assert np.array_equal(there, back)
    assert (there[left == right] == 1.0).all()
    rows = checked_anchors(gaussian(60, 33, seed=13))
    assert np.array_equal(query_cosines(directions, rows[5]), there[left == 5])


def test_the_callers_stop_is_heard_between_blocks() -> None:
    class Stopped(Exception):
        pass

    shares: list[float] = []

    def stop_at_half(share: float) -> None:
        shares.append(share)
        if share >= 0.5:
            raise Stopped

    with pytest.raises(Stopped):
        nearest_neighbors(checked_anchors(gaussian(6000, 4, seed=14)), 3, stop_at_half)
    assert shares == sorted(shares)
    assert len(shares) > 3


DIGEST = """
import hashlib, numpy as np
from oars_grpc.core.lattice.arrays import checked_anchors
from oars_grpc.core.lattice.directions import directions_of, query_cosines
from oars_grpc.core.lattice.graph import mutual_graph
from oars_grpc.core.lattice.neighbors import nearest_neighbors
from oars_grpc.core.lattice.parameters import LatticeParameters
from oars_grpc.core.lattice.solver import solve
from oars_grpc.core.lattice.system import anchor_side, build_system, gate_side
from tests.support.lattice import clustered
digest = hashlib.sha256()
for count, anchor_weight in ((900, 1.0), (2600, 0.01)):
    anchors = checked_anchors(clustered(count, 48, 30, seed=3))
    lists = nearest_neighbors(anchors, 6)
    graph = mutual_graph(lists)
    gates = np.linspace(0, 1, count)
    weights = LatticeParameters(anchor_weight=anchor_weight, query_weight=0.1)
    system = build_system(graph, gates, None, weights)
    solution = solve(system, anchor_side(system, anchors))
    scalar = solve(system, gate_side(system))
    for array in (lists.indices, lists.cosines, graph.indices, graph.weights, graph.degrees,
                  solution.values, scalar.values):
        digest.update(array.tobytes())
    digest.update(repr((solution.outcome, scalar.outcome)).encode())
# A crowd of near ties goes through full products, a query through a product with a vector.
noise = np.random.default_rng(5).standard_normal((700, 48))
crowd = checked_anchors(np.eye(1, 48) + 1e-3 * noise)
lists = nearest_neighbors(crowd, 6)
digest.update(lists.indices.tobytes() + lists.cosines.tobytes())
digest.update(query_cosines(directions_of(crowd), crowd[3]).tobytes())
print(digest.hexdigest())
"""


@pytest.fixture
def digest_with(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Callable[[dict[str, str]], str]:
    def run(environment: dict[str, str]) -> str:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("PYTHONPATH", str(request.config.rootpath))
        return subprocess.run(
            [sys.executable, "-c", DIGEST], check=True, capture_output=True, text=True
        ).stdout

    return run


def test_graph_and_solution_have_the_same_bits_whatever_the_blas_does(
    digest_with: Callable[[dict[str, str]], str],
) -> None:
    one = digest_with({"OPENBLAS_NUM_THREADS": "1"})
    assert one == digest_with({"OPENBLAS_NUM_THREADS": "2"})
    # Kernels with other blocks, hence another order of adding.
    assert one == digest_with({"OPENBLAS_NUM_THREADS": "2", "OPENBLAS_CORETYPE": "Nehalem"})
