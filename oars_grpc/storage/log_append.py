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
from oars_grpc.storage.batch import insert_into
from oars_grpc.storage.binary import blobs, int8s, texts
from oars_grpc.storage.ledger_codecs import receipt_row
from oars_grpc.storage.prepared import Session, session_of, statement

# The columns of a receipt and of its payload.
LogRow = Mapping[str, Any]

_LOCK_HEADS = statement(
    "lock heads",
    "SELECT tenant_id, size, revision, frontier FROM log_head WHERE tenant_id = ANY ($1::text[])"
    " ORDER BY tenant_id FOR UPDATE",
)
_GROW_HEADS = statement(
    "grow heads",
    "UPDATE log_head AS head SET size = new.size, frontier = new.frontier"
    " FROM unnest($1::text[], $2::bigint[], $3::bytea[]) AS new (tenant_id, size, frontier)"
    " WHERE head.tenant_id = new.tenant_id AND head.tenant_id = ANY ($1::text[])",
)
_LAST_EVENT = (
    "SELECT sequence, receipt_digest FROM receipt WHERE tenant_id = %s AND action_id = %s"
    " ORDER BY sequence DESC LIMIT 1"
)
_RECEIPTS = insert_into(tables.receipt)
_PAYLOADS = insert_into(tables.receipt_body)
_RULES = insert_into(tables.receipt_rule)
_NODES = insert_into(tables.log_node)


@dataclass(frozen=True, slots=True)
class Head:
    """The locked head of a tenant's log, with the revision of what its decisions rest on."""

    frontier: Frontier
    revision: int

    @property
    def size(self) -> int:
        """How many leaves the log has."""
        return self.frontier.size


def lock_heads(session: Session, tenant_ids: Iterable[str]) -> dict[str, Head]:
    """Lock the heads, in the order of their tenants.

    Raises:
        RuntimeError: a tenant has no log.
    """
    locked = queue_lock(session, tenant_ids)
    session.flush()
    return locked()


def queue_lock(session: Session, tenant_ids: Iterable[str]) -> Callable[[], dict[str, Head]]:
    """As `lock_heads`, with the next flush; what it returns tells the heads after that."""
    wanted = sorted(set(tenant_ids))
    rows = session.queue_rows(_LOCK_HEADS, [texts(wanted)])

    def heads() -> dict[str, Head]:
        found = {
            tenant_id: Head(Frontier.from_bytes(size, frontier), revision)
            for tenant_id, size, revision, frontier in rows
        }
        if len(found) != len(wanted):
            raise RuntimeError("a receipt belongs to a tenant without a log")
        return found

    return heads


def log_row(receipt: Receipt) -> LogRow:
    """All of a receipt's columns but the leaf index; made without a lock."""
    payload = receipt.envelope.payload
    row = receipt_row(receipt)
    row.update(receipt.terms or asdict(terms_of(payload)))
    row["payload"] = payload
    return row


def append_event(
    connection: Connection, tenant_id: str, compose: Callable[[int, str], Receipt]
) -> StoredReceipt:
    """Append the receipt that follows the tenant's last event."""
    (stored,) = append_events(connection, tenant_id, [compose])
    return stored


def append_events(
    connection: Connection, tenant_id: str, composers: Sequence[Callable[[int, str], Receipt]]
) -> Sequence[StoredReceipt]:
    """Append the receipts that follow the tenant's last event, one after the other.

    The head is locked first, so that of two events one comes after the other.
    """
    session = session_of(connection)
    heads = lock_heads(session, [tenant_id])
    last = connection.exec_driver_sql(_LAST_EVENT, (tenant_id, NO_ACTION)).one_or_none()
    sequence, digest = (0, "") if last is None else last
    receipts = []
    for compose in composers:
        receipt = compose(sequence + 1, digest)
        sequence, digest = receipt.sequence, receipt.envelope.digest()
        receipts.append(receipt)
    rows = append_rows(session, [log_row(receipt) for receipt in receipts], heads)
    session.flush()  # what follows goes through SQLAlchemy, and must come after it
    return [
        StoredReceipt(row["leaf_index"], receipt)
        for row, receipt in zip(rows, receipts, strict=True)
    ]


def append_rows(
    session: Session, rows: Sequence[LogRow], heads: dict[str, Head]
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
    frontiers = [heads[tenant_id].frontier for tenant_id in tenant_ids]
    grown = [
        texts(tenant_ids),
        int8s([frontier.size for frontier in frontiers]),
        blobs([frontier.to_bytes() for frontier in frontiers]),
    ]
    session.execute(_GROW_HEADS, grown)
    _RECEIPTS.write(session, placed)
    _PAYLOADS.write(session, placed)
    rules = [
        {"tenant_id": row["tenant_id"], "rule_id": rule_id, "leaf_index": row["leaf_index"]}
        for row in placed
        for rule_id in row["rule_ids"]
    ]
    _RULES.write(session, rules)
    _NODES.write(session, nodes)
    return placed
