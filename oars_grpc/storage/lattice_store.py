"""Lattices on Postgres: the port `LatticeStore`.

A part is durable when `add_part` returns: chunk and part are one transaction, so that what a crash
leaves of an upload is whole parts of a generation that never became current, and the sweep deletes
them.
"""

import hashlib
from collections.abc import Iterator, Sequence

from sqlalchemy import Connection, Engine, RowMapping, Select, select

from oars_grpc.core.stored_lattice import LatticeOperation, LatticePart, StoredLattice
from oars_grpc.errors import Conflict
from oars_grpc.storage.lattice_codecs import (
    compressed,
    decompressed,
    lattice_of,
    operation_of,
)
from oars_grpc.storage.lattice_tables import (
    lattice,
    lattice_operation,
)
from oars_grpc.storage.transaction import read, read_page, valid_tenants, write

# About a mebibyte each: a bound on what a reader holds besides what it makes of them.
_PARTS_AT_ONCE = 8

_OPEN = (
    "INSERT INTO lattice_generation (tenant_id, generation, state, touched_at)"
    " VALUES (%s, %s, 'open', now())"
)
_TOUCH = (
    "UPDATE lattice_generation SET touched_at = now()"
    " WHERE tenant_id = %s AND generation = %s RETURNING state"
)
_KNOWN = (
    "UPDATE lattice_chunk SET used_at = now() WHERE tenant_id = %s AND digest = %s RETURNING digest"
)
_CHUNK = (
    "INSERT INTO lattice_chunk (tenant_id, digest, data, used_at) VALUES (%s, %s, %s, now())"
    " ON CONFLICT (tenant_id, digest) DO UPDATE SET used_at = now()"
)
_PART = (
    "INSERT INTO lattice_part (tenant_id, generation, kind, position, digest)"
    " VALUES (%s, %s, %s, %s, %s)"
    " ON CONFLICT (tenant_id, generation, kind, position) DO UPDATE SET digest = excluded.digest"
)
_PARTS = (
    "SELECT p.position, p.digest, c.data FROM lattice_part AS p"
    " JOIN lattice_chunk AS c ON c.tenant_id = p.tenant_id AND c.digest = p.digest"
    " WHERE p.tenant_id = %s AND p.generation = %s AND p.kind = %s AND p.position >= %s"
    " ORDER BY p.position LIMIT %s"
)
_KEEP = (
    "UPDATE lattice_operation SET progress_ppm = %s, updated_at = now(),"
    " lease_until = now() + make_interval(secs => %s)"
    " WHERE tenant_id = %s AND operation_id = %s AND holder = %s AND state = 'running'"
    " RETURNING *"
)


class PostgresLatticeStore:
    """The lattices in the database of an engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def find_lattice(self, tenant_ids: Sequence[str], lattice_id: str) -> StoredLattice | None:
        """The lattice, if it belongs to one of the tenants."""
        valid = valid_tenants(tenant_ids)
        query = select(lattice).where(
            lattice.c.tenant_id.in_(valid), lattice.c.lattice_id == lattice_id
        )
        found = self._found(valid, query)
        return None if found is None else lattice_of(found)

    def list_lattices(self, tenant_id: str, before: str, limit: int) -> Sequence[StoredLattice]:
        """Lattices with ids below `before` (empty: from the newest), newest first."""
        query = select(lattice).where(lattice.c.tenant_id == tenant_id)
        if before:
            query = query.where(lattice.c.lattice_id < before)
        query = query.order_by(lattice.c.lattice_id.desc()).limit(limit)
        return [lattice_of(row) for row in self._page(valid_tenants([tenant_id]), query)]

    def open_generation(self, tenant_id: str, generation: str) -> None:
        """Begin a generation; it is swept unless it becomes current within the hour."""
        write(
            self._engine,
            [tenant_id],
            lambda connection: connection.exec_driver_sql(_OPEN, (tenant_id, generation)),
        )

    def add_part(
        self, tenant_id: str, generation: str, kind: LatticePart, position: int, data: bytes
    ) -> None:
        """Write one part; once more changes nothing. It is durable when this returns.

        Raises:
            Conflict: the generation was swept meanwhile.
        """
        digest = hashlib.sha256(data).hexdigest()
        stored = compressed(data)

        def work(connection: Connection) -> None:
            touched = connection.exec_driver_sql(_TOUCH, (tenant_id, generation))
            if touched.one_or_none() is None:
                raise Conflict("what was written of the lattice is gone; begin again")
            known = connection.exec_driver_sql(_KNOWN, (tenant_id, digest)).one_or_none()
            if known is None:  # else its bytes need not travel
                connection.exec_driver_sql(_CHUNK, (tenant_id, digest, stored))
            part = (tenant_id, generation, kind.value, position, digest)
            connection.exec_driver_sql(_PART, part)

        write(self._engine, [tenant_id], work)

    def parts(self, tenant_id: str, generation: str, kind: LatticePart) -> Iterator[bytes]:
        """The parts of a kind in order, a few at a time.

        Raises:
            Conflict: some are not there: the generation is past, and was swept.
            ValueError: a chunk is not what its digest says.
        """
        position = 0
        while True:
            values = (tenant_id, generation, kind.value, position, _PARTS_AT_ONCE)

            def work(
                connection: Connection, values: tuple[object, ...] = values
            ) -> Sequence[tuple[int, str, bytes]]:
                found = connection.exec_driver_sql(_PARTS, values).all()
                return [(place, digest, bytes(data)) for place, digest, data in found]

            rows = read(self._engine, [tenant_id], work)
            for place, digest, stored in rows:
                if place != position:
                    raise Conflict("the lattice was changed while it was read; try again")
                data = decompressed(stored)
                if hashlib.sha256(data).hexdigest() != digest:
                    raise ValueError(f"chunk {digest} of tenant {tenant_id} is not what it was")
                yield data
                position += 1
            if len(rows) < _PARTS_AT_ONCE:
                return

    def find_operation(
        self, tenant_ids: Sequence[str], operation_id: str
    ) -> LatticeOperation | None:
        """The operation, if it belongs to one of the tenants."""
        valid, columns = valid_tenants(tenant_ids), lattice_operation.c
        query = select(lattice_operation).where(
            columns.tenant_id.in_(valid), columns.operation_id == operation_id
        )
        found = self._found(valid, query)
        return None if found is None else operation_of(found)

    def list_operations(
        self, tenant_id: str, before: str, limit: int
    ) -> Sequence[LatticeOperation]:
        """Operations with ids below `before` (empty: from the newest), newest first."""
        columns = lattice_operation.c
        query = select(lattice_operation).where(columns.tenant_id == tenant_id)
        if before:
            query = query.where(columns.operation_id < before)
        query = query.order_by(columns.operation_id.desc()).limit(limit)
        return [operation_of(row) for row in self._page(valid_tenants([tenant_id]), query)]

    def claim_operation(self, holder: str, lease_seconds: int) -> LatticeOperation | None:
        """Take an operation of any tenant that nobody works on, or whose worker fell silent."""

        def work(connection: Connection) -> tuple[str, str] | None:
            row = connection.exec_driver_sql(
                "SELECT tenant_id, operation_id FROM oars_claim_lattice_operation(%s, %s::int)",
                (holder, lease_seconds),
            ).one_or_none()
            return None if row is None else (row[0], row[1])

        claimed = write(self._engine, [], work)
        return None if claimed is None else self.find_operation([claimed[0]], claimed[1])

    def keep_operation(
        self, operation: LatticeOperation, progress_ppm: int, lease_seconds: int
    ) -> LatticeOperation | None:
        """Tell of progress and keep the lease; None where it is no longer the holder's."""
        values = (
            progress_ppm,
            lease_seconds,
            operation.tenant_id,
            operation.operation_id,
            operation.holder,
        )

        def work(connection: Connection) -> LatticeOperation | None:
            row = connection.exec_driver_sql(_KEEP, values).mappings().one_or_none()
            return None if row is None else operation_of(row)

        return write(self._engine, [operation.tenant_id], work)

    def sweep(self, older_than_seconds: int, limit: int) -> int:
        """Delete numbers of generations that have long not been current; how many rows."""

        def work(connection: Connection) -> int:
            swept: int = connection.exec_driver_sql(
                "SELECT oars_sweep_lattices(%s::int, %s::int)", (older_than_seconds, limit)
            ).scalar_one()
            return swept

        return write(self._engine, [], work)

    def _found(
        self, tenant_ids: Sequence[str], query: Select[*tuple[object, ...]]
    ) -> RowMapping | None:
        if not tenant_ids:
            return None
        return read(
            self._engine,
            tenant_ids,
            lambda connection: connection.execute(query).mappings().one_or_none(),
        )

    def _page(
        self, tenant_ids: Sequence[str], query: Select[*tuple[object, ...]]
    ) -> Sequence[RowMapping]:
        if not tenant_ids:
            return []
        return read_page(
            self._engine, tenant_ids, lambda connection: connection.execute(query).mappings().all()
        )
