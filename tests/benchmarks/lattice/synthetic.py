"""Embeddings without labels, for measuring time: clustered as real ones are, or Gaussian."""

import numpy as np
from numpy.typing import NDArray

SEED = 20260301
CLUSTER = 50
SPREAD = 0.7
_BLOCK = 65_536

Floats = NDArray[np.float32]


def clustered(rows: int, columns: int, seed: int = SEED) -> Floats:
    """Around one centre for every fifty rows, neighbours at a cosine of about 0.7."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((max(1, rows // CLUSTER), columns), np.float32)
    found = np.empty((rows, columns), np.float32)
    for start in range(0, rows, _BLOCK):
        part = found[start : start + _BLOCK]
        random.standard_normal(part.shape, np.float32, part)
        part *= np.float32(SPREAD)
        part += centres[random.integers(0, len(centres), len(part))]
    return found


def gaussian(rows: int, columns: int, seed: int = SEED) -> Floats:
    """Without any structure: the hardest case for every search."""
    return np.random.default_rng(seed).standard_normal((rows, columns), np.float32)


def queries(count: int, columns: int, seed: int = SEED + 1) -> Floats:
    """Questions of no cluster in particular."""
    return np.random.default_rng(seed).standard_normal((count, columns), np.float32)
