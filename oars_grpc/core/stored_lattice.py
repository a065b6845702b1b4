"""Lattices and the operations that build them, as storage keeps them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from oars_grpc.core.lattice.parameters import LatticeParameters

NO_CODE = 0


class LatticeState(StrEnum):
    """Where a lattice stands."""

    BUILDING = "building"
    READY = "ready"
    FAILED = "failed"


class LatticePart(StrEnum):
    """The arrays that a lattice is stored as."""

    ANCHORS = "anchors"
    GATES = "gates"
    NEIGHBORS = "neighbors"
    COSINES = "cosines"


@dataclass(frozen=True, slots=True)
class StoredChain:
    """A chain as it was given."""

    nodes: tuple[int, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class StoredLattice:
    """What is known of a lattice but for its numbers, which `generation` names.

    `digests` are those of its inputs and its graph, by name; empty until it is built.
    """

    tenant_id: str
    lattice_id: str
    display_name: str
    state: LatticeState
    generation: str
    anchors: int
    dimension: int
    parameters: LatticeParameters
    version: int
    created_at: datetime
    created_by: str
    updated_at: datetime
    gated: bool = False
    chain: StoredChain | None = None
    edges: int = 0
    digests: Mapping[str, str] = field(default_factory=dict)
    error: str = ""


class OperationState(StrEnum):
    """Where an operation stands; the last three are final."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELED = "canceled"


UNDER_WAY = (OperationState.PENDING, OperationState.RUNNING)


@dataclass(frozen=True, slots=True)
class LatticeOperation:
    """The building of a lattice; `error_code` is a number of google.rpc.Code."""

    tenant_id: str
    operation_id: str
    lattice_id: str
    state: OperationState
    created_at: datetime
    created_by: str
    updated_at: datetime
    progress_ppm: int = 0
    attempts: int = 0
    cancel_requested: bool = False
    holder: str = ""
    error_code: int = NO_CODE
    error: str = ""

    @property
    def done(self) -> bool:
        """Whether nothing more will come of it."""
        return self.state not in UNDER_WAY
