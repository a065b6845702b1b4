"""Reals as whole numbers times a power of two, for statements that hold no floats.

A value is `number * 2^exponent`; 2^exponent is its quantum. Multiplying by a power of two is
exact, so the only error is the rounding to a whole number: at most half a quantum.
"""

import math

import numpy as np

from oars_grpc.core.lattice.arrays import Float64Array

# Far coarser than rounding in float64, so that two machines differ by one quantum at most; sums
# of a handful stay below 2^53, within which every JSON reader is exact.
BITS = 36
# One for each of a lattice's nodes, in 32 bits with the sign.
NODE_BITS = 30
# A chain's gain: a small difference of sums of single precision products.
GAIN_BITS = 16
# Scores and cosines, in [-1, 1] or a few deviations: of single precision products.
SCORE_EXPONENT = -16
# For bounds, told to one part in 2^30 and rounded away from what they bound.
BOUND_BITS = 30
_LEAST_EXPONENT = -1000


def exponent_of(magnitude: float, bits: int = BITS) -> int:
    """The exponent at which numbers up to a magnitude take at most `bits` bits."""
    exponent = math.frexp(magnitude)[1] - bits if magnitude > 0 else -bits
    # What is smaller than any input can make is rounding.
    return exponent if exponent > _LEAST_EXPONENT else _LEAST_EXPONENT  # noqa: FURB136 - `max` takes three times as long


def nearest(value: float, exponent: int) -> int:
    """The whole number nearest to a value, halves to the even one."""
    return round(math.ldexp(value, -exponent))


def nearest_all(values: Float64Array, exponent: int) -> Float64Array:
    """The same of an array, as whole numbers in float64."""
    scaled = values * math.ldexp(1.0, -exponent)
    return np.rint(scaled, out=scaled)


def real(number: int, exponent: int) -> float:
    """The value that a number stands for."""
    return math.ldexp(number, exponent)
