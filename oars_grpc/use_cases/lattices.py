"""Creates, lists, deletes and compares lattices."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace

from oars_grpc.core import ids
from oars_grpc.core.call import Answer, Call, Encode
from oars_grpc.core.lattice.arrays import (
    Chain,
    Float32Array,
    checked_anchors,
    checked_chain,
    checked_gates,
)
from oars_grpc.core.lattice.limits import within_limits
from oars_grpc.core.lattice.neighbors import NeighborSearch
from oars_grpc.core.lattice.parameters import LatticeParameters, checked_parameters
from oars_grpc.core.lattice.progress import Proceed, between
from oars_grpc.core.lattice_ports import LatticeStore
from oars_grpc.core.page_token import PageTokens, page_limit, take_page
from oars_grpc.core.ports import Registry
from oars_grpc.core.stored import StoredReceipt
from oars_grpc.core.stored_lattice import (
    LatticeOperation,
    LatticeState,
    OperationState,
    StoredLattice,
)
from oars_grpc.use_cases.lattice_limits import limits_of
from oars_grpc.use_cases.lattice_records import (
    CREATED,
    DELETED,
    LatticeRecords,
    Statement,
    answered_once,
    check_may_change,
    lattice_not_found,
)
from oars_grpc.use_cases.ready_lattice import ReadyLattice, ReadyLattices, stored_chain


@dataclass(frozen=True, slots=True)
class LatticeDraft:
    """What a caller wants settled; arrays and parameters as they came."""

    anchors: Float32Array
    parameters: LatticeParameters
    gates: Float32Array | None
    chain: tuple[list[int], Float32Array | None] | None


@dataclass(frozen=True, slots=True)
class CheckedDraft:
    """The same, within the caller's limits and in canonical form."""

    anchors: Float32Array
    gates: Float32Array
    gated: bool
    chain: Chain | None
    parameters: LatticeParameters


@dataclass(frozen=True, slots=True)
class RecordedLattice:
    """A lattice after a change, and the receipt of that."""

    lattice: StoredLattice
    receipt: StoredReceipt


@dataclass(frozen=True, slots=True)
class LatticePage:
    """One page of a listing."""

    lattices: tuple[StoredLattice, ...]
    next_page_token: str


@dataclass(frozen=True, slots=True)
class Difference:
    """An input in which two lattices differ."""

    input: str
    one: str
    other: str


class Lattices:
    """The part of the lattice service that keeps lattices."""

    def __init__(
        self,
        *,
        store: LatticeStore,
        ready: ReadyLattices,
        records: LatticeRecords,
        tokens: PageTokens,
        search: NeighborSearch,
    ) -> None:
        self._store = store
        self._ready = ready
        self._records = records
        self._tokens = tokens
        self._search = search

    @answered_once
    def create(
        self,
        call: Call,
        tenant_id: str,
        display_name: str,
        draft: LatticeDraft,
        encode: Encode[RecordedLattice],
        proceed: Proceed,
    ) -> Answer:
        """Build a small lattice and store it."""
        tenant = call.tenant(tenant_id)
        checked = checked_draft(call, draft)
        stored = replace(
            self.passing(call, tenant, checked),
            lattice_id=self._records.new_id(ids.LATTICE),
            display_name=display_name,
            generation=self._records.new_id("gen"),
            version=1,
        )
        ready = self.settled(stored, checked, proceed)
        stored = replace(stored, digests=ready.digests(), edges=len(ready.inputs.graph.edges))
        self._store.open_generation(tenant, stored.generation)
        self._ready.write(stored, ready, proceed)
        answer = self._records.commit(
            call,
            tenant,
            [recorded_inputs(CREATED, stored, ready)],
            lambda receipts: RecordedLattice(stored, receipts[0]),
            encode,
            lambda registry: registry.insert_lattice(stored),
        )
        if not answer.replayed:
            self._ready.keep(stored, ready)
        return answer

    def passing(self, call: Call, tenant: str, checked: CheckedDraft) -> StoredLattice:
        """What is known of a lattice that is settled without being stored."""
        now = self._records.now()
        return StoredLattice(
            tenant_id=tenant,
            lattice_id="",
            display_name="",
            state=LatticeState.READY,
            generation="",
            anchors=len(checked.anchors),
            dimension=checked.anchors.shape[1],
            parameters=checked.parameters,
            version=0,
            created_at=now,
            created_by=call.principal.subject,
            updated_at=now,
            gated=checked.gated,
            chain=stored_chain(checked.chain),
        )

    def settled(
        self, stored: StoredLattice, checked: CheckedDraft, proceed: Proceed
    ) -> ReadyLattice:
        """Settle a lattice that is not stored yet, in a place for heavy work."""
        with self._ready.heavy.place(proceed):
            lists = self._search(
                checked.anchors, checked.parameters.neighbors, between(proceed, 0.0, 0.6)
            )
            arrays = checked.anchors, checked.gates
            return self._ready.made(arrays, stored, lists, between(proceed, 0.6, 1.0))

    def get(self, call: Call, tenant_id: str, lattice_id: str) -> StoredLattice:
        """One lattice."""
        found = self._store.find_lattice(call.tenants(tenant_id), lattice_id)
        if found is None:
            raise lattice_not_found(lattice_id)
        return found

    def list(
        self,
        call: Call,
        tenant_id: str,
        page_size: int,
        page_token: str,
        weigh: Callable[[StoredLattice], int],
    ) -> LatticePage:
        """A page of the tenant's lattices, newest first."""
        tenant = call.tenant(tenant_id)
        limit = page_limit(page_size)
        listing = f"lattices {tenant}"
        before = self._tokens.read(listing, page_token)
        found = self._store.list_lattices(tenant, before, limit + 1)
        page, more = take_page(found, limit, weigh)
        token = self._tokens.issue(listing, page[-1].lattice_id) if more else ""
        return LatticePage(page, token)

    @answered_once
    def delete(
        self,
        call: Call,
        tenant_id: str,
        lattice_id: str,
        expected_version: int,
        encode: Encode[StoredReceipt],
    ) -> Answer:
        """Delete a lattice; an operation that builds it ends."""
        tenant = self.get(call, tenant_id, lattice_id).tenant_id
        body = {"latticeId": lattice_id}

        def change(registry: Registry) -> None:
            stored = registry.lattice(tenant, lattice_id)
            if stored is None:
                raise lattice_not_found(lattice_id)
            check_may_change(call, stored, expected_version)
            end_building(registry, stored, self._records)
            registry.delete_lattice(stored)

        return self._records.commit(
            call, tenant, [Statement(DELETED, body)], lambda receipts: receipts[0], encode, change
        )

    def compare(
        self, call: Call, tenant_id: str, lattice_id: str, other_id: str
    ) -> tuple[Difference, ...]:
        """The inputs in which two lattices differ, as the receipts of their last changes state."""
        one = self.get(call, tenant_id, lattice_id)
        other = self.get(call, one.tenant_id, other_id)
        for stored in (one, other):
            if not stored.digests:
                self._ready.load(stored, lambda _share: None)  # refuses what is not ready
        found = [
            Difference(name, one.digests[name], other.digests[name])
            for name in sorted(one.digests)
            if one.digests[name] != other.digests[name]
        ]
        return (*found, *_changed_parameters(one.parameters, other.parameters))


def checked_draft(call: Call, draft: LatticeDraft) -> CheckedDraft:
    """The draft, checked in every value before any work.

    Raises:
        InvalidArgument: naming the fields at fault.
    """
    limits = limits_of(call.principal)
    parameters = within_limits(checked_parameters(draft.parameters), limits)
    anchors = checked_anchors(draft.anchors, limits=limits)
    gates = checked_gates(draft.gates, len(anchors))
    chain = None
    if draft.chain is not None:
        nodes, weights = draft.chain
        chain = checked_chain(nodes, len(anchors), weights, limits=limits)
    return CheckedDraft(anchors, gates, draft.gates is not None, chain, parameters)


def _changed_parameters(one: LatticeParameters, other: LatticeParameters) -> Iterator[Difference]:
    """Which parameters differ, with their values; nothing where there is none."""
    for name in (parameter.name for parameter in fields(LatticeParameters)):
        values = [getattr(each, name) for each in (one, other)]
        if values[0] != values[1]:
            told = ("" if value is None else str(value) for value in values)
            yield Difference(f"parameters.{name}", *told)


def recorded_inputs(type_: str, stored: StoredLattice, ready: ReadyLattice) -> Statement:
    """The statement of what a lattice is now: the digests of all inputs, and its state's."""
    body = {
        **ready.head.members,
        "inputs": dict(ready.head.inputs),
        "latticeId": stored.lattice_id,
        "version": stored.version,
        "createdBy": stored.created_by,
    }
    return Statement(type_, body)


def end_building(registry: Registry, stored: StoredLattice, records: LatticeRecords) -> None:
    """Cancel the operation under way for a lattice, if there is one."""
    operation = registry.operation_of(stored.tenant_id, stored.lattice_id)
    if operation is not None:
        registry.update_operation(canceled(operation, records))


def canceled(operation: LatticeOperation, records: LatticeRecords) -> LatticeOperation:
    """The operation, ended by a request."""
    return replace(
        operation,
        state=OperationState.CANCELED,
        cancel_requested=True,
        updated_at=records.now(),
        holder="",
        error_code=1,  # google.rpc.Code.CANCELLED
        error="canceled",
    )
