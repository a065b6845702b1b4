import numpy as np
import pytest

from oars_grpc.core.lattice.arrays import Float32Array, checked_anchors
from oars_grpc.core.lattice.conflicts import conflicts, default_tension, pair_tension
from oars_grpc.core.lattice.neighbors import nearest_neighbors
from oars_grpc.errors import InvalidArgument
from tests.support.lattice import gaussian


def with_planted_mixtures(count: int, planted: int, seed: int) -> tuple[Float32Array, set[int]]:
    """Groups of items, and some items that are half one group and half another."""
    chance = np.random.default_rng(seed)
    kinds = count // 12
    centres = chance.standard_normal((kinds, 48))
    groups = chance.integers(0, kinds, count)
    rows = centres[groups] + 0.5 * chance.standard_normal((count, 48))
    places = chance.choice(count, planted, replace=False)
    for place in places:
        one, other = chance.choice(kinds, 2, replace=False)
        rows[place] = (centres[one] + centres[other]) / np.sqrt(2)
        rows[place] += 0.3 * chance.standard_normal(48)
    return checked_anchors(rows), set(places.tolist())


@pytest.mark.parametrize("count", [100, 400])
def test_items_between_two_groups_are_found(count: int) -> None:
    anchors, planted = with_planted_mixtures(count, count // 20, 2)
    # Enough neighbours to see both groups.
    found = conflicts(anchors, nearest_neighbors(anchors, 16))
    names = set(found.nodes.tolist())
    assert len(names & planted) >= 0.8 * len(planted)
    assert len(names - planted) <= 0.02 * count
    assert (np.diff(found.tensions) <= 0).all()
    assert (found.pairs[:, 0] < found.pairs[:, 1]).all()


@pytest.mark.parametrize("dimension", [2, 3, 8, 32, 128])
@pytest.mark.parametrize("count", [50, 400, 1200])
def test_random_data_has_almost_no_conflicts(count: int, dimension: int) -> None:
    anchors = checked_anchors(gaussian(count, dimension, 7))
    found = conflicts(anchors, nearest_neighbors(anchors, 6))
    assert len(found) <= 0.02 * count


def test_tension_is_the_partial_correlation_of_its_definition() -> None:
    anchors, _ = with_planted_mixtures(100, 10, 4)
    lists = nearest_neighbors(anchors, 6)
    found = conflicts(anchors, lists, tension=0.3)
    units = anchors / np.linalg.norm(anchors, axis=1, keepdims=True).astype(np.float64)
    cosine = units @ units.T
    assert len(found)
    for node, (a, b), tension in zip(found.nodes, found.pairs, found.tensions, strict=True):
        rho = {}
        near = lists.indices[node]
        for first in near:
            for second in near:
                if first < second and cosine[first, second] <= 0.5:
                    left = np.sqrt((1 - cosine[node, first] ** 2) * (1 - cosine[node, second] ** 2))
                    alike = cosine[first, second] - cosine[node, first] * cosine[node, second]
                    rho[int(first), int(second)] = alike / left
        assert min(rho, key=lambda pair: rho[pair]) == (a, b)
        assert tension == pytest.approx(-min(rho.values()), abs=1e-5)
        alone, alike = pair_tension(anchors, int(node), (int(a), int(b)))
        assert alone == pytest.approx(tension, abs=1e-5)
        assert alike == pytest.approx(cosine[a, b], abs=1e-5)


def test_what_counts_as_tense_is_more_in_few_dimensions() -> None:
    thresholds = [default_tension(dimension) for dimension in (2, 3, 8, 16, 32, 384)]
    assert thresholds == sorted(thresholds, reverse=True)
    assert thresholds[0] == 1.0
    assert thresholds[-1] == 0.6


@pytest.mark.parametrize(
    "rows", [np.ones((1, 2)), np.ones((5, 3)), np.zeros((4, 2)), np.array([[1.0], [-2.0], [3.0]])]
)
def test_copies_zeros_and_lone_items_conflict_with_nothing(rows: np.ndarray) -> None:
    anchors = checked_anchors(rows)
    assert len(conflicts(anchors, nearest_neighbors(anchors, 4))) == 0


@pytest.mark.parametrize(
    ("tension", "likeness", "field"), [(0.0, 0.5, "tension"), (0.5, 2.0, "likeness")]
)
def test_thresholds_out_of_range_are_refused(tension: float, likeness: float, field: str) -> None:
    anchors = checked_anchors(np.eye(3))
    with pytest.raises(InvalidArgument, match=field):
        conflicts(anchors, nearest_neighbors(anchors, 2), tension, likeness)
