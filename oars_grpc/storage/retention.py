"""Holds and erasures on Postgres: the ports `RetentionRows` and `HoldStore`.

What the database itself sees to is in `migrations/versions/0004_retention.py`: no payload goes that
no erasure records, none under a hold, none before its time; and no hold ends by one admin.
"""

from collections.abc import Sequence
from datetime import datetime
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, Engine, insert, select

from oars_grpc.core.legal_hold import SCOPE_FIELDS, HoldStep, LegalHold, StepKind
from oars_grpc.core.receipt_filter import ReceiptFilter
from oars_grpc.core.retention import Erasable, ErasablePage
from oars_grpc.storage.codecs import Row, utc, utc_or_none
from oars_grpc.storage.retention_tables import legal_hold, legal_hold_step
from oars_grpc.storage.transaction import read, read_page, valid_tenants

# Inputs are erased with the rest, so that the actions that have one are those still to be looked
# at; their ids sort by the time of creation.
_CANDIDATES = """
WITH candidate AS MATERIALIZED (
    SELECT action_id FROM action_body
    WHERE tenant_id = %(tenant)s AND action_id > %(after)s
    ORDER BY action_id
    LIMIT %(limit)s
), held AS MATERIALIZED (
    SELECT oars_held(%(tenant)s, ARRAY (SELECT action_id FROM candidate)) AS action_id
)
SELECT c.action_id, a.created_at >= %(cutoff)s AS recent,
    a.created_at < %(cutoff)s
        AND oars_is_past(%(tenant)s, c.action_id, (
            SELECT least(%(cutoff)s, oars_retention_cutoff(%(tenant)s))
        ))
        AND NOT EXISTS (SELECT FROM held WHERE held.action_id = c.action_id) AS erasable
FROM candidate AS c
JOIN action AS a ON a.tenant_id = %(tenant)s AND a.action_id = c.action_id
ORDER BY c.action_id
"""
_LEAVES = (
    "SELECT action_id, leaf_index FROM receipt"
    " WHERE tenant_id = %s AND action_id = ANY (%s::text[]) ORDER BY action_id, sequence"
)
_ERASE = "SELECT oars_erase(%s, %s::text[], %s, %s)"


class RetentionTransaction:
    """The part of `PostgresRegistry` that is about holds and erasure."""

    _connection: Connection

    def insert_hold(self, hold: LegalHold) -> None:
        """Add a hold with its first step."""
        restrictions = {name: getattr(hold.scope, name) for name in SCOPE_FIELDS}
        row = {"tenant_id": hold.tenant_id, "hold_id": hold.hold_id, "name": hold.name}
        self._connection.execute(insert(legal_hold), {**row, **restrictions})
        for place, step in enumerate(hold.steps):
            self.insert_hold_step(hold.tenant_id, hold.hold_id, place + 1, step)

    def hold(self, tenant_id: str, hold_id: str) -> LegalHold | None:
        """The hold."""
        return _find(self._connection, tenant_id, hold_id)

    def insert_hold_step(self, tenant_id: str, hold_id: str, sequence: int, step: HoldStep) -> None:
        """Add a step; the database refuses a release that is not by a second admin."""
        self._connection.execute(
            insert(legal_hold_step),
            {
                "tenant_id": tenant_id,
                "hold_id": hold_id,
                "sequence": sequence,
                "kind": step.kind.value,
                "subject": step.subject,
                "fingerprint_sha256": step.fingerprint_sha256,
                "service_account_id": step.service_account_id,
                "taken_at": step.taken_at,
                "reason": step.reason,
                "receipt_id": step.receipt_id,
            },
        )

    def erasable(self, tenant_id: str, cutoff: datetime, after: str, limit: int) -> ErasablePage:
        """Finished actions under no hold with all receipts before `cutoff`, oldest ids first.

        At most `limit` actions with ids above `after` are looked at.
        """
        values = {"tenant": tenant_id, "cutoff": cutoff, "after": after, "limit": limit}
        rows = self._connection.exec_driver_sql(_CANDIDATES, values).all()
        wanted = [action_id for action_id, _, erasable in rows if erasable]
        # Behind an action that is too recent there are only more recent ones.
        ended = len(rows) < limit or rows[-1].recent
        leaves = self._connection.exec_driver_sql(_LEAVES, (tenant_id, wanted)) if wanted else ()
        actions = [
            Erasable(action_id, tuple(index for _, index in group))
            for action_id, group in groupby(leaves, key=lambda row: str(row[0]))
        ]
        return ErasablePage(tuple(actions), "" if ended else rows[-1].action_id)

    def erase(
        self, tenant_id: str, action_ids: Sequence[str], erased_at: datetime, receipt_id: str
    ) -> int:
        """Erase the payloads and inputs of actions; how many receipts."""
        erased: int = self._connection.exec_driver_sql(
            _ERASE, (tenant_id, list(action_ids), erased_at, receipt_id)
        ).scalar_one()
        return erased


class PostgresHoldStore:
    """The holds in the database of an engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def find_hold(self, tenant_id: str, hold_id: str) -> LegalHold | None:
        """The hold."""
        if not valid_tenants([tenant_id]):
            return None
        return read(
            self._engine, [tenant_id], lambda connection: _find(connection, tenant_id, hold_id)
        )

    def list_holds(self, tenant_id: str, before: str, limit: int) -> Sequence[LegalHold]:
        """Holds with ids below `before` (empty: from the newest), newest first."""
        if not valid_tenants([tenant_id]):
            return []
        query = select(legal_hold).where(legal_hold.c.tenant_id == tenant_id)
        if before:
            query = query.where(legal_hold.c.hold_id < before)
        query = query.order_by(legal_hold.c.hold_id.desc()).limit(limit)

        def work(connection: Connection) -> list[LegalHold]:
            return _with_steps(connection, connection.execute(query).mappings().all())

        return read_page(self._engine, [tenant_id], work)


def _find(connection: Connection, tenant_id: str, hold_id: str) -> LegalHold | None:
    query = select(legal_hold).where(
        legal_hold.c.tenant_id == tenant_id, legal_hold.c.hold_id == hold_id
    )
    found = _with_steps(connection, connection.execute(query).mappings().all())
    return found[0] if found else None


def _with_steps(connection: Connection, rows: Sequence[Row]) -> list[LegalHold]:
    """The holds of rows of one tenant, each with its steps."""
    if not rows:
        return []
    columns = legal_hold_step.c
    query = (
        select(legal_hold_step)
        .where(
            columns.tenant_id == rows[0]["tenant_id"],
            columns.hold_id.in_([row["hold_id"] for row in rows]),
        )
        .order_by(columns.hold_id, columns.sequence)
    )
    steps: dict[str, list[HoldStep]] = {}
    for step in connection.execute(query).mappings():
        steps.setdefault(step["hold_id"], []).append(_step_of(step))
    return [_hold_of(row, tuple(steps[row["hold_id"]])) for row in rows]


def _hold_of(row: Row, steps: tuple[HoldStep, ...]) -> LegalHold:
    scope: dict[str, Any] = {name: row[name] for name in SCOPE_FIELDS}
    for name in ("recorded_from", "recorded_until"):
        scope[name] = utc_or_none(scope[name])
    return LegalHold(row["tenant_id"], row["hold_id"], row["name"], ReceiptFilter(**scope), steps)


def _step_of(row: Row) -> HoldStep:
    return HoldStep(
        kind=StepKind(row["kind"]),
        subject=row["subject"],
        fingerprint_sha256=row["fingerprint_sha256"],
        service_account_id=row["service_account_id"],
        taken_at=utc(row["taken_at"]),
        reason=row["reason"],
        receipt_id=row["receipt_id"],
    )
