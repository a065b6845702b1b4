"""Calibration draws predictions to how often they came to pass, and keeps their order."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from oars_grpc.core.lattice.calibration import (
    PRECISION,
    USUAL_SLOPE,
    Calibration,
    calibrated_by,
)

Numbers = npt.NDArray[np.float64]


def drawn(seed: int, count: int) -> tuple[Numbers, Numbers, Numbers]:
    chance = np.random.default_rng(seed)
    # Log-odds of predictions nearer to 0 or 1 are cut off.
    predictions = 1e-3 + (1 - 2e-3) * chance.random(count)
    return predictions, np.rint(chance.random(count)), chance.random(count)


@given(st.integers(0, 2**32 - 1), st.integers(1, 60))
@settings(max_examples=60, deadline=None)
def test_predictions_keep_their_order_and_stay_probabilities(seed: int, count: int) -> None:
    found = calibrated_by(*drawn(seed, count))
    assert found.slope >= 0
    turned = [found.applied(value) for value in np.linspace(0, 1, 21)]
    assert all(0 < value < 1 for value in turned)
    assert turned == sorted(turned)


@given(st.integers(0, 2**32 - 1), st.integers(1, 60))
@example(seed=475, count=29)
@settings(max_examples=30, deadline=None)
def test_it_is_what_a_general_optimiser_finds(seed: int, count: int) -> None:
    predictions, outcomes, weights = drawn(seed, count)
    odds = np.log(predictions / (1 - predictions))

    def lost(by: Numbers) -> float:
        turned = by[0] * odds + by[1]
        likely = weights * (outcomes * turned - np.logaddexp(0, turned))
        return float(PRECISION * ((by[0] - USUAL_SLOPE) ** 2 + by[1] ** 2) / 2 - likely.sum())

    found = calibrated_by(predictions, outcomes, weights)
    best = minimize(lost, [USUAL_SLOPE, 0.0], bounds=[(0, None), (None, None)], tol=1e-12)
    assert lost(np.array([found.slope, found.intercept])) <= best.fun + 1e-6


def test_predictions_that_are_off_are_set_right_by_many_and_hardly_changed_by_few() -> None:
    chance = np.random.default_rng(4)
    truth = chance.random(4000) * 0.3
    outcomes = (chance.random(4000) < truth).astype(np.float64)
    # Drawn to one half, as by too strong a prior.
    predictions = (truth + 0.5) / 2
    found = calibrated_by(predictions, outcomes, np.ones(4000))
    for value in (0.05, 0.15, 0.25):
        assert found.applied((value + 0.5) / 2) == pytest.approx(value, abs=0.03)
    few = calibrated_by(predictions[:1], np.zeros(1), np.full(1, 0.2))
    usual = Calibration(USUAL_SLOPE, 0.0)
    assert few.applied(0.3) == pytest.approx(usual.applied(0.3), abs=0.06)


def test_without_weight_it_is_the_usual_one() -> None:
    found = calibrated_by(np.array([0.2, 0.9]), np.array([1.0, 0.0]), np.zeros(2))
    assert found == Calibration(USUAL_SLOPE, 0.0)
    assert found.applied(0.5) == 0.5
    assert found.applied(0.8) == pytest.approx(16 / 17)


def test_predictions_that_are_worse_than_none_leave_how_often_it_came_to_pass() -> None:
    predictions = np.array([0.9, 0.1] * 200)
    outcomes = np.array([0.0, 1.0, 0.0, 0.0] * 100)
    found = calibrated_by(predictions, outcomes, np.ones(400))
    assert found.slope == 0.0
    assert found.applied(0.9) == found.applied(0.1) == pytest.approx(0.25, abs=0.01)


def test_certain_predictions_that_were_wrong_are_finite() -> None:
    found = calibrated_by(np.array([0.0, 1.0] * 50), np.array([1.0, 0.0] * 50), np.ones(100))
    assert isinstance(found, Calibration)
    assert np.isfinite([found.slope, found.intercept]).all()
    assert found.applied(0.0) == pytest.approx(0.5, abs=0.01)
