"""Second factors and approvers' keys on Postgres: the ports `ApproverRows` and `ApproverStore`.

What the database itself sees to is in `migrations/versions/0006_approvals.py`: no step goes back
while the secret stays, and nothing undoes a revocation.
"""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, Select, delete, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from oars_grpc.core.approver_key import ApproverKey
from oars_grpc.core.second_factor import SecondFactor
from oars_grpc.storage.approval_tables import approver_key, second_factor
from oars_grpc.storage.codecs import Row, utc, utc_or_none
from oars_grpc.storage.signing_keys import revise
from oars_grpc.storage.transaction import read, read_page, valid_tenants

_FACTOR, _KEY = second_factor.c, approver_key.c


class ApproverTransaction:
    """The part of `PostgresRegistry` that is about what approvers hold."""

    _connection: Connection

    def second_factor(self, tenant_id: str, subject: str) -> SecondFactor | None:
        """The factor, locked until the end: of codes tried at once, one comes after the other."""
        query = _factors(tenant_id, subject).with_for_update()
        row = self._connection.execute(query).mappings().one_or_none()
        return None if row is None else _factor_of(row)

    def put_second_factor(self, factor: SecondFactor) -> None:
        """Enrol a factor, in place of the one before."""
        row = asdict(factor)
        changed = {name: row[name] for name in row if name not in {"tenant_id", "subject"}}
        statement = upsert(second_factor).values(**row)
        self._connection.execute(
            statement.on_conflict_do_update(
                index_elements=[_FACTOR.tenant_id, _FACTOR.subject], set_=changed
            )
        )

    def record_attempt(self, factor: SecondFactor) -> None:
        """Replace the last step, the failures and the lock of the factor that was read."""
        self._connection.execute(
            update(second_factor)
            .where(_FACTOR.tenant_id == factor.tenant_id, _FACTOR.subject == factor.subject)
            .values(
                last_step=factor.last_step,
                failures=factor.failures,
                locked_until=factor.locked_until,
            )
        )

    def delete_second_factor(self, tenant_id: str, subject: str) -> None:
        """Remove a factor."""
        self._connection.execute(
            delete(second_factor).where(_FACTOR.tenant_id == tenant_id, _FACTOR.subject == subject)
        )

    def insert_approver_key(self, key: ApproverKey) -> bool:
        """Register a key; False if one of its id ever was."""
        statement = upsert(approver_key).values(**asdict(key)).on_conflict_do_nothing()
        inserted = self._connection.execute(statement.returning(_KEY.key_id)).one_or_none()
        return inserted is not None

    def approver_key(self, tenant_id: str, key_id: str) -> ApproverKey | None:
        """The key, locked until the end."""
        query = _keys(tenant_id).where(_KEY.key_id == key_id).with_for_update()
        row = self._connection.execute(query).mappings().one_or_none()
        return None if row is None else _key_of(row)

    def revoke_approver_key(self, tenant_id: str, key_id: str, at: datetime, reason: str) -> None:
        """Revoke a key that is not revoked."""
        self._connection.execute(
            update(approver_key)
            .where(_KEY.tenant_id == tenant_id, _KEY.key_id == key_id)
            .values(revoked_at=at, revocation_reason=reason)
        )
        revise(self._connection, tenant_id)


class PostgresApproverStore:
    """What approvers hold, in the database of an engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def find_second_factor(self, tenant_id: str, subject: str) -> SecondFactor | None:
        """The factor."""
        found = self._rows(tenant_id, _factors(tenant_id, subject))
        return _factor_of(found[0]) if found else None

    def find_approver_key(self, tenant_id: str, key_id: str) -> ApproverKey | None:
        """The key."""
        found = self._rows(tenant_id, _keys(tenant_id).where(_KEY.key_id == key_id))
        return _key_of(found[0]) if found else None

    def list_approver_keys(
        self, tenant_id: str, subject: str, after: str, limit: int
    ) -> Sequence[ApproverKey]:
        """Keys with ids above `after`, by id; of one subject, unless it is empty."""
        query = _keys(tenant_id).where(_KEY.key_id > after)
        if subject:
            query = query.where(_KEY.subject == subject)
        query = query.order_by(_KEY.key_id).limit(limit)
        if not valid_tenants([tenant_id]):
            return []
        rows = read_page(
            self._engine, [tenant_id], lambda connection: connection.execute(query).mappings().all()
        )
        return [_key_of(row) for row in rows]

    def _rows(self, tenant_id: str, query: Select[*tuple[Any, ...]]) -> Sequence[Row]:
        if not valid_tenants([tenant_id]):
            return []
        return read(
            self._engine, [tenant_id], lambda connection: connection.execute(query).mappings().all()
        )


def _factors(tenant_id: str, subject: str) -> Select[*tuple[Any, ...]]:
    return select(second_factor).where(_FACTOR.tenant_id == tenant_id, _FACTOR.subject == subject)


def _keys(tenant_id: str) -> Select[*tuple[Any, ...]]:
    return select(approver_key).where(_KEY.tenant_id == tenant_id)


def _factor_of(row: Row) -> SecondFactor:
    return SecondFactor(
        tenant_id=row["tenant_id"],
        subject=row["subject"],
        encrypted_secret=bytes(row["encrypted_secret"]),
        enrolled_at=utc(row["enrolled_at"]),
        enrolled_by=row["enrolled_by"],
        last_step=row["last_step"],
        failures=row["failures"],
        locked_until=utc_or_none(row["locked_until"]),
    )


def _key_of(row: Row) -> ApproverKey:
    return ApproverKey(
        tenant_id=row["tenant_id"],
        key_id=row["key_id"],
        subject=row["subject"],
        public_key=bytes(row["public_key"]),
        registered_at=utc(row["registered_at"]),
        registered_by=row["registered_by"],
        revoked_at=utc_or_none(row["revoked_at"]),
        revocation_reason=row["revocation_reason"],
    )
