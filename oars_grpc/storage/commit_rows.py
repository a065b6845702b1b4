"""The rows of changes, made before their transaction begins, and the statements that write them.

This is step 4 of `commit`: give out leaf indices under the locked heads, write.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Connection

from oars_grpc.core.stored import Change
from oars_grpc.storage import tables
from oars_grpc.storage.batch import Row, arrays, insert, insert_sql, update_sql, values
from oars_grpc.storage.ledger_codecs import action_row, approval_row, receipt_row

_ACTION_CHANGES = (
    "state",
    "updated_at",
    "expires_at",
    "version",
    "last_sequence",
    "last_receipt_digest",
    "approval_id",
    "output_digest",
    "error",
)
_APPROVAL_CHANGES = ("state", "decisions", "version")

_GROW_HEADS = (
    "UPDATE log_head AS head SET size = new.size"
    " FROM unnest(%s::text[], %s::bigint[]) AS new (tenant_id, size)"
    " WHERE head.tenant_id = new.tenant_id AND head.tenant_id = ANY (%s::text[])"
)
_INSERT_ACTIONS = insert_sql(tables.action)
_INSERT_INPUTS = insert_sql(tables.action_body)
_UPDATE_ACTIONS = update_sql(tables.action, _ACTION_CHANGES)
_INSERT_APPROVALS = insert_sql(tables.approval)
_UPDATE_APPROVALS = update_sql(tables.approval, _APPROVAL_CHANGES)
_INSERT_RECEIPTS = insert_sql(tables.receipt)
_INSERT_PAYLOADS = insert_sql(tables.receipt_body)


@dataclass(frozen=True, slots=True)
class Head:
    """The locked head of a tenant's log, with the tenant's latest publication of a policy."""

    size: int
    publication: int


@dataclass(frozen=True, slots=True)
class PreparedChange:
    """A change with its rows, all but the leaf indices."""

    change: Change
    action: Row
    action_input: Row | None
    approval: Row | None
    receipts: Sequence[Row]


def prepare(change: Change) -> PreparedChange:
    """Make the rows: encoding, digests and leaf hashes, without any lock."""
    action = action_row(change.stored)
    return PreparedChange(
        change=change,
        action=action,
        # Stored once, with the action; a change of a stored one does not have it.
        action_input=None
        if change.expected_action_version
        else {
            "tenant_id": action["tenant_id"],
            "action_id": action["action_id"],
            "input": change.stored.action.request.input_bytes(),
        },
        approval=None if change.approval is None else approval_row(change.approval),
        receipts=[
            {**receipt_row(receipt), "payload": receipt.envelope.payload}
            for receipt in change.receipts
        ],
    )


def write_rows(
    connection: Connection, prepared: Sequence[PreparedChange], heads: dict[str, Head]
) -> None:
    """Write the rows, receipts in the order of the changes; `heads` grow with the logs."""
    receipts = _at_leaves(connection, [row for entry in prepared for row in entry.receipts], heads)
    created = [entry for entry in prepared if not entry.change.expected_action_version]
    insert(connection, tables.action, _INSERT_ACTIONS, [entry.action for entry in created])
    inputs = [entry.action_input for entry in created if entry.action_input is not None]
    insert(connection, tables.action_body, _INSERT_INPUTS, inputs)
    _update(
        connection,
        _UPDATE_ACTIONS,
        ("tenant_id", "action_id", *_ACTION_CHANGES),
        [
            (entry.action, entry.change.expected_action_version)
            for entry in prepared
            if entry.change.expected_action_version
        ],
    )
    approvals = [
        (entry.approval, entry.change.expected_approval_version)
        for entry in prepared
        if entry.approval is not None
    ]
    opened = [row for row, expected in approvals if not expected]
    insert(connection, tables.approval, _INSERT_APPROVALS, opened)
    _update(
        connection,
        _UPDATE_APPROVALS,
        ("tenant_id", "approval_id", *_APPROVAL_CHANGES),
        [(row, expected) for row, expected in approvals if expected],
    )
    insert(connection, tables.receipt, _INSERT_RECEIPTS, receipts)
    insert(connection, tables.receipt_body, _INSERT_PAYLOADS, receipts)


def _at_leaves(
    connection: Connection, receipts: Sequence[Row], heads: dict[str, Head]
) -> list[Row]:
    """Give the next leaf indices of their tenants' logs to the receipts, and grow the logs."""
    placed: list[Row] = []
    for row in receipts:
        tenant_id = str(row["tenant_id"])
        head = heads[tenant_id]
        placed.append({**row, "leaf_index": head.size})
        heads[tenant_id] = replace(head, size=head.size + 1)
    tenant_ids = sorted({str(row["tenant_id"]) for row in receipts})
    sizes = [(tenant_id, heads[tenant_id].size) for tenant_id in tenant_ids]
    connection.exec_driver_sql(_GROW_HEADS, (*arrays(sizes), tenant_ids))
    return placed


def _update(
    connection: Connection,
    statement: str,
    names: Sequence[str],
    expected: Sequence[tuple[Row, int]],
) -> None:
    if not expected:
        return
    columns = arrays([[*values(names, row), version] for row, version in expected])
    # The keys once more, as `update_sql` says.
    if connection.exec_driver_sql(statement, (*columns, *columns[:2])).rowcount != len(expected):
        raise RuntimeError("a locked row changed its version")
