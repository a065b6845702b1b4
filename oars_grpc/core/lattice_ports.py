"""What lattices need of the world; part of `core/ports.py`, which says more."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from oars_grpc.core.stored_lattice import LatticeOperation, LatticePart, StoredLattice


class LatticeRows(Protocol):
    """What a transaction of the registry does about lattices."""

    def insert_lattice(self, lattice: StoredLattice) -> None:
        """Add a lattice; its generation becomes the current one."""

    def lattice(self, tenant_id: str, lattice_id: str) -> StoredLattice | None:
        """The lattice, locked until the end."""

    def update_lattice(self, lattice: StoredLattice, previous_generation: str) -> None:
        """Replace what changes of a lattice; the generation before, if another, is past."""

    def delete_lattice(self, lattice: StoredLattice) -> None:
        """Remove the lattice; its generation is past."""

    def insert_operation(self, operation: LatticeOperation) -> None:
        """Add an operation, due at once."""

    def operation(self, tenant_id: str, operation_id: str) -> LatticeOperation | None:
        """The operation, locked until the end."""

    def operation_of(self, tenant_id: str, lattice_id: str) -> LatticeOperation | None:
        """The operation under way that builds a lattice, locked until the end."""

    def update_operation(self, operation: LatticeOperation) -> None:
        """Replace state, progress, request of cancellation and error; those done end their lease.

        One that is taken back to pending is due at once.
        """

    def delete_operation(self, tenant_id: str, operation_id: str) -> None:
        """Remove the record of an operation."""


class LatticeStore(Protocol):
    """Reads lattices, keeps their numbers, hands out what is to be built."""

    def find_lattice(self, tenant_ids: Sequence[str], lattice_id: str) -> StoredLattice | None:
        """The lattice, if it belongs to one of the tenants."""

    def list_lattices(self, tenant_id: str, before: str, limit: int) -> Sequence[StoredLattice]:
        """Lattices with ids below `before` (empty: from the newest), newest first."""

    def open_generation(self, tenant_id: str, generation: str) -> None:
        """Begin a generation; it is swept unless it becomes current within the hour."""

    def add_part(
        self, tenant_id: str, generation: str, kind: LatticePart, position: int, data: bytes
    ) -> None:
        """Write one part; once more changes nothing. It is durable when this returns."""

    def parts(self, tenant_id: str, generation: str, kind: LatticePart) -> Iterator[bytes]:
        """The parts of a kind in order, a few at a time."""

    def find_operation(
        self, tenant_ids: Sequence[str], operation_id: str
    ) -> LatticeOperation | None:
        """The operation, if it belongs to one of the tenants."""

    def list_operations(
        self, tenant_id: str, before: str, limit: int
    ) -> Sequence[LatticeOperation]:
        """Operations with ids below `before` (empty: from the newest), newest first."""

    def claim_operation(self, holder: str, lease_seconds: int) -> LatticeOperation | None:
        """Take an operation of any tenant that nobody works on, or whose worker fell silent."""

    def keep_operation(
        self, operation: LatticeOperation, progress_ppm: int, lease_seconds: int
    ) -> LatticeOperation | None:
        """Tell of progress and keep the lease; None where the operation is no longer the holder's.

        The answer says whether somebody has asked for its end.
        """

    def sweep(self, older_than_seconds: int, limit: int) -> int:
        """Delete numbers of generations that have long not been current; how many rows."""
