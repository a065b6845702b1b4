"""What is replayed, on Postgres: the port `ReplayStore`.

A page is one statement: what it holds of a leaf, its payload, its erasure and the input of its
action is of one snapshot, so that an erasure under way is seen whole or not at all.
"""

from collections.abc import Sequence

from sqlalchemy import Connection, Engine

from oars_grpc.core.log import Leaf, LogFault
from oars_grpc.core.replay import DECISION_SEQUENCE, ReplayLeaf
from oars_grpc.storage.transaction import read_page

# Leaves looked at for one page, and the bytes after which it ends: a payload has up to 65,000 of
# them and an input twice as many, but most have a few hundred.
PAGE, PAGE_BYTES = 1_024, 8 * 1024 * 1024

# Each row beside a receipt is looked up by its key: a join might look at those of all receipts.
# `octet_length` of a value that lies out of line does not fetch it: what is beyond the page is not
# read. The first leaf is in the page whatever its size, so that every page gets on.
_LEAVES = """
SELECT leaf_index, leaf_hash, receipt_id, action_id, sequence, payload, erased, input FROM (
    SELECT *, sum(coalesce(octet_length(payload), 0) + coalesce(octet_length(input), 0))
        OVER (ORDER BY leaf_index) AS bytes
    FROM (
        SELECT r.leaf_index, r.leaf_hash, r.receipt_id, r.action_id, r.sequence,
            (SELECT b.payload FROM receipt_body AS b
             WHERE b.tenant_id = r.tenant_id AND b.leaf_index = r.leaf_index) AS payload,
            EXISTS (SELECT FROM erasure AS e
             WHERE e.tenant_id = r.tenant_id AND e.leaf_index = r.leaf_index) AS erased,
            CASE WHEN %(with_inputs)s AND r.sequence = %(sequence)s THEN
                (SELECT i.input FROM action_body AS i
                 WHERE i.tenant_id = r.tenant_id AND i.action_id = r.action_id)
            END AS input
        FROM receipt AS r
        WHERE r.tenant_id = %(tenant)s AND r.leaf_index >= %(first)s AND r.leaf_index < %(end)s
        ORDER BY r.leaf_index
        LIMIT %(count)s -- and so by the primary key, each column once, wherever it is named
    ) AS found
) AS page
WHERE bytes <= %(limit)s OR leaf_index = %(first)s
ORDER BY leaf_index
"""


class PostgresReplayStore:
    """The recorded decisions in the database of an engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def leaves(
        self, tenant_id: str, first: int, end: int, *, with_inputs: bool
    ) -> Sequence[ReplayLeaf]:
        """The leaves [first, end), or the first of them, in order: a page bounded in bytes.

        Raises:
            LogFault: a payload is gone, and no erasure tells of it.
        """
        values = {
            "tenant": tenant_id,
            "first": first,
            "end": min(end, first + PAGE),
            "count": PAGE,
            "limit": PAGE_BYTES,
            "sequence": DECISION_SEQUENCE,
            "with_inputs": with_inputs,
        }

        def work(connection: Connection) -> list[ReplayLeaf]:
            rows = connection.exec_driver_sql(_LEAVES, values)
            return [_leaf(*row) for row in rows]

        return read_page(self._engine, [tenant_id], work)


def _leaf(
    index: int,
    hash_: bytes,
    receipt_id: str,
    action_id: str,
    sequence: int,
    payload: bytes | None,
    erased: bool,  # noqa: FBT001 - the columns of a row
    input_: bytes | None,
) -> ReplayLeaf:
    if payload is None and not erased:
        raise LogFault(f"the payload of leaf {index} is gone, and no erasure tells of it")
    leaf = Leaf(index, bytes(hash_), None if payload is None else bytes(payload))
    input_bytes = None if input_ is None else bytes(input_)
    return ReplayLeaf(leaf, receipt_id, action_id, sequence, input_bytes)
