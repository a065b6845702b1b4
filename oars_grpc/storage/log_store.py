"""The log on Postgres: the port `LogStore`.

A proof takes one round trip: the ranges of hashes that it is folded from come as one row each, the
hashes joined by the database. No statement needs the snapshot of another: rows below a size that
was committed never change.
"""

from collections.abc import Sequence

from sqlalchemy import Engine, ScalarSelect, select

from oars_grpc.core.log import HashRange, Leaf, LogHead, ReceiptLeaf
from oars_grpc.core.merkle import Frontier
from oars_grpc.storage import tables
from oars_grpc.storage.binary import int4s, int8s
from oars_grpc.storage.codecs import stored_key_of
from oars_grpc.storage.prepared import statement
from oars_grpc.storage.transaction import read, read_page, read_prepared, valid_tenants

# Each range is looked up by the key of its table, whatever the planner thinks of the others.
_HASHES = statement(
    "log hashes",
    """
SELECT CASE WHEN wanted.level = 0 THEN (
    SELECT string_agg(leaf_hash, ''::bytea ORDER BY leaf_index) FROM receipt
    WHERE tenant_id = $1::text AND leaf_index >= wanted.first
        AND leaf_index < wanted.first + wanted.count
) ELSE (
    SELECT string_agg(hash, ''::bytea ORDER BY position) FROM log_node
    WHERE tenant_id = $1::text AND level = wanted.level AND position >= wanted.first
        AND position < wanted.first + wanted.count
) END
FROM unnest($2::integer[], $3::bigint[], $4::bigint[])
    WITH ORDINALITY AS wanted (level, first, count, number)
ORDER BY wanted.number
""",
)


class PostgresLogStore:
    """The logs in the database of an engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def head(self, tenant_id: str) -> LogHead | None:
        """The log as it stands; None if there is no such tenant."""
        if not valid_tenants([tenant_id]):
            return None
        head, key = tables.log_head, tables.signing_key
        signs = (
            (key.c.tenant_id == head.c.tenant_id)
            & (key.c.purpose == "checkpoint")
            & (key.c.state == "active")
        )
        query = (
            select(head.c.size, head.c.frontier, key)
            .join_from(head, key, signs, isouter=True)
            .where(head.c.tenant_id == tenant_id)
            .order_by(key.c.valid_from.desc(), key.c.key_id)
            .limit(1)
        )
        row = read(
            self._engine,
            [tenant_id],
            lambda connection: connection.execute(query).mappings().first(),
        )
        if row is None:
            return None
        frontier = Frontier.from_bytes(row["size"], bytes(row["frontier"]))
        return LogHead(frontier, None if row["key_id"] is None else stored_key_of(row))

    def hashes(self, tenant_id: str, ranges: Sequence[HashRange]) -> Sequence[bytes]:
        """For each range its hashes one after the other, as far as they are stored."""
        if not ranges:
            return []
        parameters = [
            tenant_id.encode(),
            int4s([each.level for each in ranges]),
            int8s([each.first for each in ranges]),
            int8s([each.count for each in ranges]),
        ]
        rows = read_prepared(
            self._engine, [tenant_id], lambda session: session.queue_rows(_HASHES, parameters)
        )
        return [b"" if joined is None else joined for (joined,) in rows]

    def leaves(self, tenant_id: str, first: int, count: int) -> Sequence[Leaf]:
        """At most `count` leaves from the index `first` on, in order."""
        receipt = tables.receipt
        query = (
            select(receipt.c.leaf_index, receipt.c.leaf_hash, _payload())
            .where(
                receipt.c.tenant_id == tenant_id,
                receipt.c.leaf_index >= first,
                receipt.c.leaf_index < first + count,
            )
            .order_by(receipt.c.leaf_index)
        )
        rows = read_page(
            self._engine, [tenant_id], lambda connection: connection.execute(query).all()
        )
        return [_leaf(index, hash_, payload) for index, hash_, payload in rows]

    def leaf_of(self, tenant_ids: Sequence[str], receipt_id: str) -> ReceiptLeaf | None:
        """The leaf of a receipt, if it belongs to one of the tenants."""
        valid = valid_tenants(tenant_ids)
        if not valid:
            return None
        receipt = tables.receipt
        query = select(
            receipt.c.tenant_id,
            receipt.c.caller_subject,
            receipt.c.leaf_index,
            receipt.c.leaf_hash,
            _payload(),
        ).where(receipt.c.tenant_id.in_(valid), receipt.c.receipt_id == receipt_id)
        row = read(self._engine, valid, lambda connection: connection.execute(query).first())
        if row is None:
            return None
        tenant_id, caller, index, hash_, payload = row
        return ReceiptLeaf(tenant_id, caller, _leaf(index, hash_, payload))


def _payload() -> ScalarSelect[bytes]:
    """The payload of each receipt found, by its key; a join might look at those of all receipts."""
    receipt, body = tables.receipt.c, tables.receipt_body.c
    same = (body.tenant_id == receipt.tenant_id) & (body.leaf_index == receipt.leaf_index)
    return select(body.payload).where(same).scalar_subquery()


def _leaf(index: int, hash_: bytes, payload: bytes | None) -> Leaf:
    return Leaf(index, bytes(hash_), None if payload is None else bytes(payload))
