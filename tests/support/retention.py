"""Tenants that keep payloads for a time, actions older than that, and holds."""

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Engine

from oars_grpc.core.action import ActionState
from oars_grpc.core.call import Call
from oars_grpc.core.identity import Role
from oars_grpc.core.page_token import PageTokens
from oars_grpc.core.ports import Clock
from oars_grpc.core.receipt_filter import ReceiptFilter
from oars_grpc.core.stored import Change
from oars_grpc.core.tenant import TenantSettings
from oars_grpc.storage.registry import PostgresRegistryStore
from oars_grpc.storage.retention import PostgresHoldStore
from oars_grpc.system import SystemChance, SystemClock
from oars_grpc.use_cases.keyring import Keyring
from oars_grpc.use_cases.legal_holds import HoldNow, LegalHolds
from oars_grpc.use_cases.retention import Retention
from tests.support.factories import KEY_ENCRYPTION_KEY, make_change, make_principal, make_tenant

RETENTION_DAYS = 30
# By the real clock: the database asks its own.
LONG_AGO = datetime.now(UTC) - timedelta(days=40)
LATELY = datetime.now(UTC) - timedelta(days=20)


class ShiftedClock:
    """The real clock, wrong by a constant."""

    def __init__(self, shift: timedelta) -> None:
        self.shift = shift

    def now(self) -> datetime:
        return datetime.now(UTC) + self.shift


def finished(tenant_id: str = "acme", *, at: datetime = LONG_AGO, **changes: Any) -> Change:
    """A finished action with three receipts."""
    settled: dict[str, Any] = {
        "state": ActionState.EXECUTED,
        "created_at": at,
        "updated_at": at,
        "expires_at": None,
    }
    return make_change(tenant_id, receipts=3, **{**settled, **changes})


def set_retention(engine: Engine, tenant_id: str, days: int, version: int = 2) -> None:
    """Change how long a tenant keeps payloads."""
    tenant = make_tenant(tenant_id, settings=TenantSettings(retention_days=days), version=version)
    PostgresRegistryStore(engine).run(tenant_id, lambda registry: registry.update_tenant(tenant))


def make_retention(engine: Engine, clock: Clock | None = None) -> Retention:
    """Rounds of erasure, as one server runs them."""
    clock, chance = clock or SystemClock(), SystemChance()
    return Retention(
        registry=PostgresRegistryStore(engine),
        keyring=Keyring(KEY_ENCRYPTION_KEY, chance, clock),
        clock=clock,
        chance=chance,
    )


def make_holds(engine: Engine, clock: Clock | None = None) -> LegalHolds:
    """The use cases of holds."""
    clock, chance = clock or SystemClock(), SystemChance()
    return LegalHolds(
        registry=PostgresRegistryStore(engine),
        store=PostgresHoldStore(engine),
        keyring=Keyring(KEY_ENCRYPTION_KEY, chance, clock),
        tokens=PageTokens(bytes(32)),
        clock=clock,
        chance=chance,
    )


def admin(number: int = 1, tenant_id: str = "acme") -> Call:
    """A call of one of the admins; each has a certificate and a service account of its own."""
    principal = make_principal(
        f"spiffe://example/admin-{number}",
        role=Role.ADMIN,
        fingerprint_sha256=f"{number:064x}",
        service_account_id=f"admin-{number}",
        tenant_ids=frozenset({tenant_id}),
    )
    return Call(principal, "PlaceLegalHold", "request-1")


def encode(held: HoldNow) -> bytes:
    """The id, as bytes of an answer."""
    return held.hold.hold_id.encode()


def place(holds: LegalHolds, scope: ReceiptFilter | None = None, tenant_id: str = "acme") -> str:
    """Place a hold; its id."""
    call = admin(tenant_id=tenant_id)
    answer = holds.place(call, tenant_id, "case 7", "litigation", scope or ReceiptFilter(), encode)
    return answer.response.decode()
