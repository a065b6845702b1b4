"""What administrators keep, on Postgres: the ports `Registry` and `RegistryStore`."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from sqlalchemy import Connection, Engine, RowMapping, Select, insert, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from oars_grpc.core.call import IdempotencyScope, StoredOutcome
from oars_grpc.core.ports import Registry
from oars_grpc.core.receipt import Receipt
from oars_grpc.core.stored import StoredPolicy, StoredReceipt
from oars_grpc.core.tenant import Tenant
from oars_grpc.errors import NotFound
from oars_grpc.storage import tables
from oars_grpc.storage.approvers import ApproverTransaction
from oars_grpc.storage.codecs import (
    listed_policy_of,
    outcome_of,
    outcome_row,
    policy_of,
    tenant_of,
    tenant_row,
)
from oars_grpc.storage.controls import ControlTransaction
from oars_grpc.storage.lattice_rows import LatticeTransaction
from oars_grpc.storage.log_append import append_event, append_events
from oars_grpc.storage.policy_rows import PolicyRows
from oars_grpc.storage.registry_queries import select_policies, select_tenants
from oars_grpc.storage.retention import RetentionTransaction
from oars_grpc.storage.signing_keys import SigningKeyRows
from oars_grpc.storage.transaction import read_every_tenant, read_page, valid_tenants, write

Result = TypeVar("Result")


class PostgresRegistry(
    PolicyRows,
    SigningKeyRows,
    RetentionTransaction,
    ControlTransaction,
    ApproverTransaction,
    LatticeTransaction,
):
    """One open transaction; `PostgresRegistryStore.run` begins and ends it."""

    def outcome(self, scope: IdempotencyScope) -> StoredOutcome | None:
        """The outcome stored under an idempotency key; an expired one counts until it is purged."""
        columns = tables.idempotency_outcome.c
        query = select(tables.idempotency_outcome).where(
            columns.tenant_id == scope.tenant_id,
            columns.caller == scope.caller,
            columns.rpc == scope.rpc,
            columns.key == scope.key,
        )
        row = self._connection.execute(query).mappings().one_or_none()
        return None if row is None else outcome_of(row)

    def record_outcome(self, outcome: StoredOutcome) -> None:
        """Store the outcome; a concurrent one makes the whole transaction run again."""
        # The unique key decides: `transaction` takes its violation for a collision.
        self._connection.execute(insert(tables.idempotency_outcome), outcome_row(outcome))

    def lock_tenant(self, tenant_id: str) -> Tenant | None:
        """The tenant, locked against other registry transactions until the end."""
        query = select_tenants().where(tables.tenant.c.tenant_id == tenant_id)
        # NO KEY: key checks of foreign keys need not wait for it.
        locked = query.with_for_update(key_share=True)
        row = self._connection.execute(locked).mappings().one_or_none()
        return None if row is None else tenant_of(row)

    def insert_tenant(self, tenant: Tenant) -> bool:
        """Create the tenant and its empty log; False if the id is taken."""
        statement = (
            upsert(tables.tenant)
            .values(**tenant_row(tenant), policy_count=0)
            .on_conflict_do_nothing()
            .returning(tables.tenant.c.tenant_id)
        )
        if self._connection.execute(statement).one_or_none() is None:
            return False
        self._connection.execute(
            insert(tables.log_head),
            {
                "tenant_id": tenant.tenant_id,
                "size": 0,
                "publication": 0,
                "revision": 0,
                "frontier": b"",
            },
        )
        return True

    def update_tenant(self, tenant: Tenant) -> None:
        """Replace name, settings and version.

        Raises:
            NotFound: there is no such tenant.
        """
        row = tenant_row(tenant)
        statement = (
            update(tables.tenant)
            .where(tables.tenant.c.tenant_id == tenant.tenant_id)
            .values({name: row[name] for name in ("display_name", "settings", "version")})
        )
        if self._connection.execute(statement).rowcount == 0:
            raise NotFound(f"there is no tenant {tenant.tenant_id}")
        self._revise(tenant.tenant_id)

    def append_event(self, tenant_id: str, compose: Callable[[int, str], Receipt]) -> StoredReceipt:
        """Append the receipt that follows the tenant's last event to its log.

        `compose` is given the event's sequence and the digest of the one before.
        """
        return append_event(self._connection, tenant_id, compose)

    def append_events(
        self, tenant_id: str, composers: Sequence[Callable[[int, str], Receipt]]
    ) -> Sequence[StoredReceipt]:
        """The same of several, one after the other, at once."""
        return append_events(self._connection, tenant_id, composers)


class PostgresRegistryStore:
    """The registry in the database of an engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def run(self, tenant_id: str, work: Callable[[Registry], Result]) -> Result:
        """Run `work` in a transaction and commit; again from the start where it collided."""
        return write(
            self._engine, [tenant_id], lambda connection: work(PostgresRegistry(connection))
        )

    def find_tenant(self, tenant_id: str) -> Tenant | None:
        """The tenant."""
        found = self.list_tenants([tenant_id], "", 1)
        return found[0] if found else None

    def list_tenants(
        self, tenant_ids: Sequence[str] | None, after: str, limit: int
    ) -> Sequence[Tenant]:
        """Tenants (None: all) with ids above `after`, by id."""
        columns = tables.tenant.c
        query = select_tenants().where(columns.tenant_id > after)
        query = query.order_by(columns.tenant_id).limit(limit)

        def work(connection: Connection) -> list[Tenant]:
            return [tenant_of(row) for row in connection.execute(query).mappings()]

        if tenant_ids is None:
            return read_every_tenant(self._engine, work)
        valid = valid_tenants(tenant_ids)
        if not valid:
            return []
        query = query.where(columns.tenant_id.in_(valid))
        return read_page(self._engine, valid, work)

    def find_policy(self, tenant_ids: Sequence[str], policy_id: str) -> StoredPolicy | None:
        """The policy, if it belongs to one of the tenants."""
        valid = valid_tenants(tenant_ids)
        columns = tables.policy.c
        query = select_policies(*columns).where(
            columns.tenant_id.in_(valid), columns.policy_id == policy_id
        )
        found = self._page(valid, query)
        return policy_of(found[0]) if found else None

    def list_policies(
        self, tenant_id: str, before_version: int, limit: int, *, archived: bool
    ) -> Sequence[StoredPolicy]:
        """Policies with versions below `before_version` (0: from the newest), newest first.

        They come without documents; archived ones only where asked for.
        """
        columns = tables.policy.c
        listed = [column for column in columns if column is not columns.document]
        query = select_policies(*listed).where(columns.tenant_id == tenant_id)
        if before_version:
            query = query.where(columns.version < before_version)
        if not archived:
            query = query.where(tables.policy_archive.c.policy_id.is_(None))
        query = query.order_by(columns.version.desc()).limit(limit)
        found = self._page(valid_tenants([tenant_id]), query)
        return [listed_policy_of(row) for row in found]

    def _page(
        self, tenant_ids: Sequence[str], query: Select[*tuple[object, ...]]
    ) -> Sequence[RowMapping]:
        if not tenant_ids:
            return []
        return read_page(
            self._engine, tenant_ids, lambda connection: connection.execute(query).mappings().all()
        )
