"""Calibration: probabilities drawn to how often what was predicted has come to pass.

Platt's: the log-odds z of a prediction become slope * z + intercept. Both are those which known
outcomes make most probable, each prediction made without the outcome that it is of, and both are
drawn to what is usual, as by normal priors: the fewer outcomes there are, the nearer to that.
Since the slope never falls below 0, predictions keep their order.
"""

from dataclasses import dataclass

import numpy as np

from oars_grpc.core.lattice.arrays import Float64Array

# What is predicted of an item lies at the edge of the others, and is drawn to one half by more than
# what is predicted of the action in their midst. On labelled texts twice the log-odds are right.
USUAL_SLOPE = 2.0
# 1 / variance of the priors of slope and intercept, in outcomes that weigh a whole one.
PRECISION = 0.3
# A prediction of 0 or 1 has no log-odds.
_LEAST = 1e-4
_STEPS = 50
_SETTLED = 1e-10
_HALVINGS = 30


@dataclass(frozen=True, slots=True)
class Calibration:
    """What is done to the log-odds of a prediction."""

    slope: float
    intercept: float

    def applied(self, probability: float) -> float:
        """The probability after calibration."""
        odds = _log_odds(np.array([probability]))
        return float(_probabilities(self.slope * odds + self.intercept)[0])


def calibrated_by(
    predictions: Float64Array, outcomes: Float64Array, weights: Float64Array
) -> Calibration:
    """The calibration that outcomes in [0, 1], each of some weight, ask for.

    Newton's steps on a strictly concave function of two numbers, halved where they would overshoot.
    """
    odds = _log_odds(predictions)
    slope, intercept = USUAL_SLOPE, 0.0
    reached = _objective(odds, outcomes, weights, slope, intercept)
    for _ in range(_STEPS):
        found = _probabilities(slope * odds + intercept)
        missing, spread = weights * (outcomes - found), weights * found * (1.0 - found)
        by_slope = _sum(missing * odds) - PRECISION * (slope - USUAL_SLOPE)
        by_intercept = _sum(missing) - PRECISION * intercept
        across = _sum(spread * odds)
        of_slope, of_intercept = _sum(spread * odds * odds) + PRECISION, _sum(spread) + PRECISION
        determinant = of_slope * of_intercept - across * across
        step_slope = (of_intercept * by_slope - across * by_intercept) / determinant
        step_intercept = (of_slope * by_intercept - across * by_slope) / determinant
        for _ in range(_HALVINGS):
            there = (slope + step_slope, intercept + step_intercept)
            value = _objective(odds, outcomes, weights, *there)
            if value >= reached:
                break
            step_slope, step_intercept = step_slope / 2.0, step_intercept / 2.0
        else:
            break
        (slope, intercept), reached = there, value
        if max(abs(step_slope), abs(step_intercept)) < _SETTLED:
            break
    if slope < 0.0:
        # Predictions that are worse than none: only how often it came to pass is left.
        even = np.full_like(predictions, 0.5)
        return Calibration(0.0, calibrated_by(even, outcomes, weights).intercept)
    return Calibration(slope, intercept)


def _objective(
    odds: Float64Array,
    outcomes: Float64Array,
    weights: Float64Array,
    slope: float,
    intercept: float,
) -> float:
    """The logarithm of the posterior, but for a constant."""
    turned = slope * odds + intercept
    likely = _sum(weights * (outcomes * turned - np.logaddexp(0.0, turned)))
    return likely - PRECISION * ((slope - USUAL_SLOPE) ** 2 + intercept**2) / 2.0


def _log_odds(probabilities: Float64Array) -> Float64Array:
    inside = np.clip(probabilities, _LEAST, 1.0 - _LEAST)
    return np.asarray(np.log(inside / (1.0 - inside)))


def _probabilities(log_odds: Float64Array) -> Float64Array:
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(log_odds, -700.0, 700.0))))


def _sum(values: Float64Array) -> float:
    return float(np.add.reduce(values))
