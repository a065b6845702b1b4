"""Places legal holds and, once two admins agree, lets go of them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from oars_grpc.core import ids
from oars_grpc.core.call import Answer, Call, Encode
from oars_grpc.core.legal_hold import (
    EVENT_TYPES,
    HoldState,
    HoldStep,
    LegalHold,
    StepKind,
    next_release_step,
    request_expiry,
)
from oars_grpc.core.page_token import PageTokens, page_limit, take_page
from oars_grpc.core.ports import Chance, Clock, Registry, RegistryStore
from oars_grpc.core.receipt import format_time
from oars_grpc.core.receipt_filter import ReceiptFilter
from oars_grpc.core.retention_ports import HoldStore
from oars_grpc.errors import FailedPrecondition, NotFound
from oars_grpc.use_cases.events import EventWriter
from oars_grpc.use_cases.keyring import Keyring
from oars_grpc.use_cases.locked_tenant import lock_tenant
from oars_grpc.use_cases.outcomes import run_idempotent


@dataclass(frozen=True, slots=True)
class HoldNow:
    """A hold and where it stands at the moment of the answer."""

    hold: LegalHold
    state: HoldState


@dataclass(frozen=True, slots=True)
class HoldPage:
    """One page of a listing."""

    holds: tuple[HoldNow, ...]
    next_page_token: str


class LegalHolds:
    """The part of the retention service that is about holds: all of it, so far."""

    def __init__(
        self,
        *,
        registry: RegistryStore,
        store: HoldStore,
        keyring: Keyring,
        tokens: PageTokens,
        clock: Clock,
        chance: Chance,
    ) -> None:
        self._registry = registry
        self._store = store
        self._events = EventWriter(keyring, chance)
        self._tokens = tokens
        self._clock = clock
        self._chance = chance

    def place(
        self,
        call: Call,
        tenant_id: str,
        name: str,
        reason: str,
        scope: ReceiptFilter,
        encode: Encode[HoldNow],
    ) -> Answer:
        """Place a hold: once this has answered, nothing in its scope is erased.

        An erasure locks the tenant as this does. One that came first has committed, and one that
        comes later sees the hold.
        """
        call.principal.check_tenant(tenant_id)

        def work(registry: Registry) -> HoldNow:
            lock_tenant(registry, tenant_id)
            now = self._clock.now()
            step = self._step(call, StepKind.PLACED, reason, now)
            hold = LegalHold(tenant_id, self._chance.new_id(ids.HOLD), name, scope, (step,))
            registry.insert_hold(hold)
            self._record(registry, call, hold, step, {"scope": scope.to_json()})
            return HoldNow(hold, hold.state_at(now))

        return run_idempotent(self._registry, self._clock, call, tenant_id, work, encode)

    def release(
        self,
        call: Call,
        tenant_id: str,
        hold_id: str,
        reason: str,
        expected_version: int,
        encode: Encode[HoldNow],
    ) -> Answer:
        """Request the release of a hold, or confirm the request of another admin."""
        call.principal.check_tenant(tenant_id)

        def work(registry: Registry) -> HoldNow:
            lock_tenant(registry, tenant_id)
            hold = self._found(registry.hold(tenant_id, hold_id), hold_id)
            if expected_version not in (0, hold.version):
                raise FailedPrecondition(
                    f"legal hold {hold_id} is at version {hold.version}, not {expected_version}",
                    reason="VERSION_MISMATCH",
                )
            now = self._clock.now()
            kind = next_release_step(hold, call.principal, now)
            step = self._step(call, kind, reason, now)
            changed = replace(hold, steps=(*hold.steps, step))
            registry.insert_hold_step(tenant_id, hold_id, changed.version, step)
            self._record(registry, call, hold, step, _told(hold, step))
            return HoldNow(changed, changed.state_at(now))

        return run_idempotent(self._registry, self._clock, call, tenant_id, work, encode)

    def get(self, call: Call, tenant_id: str, hold_id: str) -> HoldNow:
        """One hold of the tenant."""
        call.principal.check_tenant(tenant_id)
        hold = self._found(self._store.find_hold(tenant_id, hold_id), hold_id)
        return HoldNow(hold, hold.state_at(self._clock.now()))

    def list(
        self,
        call: Call,
        tenant_id: str,
        page_size: int,
        page_token: str,
        weigh: Callable[[HoldNow], int],
    ) -> HoldPage:
        """A page of the tenant's holds, newest first; released ones are among them."""
        call.principal.check_tenant(tenant_id)
        limit = page_limit(page_size)
        listing = f"holds {tenant_id}"
        before = self._tokens.read(listing, page_token)
        now = self._clock.now()
        found = [
            HoldNow(hold, hold.state_at(now))
            for hold in self._store.list_holds(tenant_id, before, limit + 1)
        ]
        page, more = take_page(found, limit, weigh)
        token = self._tokens.issue(listing, page[-1].hold.hold_id) if more else ""
        return HoldPage(page, token)

    def _step(self, call: Call, kind: StepKind, reason: str, now: datetime) -> HoldStep:
        admin = call.principal
        return HoldStep(
            kind=kind,
            subject=admin.subject,
            fingerprint_sha256=admin.fingerprint_sha256,
            service_account_id=admin.service_account_id,
            taken_at=now,
            reason=reason,
            receipt_id=self._chance.new_id(ids.RECEIPT),
        )

    def _record(
        self, registry: Registry, call: Call, hold: LegalHold, step: HoldStep, told: dict[str, Any]
    ) -> None:
        self._events.append(
            registry,
            receipt_id=step.receipt_id,
            tenant_id=hold.tenant_id,
            type_=EVENT_TYPES[step.kind],
            caller=call.principal,
            event={"holdId": hold.hold_id, "name": hold.name, "reason": step.reason, **told},
            now=step.taken_at,
        )

    @staticmethod
    def _found(hold: LegalHold | None, hold_id: str) -> LegalHold:
        if hold is None:
            raise NotFound(f"legal hold {hold_id} is not found", reason="HOLD_NOT_FOUND")
        return hold


def _told(hold: LegalHold, step: HoldStep) -> dict[str, Any]:
    """What the event of a release tells beside the hold and the reason."""
    if step.kind is StepKind.RELEASE_REQUESTED:
        return {"expiresAt": format_time(request_expiry(step))}
    request = hold.steps[-1]
    return {"requestedBy": request.subject, "requestReceiptId": request.receipt_id}
