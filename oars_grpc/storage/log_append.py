"""Appends receipts to the logs of tenants under their locked heads.

The next leaf indices are given out from the head, receipts and payloads are written at them, and
the head takes the new size and frontier. Roots of tiles that were completed become rows of
`log_node`; everything else of the tree follows from these and the leaf hashes.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection

from oars_grpc.core.merkle import TILE_HEIGHT, Frontier, append
from oars_grpc.core.receipt import NO_ACTION, Receipt
from oars_grpc.core.receipt_terms import terms_of
from oars_grpc.core.stored import StoredReceipt
from oars_grpc.storage import tables
from oars_grpc.storage.batch import arrays, insert, insert_sql
from oars_grpc.storage.ledger_codecs import receipt_row

# The columns of a receipt and of its payload.
LogRow = Mapping[str, Any]

_LOCK_HEADS = (
    "SELECT tenant_id, size, revision, frontier FROM log_head WHERE tenant_id = ANY (%s::text[])"
    " ORDER BY tenant_id FOR UPDATE"
)
_GROW_HEADS = (
    "UPDATE log_head AS head SET size = new.size, frontier = new.frontier"
    " FROM unnest(%s::text[], %s::bigint[], %b::bytea[]) AS new (tenant_id, size, frontier)"
    " WHERE head.tenant_id = new.tenant_id AND head.tenant_id = ANY (%s::text[])"
)
_LAST_EVENT = (
    "SELECT sequence, receipt_digest FROM receipt WHERE tenant_id = %s AND action_id = %s"
    " ORDER BY sequence DESC LIMIT 1"
)
_INSERT_RECEIPTS = insert_sql(tables.receipt)
_INSERT_PAYLOADS = insert_sql(tables.receipt_body)
_INSERT_RULES = insert_sql(tables.receipt_rule)
_INSERT_NODES = insert_sql(tables.log_node)


@dataclass(frozen=True, slots=True)
class Head:
    """The locked head of a tenant's log, with the revision of what its decisions rest on."""

    frontier: Frontier
    revision: int

    @property
    def size(self) -> int:
        """How many leaves the log has."""
        return self.frontier.size


def lock_heads(connection: Connection, tenant_ids: Iterable[str]) -> dict[str, Head]:
    """Lock the heads, in the order of their tenants.

    Raises:
        RuntimeError: a tenant has no log.
    """
    wanted = sorted(set(tenant_ids))
    rows = connection.exec_driver_sql(_LOCK_HEADS, (wanted,))
    heads = {
        tenant_id: Head(Frontier.from_bytes(size, bytes(frontier)), revision)
        for tenant_id, size, revision, frontier in rows
    }
    if len(heads) != len(wanted):
        raise RuntimeError("a receipt belongs to a tenant without a log")
    return heads


def log_row(receipt: Receipt) -> LogRow:
    """All of a receipt's columns but the leaf index; made without a lock."""
    payload = receipt.envelope.payload
    terms = asdict(terms_of(payload))
    return {**receipt_row(receipt), **terms, "payload": payload}


def append_event(
    connection: Connection, tenant_id: str, compose: Callable[[int, str], Receipt]
) -> StoredReceipt:
    """Append the receipt that follows the tenant's last event.

    The head is locked first, so that of two events one comes after the other.
    """
    heads = lock_heads(connection, [tenant_id])
    last = connection.exec_driver_sql(_LAST_EVENT, (tenant_id, NO_ACTION)).one_or_none()
    sequence, digest = (0, "") if last is None else last
    receipt = compose(sequence + 1, digest)
    (row,) = append_rows(connection, [log_row(receipt)], heads)
    return StoredReceipt(row["leaf_index"], receipt)


def append_rows(
    connection: Connection, rows: Sequence[LogRow], heads: dict[str, Head]
) -> Sequence[LogRow]:
    """Give the next leaf indices of their logs to the rows and write them; `heads` grow."""
    by_tenant: dict[str, list[dict[str, Any]]] = {}
    placed = []
    for row in rows:
        tenant_id = str(row["tenant_id"])
        mine = by_tenant.setdefault(tenant_id, [])
        leaf = {**row, "leaf_index": heads[tenant_id].size + len(mine)}
        mine.append(leaf)
        placed.append(leaf)
    nodes: list[Mapping[str, Any]] = []
    for tenant_id, mine in by_tenant.items():
        head = heads[tenant_id]
        frontier, completed = append(head.frontier, (row["leaf_hash"] for row in mine))
        heads[tenant_id] = Head(frontier, head.revision)
        nodes.extend(
            {
                "tenant_id": tenant_id,
                "level": subtree.height // TILE_HEIGHT,
                "position": subtree.index,
                "hash": root,
            }
            for subtree, root in completed
        )
    tenant_ids = sorted(by_tenant)
    grown = [
        (tenant_id, heads[tenant_id].size, heads[tenant_id].frontier.to_bytes())
        for tenant_id in tenant_ids
    ]
    connection.exec_driver_sql(_GROW_HEADS, (*arrays(grown), tenant_ids))
    insert(connection, tables.receipt, _INSERT_RECEIPTS, placed)
    insert(connection, tables.receipt_body, _INSERT_PAYLOADS, placed)
    rules = [{**row, "rule_id": rule_id} for row in placed for rule_id in row["rule_ids"]]
    insert(connection, tables.receipt_rule, _INSERT_RULES, rules)
    insert(connection, tables.log_node, _INSERT_NODES, nodes)
    return placed
