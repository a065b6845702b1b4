"""A receipt with all that it is verified against, of one snapshot and in one round trip.

Verification by id needs the receipt, those before it in the chain, the tenant's keys and the head
of its log. Read one after the other they would be half a dozen transactions, which cost many times
what verifying costs. Each statement finds the receipt itself, so that none waits for another.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine

from oars_grpc.core.keys import TrustedKey
from oars_grpc.core.log import Leaf, LogHead, ReceiptLeaf
from oars_grpc.core.merkle import Frontier
from oars_grpc.core.stored import StoredReceipt
from oars_grpc.storage.binary import texts
from oars_grpc.storage.codecs import stored_key_of, trusted_key_of
from oars_grpc.storage.ledger_codecs import receipt_of
from oars_grpc.storage.prepared import Session, Statement, statement
from oars_grpc.storage.transaction import read_prepared, valid_tenants

_RECEIPT_COLUMNS = (
    "tenant_id",
    "leaf_index",
    "receipt_id",
    "action_id",
    "sequence",
    "type",
    "key_id",
    "signature",
    "receipt_digest",
    "previous_receipt_digest",
    "leaf_hash",
    "recorded_at",
    "caller_subject",
)
_OF_RECEIPT = (*_RECEIPT_COLUMNS, "payload", "erased_at", "event_receipt_id")
_KEY_COLUMNS = (
    "key_id",
    "tenant_id",
    "public_key",
    "state",
    "valid_from",
    "valid_until",
    "revoked_at",
    "revocation_reason",
    "purpose",
    "trusted_log_size",
)
_SIGNING_COLUMNS = (*_KEY_COLUMNS, "encrypted_seed")
_OF_HEAD = ("size", "frontier", *_SIGNING_COLUMNS)
_OF_TENANT = ("existing", *_KEY_COLUMNS)


def _listed(table: str, columns: Sequence[str]) -> str:
    return ", ".join(f"{table}.{column}" for column in columns)


# Each LIMIT keeps the planner from turning lookups by key into joins of whole tables.
_FOUND = """
WITH found AS MATERIALIZED (
    SELECT asked.tenant_id, r.leaf_index, r.action_id, r.sequence
    FROM unnest($1::text[]) WITH ORDINALITY AS asked (tenant_id, place)
    CROSS JOIN LATERAL (
        SELECT leaf_index, action_id, sequence FROM receipt
        WHERE receipt.tenant_id = asked.tenant_id AND receipt.receipt_id = $2::text LIMIT 1
    ) AS r
    ORDER BY asked.place LIMIT 1
)
"""
# Of an erased payload there is the record of its erasure instead.
_BODIES = """
LEFT JOIN LATERAL (
    SELECT payload FROM receipt_body
    WHERE receipt_body.tenant_id = r.tenant_id AND receipt_body.leaf_index = r.leaf_index LIMIT 1
) AS body ON true
LEFT JOIN LATERAL (
    SELECT erased_at, event_receipt_id FROM erasure
    WHERE erasure.tenant_id = r.tenant_id AND erasure.leaf_index = r.leaf_index LIMIT 1
) AS gone ON true
"""
_OF_BODIES = "body.payload, gone.erased_at, gone.event_receipt_id"


def _find(name: str, text: str) -> Statement:
    return statement(f"receipt in log: {name}", f"{_FOUND}{text}")


_RECEIPT = _find(
    "receipt",
    f"""
SELECT {_listed("r", _RECEIPT_COLUMNS)}, {_OF_BODIES}
FROM found CROSS JOIN LATERAL (
    SELECT {", ".join(_RECEIPT_COLUMNS)} FROM receipt
    WHERE receipt.tenant_id = found.tenant_id AND receipt.leaf_index = found.leaf_index LIMIT 1
) AS r {_BODIES}
""",  # noqa: S608 - names of our own
)
_BEFORE = _find(
    "chain",
    f"""
SELECT {_listed("r", _RECEIPT_COLUMNS)}, {_OF_BODIES}
FROM found CROSS JOIN LATERAL (
    SELECT {", ".join(_RECEIPT_COLUMNS)} FROM receipt
    WHERE receipt.tenant_id = found.tenant_id AND receipt.action_id = found.action_id
        AND receipt.sequence < found.sequence
    ORDER BY receipt.sequence DESC LIMIT $3::bigint
) AS r {_BODIES} ORDER BY r.sequence
""",  # noqa: S608 - names of our own
)
_HEAD = _find(
    "head",
    f"""
SELECT h.size, h.frontier, {_listed("k", _SIGNING_COLUMNS)}
FROM found CROSS JOIN LATERAL (
    SELECT size, frontier FROM log_head WHERE log_head.tenant_id = found.tenant_id LIMIT 1
) AS h
LEFT JOIN LATERAL (
    SELECT {", ".join(_SIGNING_COLUMNS)} FROM signing_key
    WHERE signing_key.tenant_id = found.tenant_id AND purpose = 'checkpoint' AND state = 'active'
    ORDER BY valid_from DESC, key_id LIMIT 1
) AS k ON true
""",  # noqa: S608 - names of our own
)
_KEYS = _find(
    "keys",
    f"""
SELECT t.tenant_id, {_listed("k", _KEY_COLUMNS)}
FROM found CROSS JOIN LATERAL (
    SELECT tenant_id FROM tenant WHERE tenant.tenant_id = found.tenant_id LIMIT 1
) AS t
LEFT JOIN signing_key AS k ON k.tenant_id = t.tenant_id
ORDER BY k.valid_from, k.key_id
""",  # noqa: S608 - names of our own
)

_Rows = Sequence[Sequence[Any]]


@dataclass(frozen=True, slots=True)
class PostgresReceiptInLog:
    """The port `ReceiptInLog` on rows, each read once somebody asks for it."""

    stored: StoredReceipt
    leaf: ReceiptLeaf
    head_rows: _Rows
    key_rows: _Rows
    earlier_rows: _Rows

    def head(self) -> LogHead | None:
        """The tenant's log as it stood; None if there was no such tenant."""
        if not self.head_rows:
            return None
        row = _named(_OF_HEAD, self.head_rows[0])
        frontier = Frontier.from_bytes(row["size"], row["frontier"])
        return LogHead(frontier, None if row["key_id"] is None else stored_key_of(row))

    def keys(self) -> Sequence[TrustedKey] | None:
        """All keys that the tenant ever had, oldest first; None if there was no such tenant."""
        if not self.key_rows:
            return None
        rows = [_named(_OF_TENANT, row) for row in self.key_rows]
        return [trusted_key_of(row) for row in rows if row["key_id"] is not None]

    def before(self) -> Sequence[StoredReceipt]:
        """What comes before it in the chain, in order."""
        return [receipt_of(_named(_OF_RECEIPT, row)) for row in self.earlier_rows]


def find_in_log(
    engine: Engine, tenant_ids: Sequence[str], receipt_id: str, limit: int
) -> PostgresReceiptInLog | None:
    """The receipt, if it belongs to one of the tenants, with at most `limit` of those before it."""
    valid = valid_tenants(tenant_ids)
    if not valid:
        return None
    named = [texts(valid), receipt_id.encode()]

    def queue(session: Session) -> list[list[tuple[Any, ...]]]:
        return [
            session.queue_rows(_RECEIPT, named),
            session.queue_rows(_HEAD, named),
            session.queue_rows(_KEYS, named),
            session.queue_rows(_BEFORE, [*named, limit.to_bytes(8, "big")]),
        ]

    receipts, heads, keys, earlier = read_prepared(engine, valid, queue)
    if not receipts:
        return None
    row = _named(_OF_RECEIPT, receipts[0])
    stored = receipt_of(row)
    leaf = Leaf(row["leaf_index"], row["leaf_hash"], row["payload"])
    found = ReceiptLeaf(row["tenant_id"], row["caller_subject"], leaf)
    return PostgresReceiptInLog(stored, found, heads, keys, earlier)


def _named(names: Sequence[str], row: Sequence[Any]) -> Mapping[str, Any]:
    return dict(zip(names, row, strict=True))
