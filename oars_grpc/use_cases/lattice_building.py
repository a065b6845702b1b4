"""Builds uploaded lattices in the background; any replica takes on what another has begun.

    claimed ▶ anchors loaded ▶ neighbours found and written ▶ settled ▶ one transaction:
    lattice ready, operation done, receipt written

Who dies on the way leaves a lease that ends; what was written of the neighbours is written again,
to the same bytes.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from threading import Event

from oars_grpc.core.lattice.neighbors import NeighborSearch
from oars_grpc.core.lattice.progress import Proceed, between
from oars_grpc.core.lattice_ports import LatticeStore
from oars_grpc.core.ports import Clock, Registry
from oars_grpc.core.stored_lattice import (
    LatticeOperation,
    LatticeState,
    OperationState,
    StoredLattice,
)
from oars_grpc.errors import OarsError, ResourceExhausted, Unavailable
from oars_grpc.use_cases.lattice_records import CREATED, LatticeRecords
from oars_grpc.use_cases.lattices import canceled, recorded_inputs
from oars_grpc.use_cases.ready_lattice import ReadyLattice, ReadyLattices

LEASE_SECONDS = 30
_KEEP_EVERY = timedelta(seconds=2)
# A lattice on which so many servers died is too large for them.
_ATTEMPTS = 5
_WHOLE = 1_000_000
_INTERNAL = 13  # google.rpc.Code
SWEEP_AFTER_SECONDS = 3600
_SWEPT_AT_ONCE = 200
_SWEEPS = 20


class _Stopped(Exception):
    """The server is being replaced: somebody else goes on."""


class _Canceled(Exception):
    """Somebody has asked for the end of the operation."""


class _Lost(Exception):
    """Somebody else works on the operation by now, or it is gone."""


@dataclass(frozen=True, slots=True)
class BuildFailure:
    """An operation that failed for a reason that is nobody's request."""

    operation: LatticeOperation
    error: Exception


class LatticeBuilder:
    """Takes operations one by one."""

    def __init__(
        self,
        *,
        store: LatticeStore,
        ready: ReadyLattices,
        records: LatticeRecords,
        search: NeighborSearch,
        clock: Clock,
        holder: str,
    ) -> None:
        self._store = store
        self._ready = ready
        self._records = records
        self._search = search
        self._clock = clock
        self._holder = holder

    def build_next(self, stopping: Event) -> tuple[bool, BuildFailure | None]:
        """Take the next operation that is due to its end; whether there was one, and its failure.

        Raises:
            Unavailable, ResourceExhausted: the database; the operation is taken again later.
        """
        operation = self._store.claim_operation(self._holder, LEASE_SECONDS)
        if operation is None:
            return False, None
        try:
            self._build(operation, self._watched(operation, stopping))
        except _Lost:
            return True, None
        except _Stopped:
            self._give_back(operation)
            return False, None
        except _Canceled:
            self._end(operation, lambda current: canceled(current, self._records), "canceled")
        except (Unavailable, ResourceExhausted):
            self._give_back(operation)
            raise
        except Exception as error:  # noqa: BLE001 - told in the operation and by the caller
            told = error.message if isinstance(error, OarsError) else "internal error"
            self._end(operation, lambda current: self._failed(current, told), told)
            return True, BuildFailure(operation, error)
        return True, None

    def sweep(self) -> int:
        """Delete numbers that no lattice has any more; how many rows."""
        swept = 0
        for _ in range(_SWEEPS):
            found = self._store.sweep(SWEEP_AFTER_SECONDS, _SWEPT_AT_ONCE)
            swept += found
            if not found:
                break
        return swept

    def _build(self, operation: LatticeOperation, proceed: Proceed) -> None:
        if operation.attempts > _ATTEMPTS:
            raise ValueError(f"operation {operation.operation_id} was begun too often")
        if operation.cancel_requested:
            raise _Canceled
        stored = self._store.find_lattice([operation.tenant_id], operation.lattice_id)
        if stored is None:
            raise _Lost
        arrays = self._ready.arrays(stored)
        # In no place for heavy work: calls would wait for all of it, and of builders there is one.
        neighbors = stored.parameters.neighbors
        lists = self._search(arrays[0], neighbors, between(proceed, 0.02, 0.7))
        self._ready.write_lists(stored, lists, between(proceed, 0.7, 0.8))
        made = self._ready.made(arrays, stored, lists, between(proceed, 0.8, 1.0))
        self._finish(operation, stored, made)

    def _finish(
        self, operation: LatticeOperation, stored: StoredLattice, made: ReadyLattice
    ) -> None:
        now = self._records.now()
        built = replace(
            stored,
            state=LatticeState.READY,
            digests=made.digests(),
            edges=len(made.inputs.graph.edges),
            version=stored.version + 1,
            updated_at=now,
        )

        def work(registry: Registry) -> None:
            current = self._mine(registry, operation)
            if current.cancel_requested:
                raise _Canceled
            registry.update_lattice(built, stored.generation)
            done = replace(
                current,
                state=OperationState.DONE,
                progress_ppm=_WHOLE,
                updated_at=now,
                holder="",
            )
            registry.update_operation(done)
            statement = recorded_inputs(CREATED, built, made)
            self._records.append(registry, stored.tenant_id, None, [statement])

        self._records.run(stored.tenant_id, work)
        self._ready.keep(built, made)

    def _mine(self, registry: Registry, operation: LatticeOperation) -> LatticeOperation:
        """The operation as it is now, locked; lattices first, as everybody locks them."""
        if registry.lattice(operation.tenant_id, operation.lattice_id) is None:
            raise _Lost
        current = registry.operation(operation.tenant_id, operation.operation_id)
        if current is None or current.done or current.holder != self._holder:
            raise _Lost
        return current

    def _watched(self, operation: LatticeOperation, stopping: Event) -> Proceed:
        """Keeps the lease, tells progress, and stops the work when it should not go on."""
        kept_at = self._clock.now()

        def proceed(share: float, /) -> None:
            nonlocal kept_at
            if stopping.is_set():
                raise _Stopped
            now = self._clock.now()
            if now - kept_at < _KEEP_EVERY:
                return
            kept_at = now
            found = self._store.keep_operation(operation, int(share * _WHOLE), LEASE_SECONDS)
            if found is None:
                raise _Lost
            if found.cancel_requested:
                raise _Canceled

        return proceed

    def _give_back(self, operation: LatticeOperation) -> None:
        self._records.run(
            operation.tenant_id,
            lambda registry: self._update(
                registry,
                operation,
                lambda current: replace(current, state=OperationState.PENDING, holder=""),
            ),
        )

    def _end(
        self,
        operation: LatticeOperation,
        ended: Callable[[LatticeOperation], LatticeOperation],
        error: str,
    ) -> None:
        def work(registry: Registry) -> None:
            stored = registry.lattice(operation.tenant_id, operation.lattice_id)
            if self._update(registry, operation, ended) and stored is not None:
                fail_lattice(registry, stored, error, self._records)

        self._records.run(operation.tenant_id, work)

    def _update(
        self,
        registry: Registry,
        operation: LatticeOperation,
        change: Callable[[LatticeOperation], LatticeOperation],
    ) -> bool:
        current = registry.operation(operation.tenant_id, operation.operation_id)
        if current is None or current.done or current.holder != self._holder:
            return False
        registry.update_operation(change(current))
        return True

    def _failed(self, operation: LatticeOperation, error: str) -> LatticeOperation:
        return replace(
            operation,
            state=OperationState.FAILED,
            updated_at=self._records.now(),
            holder="",
            error_code=_INTERNAL,
            error=error,
        )


def fail_lattice(
    registry: Registry, stored: StoredLattice, error: str, records: LatticeRecords
) -> None:
    """Say of a lattice that it will never be ready."""
    failed = replace(
        stored,
        state=LatticeState.FAILED,
        version=stored.version + 1,
        updated_at=records.now(),
        error=error,
    )
    registry.update_lattice(failed, stored.generation)
