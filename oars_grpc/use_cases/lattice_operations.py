"""Reads, awaits and cancels the operations that build lattices."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from oars_grpc.core.call import Call
from oars_grpc.core.lattice_ports import LatticeStore
from oars_grpc.core.page_token import PageTokens, page_limit, take_page
from oars_grpc.core.ports import Registry
from oars_grpc.core.stored_lattice import LatticeOperation, OperationState, StoredLattice
from oars_grpc.errors import FailedPrecondition, NotFound
from oars_grpc.use_cases.lattice_building import fail_lattice
from oars_grpc.use_cases.lattice_records import LatticeRecords, check_may_change
from oars_grpc.use_cases.lattices import canceled


@dataclass(frozen=True, slots=True)
class OperationNow:
    """An operation, with the lattice that came of it once it is done."""

    operation: LatticeOperation
    lattice: StoredLattice | None


@dataclass(frozen=True, slots=True)
class OperationPage:
    """One page of a listing."""

    operations: tuple[OperationNow, ...]
    next_page_token: str


class LatticeOperations:
    """The service `google.longrunning.Operations`."""

    def __init__(self, *, store: LatticeStore, records: LatticeRecords, tokens: PageTokens) -> None:
        self._store = store
        self._records = records
        self._tokens = tokens

    def get(self, call: Call, tenant_id: str, operation_id: str) -> OperationNow:
        """One operation."""
        found = self._store.find_operation(call.tenants(tenant_id), operation_id)
        if found is None:
            raise _not_found(operation_id)
        return self._now(found)

    def list(
        self,
        call: Call,
        tenant_id: str,
        page_size: int,
        page_token: str,
        weigh: Callable[[OperationNow], int],
    ) -> OperationPage:
        """A page of the tenant's operations, newest first."""
        tenant = call.tenant(tenant_id)
        limit = page_limit(page_size)
        listing = f"operations {tenant}"
        before = self._tokens.read(listing, page_token)
        found = self._store.list_operations(tenant, before, limit + 1)
        page, more = take_page([self._now(each) for each in found], limit, weigh)
        token = self._tokens.issue(listing, page[-1].operation.operation_id) if more else ""
        return OperationPage(page, token)

    def cancel(self, call: Call, tenant_id: str, operation_id: str) -> None:
        """Ask for the end of an operation; one that has ended stays as it is.

        Who works on it stops within seconds; what nobody works on ends at once.
        """
        found = self.get(call, tenant_id, operation_id).operation

        def work(registry: Registry) -> None:
            stored = registry.lattice(found.tenant_id, found.lattice_id)
            operation = registry.operation(found.tenant_id, operation_id)
            if operation is None:
                raise _not_found(operation_id)
            if operation.done or stored is None:
                return
            check_may_change(call, stored, 0)
            if operation.state is OperationState.PENDING:
                registry.update_operation(canceled(operation, self._records))
                fail_lattice(registry, stored, "canceled", self._records)
                return
            asked = replace(operation, cancel_requested=True, updated_at=self._records.now())
            registry.update_operation(asked)

        self._records.run(found.tenant_id, work)

    def delete(self, call: Call, tenant_id: str, operation_id: str) -> None:
        """Forget an operation that has ended; its lattice stays.

        Raises:
            FailedPrecondition: it is under way.
        """
        found = self.get(call, tenant_id, operation_id).operation

        def work(registry: Registry) -> None:
            operation = registry.operation(found.tenant_id, operation_id)
            if operation is None:
                raise _not_found(operation_id)
            if not operation.done:
                raise FailedPrecondition(
                    f"operation {operation_id} is under way", reason="OPERATION_UNDER_WAY"
                )
            stored = registry.lattice(found.tenant_id, found.lattice_id)
            if stored is not None:
                check_may_change(call, stored, 0)
            registry.delete_operation(found.tenant_id, operation_id)

        self._records.run(found.tenant_id, work)

    def _now(self, operation: LatticeOperation) -> OperationNow:
        if operation.state is not OperationState.DONE:
            return OperationNow(operation, None)
        stored = self._store.find_lattice([operation.tenant_id], operation.lattice_id)
        return OperationNow(operation, stored)


def _not_found(operation_id: str) -> NotFound:
    return NotFound(f"operation {operation_id} is not found", reason="OPERATION_NOT_FOUND")
