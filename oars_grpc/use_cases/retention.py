"""Erases payloads after their retention, tenant by tenant, batch by batch.

One batch is one transaction: it locks the tenant, records which leaves are erased, deletes their
payloads with the inputs of their actions, and appends the event that tells of it. Several replicas
may run this at once: the second one at a tenant finds the first one's work done.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from oars_grpc.core import ids
from oars_grpc.core.ports import Chance, Clock, Registry, RegistryStore
from oars_grpc.core.retention import RETENTION_ERASED, erasure_event, take_batch
from oars_grpc.core.tenant import Tenant
from oars_grpc.errors import ResourceExhausted, Unavailable
from oars_grpc.use_cases.events import EventWriter
from oars_grpc.use_cases.keyring import Keyring

# Bounds on one round, so that shutdown does not wait for a backlog: tenants looked at, transactions
# for each of them, actions looked at by each of these.
TENANTS = 200
BATCHES = 20
CANDIDATES = 200
# How long a tenant is left alone once everything was looked at: retention is counted in days.
REST = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class ErasureFailure:
    """A tenant whose payloads could not be erased; the next round tries again."""

    tenant_id: str
    error: Exception


@dataclass(frozen=True, slots=True)
class ErasureReport:
    """What one round did."""

    erased: int
    failures: tuple[ErasureFailure, ...]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the looking through a tenant goes on, and when; under other settings it starts anew."""

    version: int
    after: str
    resume_at: datetime


@dataclass(frozen=True, slots=True)
class _Step:
    erased: int
    after: str


class Retention:
    """Rounds of erasure."""

    def __init__(
        self, *, registry: RegistryStore, keyring: Keyring, clock: Clock, chance: Chance
    ) -> None:
        self._registry = registry
        self._events = EventWriter(keyring, chance)
        self._clock = clock
        self._chance = chance
        self._tenants_after = ""
        self._places: dict[str, _Place] = {}

    def erase_due(self) -> ErasureReport:
        """Erase what is past its time in the tenants whose turn it is.

        A fault of one tenant, such as a key that does not decrypt, is reported and does not keep
        the others waiting.

        Raises:
            Unavailable, ResourceExhausted: the database; nothing else would succeed now either.
        """
        tenants = self._registry.list_tenants(None, self._tenants_after, TENANTS)
        self._tenants_after = tenants[-1].tenant_id if len(tenants) == TENANTS else ""
        erased = 0
        failures: list[ErasureFailure] = []
        for tenant in tenants:
            if tenant.settings.retention_days == 0:
                self._places.pop(tenant.tenant_id, None)
                continue
            try:
                erased += self._erase_in(tenant)
            except (Unavailable, ResourceExhausted):
                raise
            except Exception as error:  # noqa: BLE001 - reported, see above
                failures.append(ErasureFailure(tenant.tenant_id, error))
        return ErasureReport(erased, tuple(failures))

    def _erase_in(self, tenant: Tenant) -> int:
        now = self._clock.now()
        place = self._places.get(tenant.tenant_id)
        if place is None or place.version != tenant.version:
            place = _Place(tenant.version, "", now)
        if now < place.resume_at:
            return 0
        erased, after = 0, place.after
        for _ in range(BATCHES):
            work = partial(self._step, tenant.tenant_id, after)
            step = self._registry.run(tenant.tenant_id, work)
            erased += step.erased
            after = step.after
            if not after:
                break
        resume_at = now if after else now + REST
        self._places[tenant.tenant_id] = _Place(tenant.version, after, resume_at)
        return erased

    def _step(self, tenant_id: str, after: str, registry: Registry) -> _Step:
        """One transaction: look at some actions, erase those whose time is over."""
        # Under the lock no hold is placed, and the settings are what they are.
        locked = registry.lock_tenant(tenant_id)
        days = 0 if locked is None else locked.settings.retention_days
        if days == 0:
            return _Step(0, "")
        now = self._clock.now()
        cutoff = now - timedelta(days=days)
        page = registry.erasable(tenant_id, cutoff, after, CANDIDATES)
        batch = take_batch(page.actions)
        if not batch:
            return _Step(0, page.after)
        receipt_id = self._chance.new_id(ids.RECEIPT)
        erased = registry.erase(tenant_id, [action.action_id for action in batch], now, receipt_id)
        # Last: the head of the log stays locked from here to the end.
        self._events.append(
            registry,
            receipt_id=receipt_id,
            tenant_id=tenant_id,
            type_=RETENTION_ERASED,
            caller=None,
            event=erasure_event(batch, days, cutoff),
            now=now,
        )
        whole = len(batch) == len(page.actions)
        return _Step(erased, page.after if whole else batch[-1].action_id)
