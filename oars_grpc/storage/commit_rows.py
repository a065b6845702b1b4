"""The rows of changes, made before their transaction begins, and the statements that write them.

This is step 4 of `commit`; `log_append` gives out the leaf indices under the locked heads.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from oars_grpc.core.stored import Change
from oars_grpc.storage import approval_tables, tables
from oars_grpc.storage.approval_codecs import approval_row
from oars_grpc.storage.batch import Row, insert_into, update_of
from oars_grpc.storage.ledger_codecs import action_row, evidence_detail
from oars_grpc.storage.log_append import Head, LogRow, append_rows, log_row
from oars_grpc.storage.prepared import Session

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
_APPROVAL_CHANGES = ("state", "decisions", "version", "escalates_at", "body")

_NEW_ACTIONS = insert_into(tables.action)
_INPUTS = insert_into(tables.action_body)
_CHANGED_ACTIONS = update_of(tables.action, _ACTION_CHANGES)
_NEW_APPROVALS = insert_into(approval_tables.approval)
_CHANGED_APPROVALS = update_of(approval_tables.approval, _APPROVAL_CHANGES)


@dataclass(frozen=True, slots=True)
class PreparedChange:
    """A change with its rows, all but the leaf indices."""

    change: Change
    action: Row
    action_input: Row | None
    approval: Row | None
    receipts: Sequence[LogRow]


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
            "evidence": evidence_detail(change.stored.action.request),
        },
        approval=None if change.approval is None else approval_row(change.approval),
        receipts=[log_row(receipt) for receipt in change.receipts],
    )


def write_rows(
    session: Session, prepared: Sequence[PreparedChange], heads: dict[str, Head]
) -> None:
    """Write the rows, receipts in the order of the changes; `heads` grow with the logs."""
    created = [entry for entry in prepared if not entry.change.expected_action_version]
    _NEW_ACTIONS.write(session, [entry.action for entry in created])
    inputs = [entry.action_input for entry in created if entry.action_input is not None]
    _INPUTS.write(session, inputs)
    changed = [
        (entry.action, entry.change.expected_action_version)
        for entry in prepared
        if entry.change.expected_action_version
    ]
    _CHANGED_ACTIONS.write(session, changed)
    approvals = [
        (entry.approval, entry.change.expected_approval_version)
        for entry in prepared
        if entry.approval is not None
    ]
    _NEW_APPROVALS.write(session, [row for row, expected in approvals if not expected])
    _CHANGED_APPROVALS.write(session, [(row, expected) for row, expected in approvals if expected])
    append_rows(session, [row for entry in prepared for row in entry.receipts], heads)
