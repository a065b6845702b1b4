"""What is due in all tenants on Postgres: the port `UpkeepStore`.

All questions go to functions that run as the owner of the tables, since the application's own
role never sees the tenants together.
"""

from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import Connection, Engine

from oars_grpc.core.stored import DueAction, DueEscalation
from oars_grpc.storage.codecs import utc
from oars_grpc.storage.transaction import read, write

_BEFORE_ALL = DueAction("", "", datetime.min.replace(tzinfo=UTC))
_BEFORE_ALL_ESCALATIONS = DueEscalation("", "", "", datetime.min.replace(tzinfo=UTC))


class PostgresUpkeepStore:
    """The upkeep of the database of an engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def due_actions(
        self, now: datetime, after: DueAction | None, limit: int
    ) -> Sequence[DueAction]:
        """Actions whose permit or wait ended by `now`, the longest ago first.

        With `after` those that follow it in the order of expiry, tenant and action.
        """
        last = after or _BEFORE_ALL

        def work(connection: Connection) -> list[DueAction]:
            rows = connection.exec_driver_sql(
                "SELECT tenant_id, action_id, expires_at"
                " FROM oars_due_actions(%s, %s, %s, %s, %s::int)",
                (now, last.expires_at, last.tenant_id, last.action_id, limit),
            )
            return [
                DueAction(tenant_id, action_id, utc(expires_at))
                for tenant_id, action_id, expires_at in rows
            ]

        return read(self._engine, [], work)

    def due_escalations(
        self, now: datetime, after: DueEscalation | None, limit: int
    ) -> Sequence[DueEscalation]:
        """Approvals whose stage was over its time by `now`, the longest ago first."""
        last = after or _BEFORE_ALL_ESCALATIONS

        def work(connection: Connection) -> list[DueEscalation]:
            rows = connection.exec_driver_sql(
                "SELECT tenant_id, approval_id, action_id, escalates_at"
                " FROM oars_due_escalations(%s, %s, %s, %s, %s::int)",
                (now, last.escalates_at, last.tenant_id, last.approval_id, limit),
            )
            return [
                DueEscalation(tenant_id, approval_id, action_id, utc(escalates_at))
                for tenant_id, approval_id, action_id, escalates_at in rows
            ]

        return read(self._engine, [], work)

    def analyze_new_tables(self) -> int:
        """Give the planner statistics of tables that have none; how many there were."""

        def work(connection: Connection) -> int:
            analyzed: int = connection.exec_driver_sql(
                "SELECT oars_analyze_new_tables()"
            ).scalar_one()
            return analyzed

        return write(self._engine, [], work)

    def purge_outcomes(self, now: datetime, limit: int) -> int:
        """Forget idempotency outcomes that expired before `now`; how many were removed.

        The database's own clock must agree that they have expired. Until it is removed an outcome
        is repeated, so that it is kept for at least its lifetime, however seldom this runs.
        """

        def work(connection: Connection) -> int:
            removed: int = connection.exec_driver_sql(
                "SELECT oars_purge_outcomes(%s, %s::int)", (now, limit)
            ).scalar_one()
            return removed

        return write(self._engine, [], work)
