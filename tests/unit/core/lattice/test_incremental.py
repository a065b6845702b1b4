import numpy as np
import pytest

from oars_grpc.core.lattice import incremental
from oars_grpc.core.lattice.arrays import Int64Array, checked_anchors
from oars_grpc.core.lattice.directions import Directions, directions_of
from oars_grpc.core.lattice.incremental import Neighborhood, remove, upsert
from oars_grpc.core.lattice.neighbors import NeighborLists, nearest_neighbors, ranked_rows
from oars_grpc.core.lattice.progress import Proceed, keep_going
from oars_grpc.errors import InvalidArgument
from tests.support.lattice import Table, clustered, gaussian


def neighborhood(rows: Table, neighbors: int = 6) -> Neighborhood:
    directions = directions_of(checked_anchors(rows))
    return Neighborhood(directions, nearest_neighbors(directions, neighbors))


def assert_same(left: Neighborhood, right: Neighborhood) -> None:
    assert np.array_equal(left.lists.indices, right.lists.indices)
    assert left.lists.cosines.tobytes() == right.lists.cosines.tobytes()
    assert left.directions.codes.tobytes() == right.directions.codes.tobytes()
    assert np.array_equal(left.directions.squares, right.directions.squares)


@pytest.mark.parametrize("rows", [clustered(600, 20, 12, seed=1), gaussian(600, 20, seed=2)])
def test_twenty_new_anchors_make_the_lists_of_a_rebuild(rows: Table) -> None:
    known = neighborhood(rows[:580])
    for i in range(580, 600, 4):
        known = upsert(known, np.arange(i, i + 4), directions_of(rows[i : i + 4]))
    assert_same(known, neighborhood(rows))


def test_replaced_and_new_anchors_in_any_order() -> None:
    rows = clustered(300, 12, 8, seed=3)
    places = np.array([301, 7, 300, 299])
    fresh = clustered(4, 12, 2, seed=4)
    after = np.concatenate([rows, np.zeros((2, 12), dtype=np.float32)])
    after[places] = fresh
    assert_same(upsert(neighborhood(rows), places, directions_of(fresh)), neighborhood(after))


def test_removed_anchors_leave_the_lists_of_a_rebuild() -> None:
    rows = clustered(400, 12, 8, seed=5)
    gone = np.array([399, 0, 17, 18, 200])
    assert_same(remove(neighborhood(rows), gone), neighborhood(np.delete(rows, gone, axis=0)))


@pytest.mark.parametrize("neighbors", [3, 4])
def test_crowds_of_copies_come_and_go(neighbors: int) -> None:
    rows = gaussian(60, 4, seed=6)
    rows[[2, 9, 30, 31, 50]] = rows[5]
    known = neighborhood(rows, neighbors)
    grown = upsert(known, np.arange(60, 63), directions_of(rows[[5, 5, 5]]))
    after = np.concatenate([rows, rows[[5, 5, 5]]])
    assert_same(grown, neighborhood(after, neighbors))
    gone = np.array([5, 9, 30, 61, 62])
    assert_same(remove(grown, gone), neighborhood(np.delete(after, gone, axis=0), neighbors))


def test_only_what_changed_is_ranked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    ranked: list[int] = []

    def counted(
        directions: Directions, rows: Int64Array, neighbors: int, proceed: Proceed = keep_going
    ) -> NeighborLists:
        ranked.extend(rows.tolist())
        return ranked_rows(directions, rows, neighbors, proceed)

    monkeypatch.setattr(incremental, "ranked_rows", counted)
    rows = clustered(2000, 20, 40, seed=7)
    known = neighborhood(rows)
    upsert(known, np.array([2000]), directions_of(rows[:1] + np.float32(0.01)))
    assert ranked == [2000]
    ranked.clear()
    remove(known, np.array([3]))
    assert 0 < len(ranked) <= 60


def test_a_lattice_may_start_from_one_and_end_with_one() -> None:
    rows = gaussian(3, 5, seed=8)
    grown = upsert(neighborhood(rows[:1]), np.array([1, 2]), directions_of(rows[1:]))
    assert_same(grown, neighborhood(rows))
    assert_same(remove(grown, np.array([0, 2])), neighborhood(rows[1:2]))


@pytest.mark.parametrize("rows", [[5], [3, 5], [-1], [0, 0], [3, 4]])
def test_rows_that_leave_a_gap_or_repeat_are_refused(rows: list[int]) -> None:
    known = neighborhood(gaussian(3, 5, seed=9))
    fresh = directions_of(gaussian(1, 5, seed=10))
    with pytest.raises(InvalidArgument) as refusal:
        upsert(known, np.array(rows), fresh)
    assert refusal.value.violations[0].field == "rows"


@pytest.mark.parametrize("rows", [[3], [0, 0], [0, 1, 2], [-1]])
def test_what_is_not_there_cannot_be_removed_nor_can_all(rows: list[int]) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        remove(neighborhood(gaussian(3, 5, seed=11)), np.array(rows))
    assert refusal.value.violations[0].field == "rows"
