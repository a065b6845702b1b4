"""Lattices within a transaction of the registry, on Postgres: the port `LatticeRows`."""

from typing import Any

from sqlalchemy import Connection, Select, delete, func, insert, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from oars_grpc.core.stored_lattice import UNDER_WAY, LatticeOperation, StoredLattice
from oars_grpc.storage.lattice_codecs import lattice_of, lattice_row, operation_of
from oars_grpc.storage.lattice_tables import lattice, lattice_generation, lattice_operation

_FIXED = ("tenant_id", "lattice_id", "display_name", "dimension", "created_at", "created_by")


class LatticeTransaction:
    """The part of `PostgresRegistry` that is about lattices."""

    _connection: Connection

    def insert_lattice(self, added: StoredLattice) -> None:
        """Add a lattice; its generation becomes the current one."""
        self._connection.execute(insert(lattice), lattice_row(added))
        self._set_generation(added.tenant_id, added.generation, "current")

    def lattice(self, tenant_id: str, lattice_id: str) -> StoredLattice | None:
        """The lattice, locked until the end."""
        query = select(lattice).where(
            lattice.c.tenant_id == tenant_id, lattice.c.lattice_id == lattice_id
        )
        row = self._connection.execute(query.with_for_update()).mappings().one_or_none()
        return None if row is None else lattice_of(row)

    def update_lattice(self, changed: StoredLattice, previous_generation: str) -> None:
        """Replace what changes of a lattice; the generation before, if another, is past."""
        row = {name: value for name, value in lattice_row(changed).items() if name not in _FIXED}
        self._connection.execute(
            update(lattice)
            .where(
                lattice.c.tenant_id == changed.tenant_id,
                lattice.c.lattice_id == changed.lattice_id,
            )
            .values(row)
        )
        if previous_generation != changed.generation:
            self._set_generation(changed.tenant_id, changed.generation, "current")
            self._set_generation(changed.tenant_id, previous_generation, "past")

    def delete_lattice(self, gone: StoredLattice) -> None:
        """Remove the lattice; its generation is past."""
        self._connection.execute(
            delete(lattice).where(
                lattice.c.tenant_id == gone.tenant_id, lattice.c.lattice_id == gone.lattice_id
            )
        )
        self._set_generation(gone.tenant_id, gone.generation, "past")

    def insert_operation(self, operation: LatticeOperation) -> None:
        """Add an operation, due at once."""
        row = {
            "tenant_id": operation.tenant_id,
            "operation_id": operation.operation_id,
            "lattice_id": operation.lattice_id,
            "attempts": operation.attempts,
            "created_at": operation.created_at,
            "created_by": operation.created_by,
            **_changing(operation),
        }
        self._connection.execute(insert(lattice_operation).values(row))

    def operation(self, tenant_id: str, operation_id: str) -> LatticeOperation | None:
        """The operation, locked until the end."""
        columns = lattice_operation.c
        return self._operation(
            select(lattice_operation).where(
                columns.tenant_id == tenant_id, columns.operation_id == operation_id
            )
        )

    def operation_of(self, tenant_id: str, lattice_id: str) -> LatticeOperation | None:
        """The operation under way that builds a lattice, locked until the end."""
        columns = lattice_operation.c
        return self._operation(
            select(lattice_operation).where(
                columns.tenant_id == tenant_id,
                columns.lattice_id == lattice_id,
                columns.state.in_([state.value for state in UNDER_WAY]),
            )
        )

    def update_operation(self, operation: LatticeOperation) -> None:
        """Replace what changes of an operation."""
        columns = lattice_operation.c
        self._connection.execute(
            update(lattice_operation)
            .where(
                columns.tenant_id == operation.tenant_id,
                columns.operation_id == operation.operation_id,
            )
            .values(_changing(operation))
        )

    def delete_operation(self, tenant_id: str, operation_id: str) -> None:
        """Remove the record of an operation."""
        columns = lattice_operation.c
        self._connection.execute(
            delete(lattice_operation).where(
                columns.tenant_id == tenant_id, columns.operation_id == operation_id
            )
        )

    def _operation(self, query: Select[*tuple[object, ...]]) -> LatticeOperation | None:
        row = self._connection.execute(query.with_for_update()).mappings().one_or_none()
        return None if row is None else operation_of(row)

    def _set_generation(self, tenant_id: str, generation: str, state: str) -> None:
        row = {"tenant_id": tenant_id, "generation": generation}
        changed: dict[str, Any] = {"state": state, "touched_at": func.now()}
        self._connection.execute(
            upsert(lattice_generation)
            .values({**row, **changed})
            .on_conflict_do_update(index_elements=list(row), set_=changed)
        )


def _changing(operation: LatticeOperation) -> dict[str, Any]:
    """What changes of an operation; whatever changes it, its lease ends."""
    return {
        "state": operation.state.value,
        "progress_ppm": operation.progress_ppm,
        "cancel_requested": int(operation.cancel_requested),
        "updated_at": operation.updated_at,
        "holder": operation.holder,
        "lease_until": func.now(),
        "error_code": operation.error_code,
        "error": operation.error,
    }
