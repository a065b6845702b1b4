"""What a lattice is built and settled with."""

import math
from dataclasses import dataclass
from enum import StrEnum

from oars_grpc.errors import FieldViolation, InvalidArgument

MAXIMUM_WEIGHT = 1e6
MINIMUM_ANCHOR_WEIGHT = 1e-6
MINIMUM_ROW_CAP = 1e-3
MAXIMUM_ROW_CAP = 1e6
# A float32 state cannot be told more closely than this.
MINIMUM_TOLERANCE = 1e-7
MAXIMUM_TOLERANCE = 1e-1
MAXIMUM_NEIGHBORS = 256
MAXIMUM_ITERATIONS = 10_000


class LaplacianKind(StrEnum):
    """Which Laplacian of the graph draws neighbours together."""

    COMBINATORIAL = "combinatorial"
    NORMALIZED = "normalized"


@dataclass(frozen=True, slots=True)
class LatticeParameters:
    """The weights of the energy's four terms, the graph's shape and the solver's bounds."""

    neighbors: int = 6
    row_cap: float | None = None
    laplacian: LaplacianKind = LaplacianKind.COMBINATORIAL
    anchor_weight: float = 1.0
    graph_weight: float = 0.5
    query_weight: float = 4.0
    chain_weight: float = 0.2
    tolerance: float = 1e-6
    max_iterations: int = 512


def checked_parameters(
    parameters: LatticeParameters, field: str = "parameters"
) -> LatticeParameters:
    """The parameters, if every one is finite and in range; the refusal names all that are not."""
    violations = [
        FieldViolation(f"{field}.{name}", description)
        for name, description in _faults(parameters)
        if description
    ]
    if violations:
        raise InvalidArgument(violations)
    return parameters


def _faults(parameters: LatticeParameters) -> list[tuple[str, str]]:
    """Every member with what is wrong with it, empty where nothing is."""
    cap = parameters.row_cap
    return [
        ("neighbors", _outside_whole(parameters.neighbors, MAXIMUM_NEIGHBORS)),
        ("row_cap", "" if cap is None else _outside(cap, MINIMUM_ROW_CAP, MAXIMUM_ROW_CAP)),
        ("laplacian", _unknown_kind(parameters.laplacian)),
        # The anchor term keeps the operator positive definite: it may not vanish.
        ("anchor_weight", _outside(parameters.anchor_weight, MINIMUM_ANCHOR_WEIGHT)),
        ("graph_weight", _outside(parameters.graph_weight, 0.0)),
        ("query_weight", _outside(parameters.query_weight, 0.0)),
        ("chain_weight", _outside(parameters.chain_weight, 0.0)),
        ("tolerance", _outside(parameters.tolerance, MINIMUM_TOLERANCE, MAXIMUM_TOLERANCE)),
        ("max_iterations", _outside_whole(parameters.max_iterations, MAXIMUM_ITERATIONS)),
    ]


def _outside(value: object, low: float, high: float = MAXIMUM_WEIGHT) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return "must be a finite number"
    if not low <= value <= high:
        return f"must be from {low:g} to {high:g}, not {value:g}"
    return ""


def _outside_whole(value: object, high: int) -> str:
    if isinstance(value, bool) or not isinstance(value, int):
        return "must be a whole number"
    if not 1 <= value <= high:
        return f"must be from 1 to {high}, not {value}"
    return ""


def _unknown_kind(kind: object) -> str:
    if isinstance(kind, LaplacianKind):
        return ""
    return f"must be one of {', '.join(LaplacianKind)}"
