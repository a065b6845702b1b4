import numpy as np
import pytest
from sklearn.datasets import load_digits

from oars_grpc.core.lattice import ranking as module
from oars_grpc.core.lattice.ancestor import ancestor_bundle, ancestor_scores
from oars_grpc.core.lattice.arrays import Float64Array, Int64Array, checked_query
from oars_grpc.core.lattice.laplacian import laplacian
from oars_grpc.core.lattice.parameters import LaplacianKind, LatticeParameters
from oars_grpc.core.lattice.ranking import (
    DEFAULT_RANKING,
    RankingParameters,
    query_cosines_of,
    rank,
    relevance_field,
    spreading,
)
from oars_grpc.core.lattice.settled import read
from oars_grpc.errors import InvalidArgument
from tests.support.lattice import clustered, gaussian
from tests.support.settled_lattices import Built, built, sample


def plain_greedy(example: Built, merits: Float64Array, count: int, value: object) -> Int64Array:
    """Greedy choice over everything, from its definition."""
    rows = example.inputs.anchors.astype(np.float64)
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    chosen: list[int] = []
    while len(chosen) < count:
        nearest = (units @ units[chosen].T).max(axis=1) if chosen else np.zeros(len(rows))
        values = value(merits, nearest)  # type: ignore[operator] # a callable of two arrays
        values[chosen] = -np.inf
        chosen.append(int(values.argmax()))
    return np.array(chosen)


def test_the_field_is_the_solution_of_its_system() -> None:
    example = sample(200, 12)
    cosines = query_cosines_of(read(example.lattice, example.query))
    ready = spreading(example.inputs.graph, 1.0)
    field = relevance_field(ready, cosines, DEFAULT_RANKING)
    full = laplacian(example.inputs.graph, LaplacianKind.COMBINATORIAL).toarray()
    source = np.maximum(cosines, 0.0) ** DEFAULT_RANKING.power
    exact = np.linalg.solve(np.eye(200) + full, source)
    assert np.abs(field - exact).max() < 1e-3 * exact.max()
    assert field.min() >= 0.0
    assert field.max() <= source.max() + 1e-12


def test_the_field_over_the_most_similar_items_ranks_as_the_whole_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    example = built(clustered(900, 24, 20, 8))
    reading = read(example.lattice, example.query)
    whole = rank(reading)
    monkeypatch.setattr(module, "FIELD_ITEMS", 128)
    part = rank(reading)
    assert np.array_equal(part.nodes, whole.nodes)
    cosines = query_cosines_of(reading)
    field = relevance_field(spreading(example.inputs.graph), cosines, DEFAULT_RANKING)
    assert np.count_nonzero(field) <= 128


def test_the_lazy_choice_is_the_greedy_one_over_everything() -> None:
    for seed in range(3):
        example = built(clustered(700, 8, 6, seed, spread=0.2))
        reading = read(example.lattice, example.query)
        parameters = RankingParameters(top=40, diversity=0.8)
        found = rank(reading, parameters)
        cosines = query_cosines_of(reading)
        field = relevance_field(spreading(example.inputs.graph), cosines, parameters)
        expected = plain_greedy(
            example,
            field / field.max(),
            40,
            lambda merits, nearest: merits * (1.0 - 0.8 * np.maximum(nearest, 0.0)),
        )
        assert np.array_equal(found.nodes, expected)
        assert found.margin is not None
        assert found.margin >= 0.0


def test_items_that_relevance_does_not_reach_come_last_and_by_cosine() -> None:
    anchors = np.array([[1.0, 0.0], [-1.0, 0.1], [0.9, 0.1], [-1.0, 3.0], [-1.0, -2.0]])
    example = built(anchors, parameters=LatticeParameters(neighbors=1))
    found = rank(read(example.lattice, example.query), RankingParameters(top=5))
    assert found.nodes.tolist() == [0, 2, 3, 4, 1]
    assert found.margin is not None


def test_a_query_without_direction_ranks_by_place() -> None:
    example = sample()
    nothing = read(example.lattice, checked_query(np.zeros(16), 16))
    assert rank(nothing, RankingParameters(top=3)).nodes.tolist() == [0, 1, 2]


def test_copies_rank_by_the_lower_index() -> None:
    example = built(np.ones((6, 3)), parameters=LatticeParameters(neighbors=3))
    found = rank(read(example.lattice, example.query), RankingParameters(top=3, diversity=0.0))
    assert found.nodes.tolist() == sorted(found.nodes.tolist())


def test_more_than_there_is_ranks_everything_without_a_margin() -> None:
    example = built(np.eye(3))
    found = rank(read(example.lattice, example.query), RankingParameters(top=8))
    assert sorted(found.nodes.tolist()) == [0, 1, 2]
    alone = built(np.ones((1, 3)))
    assert rank(read(alone.lattice, alone.query)).margin is None


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        (RankingParameters(top=0), "ranking.top"),
        (RankingParameters(power=99), "ranking.power"),
        (RankingParameters(spread=float("nan")), "ranking.spread"),
        (RankingParameters(diversity=1.5), "ranking.diversity"),
    ],
)
def test_bad_ranking_parameters_are_refused_by_name(
    parameters: RankingParameters, field: str
) -> None:
    example = sample()
    with pytest.raises(InvalidArgument) as refusal:
        rank(read(example.lattice, example.query), parameters)
    assert [violation.field for violation in refusal.value.violations] == [field]


def test_the_default_ranks_labelled_digits_no_worse_than_plain_cosine() -> None:
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    asked, kept = order[:150], order[150:]
    example = built(images[kept])
    field_hits = cosine_hits = 0
    for place in asked:
        reading = read(example.lattice, checked_query(images[place], 64))
        by_field = rank(reading, RankingParameters(top=10)).nodes
        by_cosine = np.argsort(-query_cosines_of(reading), kind="stable")[:10]
        field_hits += int((labels[kept][by_field] == labels[place]).sum())
        cosine_hits += int((labels[kept][by_cosine] == labels[place]).sum())
    assert field_hits >= cosine_hits


def test_the_bundle_is_the_ancestors_greedy_choice() -> None:
    parameters = LatticeParameters(laplacian=LaplacianKind.NORMALIZED)
    example = built(gaussian(500, 16, 3), parameters=parameters)
    reading = read(example.lattice, example.query)
    scores = ancestor_scores(reading)
    assert np.array_equal(
        ancestor_bundle(reading).nodes,
        plain_greedy(example, scores, 8, lambda s, nearest: 0.5 * s - 0.5 * nearest),
    )
    with pytest.raises(InvalidArgument):
        ancestor_bundle(reading, alpha=2.0)
    with pytest.raises(InvalidArgument):
        ancestor_bundle(reading, 0)
