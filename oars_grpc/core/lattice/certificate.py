"""How far a state can be from the true one, told by its residual.

    |U - U*| <= |F - M U| / (anchor + query min(b))

for M is symmetric with no eigenvalue below the divisor. The bound needs no solve: whoever has the
inputs and the state computes the residual by one sparse product. All three numbers are whole
numbers times powers of two, rounded so that the bound stays a bound.
"""

from dataclasses import dataclass
from typing import NamedTuple

from oars_grpc.core.lattice.energy import Energies
from oars_grpc.core.lattice.scaled import BOUND_BITS, at_least, at_most, exponent_of, real
from oars_grpc.core.lattice.system import System

# Its sum has one rounding.
_BELOW = 1.0 - 2.0**-50


class BoundNumber(NamedTuple):
    """A bound as a whole number times 2^exponent."""

    number: int
    exponent: int

    @property
    def value(self) -> float:
        """What it stands for."""
        return real(self.number, self.exponent)

    @classmethod
    def above(cls, value: float) -> "BoundNumber":
        """The bound at or above a value."""
        exponent = exponent_of(value, BOUND_BITS)
        return cls(at_least(value, exponent), exponent)

    @classmethod
    def below(cls, value: float) -> "BoundNumber":
        """The bound at or below a value."""
        exponent = exponent_of(value, BOUND_BITS)
        return cls(at_most(value, exponent), exponent)


@dataclass(frozen=True, slots=True)
class ResidualCertificate:
    """The residual, rounded up; the least eigenvalue, rounded down; their quotient, rounded up."""

    residual: BoundNumber
    minimum_eigenvalue: BoundNumber

    @property
    def bound(self) -> BoundNumber:
        """The greatest distance, in the Frobenius norm, of the state from the true one."""
        return BoundNumber.above(self.residual.value / self.minimum_eigenvalue.value)


def least_eigenvalue(system: System) -> BoundNumber:
    """What no eigenvalue of the system is below; the same for every query."""
    return BoundNumber.below(system.minimum_eigenvalue * _BELOW)


def certificate(least: BoundNumber, energies: Energies) -> ResidualCertificate:
    """The certificate of a state under a query, from its energies' residual."""
    return ResidualCertificate(
        residual=BoundNumber.above(energies.residual + energies.residual_rounding),
        minimum_eigenvalue=least,
    )
