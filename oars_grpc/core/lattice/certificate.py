"""How far a state can be from the true one, told by its residual.

    |U - U*| <= |F - M U| / (anchor + query min(b))

for M is symmetric with no eigenvalue below the divisor. The bound needs no solve: whoever has the
inputs and the state computes the residual by one sparse product. All numbers are whole
numbers times powers of two, rounded so that the bound stays a bound.
"""

import math
from typing import TypedDict

from oars_grpc.core.lattice.energy import Energies
from oars_grpc.core.lattice.scaled import BOUND_BITS, exponent_of, real
from oars_grpc.core.lattice.system import System

# Its sum has one rounding.
_BELOW = 1.0 - 2.0**-50


# As statements say it: every light one makes three, and a named tuple takes twice as long to make.
class BoundNumber(TypedDict):
    """A bound as a whole number times 2^exponent."""

    number: int
    exponent: int


def bound_above(value: float) -> BoundNumber:
    """The bound at or above a value."""
    exponent = exponent_of(value, BOUND_BITS)
    return {"number": math.ceil(math.ldexp(value, -exponent)), "exponent": exponent}


def bound_below(value: float) -> BoundNumber:
    """The bound at or below a value."""
    exponent = exponent_of(value, BOUND_BITS)
    return {"number": math.floor(math.ldexp(value, -exponent)), "exponent": exponent}


def bound_value(bound: BoundNumber) -> float:
    """What a bound stands for."""
    return real(bound["number"], bound["exponent"])


def least_eigenvalue(system: System) -> BoundNumber:
    """What no eigenvalue of the system is below; the same for every query."""
    return bound_below(system.minimum_eigenvalue * _BELOW)


def certificate(least: BoundNumber, energies: Energies) -> dict[str, BoundNumber]:
    """The certificate of a state under a query, from its energies' residual.

    The residual, rounded up; the least eigenvalue, rounded down; the greatest distance, in the
    Frobenius norm, of the state from the true one: their quotient, rounded up; the side, rounded
    down.
    """
    residual = bound_above(energies.residual + energies.residual_rounding)
    return {
        "residual": residual,
        "minimumEigenvalue": least,
        "bound": bound_above(bound_value(residual) / bound_value(least)),
        "side": bound_below(energies.side),
    }
