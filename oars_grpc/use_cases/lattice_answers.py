"""What questions to lattices ask for, and what the answers are made of."""

from dataclasses import dataclass
from typing import Any

from oars_grpc.core.stored import StoredReceipt
from oars_grpc.core.stored_lattice import StoredLattice
from oars_grpc.errors import InvalidArgument
from oars_grpc.use_cases.lattice_limits import MAXIMUM_ARRAY_BYTES


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a query asks for besides the ranking of so many anchors."""

    top: int
    full: bool
    first_row: int = 0
    rows: int = 0


@dataclass(frozen=True, slots=True)
class LatticeAnswer:
    """One result: the body of its receipt says all of it but the state's rows."""

    body: dict[str, Any]
    state: bytes
    receipt: StoredReceipt


@dataclass(frozen=True, slots=True)
class QueriedLattice:
    """The results of one call, in the order of its queries."""

    answers: tuple[LatticeAnswer, ...]
    version: int


@dataclass(frozen=True, slots=True)
class ComputedGates:
    """Gates, and what their receipt says."""

    gates: bytes
    answer: LatticeAnswer


def check_rows(stored: StoredLattice, wanted: Wanted, queries: int) -> None:
    """Refuse rows of the state that are not there, or that an answer has no room for."""
    if not wanted.rows:
        return
    if wanted.first_row + wanted.rows > stored.anchors:
        raise InvalidArgument.of("state_rows", f"must end within {stored.anchors} anchors")
    size = queries * wanted.rows * stored.dimension * 4
    if size > MAXIMUM_ARRAY_BYTES:
        raise InvalidArgument.of(
            "state_rows", f"make {size} bytes; at most {MAXIMUM_ARRAY_BYTES} are returned"
        )


def about(body: dict[str, Any], stored: StoredLattice) -> dict[str, Any]:
    """The body, with the stored lattice that it is about."""
    return {**body, "latticeId": stored.lattice_id, "version": stored.version}
