"""Reads a tenant's whole log for checking and exporting: one snapshot, streamed in pages.

Receipts, payloads, rules and erasures lie in tables of their own, each in the order of the log.
They are read side by side through cursors on the server and joined here, so that what lies alone
in one of them comes out as well, and no more than a page of each is ever in memory.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, Row, Select, Table, exists, func, literal_column, select

from oars_grpc.core.receipt_terms import ReceiptTerms
from oars_grpc.core.stored_log import (
    HIGHEST_LEVEL,
    ActionEnd,
    LeafRow,
    StoredHead,
    StoredLeaf,
    StoredLog,
    StoredNode,
)
from oars_grpc.storage import approval_tables, tables
from oars_grpc.storage.receipts import list_tenant_keys
from oars_grpc.storage.retention_tables import erasure
from oars_grpc.storage.transaction import read, read_every_tenant, valid_tenants

Result = TypeVar("Result")
AnyRow = Row[*tuple[Any, ...]]

PAGE = 500
# A snapshot of a large log is read for longer than any call may take, and nobody waits for it.
_UNHURRIED = (
    "SELECT set_config('statement_timeout', '0', true),"
    " set_config('idle_in_transaction_session_timeout', '0', true)"
)


@dataclass(frozen=True, slots=True)
class LoggedEntry:
    """What an export writes of a leaf; a payload that retention has erased is None."""

    leaf_index: int
    leaf_hash: bytes
    payload: bytes | None


class LogSnapshot:
    """A tenant's log as one transaction sees it."""

    def __init__(self, connection: Connection, tenant_id: str) -> None:
        self._connection = connection
        self._tenant_id = tenant_id
        self._open = ExitStack()

    def close(self) -> None:
        """End the reading of what was not read to its end."""
        self._open.close()

    def log(self) -> StoredLog:
        """Everything that the check of a log looks at."""
        connection, tenant_id = self._connection, self._tenant_id
        action, approval, receipt = tables.action.c, approval_tables.approval.c, tables.receipt.c
        lone_actions = (
            self._of(tables.action, action.action_id)
            .where(
                ~exists().where(
                    receipt.tenant_id == tenant_id, receipt.action_id == action.action_id
                )
            )
            .order_by(action.action_id)
        )
        lone_approvals = (
            self._of(approval_tables.approval, approval.approval_id)
            .where(
                ~exists().where(
                    action.tenant_id == tenant_id, action.action_id == approval.action_id
                )
            )
            .order_by(approval.approval_id)
        )
        return StoredLog(
            tenant_id=tenant_id,
            head=self.head(),
            keys=list_tenant_keys(connection, tenant_id),
            pages=self._pages(),
            nodes=self._nodes(),
            lone_actions=(row[0] for row in self._stream(lone_actions)),
            lone_approvals=(row[0] for row in self._stream(lone_approvals)),
        )

    def head(self) -> StoredHead | None:
        """The head of the log; None where the tenant has none."""
        columns = tables.log_head.c
        query = self._of(tables.log_head, columns.size, columns.frontier)
        row = self._connection.execute(query).one_or_none()
        return None if row is None else StoredHead(row[0], bytes(row[1]))

    def entries(self, start: int, end: int) -> Iterator[LoggedEntry]:
        """The leaves [start, end) that are there, in order."""
        receipt, body = tables.receipt, tables.receipt_body
        hashes = self._by_leaf(
            receipt, receipt.c.leaf_index, receipt.c.leaf_hash, start=start, end=end
        )
        payloads = _Beside(
            self._by_leaf(body, body.c.leaf_index, body.c.payload, start=start, end=end)
        )
        for leaf_index, leaf_hash in hashes:
            payload = next((bytes(row[1]) for row in payloads.take(leaf_index)), None)
            yield LoggedEntry(leaf_index, bytes(leaf_hash), payload)

    def nodes(self, level: int, start: int, end: int) -> Iterator[bytes]:
        """The hashes of the nodes [start, end) of a level that are there, in order."""
        columns = tables.log_node.c
        query = (
            self._of(tables.log_node, columns.hash)
            .where(columns.level == level, columns.position >= start, columns.position < end)
            .order_by(columns.position)
        )
        return (bytes(row[0]) for row in self._stream(query))

    def _of(self, table: Table, *columns: Any) -> Select[*tuple[Any, ...]]:
        return select(*columns).where(table.c.tenant_id == self._tenant_id)

    def _stream(self, query: Select[*tuple[Any, ...]]) -> Iterator[AnyRow]:
        rows = self._connection.execute(query, execution_options={"yield_per": PAGE})
        self._open.callback(rows.close)
        yield from rows

    def _nodes(self) -> Iterator[StoredNode]:
        columns = tables.log_node.c
        level = func.least(func.greatest(columns.level, 0), HIGHEST_LEVEL)
        # As `StoredNode.completed_at` orders them.
        completed_at = (columns.position + 1).op("<<")(literal_column("8") * level)
        query = self._of(tables.log_node, columns.level, columns.position, columns.hash)
        for row in self._stream(query.order_by(completed_at, columns.level)):
            yield StoredNode(row.level, row.position, bytes(row.hash))

    def _pages(self) -> Iterator[Sequence[StoredLeaf]]:
        receipt, body, rule = tables.receipt, tables.receipt_body, tables.receipt_rule
        leaves = _join(
            self._by_leaf(receipt, *receipt.c),
            _Beside(self._by_leaf(body, body.c.leaf_index, body.c.payload)),
            _Beside(self._by_leaf(rule, rule.c.leaf_index, rule.c.rule_id)),
            _Beside(self._by_leaf(erasure, erasure.c.leaf_index)),
        )
        while page := list(islice(leaves, PAGE)):
            yield self._with_actions(page)

    def _by_leaf(
        self, table: Table, *columns: Any, start: int | None = None, end: int | None = None
    ) -> Iterator[AnyRow]:
        query, leaf_index = self._of(table, *columns), table.c.leaf_index
        if start is not None:
            query = query.where(leaf_index >= start, leaf_index < end)
        return self._stream(query.order_by(leaf_index))

    def _with_actions(self, page: Sequence[StoredLeaf]) -> Sequence[StoredLeaf]:
        """The leaves with what their actions say of the ends of their chains."""
        columns = tables.action.c
        wanted = {leaf.row.action_id for leaf in page if leaf.row}
        query = self._of(
            tables.action, columns.action_id, columns.last_sequence, columns.last_receipt_digest
        ).where(columns.action_id == func.any(sorted(wanted)))
        ends = {row[0]: ActionEnd(row[1], row[2]) for row in self._connection.execute(query)}
        return [
            replace(leaf, action_end=ends.get(leaf.row.action_id)) if leaf.row else leaf
            for leaf in page
        ]


def scan_log(engine: Engine, tenant_id: str, work: Callable[[LogSnapshot], Result]) -> Result:
    """Run `work` on one snapshot of a tenant's log, in a transaction that only reads.

    Raises:
        Unavailable: the database is out of reach.
    """
    snapshot = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)

    def scan(connection: Connection) -> Result:
        connection.exec_driver_sql(_UNHURRIED)
        with closing(LogSnapshot(connection, tenant_id)) as log:
            return work(log)

    return read(snapshot, valid_tenants([tenant_id]), scan)


def list_tenants(engine: Engine) -> list[str]:
    """The ids of all tenants, in order."""
    column = tables.tenant.c.tenant_id
    query = select(column).order_by(column)
    return read_every_tenant(engine, lambda connection: list(connection.scalars(query)))


class _Beside:
    """Rows of another table, whose first column is a leaf index, taken as the receipts go by."""

    def __init__(self, rows: Iterable[AnyRow]) -> None:
        self._rows = iter(rows)
        self._row = next(self._rows, None)

    def first(self) -> int | None:
        """The leaf index of the next row."""
        return None if self._row is None else int(self._row[0])

    def take(self, leaf_index: int) -> list[AnyRow]:
        """The rows at a leaf index; those before it must have been taken."""
        taken = []
        while self._row is not None and self._row[0] <= leaf_index:
            taken.append(self._row)
            self._row = next(self._rows, None)
        return taken


def _join(
    receipts: Iterable[AnyRow], payloads: _Beside, rules: _Beside, erasures: _Beside
) -> Iterator[StoredLeaf]:
    """The rows of each leaf index together, in order."""

    def leaf(leaf_index: int, row: AnyRow | None) -> StoredLeaf:
        payload = next((bytes(taken[1]) for taken in payloads.take(leaf_index)), None)
        rule_ids = tuple(sorted(taken[1] for taken in rules.take(leaf_index)))
        erased = bool(erasures.take(leaf_index))
        return StoredLeaf(
            leaf_index, None if row is None else _leaf_row(row, rule_ids), payload, erased
        )

    def alone(before: int | None) -> Iterator[StoredLeaf]:
        while True:
            firsts = [
                first for b in (payloads, rules, erasures) if (first := b.first()) is not None
            ]
            if not firsts or (before is not None and min(firsts) >= before):
                return
            yield leaf(min(firsts), None)

    for row in receipts:
        yield from alone(row.leaf_index)
        yield leaf(row.leaf_index, row)
    yield from alone(None)


def _leaf_row(row: AnyRow, rule_ids: tuple[str, ...]) -> LeafRow:
    return LeafRow(
        receipt_id=row.receipt_id,
        action_id=row.action_id,
        sequence=row.sequence,
        type=row.type,
        key_id=row.key_id,
        signature=bytes(row.signature),
        receipt_digest=row.receipt_digest,
        previous_receipt_digest=row.previous_receipt_digest,
        leaf_hash=bytes(row.leaf_hash),
        recorded_at=row.recorded_at,
        terms=ReceiptTerms(
            agent_id=row.agent_id,
            user_id=row.user_id,
            caller_subject=row.caller_subject,
            tool_id=row.tool_id,
            operation=row.operation,
            decision=row.decision,
            policy_id=row.policy_id,
            policy_version=row.policy_version,
            risk_tier=row.risk_tier,
            rule_ids=rule_ids,
        ),
    )
