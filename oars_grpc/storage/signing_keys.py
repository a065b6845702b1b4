"""The signing keys of tenants within a transaction of the registry, and what revoking one asks."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, func, insert, select, update

from oars_grpc.core.keys import KeyPurpose, KeyState, StoredKey, TrustedKey
from oars_grpc.errors import NotFound
from oars_grpc.storage import tables
from oars_grpc.storage.codecs import key_row, stored_key_of
from oars_grpc.storage.log_append import lock_heads
from oars_grpc.storage.prepared import session_of
from oars_grpc.storage.receipts import list_tenant_keys


class SigningKeyRows:
    """The part of `PostgresRegistry` that is about keys."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def insert_key(self, key: StoredKey) -> None:
        """Add a signing key."""
        self._connection.execute(insert(tables.signing_key), key_row(key))
        self._revise(key.trusted.tenant_id)

    def update_key(self, key: TrustedKey) -> None:
        """Replace state, end of window and revocation.

        Raises:
            NotFound: the tenant has no such key.
        """
        columns = tables.signing_key.c
        statement = (
            update(tables.signing_key)
            .where(columns.tenant_id == key.tenant_id, columns.key_id == key.key_id)
            .values(
                state=key.state.value,
                valid_until=key.valid_until,
                revoked_at=key.revoked_at,
                revocation_reason=key.revocation_reason,
                trusted_log_size=key.trusted_log_size,
            )
        )
        if self._connection.execute(statement).rowcount == 0:
            raise NotFound(f"tenant {key.tenant_id} has no key {key.key_id}")
        self._revise(key.tenant_id)

    def keys(self, tenant_id: str) -> Sequence[TrustedKey]:
        """All keys, oldest first."""
        return list_tenant_keys(self._connection, tenant_id)

    def active_key(self, tenant_id: str, purpose: KeyPurpose) -> StoredKey | None:
        """The key that signs for the purpose."""
        columns = tables.signing_key.c
        query = (
            select(tables.signing_key)
            .where(
                columns.tenant_id == tenant_id,
                columns.purpose == purpose.value,
                columns.state == KeyState.ACTIVE.value,
            )
            .order_by(columns.valid_from.desc(), columns.key_id)
            .limit(1)
        )
        row = self._connection.execute(query).mappings().one_or_none()
        return None if row is None else stored_key_of(row)

    def lock_log(self, tenant_id: str) -> int:
        """The size of the tenant's log, whose head stays locked until the end."""
        return lock_heads(session_of(self._connection), [tenant_id])[tenant_id].size

    def first_leaf_since(self, tenant_id: str, moment: datetime) -> int | None:
        """The lowest index of a receipt that was recorded at the moment or later."""
        columns = tables.receipt.c
        query = select(func.min(columns.leaf_index)).where(
            columns.tenant_id == tenant_id, columns.recorded_at >= moment
        )
        first: int | None = self._connection.execute(query).scalar_one()
        return first

    def _revise(self, tenant_id: str) -> None:
        revise(self._connection, tenant_id)


def revise(connection: Connection, tenant_id: str) -> None:
    """Let no decision commit that rests on what was before.

    Locks the head as every commit does: those under way come before, and are waited for.
    """
    head = tables.log_head.c
    connection.execute(
        update(tables.log_head)
        .where(head.tenant_id == tenant_id)
        .values(revision=head.revision + 1)
    )
