"""Figures that ranked and scored items are judged by, with bootstrap intervals."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
SEED = 20260317
BINS = 10

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its 95 % interval."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        """Rounded for people."""
        return {name: round(getattr(self, name), 4) for name in self.__slots__}

    def __str__(self) -> str:
        return f"{self.value:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"


def recall_at(order: NDArray[np.int64], relevant: Flags) -> float:
    """Relevant items among those returned, as a share of as many as there could have been."""
    return float(relevant[order].sum() / min(len(order), relevant.sum()))


def ndcg_at(order: NDArray[np.int64], relevant: Flags) -> float:
    """Discounted gain of the items returned, as a share of the best possible."""
    discounts = 1 / np.log2(np.arange(2, len(order) + 2))
    best = discounts[: min(len(order), int(relevant.sum()))].sum()
    return float((relevant[order] * discounts).sum() / best)


def bootstrap_mean(values: Floats, resamples: int = RESAMPLES) -> Estimate:
    """The mean and the interval of it; of paired differences, if those are given."""
    random = np.random.default_rng(SEED)
    count = len(values)
    means = np.empty(resamples)
    # In blocks: all resamples at once would take gigabytes.
    for start in range(0, resamples, 500):
        rows = min(500, resamples - start)
        means[start : start + rows] = values[random.integers(0, count, (rows, count))].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return Estimate(float(values.mean()), float(low), float(high))


def auroc(scores: Floats, positive: Flags) -> float:
    """The chance that a positive scores above a negative, ties half."""
    _, rank, counts = np.unique(scores, return_inverse=True, return_counts=True)
    upper = np.cumsum(counts)
    ranks = (upper - (counts - 1) / 2)[rank]
    positives = int(positive.sum())
    negatives = len(positive) - positives
    above = ranks[positive].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))


def bootstrap_auroc(scores: Floats, positive: Flags, resamples: int = 1000) -> Estimate:
    """AUROC with the interval over resampled cases."""
    random = np.random.default_rng(SEED)
    places = np.arange(len(scores))
    found: list[float] = []
    while len(found) < resamples:
        drawn = random.choice(places, len(places))
        if 0 < positive[drawn].sum() < len(drawn):
            found.append(auroc(scores[drawn], positive[drawn]))
    low, high = np.quantile(found, (0.025, 0.975))
    return Estimate(auroc(scores, positive), float(low), float(high))


def roc(scores: Floats, positive: Flags) -> tuple[Floats, Floats]:
    """False and true positive rates from the strictest threshold to the laxest."""
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(positive[order])
    misses = np.cumsum(~positive[order])
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    none = np.zeros(1)
    return (
        np.concatenate([none, misses[last] / misses[-1]]),
        np.concatenate([none, hits[last] / hits[-1]]),
    )


def brier(probabilities: Floats, positive: Flags) -> float:
    """The mean squared error of probabilities."""
    return float(np.mean((probabilities - positive) ** 2))


@dataclass(frozen=True, slots=True)
class Bin:
    """Cases whose probability falls between two bounds."""

    predicted: float
    observed: float
    cases: int


def reliability(probabilities: Floats, positive: Flags) -> list[Bin]:
    """Ten bins of equal width, those that hold cases."""
    place = np.minimum((probabilities * BINS).astype(np.int64), BINS - 1)
    return [
        Bin(
            float(probabilities[place == at].mean()),
            float(positive[place == at].mean()),
            int((place == at).sum()),
        )
        for at in range(BINS)
        if (place == at).any()
    ]


def calibration_error(bins: list[Bin]) -> float:
    """ECE: by how much the bins are off, weighted by their cases."""
    cases = sum(each.cases for each in bins)
    return sum(abs(each.predicted - each.observed) * each.cases for each in bins) / cases
