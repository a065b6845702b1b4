import sys

import numpy as np
import pytest

from oars_grpc.core.lattice.arrays import checked_anchors
from oars_grpc.core.lattice.neighbors import NOBODY, NeighborLists, nearest_neighbors
from oars_grpc.errors import ConfigurationError
from oars_grpc.neighbor_index import INDEXED_ANCHORS, IndexedSearch, search_for
from tests.support.lattice import clustered


def recall(found: NeighborLists, exact: NeighborLists) -> float:
    """The share of the true neighbours that were found."""
    hits = sum(
        np.intersect1d(ours, theirs[theirs != NOBODY]).size
        for ours, theirs in zip(found.indices, exact.indices, strict=True)
    )
    return float(hits / np.count_nonzero(exact.indices != NOBODY))


def test_the_index_finds_nearly_all_neighbours_of_clustered_anchors() -> None:
    anchors = checked_anchors(clustered(8000, 32, 160, seed=1))
    exact, found = nearest_neighbors(anchors, 6), IndexedSearch()(anchors, 6)
    assert recall(found, exact) >= 0.99
    same = (found.indices == exact.indices).all(axis=1)
    assert same.mean() > 0.95
    assert np.array_equal(found.cosines[same], exact.cosines[same])


def test_more_probes_find_more() -> None:
    anchors = checked_anchors(clustered(6000, 32, 60, seed=2, spread=1.0))
    exact = nearest_neighbors(anchors, 6)
    few, many = (recall(IndexedSearch(probes)(anchors, 6), exact) for probes in (1, 64))
    assert few < many
    assert many > 0.98


def test_copies_and_zero_rows_are_treated_as_by_the_exact_search() -> None:
    rows = clustered(4000, 16, 40, seed=3)
    rows[100:120] = rows[7]
    rows[50] = 0.0
    anchors = checked_anchors(rows)
    exact, found = nearest_neighbors(anchors, 4), IndexedSearch(probes=250)(anchors, 4)
    assert np.array_equal(found.indices, exact.indices)
    assert found.cosines.tobytes() == exact.cosines.tobytes()


def test_the_index_stops_when_told() -> None:
    class Stopped(Exception):
        pass

    def stop_late(share: float) -> None:
        if share > 0.5:
            raise Stopped

    with pytest.raises(Stopped):
        IndexedSearch()(checked_anchors(clustered(20_000, 8, 40, seed=4)), 3, stop_late)


def test_small_lattices_are_searched_exactly() -> None:
    assert search_for(INDEXED_ANCHORS - 1) is nearest_neighbors
    assert isinstance(search_for(INDEXED_ANCHORS), IndexedSearch)


def test_without_the_library_the_refusal_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ConfigurationError, match=r"oars-grpc\[index\]"):
        IndexedSearch()(checked_anchors(clustered(5000, 8, 40, seed=5)), 3)
