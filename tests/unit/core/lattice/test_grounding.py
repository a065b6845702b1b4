"""How an action stands on its evidence: what the scores are, and what moves them."""

import os
import subprocess
import sys
from dataclasses import astuple

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from oars_grpc.core.lattice.grounding import (
    MAXIMUM_AGAINST,
    MAXIMUM_USED,
    AgainstReason,
    Grounding,
    ground,
)
from oars_grpc.core.lattice.kriging import closeness, explained_share, leave_one_out_shares

Rows = npt.NDArray[np.float64]
UNKNOWN = float("nan")


def rows(seed: int, count: int, dimension: int = 64, topic: float = 0.0) -> Rows:
    """Random directions, drawn towards the first axis by `topic`."""
    found = np.random.default_rng(seed).normal(size=(count, dimension))
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    found[:, 0] += topic
    return found


def scored(
    items: Rows,
    action: Rows,
    trust: list[float] | float = 1.0,
    adverse: list[float] | float = UNKNOWN,
) -> Grounding:
    count = len(items)
    return ground(
        items.astype(np.float32),
        action.astype(np.float32),
        np.broadcast_to(np.asarray(trust, dtype=np.float64), count).copy(),
        np.broadcast_to(np.asarray(adverse, dtype=np.float64), count).copy(),
    )


def numbers(found: Grounding) -> list[float]:
    risk = [] if found.risk is None else [*astuple(found.risk)[:4]]
    return [
        found.support,
        found.coherence,
        found.conflict,
        found.novelty,
        found.p_value,
        *risk,
        *(each.weight for each in found.against),
    ]


def axis(*values: float) -> Rows:
    found = np.zeros(8)
    found[: len(values)] = values
    return found


@pytest.mark.parametrize(
    ("cosine", "trust", "support"),
    [(1.0, 1.0, 1.0), (1.0, 0.5, 0.5), (0.6, 1.0, 0.8**4), (0.0, 1.0, 1 / 16), (-1.0, 1.0, 0.0)],
)
def test_one_item_supports_by_its_trust_and_its_closeness(
    cosine: float, trust: float, support: float
) -> None:
    item = axis(cosine, np.sqrt(1 - cosine * cosine))
    found = scored(item[None, :], axis(1.0), trust)
    assert found.support == pytest.approx(support, abs=1e-4)
    assert found.novelty == pytest.approx(0.95 * (1 - support), abs=1e-4)


def test_two_unlike_items_of_equal_weight_are_half_coherent_and_four_a_quarter() -> None:
    action = axis(1.0)
    both = np.stack([axis(0.5, 0.75**0.5), axis(0.5, -(0.75**0.5))])
    assert scored(both, action).coherence == pytest.approx(0.5)
    half = np.sqrt(0.5)
    four = np.stack([axis(half, *(half * np.eye(4)[n])) for n in range(4)])
    assert scored(four - axis(half), action).coherence == pytest.approx(0.25)
    assert scored(np.stack([both[0]] * 5), action).coherence == pytest.approx(1.0)


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 40),
    st.integers(1, 24),
    st.floats(0, 3),
)
@settings(max_examples=150, deadline=None)
@example(seed=0, count=7, dimension=1, topic=1.0)  # with an item that has no direction
def test_every_score_lies_between_0_and_1(
    seed: int, count: int, dimension: int, topic: float
) -> None:
    chance = np.random.default_rng(seed)
    items = rows(seed, count, dimension, topic)
    items[chance.integers(count)] = items[0]  # now and then a copy
    trust = np.where(chance.random(count) < 0.2, 0.0, chance.random(count))
    adverse = np.where(chance.random(count) < 0.5, chance.random(count), np.nan)
    action = rows(seed + 1, 1, dimension, topic)[0]
    found = scored(items, action, list(trust), list(adverse))
    assert all(0.0 <= number <= 1.0 for number in numbers(found))
    assert len(found.against) <= MAXIMUM_AGAINST
    if found.risk is not None:
        assert found.risk.low <= found.risk.estimate <= found.risk.high


@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.floats(0, 2))
@settings(max_examples=60, deadline=None)
def test_support_never_falls_with_another_item_or_with_more_trust(
    seed: int, count: int, topic: float
) -> None:
    chance = np.random.default_rng(seed)
    items, action = rows(seed, count + 1, 16, topic), rows(seed + 1, 1, 16, topic)[0]
    trust = chance.random(count + 1)
    fewer = scored(items[:count], action, list(trust[:count])).support
    more = scored(items, action, list(trust)).support
    assert more >= fewer - 1e-9
    assert scored(items, action, list(np.sqrt(trust))).support >= more - 1e-9


@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.floats(0, 2))
@settings(max_examples=60, deadline=None)
def test_what_speaks_against_is_never_outvoted(seed: int, count: int, topic: float) -> None:
    """Neither good items nor more bad ones lower what the bad ones explain."""
    chance = np.random.default_rng(seed)
    items, action = rows(seed, count, 16, topic), rows(seed + 1, 1, 16, topic)[0]
    trust, bad = chance.random(count), chance.random(count)
    cosines = items @ items.T / np.outer(*[np.linalg.norm(items, axis=1)] * 2)
    near = items @ action / np.linalg.norm(items, axis=1) / np.linalg.norm(action)
    kernel, point = closeness(np.clip(cosines, -1, 1)), closeness(np.clip(near, -1, 1))
    against = explained_share(kernel, point, trust * bad)
    found = scored(items, action, list(trust), list(bad))
    assert found.conflict >= against - 1e-5
    company = np.concatenate([items, rows(seed + 2, 20, 16, topic), items])
    good = scored(company, action, [*trust, *[1.0] * 20, *trust], [*bad, *[0.0] * 20, *bad])
    assert good.conflict >= against - 1e-5
    worse = scored(company, action, 1.0, [*bad, *[1.0] * 20, *bad])
    assert worse.conflict >= against - 1e-5


@given(st.integers(0, 2**32 - 1), st.integers(1, 30))
@settings(max_examples=40, deadline=None)
def test_the_length_of_embeddings_means_nothing(seed: int, count: int) -> None:
    items, action = rows(seed, count, 16, 1.0), rows(seed + 1, 1, 16, 1.0)[0]
    once = scored(items, action)
    # By powers of two, so that the numbers themselves are the same.
    lengths = 2.0 ** np.random.default_rng(seed).integers(-20, 20, size=(count, 1))
    again = scored(items.astype(np.float32) * lengths, action.astype(np.float32) * 2.0**-20)
    assert numbers(once) == numbers(again)


def test_copies_of_an_item_support_no_more_than_the_item() -> None:
    items, action = rows(1, 3, topic=1.0), rows(2, 1, topic=1.0)[0]
    once = scored(items, action)
    copies = scored(np.concatenate([items] * 20), action)
    assert copies.support == pytest.approx(once.support, abs=1e-3)


def test_items_that_nobody_trusts_count_for_nothing() -> None:
    items = rows(1, 5, topic=2.0)
    found = scored(items, items[0], 0.0, 1.0)
    assert (found.support, found.coherence, found.conflict) == (0.0, 0.0, 0.0)
    assert (found.risk, found.against) == (None, ())


def test_an_action_is_novel_among_items_of_another_matter() -> None:
    items = rows(1, 60, topic=2.0)
    like, unlike = rows(2, 1, topic=2.0)[0], rows(3, 1)[0]
    unlike[0] = 0.0
    assert scored(items, like).novelty < 0.7
    assert scored(items, unlike).novelty > 0.95
    assert scored(items, unlike).p_value == pytest.approx(1 / 61)
    assert scored(items[:2], unlike).novelty > 0.5


def test_the_p_value_raises_no_more_false_alarms_than_it_says() -> None:
    alarms = 0
    for seed in range(300):
        drawn = rows(seed, 21, 12, topic=0.7)
        alarms += scored(drawn[:20], drawn[20]).p_value <= 0.1
    assert 0.03 * 300 < alarms < 0.16 * 300


def test_a_mixture_of_two_matters_is_under_tension_and_others_are_not() -> None:
    one, other = rows(1, 12, topic=0.0), rows(2, 12, topic=0.0)
    one[:, 1] += 2.0
    other[:, 2] += 2.0
    mixed = (one[0] + other[0])[None, :]
    items = np.concatenate([one, other, mixed])
    found = scored(items, mixed[0])
    tense = [each for each in found.against if each.reason is AgainstReason.TENSION]
    assert [each.place for each in tense] == [24]
    assert found.conflict > 0.5
    assert not scored(items[:24], mixed[0]).against
    assert not scored(rows(3, 200), rows(4, 1)[0]).against


def test_bad_outcomes_close_to_the_action_are_told_the_heaviest_first() -> None:
    items = rows(1, 12, topic=2.0)
    bad = [1.0, 0.5, 0.0] + [UNKNOWN] * 9
    found = scored(items, items[0], 1.0, bad)
    assert [(each.place, each.reason) for each in found.against] == [
        (0, AgainstReason.ADVERSE),
        (1, AgainstReason.ADVERSE),
    ]
    assert found.against[0].weight == pytest.approx(1.0)
    assert found.conflict > 0.99


def test_the_risk_follows_the_outcomes_and_narrows_with_them() -> None:
    items, action = rows(1, 40, topic=2.0), rows(2, 1, topic=2.0)[0]
    assert scored(items, action).risk is None
    few = scored(items, action, 1.0, [1.0, 1.0] + [UNKNOWN] * 38).risk
    many = scored(items, action, 1.0, 1.0).risk
    good = scored(items, action, 1.0, 0.0).risk
    assert few is not None
    assert many is not None
    assert good is not None
    assert few.estimate > 0.5 > good.estimate
    assert many.low > 0.5
    assert many.high - many.low < few.high - few.low
    assert (few.outcomes, many.outcomes) == (2, 40)
    assert few.observations <= 2.0
    mixed = scored(items, action, 1.0, [0.0, 1.0] * 20).risk
    assert mixed is not None
    assert mixed.disagreement > 0.9 > many.disagreement


def test_copies_of_an_outcome_are_one_observation() -> None:
    item, action = rows(1, 1, topic=2.0), rows(2, 1, topic=2.0)[0]
    once = scored(item, action, 1.0, 1.0).risk
    copies = scored(np.concatenate([item] * 30), action, 1.0, 1.0).risk
    assert once is not None
    assert copies is not None
    assert copies.observations == pytest.approx(once.observations, rel=0.05)


def test_an_outcome_reaches_unknown_items_by_way_of_their_neighbours() -> None:
    """The action is close to items without an outcome, and those to ones that went badly."""
    path = [axis(np.cos(angle), np.sin(angle)) for angle in np.linspace(0.0, 1.2, 7)]
    bad = scored(np.stack(path), path[0], 1.0, [UNKNOWN] * 5 + [1.0] * 2).risk
    good = scored(np.stack(path), path[0], 1.0, [UNKNOWN] * 5 + [0.0] * 2).risk
    assert bad is not None
    assert good is not None
    assert bad.estimate > 0.55
    assert good.estimate < 0.45


def test_of_a_large_collection_the_nearest_are_used() -> None:
    items, action = rows(1, 1000, topic=0.3), rows(2, 1, topic=0.3)[0]
    items[700] = action
    found = scored(items, action, 1.0, [UNKNOWN] * 700 + [1.0] + [UNKNOWN] * 299)
    assert found.used == MAXIMUM_USED
    assert found.support > 0.999
    assert found.against[0].place == 700


def test_leave_one_out_shares_are_what_the_others_explain() -> None:
    items = rows(5, 9, 6, topic=0.5)
    items /= np.linalg.norm(items, axis=1, keepdims=True)
    kernel = closeness(np.clip(items @ items.T, -1, 1))
    shares = leave_one_out_shares(kernel)
    for place in range(9):
        others = np.delete(np.arange(9), place)
        direct = explained_share(kernel[np.ix_(others, others)], kernel[others, place], np.ones(8))
        assert shares[place] == pytest.approx(direct, abs=1e-4)


def test_support_is_what_a_dense_solve_of_the_same_system_gives() -> None:
    items, action = rows(5, 30, 32, topic=0.8), rows(6, 1, 32, topic=0.8)[0]
    trust = np.random.default_rng(7).uniform(0.1, 1.0, 30)
    unit = items / np.linalg.norm(items, axis=1, keepdims=True)
    kernel = closeness(unit @ unit.T)
    near = closeness(unit @ action / np.linalg.norm(action))
    noise = np.diag(1 / trust**2 - 1 + 2.0**-14)
    expected = np.sqrt(near @ np.linalg.solve(kernel + noise, near))
    assert scored(items, action, list(trust)).support == pytest.approx(expected, abs=1e-6)


_PRINTS = """
import numpy as np
from oars_grpc.core.lattice.grounding import ground
chance = np.random.default_rng(3)
items = chance.normal(size=(200, 384)).astype(np.float32) + 0.1
adverse = np.where(chance.random(200) < 0.4, chance.random(200), np.nan)
print(ground(items, items[:7].mean(axis=0), chance.random(200), adverse))
"""


def test_the_number_of_blas_threads_does_not_show() -> None:
    told = {
        subprocess.run(
            [sys.executable, "-c", _PRINTS],
            env={**os.environ, "OPENBLAS_NUM_THREADS": threads},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for threads in ("1", "2")
    }
    assert len(told) == 1
    assert "risk=OutcomeRisk" in told.pop()


def test_outcomes_of_other_matters_do_not_narrow_the_interval() -> None:
    near = rows(1, 3, topic=3.0)
    far = rows(2, 120)
    far[:, 0] = 0.0
    far[:, 1] = 3.0
    action = rows(3, 1, topic=3.0)[0]
    few = scored(near, action, 1.0, [1.0, UNKNOWN, UNKNOWN]).risk
    diluted = scored(
        np.concatenate([near, far]), action, 1.0, [1.0, UNKNOWN, UNKNOWN] + [0.0] * 120
    ).risk
    assert few is not None
    assert diluted is not None
    assert diluted.estimate == pytest.approx(few.estimate, abs=0.05)
    assert diluted.low == pytest.approx(few.low, abs=0.05)
