"""Takes lattices of any size, chunk after chunk.

Each chunk is checked and written before the next is read: neither side ever holds more than a few.
What was written when an upload ends early belongs to a generation that never became current, and
is swept. The whole upload is what its idempotency key stands for: its fingerprint is over header
and rows, in order.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from oars_grpc.core import ids
from oars_grpc.core.call import Answer, Call, Encode
from oars_grpc.core.lattice.arrays import (
    Float32Array,
    checked_anchors,
    checked_chain,
    checked_gates,
)
from oars_grpc.core.lattice.limits import LatticeLimits, within_limits
from oars_grpc.core.lattice.parameters import LatticeParameters, checked_parameters
from oars_grpc.core.lattice_ports import LatticeStore
from oars_grpc.core.ports import Registry
from oars_grpc.core.stored_lattice import (
    LatticeOperation,
    LatticePart,
    LatticeState,
    OperationState,
    StoredLattice,
)
from oars_grpc.errors import FieldViolation, InvalidArgument
from oars_grpc.use_cases.lattice_arrays import packed, rows_of_chunk, unpacked, unpacked_rows
from oars_grpc.use_cases.lattice_limits import limits_of
from oars_grpc.use_cases.lattice_records import LatticeRecords
from oars_grpc.use_cases.ready_lattice import stored_chain


@dataclass(frozen=True, slots=True)
class UploadHeader:
    """What an upload says of itself first."""

    tenant_id: str
    display_name: str
    anchors: int
    dimension: int
    parameters: LatticeParameters
    gated: bool
    chain: tuple[list[int], Float32Array | None] | None
    raw: bytes


@dataclass(frozen=True, slots=True)
class UploadChunk:
    """Whole rows of anchors or gates."""

    kind: LatticePart
    first_row: int
    data: bytes


@dataclass(frozen=True, slots=True)
class BegunLattice:
    """A lattice that is being built, and the operation that does so."""

    lattice: StoredLattice
    operation: LatticeOperation


class LatticeUploads:
    """The part of the lattice service that takes uploads."""

    def __init__(self, *, store: LatticeStore, records: LatticeRecords) -> None:
        self._store = store
        self._records = records

    def upload(
        self,
        call: Call,
        header: UploadHeader,
        chunks: Iterable[UploadChunk],
        encode: Encode[BegunLattice],
    ) -> Answer:
        """Store an upload and ask for its building.

        Raises:
            InvalidArgument: a header beyond the caller's limits, a chunk out of order or with
                numbers that cannot be, or an upload that ends early.
        """
        tenant = call.tenant(header.tenant_id)
        limits = limits_of(call.principal)
        stored = self._stored(call, tenant, header, limits)
        # Written anew where the key was used before: whether it is the same upload is known last.
        self._store.open_generation(tenant, stored.generation)
        fingerprint = hashlib.sha256(header.raw)
        spools = {LatticePart.ANCHORS: _Spool(self._store, stored, LatticePart.ANCHORS, limits)}
        if header.gated:
            spools[LatticePart.GATES] = _Spool(self._store, stored, LatticePart.GATES, limits)
        for chunk in chunks:
            if chunk.kind is LatticePart.GATES:
                if not header.gated:
                    raise InvalidArgument.of("gates", "are not announced by the header")
                spools[LatticePart.ANCHORS].check_whole()
            spools[chunk.kind].add(chunk)
            fingerprint.update(chunk.data)
        for spool in spools.values():
            spool.check_whole()
            spool.finish()
        call = _with_fingerprint(call, fingerprint.hexdigest())
        operation = LatticeOperation(
            tenant_id=tenant,
            operation_id=self._records.new_id(ids.OPERATION),
            lattice_id=stored.lattice_id,
            state=OperationState.PENDING,
            created_at=stored.created_at,
            created_by=stored.created_by,
            updated_at=stored.created_at,
        )

        def change(registry: Registry) -> None:
            registry.insert_lattice(stored)
            registry.insert_operation(operation)

        # No receipt yet: nothing is known of the lattice until it is built.
        return self._records.commit(
            call, tenant, [], lambda _receipts: BegunLattice(stored, operation), encode, change
        )

    def _stored(
        self, call: Call, tenant: str, header: UploadHeader, limits: LatticeLimits
    ) -> StoredLattice:
        _check_shape(header, limits)
        parameters = within_limits(
            checked_parameters(header.parameters, "header.parameters"),
            limits,
            "header.parameters",
        )
        chain = None
        if header.chain is not None:
            nodes, weights = header.chain
            chain = checked_chain(nodes, header.anchors, weights, "header.chain", limits)
        now = self._records.now()
        return StoredLattice(
            tenant_id=tenant,
            lattice_id=self._records.new_id(ids.LATTICE),
            display_name=header.display_name,
            state=LatticeState.BUILDING,
            generation=self._records.new_id("gen"),
            anchors=header.anchors,
            dimension=header.dimension,
            parameters=parameters,
            version=1,
            created_at=now,
            created_by=call.principal.subject,
            updated_at=now,
            gated=header.gated,
            chain=stored_chain(chain),
        )


class _Spool:
    """Rows on their way to storage, in storage's own chunks."""

    def __init__(
        self, store: LatticeStore, stored: StoredLattice, kind: LatticePart, limits: LatticeLimits
    ) -> None:
        self._store = store
        self._stored = stored
        self._kind = kind
        self._limits = limits
        columns = stored.dimension if kind is LatticePart.ANCHORS else 1
        self._columns = columns
        self._chunk_bytes = rows_of_chunk(columns * 4) * columns * 4
        self._rows = 0
        self._written = 0
        self._held = bytearray()

    def add(self, chunk: UploadChunk) -> None:
        """Check rows and write what makes whole chunks of them."""
        field = f"{self._kind.value}.data"
        if chunk.first_row != self._rows:
            raise InvalidArgument.of(
                f"{self._kind.value}.first_row", f"must be {self._rows}, not {chunk.first_row}"
            )
        if self._kind is LatticePart.ANCHORS:
            rows = unpacked_rows(chunk.data, field, self._columns)
        else:
            rows = unpacked(chunk.data, field)
        if not len(rows):
            raise InvalidArgument.of(field, "must not be empty")
        if self._rows + len(rows) > self._stored.anchors:
            raise InvalidArgument.of(field, f"goes beyond {self._stored.anchors} rows")
        self._held += packed(self._checked(rows, field))
        self._rows += len(rows)
        while len(self._held) >= self._chunk_bytes:
            self._write(self._chunk_bytes)

    def check_whole(self) -> None:
        """Refuse an upload that lacks rows."""
        if self._rows != self._stored.anchors:
            raise InvalidArgument.of(
                self._kind.value, f"are {self._rows} rows, not the header's {self._stored.anchors}"
            )

    def finish(self) -> None:
        """Write what remains."""
        if self._held:
            self._write(len(self._held))

    def _checked(self, rows: Float32Array, field: str) -> Float32Array:
        try:
            if self._kind is LatticePart.GATES:
                return checked_gates(rows, len(rows), field)
            return checked_anchors(rows, field, self._limits)
        except InvalidArgument as error:
            # The place within the chunk, told with the chunk's own.
            raise InvalidArgument(
                [
                    FieldViolation(each.field, f"{each.description} (in rows from {self._rows})")
                    for each in error.violations
                ]
            ) from error

    def _write(self, size: int) -> None:
        data = bytes(self._held[:size])
        self._store.add_part(
            self._stored.tenant_id, self._stored.generation, self._kind, self._written, data
        )
        del self._held[:size]
        self._written += 1


def _check_shape(header: UploadHeader, limits: LatticeLimits) -> None:
    wrong = [
        FieldViolation(f"header.{name}", f"must be from 1 to {most}, not {value}")
        for name, value, most in (
            ("anchors", header.anchors, limits.max_anchors),
            ("dimension", header.dimension, limits.max_dimension),
        )
        if not 1 <= value <= most
    ]
    if wrong:
        raise InvalidArgument(wrong)
    size = np.dtype("<f4").itemsize * header.anchors * header.dimension
    if size > limits.max_bytes:
        raise InvalidArgument.of(
            "header.anchors", f"make {size} bytes; at most {limits.max_bytes} are accepted"
        )


def _with_fingerprint(call: Call, fingerprint: str) -> Call:
    if call.idempotency is None:
        return call
    return replace(call, idempotency=replace(call.idempotency, fingerprint=fingerprint))
