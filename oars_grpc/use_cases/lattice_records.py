"""Writes what lattices said into the logs of their tenants, and lattices where they change."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from oars_grpc.core import ids
from oars_grpc.core.call import Answer, Call, Encode
from oars_grpc.core.identity import Principal, Role
from oars_grpc.core.lattice_verification import LatticeEvent
from oars_grpc.core.ports import Chance, Clock, Registry, RegistryStore
from oars_grpc.core.receipt import LATTICE_PREDICATE_TYPE
from oars_grpc.core.stored import StoredReceipt
from oars_grpc.core.stored_lattice import StoredLattice
from oars_grpc.errors import FailedPrecondition, NotFound, PermissionDenied
from oars_grpc.use_cases.events import EventWriter
from oars_grpc.use_cases.locked_tenant import lock_tenant
from oars_grpc.use_cases.outcomes import REFUSED_BY_STATE, first_answer, run_idempotent

CREATED = LatticeEvent.CREATED.value
CHANGED = LatticeEvent.CHANGED.value
DELETED = LatticeEvent.DELETED.value
SETTLED = LatticeEvent.SETTLED.value
QUERIED = LatticeEvent.QUERIED.value
CHAIN_SCORED = LatticeEvent.CHAIN_SCORED.value
GATES_COMPUTED = LatticeEvent.GATES_COMPUTED.value

_OWN_ONLY = (Role.AGENT, Role.GATEWAY)

Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")
# The receipts of one call, in the order of its statements, to what it answers.
Finish = Callable[[Sequence[StoredReceipt]], Result]


@dataclass(frozen=True, slots=True)
class Statement:
    """The body of a receipt to be: whole numbers and texts, no floats."""

    type_: str
    body: Mapping[str, Any]


class LatticeRecords:
    """Commits results with their receipts, once for each idempotency key."""

    def __init__(
        self, *, registry: RegistryStore, events: EventWriter, clock: Clock, chance: Chance
    ) -> None:
        self._registry = registry
        self._events = events
        self._clock = clock
        self._chance = chance

    def now(self) -> datetime:
        """The time in UTC."""
        return self._clock.now()

    def new_id(self, prefix: str) -> str:
        """A new id."""
        return self._chance.new_id(prefix)

    def first_answer(self, call: Call, tenant_id: str) -> Answer | None:
        """The answer to a call that this one repeats; what it names may be gone by now."""
        for tenant in call.tenants(tenant_id):
            answer = first_answer(self._registry, call, tenant)
            if answer is not None:
                return answer
        return None

    def commit(
        self,
        call: Call,
        tenant_id: str,
        statements: Sequence[Statement],
        finish: Finish[Result],
        encode: Encode[Result],
        change: Callable[[Registry], None] = lambda _registry: None,
    ) -> Answer:
        """Write the receipts and the change in one transaction, and answer."""

        def work(registry: Registry) -> Result:
            lock_tenant(registry, tenant_id)
            change(registry)
            return finish(self.append(registry, tenant_id, call.principal, statements))

        return run_idempotent(self._registry, self._clock, call, tenant_id, work, encode)

    def append(
        self,
        registry: Registry,
        tenant_id: str,
        caller: Principal | None,
        statements: Sequence[Statement],
    ) -> Sequence[StoredReceipt]:
        """Append receipts to the log of a tenant that is locked."""
        if not statements:
            return []
        return self._events.append_all(
            registry,
            tenant_id=tenant_id,
            caller=caller,
            events=[
                (self._chance.new_id(ids.RECEIPT), statement.type_, statement.body)
                for statement in statements
            ],
            now=self._clock.now(),
            predicate_type=LATTICE_PREDICATE_TYPE,
        )

    def run(self, tenant_id: str, work: Callable[[Registry], Result]) -> Result:
        """Work in a transaction of its own, with the tenant locked."""

        def locked(registry: Registry) -> Result:
            lock_tenant(registry, tenant_id)
            return work(registry)

        return self._registry.run(tenant_id, locked)


class _Records(Protocol):
    """A use case whose answers are recorded."""

    _records: LatticeRecords


Recorder = TypeVar("Recorder", bound=_Records)


def answered_once(
    method: Callable[Concatenate[Recorder, Call, str, Arguments], Answer],
) -> Callable[Concatenate[Recorder, Call, str, Arguments], Answer]:
    """Answer a call that repeats another as that one was, before anything dear is done again."""

    @wraps(method)
    def answer(
        self: Recorder,
        call: Call,
        tenant_id: str,
        /,
        *args: Arguments.args,
        **named: Arguments.kwargs,
    ) -> Answer:
        first = self._records.first_answer(call, tenant_id)
        if first is not None:
            return first
        try:
            return method(self, call, tenant_id, *args, **named)
        except REFUSED_BY_STATE:
            # The call that this one repeats may have committed since that look, and made the
            # lattice what this one objects to.
            first = self._records.first_answer(call, tenant_id)
            if first is None:
                raise
            return first

    return answer


def lattice_not_found(lattice_id: str) -> NotFound:
    """The answer where there is no such lattice."""
    return NotFound(f"lattice {lattice_id} is not found", reason="LATTICE_NOT_FOUND")


def check_may_change(call: Call, stored: StoredLattice, expected_version: int) -> None:
    """Refuse a change by who may not make it, or that is based on another version.

    Raises:
        PermissionDenied: an agent changes what it created, and nothing else.
        FailedPrecondition: the lattice has moved on.
    """
    principal = call.principal
    if principal.role in _OWN_ONLY and stored.created_by != principal.subject:
        raise PermissionDenied(
            f"lattice {stored.lattice_id} was created by somebody else", reason="LATTICE_FORBIDDEN"
        )
    if expected_version not in (0, stored.version):
        raise FailedPrecondition(
            f"lattice {stored.lattice_id} is at version {stored.version}, not {expected_version}",
            reason="VERSION_MISMATCH",
        )
