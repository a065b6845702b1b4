"""The risk by known outcomes: calibrated where they are enough, and as wide as they permit."""

import numpy as np
import numpy.typing as npt
import pytest

from oars_grpc.core.lattice import outcome_risk as module
from oars_grpc.core.lattice.arrays import checked_anchors
from oars_grpc.core.lattice.directions import directions_of
from oars_grpc.core.lattice.grounding import ground
from oars_grpc.core.lattice.neighbors import cosine_rows, nearest_neighbors
from oars_grpc.core.lattice.outcome_risk import OutcomeRisk, outcome_risk

Rows = npt.NDArray[np.float64]
UNKNOWN = float("nan")


def around(seed: int, count: int, spread: float = 1.0, dimension: int = 24) -> Rows:
    """Directions around the first axis; every one differs from it in its own way."""
    found = np.random.default_rng(seed).normal(size=(count, dimension)) * spread
    found /= np.sqrt(dimension)
    found[:, 0] += 1.0
    return found


def risk(
    items: Rows, adverse: Rows | list[float] | float, trust: float = 1.0, action: Rows | None = None
) -> OutcomeRisk:
    count = len(items)
    aimed = np.eye(items.shape[1])[0] if action is None else action
    found = ground(
        checked_anchors(items.astype(np.float32)),
        aimed.astype(np.float32),
        np.full(count, trust),
        np.broadcast_to(np.asarray(adverse, dtype=np.float64), count).copy(),
    ).risk
    assert found is not None
    return found


def test_an_outcome_left_out_is_predicted_as_if_it_had_never_been_known() -> None:
    items = checked_anchors(around(1, 30).astype(np.float32))
    chosen = directions_of(items)
    lists = nearest_neighbors(chosen, 6)
    cosines = cosine_rows(chosen, np.arange(30))
    chance = np.random.default_rng(2)
    trust = chance.uniform(0.2, 1.0, 30)
    adverse = np.where(chance.random(30) < 0.6, chance.random(30), np.nan)
    known = np.flatnonzero(np.isfinite(adverse))
    label = np.where(np.isfinite(adverse), trust, 0.0)
    outcomes = np.nan_to_num(adverse)
    walks = module._walks(lists, label, lambda _: None)
    same = module._sameness(cosines)
    predicted = module._left_out(
        known, cosines, trust, label, walks, outcomes, same, lambda _: None
    )
    for row, place in enumerate(known):
        without = adverse.copy()
        without[place] = np.nan
        others = cosines[place].copy()
        others[place] = 0.0
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "FEWEST_TO_CALIBRATE", np.inf)
            direct = outcome_risk(lists, cosines, others, trust, without)
        assert direct is not None
        assert predicted[row] == pytest.approx(direct.estimate, abs=1e-9)


def test_so_few_outcomes_calibrate_nothing() -> None:
    items = around(3, 40)
    few = risk(items, [0.0] * 4 + [UNKNOWN] * 36)
    assert (few.outcomes, few.calibrated_by) == (4, 0)
    more = risk(items, [0.0] * 12 + [UNKNOWN] * 28)
    assert (more.outcomes, more.calibrated_by) == (12, 12)


def test_copies_of_outcomes_are_not_enough_to_calibrate() -> None:
    items = around(3, 2)
    assert risk(np.concatenate([items] * 20), 0.0).calibrated_by == 0


def test_outcomes_of_other_matters_are_not_enough_to_calibrate() -> None:
    far = around(5, 100)
    far[:, [0, 1]] = far[:, [1, 0]]
    far[:, 0] = 0.0
    found = risk(np.concatenate([around(3, 2), far]), 0.0)
    assert (found.outcomes, found.calibrated_by) == (102, 0)


@pytest.mark.parametrize("count", [1, 2, 4, 8, 20, 60])
@pytest.mark.parametrize("outcome", [0.0, 1.0])
def test_the_interval_ends_where_so_many_outcomes_permit(count: int, outcome: float) -> None:
    """Of n good ones the share of bad may be 1 - 0.05^(1/n): about 3 / n, and one half for four."""
    found = risk(around(7, count, 0.6), outcome)
    reach = found.high if outcome == 0 else 1 - found.low
    assert reach >= 1 - 0.05 ** (1 / count) - 1e-12
    assert found.low <= found.estimate <= found.high


def test_little_trust_widens_the_interval() -> None:
    items, outcomes = around(9, 30), [0.0, 0.0, 1.0] * 10
    wide, narrow = risk(items, outcomes, 0.05), risk(items, outcomes)
    assert wide.high - wide.low > narrow.high - narrow.low + 0.1


def drawn_risks(truth: float, asked: int) -> list[OutcomeRisk]:
    """Risks of actions like items whose outcomes are bad by this probability."""
    chance = np.random.default_rng(11)
    return [
        risk(around(seed, 32), (chance.random(32) < truth).astype(np.float64))
        for seed in range(asked)
    ]


@pytest.mark.parametrize("truth", [0.05, 0.3, 0.9])
def test_estimates_are_calibrated_and_intervals_hold_what_outcomes_were_drawn_by(
    truth: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = drawn_risks(truth, 80)
    assert all(each.calibrated_by == 32 for each in found)
    off = abs(np.mean([each.estimate for each in found]) - truth)
    assert off < 0.04
    held = np.mean([each.low <= truth <= each.high for each in found])
    assert held >= 0.85
    # Narrower than knowing nothing: an interval from 0 to 1 would hold everything.
    assert np.mean([each.high - each.low for each in found]) < 0.5
    monkeypatch.setattr(module, "FEWEST_TO_CALIBRATE", np.inf)
    plain = [each.estimate for each in drawn_risks(truth, 80)]
    assert abs(np.mean(plain) - truth) > off
