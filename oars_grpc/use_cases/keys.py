"""Rotates and revokes the signing keys of tenants; each leaves an event in the tenant's log."""

from dataclasses import dataclass, replace
from datetime import datetime

from oars_grpc.core.call import Answer, Call, Encode
from oars_grpc.core.checkpoint import log_origin
from oars_grpc.core.event import KEY_REVOKED, KEY_ROTATED
from oars_grpc.core.keys import KeyPurpose, KeyState, TrustedKey
from oars_grpc.core.ports import Chance, Clock, Registry, RegistryStore
from oars_grpc.core.receipt import format_time
from oars_grpc.errors import FailedPrecondition, InvalidArgument, NotFound
from oars_grpc.use_cases.events import EventWriter
from oars_grpc.use_cases.keyring import WINDOW_GRACE, Keyring
from oars_grpc.use_cases.locked_tenant import lock_tenant
from oars_grpc.use_cases.outcomes import run_idempotent


@dataclass(frozen=True, slots=True)
class Revocation:
    """A revoked key, and the one that replaces it where it was active."""

    key: TrustedKey
    replacement: TrustedKey | None


class TenantKeys:
    """The part of the tenant service that is about keys.

    `log_prefix` is what the origins of all logs begin with.
    """

    def __init__(
        self,
        *,
        registry: RegistryStore,
        keyring: Keyring,
        clock: Clock,
        chance: Chance,
        log_prefix: str,
    ) -> None:
        self._registry = registry
        self._keyring = keyring
        self._clock = clock
        self._log_prefix = log_prefix
        self._events = EventWriter(keyring, chance)

    def rotate(
        self, call: Call, tenant_id: str, purpose: KeyPurpose, encode: Encode[TrustedKey]
    ) -> Answer:
        """Retire the active key of a purpose and make a new one active in the same transaction.

        The windows overlap by a grace on either side (`keyring.WINDOW_GRACE`).
        """
        call.principal.check_tenant(tenant_id)

        def work(registry: Registry) -> TrustedKey:
            lock_tenant(registry, tenant_id)
            registry.lock_log(tenant_id)
            now = self._clock.now()
            ends = now + WINDOW_GRACE
            retired = []
            for key in registry.keys(tenant_id):
                if (key.state, key.purpose) == (KeyState.ACTIVE, purpose):
                    registry.update_key(replace(key, state=KeyState.RETIRED, valid_until=ends))
                    retired.append(key.key_id)
            created = self._keyring.create(tenant_id, purpose)
            registry.insert_key(created)
            event = {
                "keyId": created.trusted.key_id,
                "purpose": purpose.value,
                "retired": retired,
                "validUntil": format_time(ends),
            }
            self._events.record(registry, call, tenant_id, KEY_ROTATED, event, now)
            return self._named(created.trusted)

        return run_idempotent(self._registry, self._clock, call, tenant_id, work, encode)

    def revoke(
        self,
        call: Call,
        tenant_id: str,
        key_id: str,
        reason: str,
        compromised_at: datetime | None,
        encode: Encode[Revocation],
    ) -> Answer:
        """Revoke a key; one that was active is replaced in the same transaction.

        Nothing that the key signed commits any more once this has: decisions rest on the keys as
        they were, and commit under the head of the log, which knows that these have changed.
        """
        call.principal.check_tenant(tenant_id)

        def work(registry: Registry) -> Revocation:
            lock_tenant(registry, tenant_id)
            key = next((k for k in registry.keys(tenant_id) if k.key_id == key_id), None)
            if key is None:
                raise NotFound(
                    f"key {key_id} of tenant {tenant_id} is not found", reason="KEY_NOT_FOUND"
                )
            if key.state is KeyState.REVOKED:
                raise FailedPrecondition(
                    f"key {key_id} was revoked already", reason="KEY_ALREADY_REVOKED"
                )
            first = _first_leaf(registry, tenant_id, compromised_at)
            # The clock is read under the lock: what has committed was recorded before.
            size = registry.lock_log(tenant_id)
            now = self._clock.now()
            _check_compromised_at(compromised_at, key, now)
            if first is None:
                first = _first_leaf(registry, tenant_id, compromised_at)
            trusted = size if first is None else first
            revoked = replace(
                key,
                state=KeyState.REVOKED,
                # The log tells what came before; clocks of replicas must not contradict it.
                valid_until=key.valid_until or now + WINDOW_GRACE,
                revoked_at=now,
                revocation_reason=reason,
                # A checkpoint is no leaf of the log: nothing would vouch for one.
                trusted_log_size=trusted if key.purpose is KeyPurpose.RECEIPT else None,
            )
            registry.update_key(revoked)
            replacement = self._replace(registry, key)
            event = {
                "keyId": key_id,
                "purpose": key.purpose.value,
                "reason": reason,
                "revokedAt": format_time(now),
                "compromisedAt": None if compromised_at is None else format_time(compromised_at),
                "trustedLogSize": revoked.trusted_log_size,
                "replacement": None if replacement is None else replacement.key_id,
            }
            self._events.record(registry, call, tenant_id, KEY_REVOKED, event, now)
            return Revocation(
                self._named(revoked), None if replacement is None else self._named(replacement)
            )

        return run_idempotent(self._registry, self._clock, call, tenant_id, work, encode)

    def _replace(self, registry: Registry, key: TrustedKey) -> TrustedKey | None:
        """A new key in place of one that was active."""
        if key.state is not KeyState.ACTIVE:
            return None
        created = self._keyring.create(key.tenant_id, key.purpose)
        registry.insert_key(created)
        return created.trusted

    def _named(self, key: TrustedKey) -> TrustedKey:
        """The key with the log that it signs for, if it signs for one."""
        if key.purpose is not KeyPurpose.CHECKPOINT:
            return key
        return replace(key, origin=log_origin(self._log_prefix, key.tenant_id))


def _first_leaf(registry: Registry, tenant_id: str, moment: datetime | None) -> int | None:
    """The first leaf that was recorded since a moment.

    It is looked for before the head of a long log is locked, and again only where there was none:
    whatever commits in between stands above it.
    """
    return None if moment is None else registry.first_leaf_since(tenant_id, moment)


def _check_compromised_at(moment: datetime | None, key: TrustedKey, now: datetime) -> None:
    if moment is None:
        return
    if moment > now:
        raise InvalidArgument.of("compromised_at", f"is later than now, {format_time(now)}")
    if moment < key.valid_from:
        raise InvalidArgument.of(
            "compromised_at", f"is before the key was made, {format_time(key.valid_from)}"
        )
