"""Appends events to the logs of tenants, within transactions of the registry."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from oars_grpc.core import ids
from oars_grpc.core.call import Call
from oars_grpc.core.event import write_event
from oars_grpc.core.identity import Principal
from oars_grpc.core.keys import KeyPurpose
from oars_grpc.core.ports import Chance, Registry
from oars_grpc.core.receipt import EVENT_PREDICATE_TYPE, Receipt
from oars_grpc.core.stored import StoredReceipt
from oars_grpc.errors import FailedPrecondition
from oars_grpc.use_cases.keyring import Keyring


class EventWriter:
    """Signs events with the active keys of their tenants."""

    def __init__(self, keyring: Keyring, chance: Chance) -> None:
        self._keyring = keyring
        self._chance = chance

    def record(
        self,
        registry: Registry,
        call: Call,
        tenant_id: str,
        type_: str,
        event: Mapping[str, Any],
        now: datetime,
    ) -> None:
        """Append what a caller has done; as `append`."""
        self.append(
            registry,
            receipt_id=self._chance.new_id(ids.RECEIPT),
            tenant_id=tenant_id,
            type_=type_,
            caller=call.principal,
            event=event,
            now=now,
        )

    def append(
        self,
        registry: Registry,
        *,
        receipt_id: str,
        tenant_id: str,
        type_: str,
        caller: Principal | None,
        event: Mapping[str, Any],
        now: datetime,
    ) -> None:
        """Append an event of a tenant that is locked; `caller` None is the server itself.

        Raises:
            FailedPrecondition: the tenant has no active signing key.
        """
        self.append_all(
            registry,
            tenant_id=tenant_id,
            caller=caller,
            events=[(receipt_id, type_, event)],
            now=now,
        )

    def append_all(
        self,
        registry: Registry,
        *,
        tenant_id: str,
        caller: Principal | None,
        events: Sequence[tuple[str, str, Mapping[str, Any]]],
        now: datetime,
        predicate_type: str = EVENT_PREDICATE_TYPE,
    ) -> Sequence[StoredReceipt]:
        """The same of several, each with the id of its receipt and its type, one after the other.

        Raises:
            FailedPrecondition: the tenant has no active signing key.
        """
        stored = registry.active_key(tenant_id, KeyPurpose.RECEIPT)
        if stored is None:
            raise FailedPrecondition(
                f"tenant {tenant_id} has no active signing key", reason="TENANT_NOT_READY"
            )
        key = self._keyring.open(stored)

        def composer(
            receipt_id: str, type_: str, event: Mapping[str, Any]
        ) -> Callable[[int, str], Receipt]:
            return lambda sequence, previous_digest: write_event(
                receipt_id=receipt_id,
                tenant_id=tenant_id,
                type_=type_,
                caller=caller,
                event=event,
                sequence=sequence,
                previous_receipt_digest=previous_digest,
                now=now,
                key=key,
                predicate_type=predicate_type,
            )

        return registry.append_events(tenant_id, [composer(*each) for each in events])
