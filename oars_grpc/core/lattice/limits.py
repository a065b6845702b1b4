"""How much of everything one caller may ask of the lattice."""

from dataclasses import dataclass

from oars_grpc.core.lattice.parameters import LatticeParameters
from oars_grpc.errors import FieldViolation, InvalidArgument


@dataclass(frozen=True, slots=True)
class LatticeLimits:
    """The largest lattice, and the longest work on it, that a caller may ask for."""

    max_anchors: int = 1_000_000
    max_dimension: int = 4096
    max_neighbors: int = 64
    max_iterations: int = 2048
    max_bytes: int = 4 << 30  # of one array as float32
    max_queries: int = 1024


DEFAULT_LIMITS = LatticeLimits()


def within_limits(
    parameters: LatticeParameters,
    limits: LatticeLimits = DEFAULT_LIMITS,
    field: str = "parameters",
) -> LatticeParameters:
    """The parameters, if the caller may ask for so many neighbours and iterations."""
    violations = [
        FieldViolation(f"{field}.{name}", f"{value} is over this caller's limit of {limit}")
        for name, value, limit in (
            ("neighbors", parameters.neighbors, limits.max_neighbors),
            ("max_iterations", parameters.max_iterations, limits.max_iterations),
        )
        if value > limit
    ]
    if violations:
        raise InvalidArgument(violations)
    return parameters
