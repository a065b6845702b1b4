"""Which approvals have changed, on Postgres: the port `ApprovalLog`."""

from sqlalchemy import Connection, Engine, func, select

from oars_grpc.core.approval_changes import CHANGING_RECEIPTS, ApprovalChange, FoundChanges
from oars_grpc.storage import tables
from oars_grpc.storage.approval_codecs import approval_of
from oars_grpc.storage.approval_tables import approval
from oars_grpc.storage.transaction import read_page, valid_tenants

# Receipts looked at in one go: a busy log is followed in pieces, not held in memory.
WINDOW = 500


class PostgresApprovalLog:
    """The logs in the database of an engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def log_size(self, tenant_id: str) -> int | None:
        """How many receipts the tenant's log has; None if there is no such tenant."""
        head = tables.log_head.c
        query = select(head.size).where(head.tenant_id == tenant_id)
        return read_page(
            self._engine,
            valid_tenants([tenant_id]),
            lambda connection: connection.execute(query).scalar_one_or_none(),
        )

    def changes_after(self, tenant_id: str, leaf_index: int) -> FoundChanges:
        """The approvals that receipts above a place in the log name; a bounded look."""
        receipt, action = tables.receipt.c, tables.action.c
        window = (
            select(receipt.leaf_index, receipt.type, receipt.action_id)
            .where(receipt.tenant_id == tenant_id, receipt.leaf_index > leaf_index)
            .order_by(receipt.leaf_index)
            .limit(WINDOW)
        )

        def work(connection: Connection) -> FoundChanges:
            rows = connection.execute(window).all()
            named = {row.action_id: row.leaf_index for row in rows if row.type in CHANGING_RECEIPTS}
            reached = rows[-1].leaf_index if rows else leaf_index
            changes: list[ApprovalChange] = []
            if named:
                # Read after the receipts: as new as they are, or newer.
                query = select(approval).where(
                    approval.c.tenant_id == tenant_id,
                    approval.c.approval_id.in_(
                        select(action.approval_id).where(
                            action.tenant_id == tenant_id,
                            action.action_id == func.any(sorted(named)),
                            action.approval_id != "",
                        )
                    ),
                )
                found = [approval_of(row) for row in connection.execute(query).mappings()]
                changes = [ApprovalChange(named[each.action_id], each) for each in found]
            changes.sort(key=lambda change: (change.leaf_index, change.approval.approval_id))
            return FoundChanges(changes, reached, len(rows) == WINDOW)

        return read_page(self._engine, valid_tenants([tenant_id]), work)
