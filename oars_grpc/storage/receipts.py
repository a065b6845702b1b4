"""Receipts and the keys that signed them on Postgres: the port `ReceiptStore`."""

from collections.abc import Sequence

from sqlalchemy import ColumnElement, Connection, Engine, Select, Table, select

from oars_grpc.core.keys import TrustedKey
from oars_grpc.core.receipt_filter import ReceiptFilter
from oars_grpc.core.stored import FoundReceipts, StoredReceipt
from oars_grpc.storage import tables
from oars_grpc.storage.codecs import trusted_key_of
from oars_grpc.storage.ledger_codecs import receipt_of
from oars_grpc.storage.receipt_in_log import PostgresReceiptInLog, find_in_log
from oars_grpc.storage.receipt_search import find_leaves
from oars_grpc.storage.retention_tables import erasure
from oars_grpc.storage.transaction import read, read_page, valid_tenants


class PostgresReceiptStore:
    """The receipts in the database of an engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def find_receipt(self, tenant_ids: Sequence[str], receipt_id: str) -> StoredReceipt | None:
        """The receipt, if it belongs to one of the tenants."""
        columns = tables.receipt.c
        query = _receipts().where(
            columns.tenant_id.in_(valid_tenants(tenant_ids)), columns.receipt_id == receipt_id
        )
        return self._first(tenant_ids, query)

    def find_in_log(
        self, tenant_ids: Sequence[str], receipt_id: str, limit: int
    ) -> PostgresReceiptInLog | None:
        """As `find_receipt`, with all that it is verified against, of the same snapshot."""
        return find_in_log(self._engine, tenant_ids, receipt_id, limit)

    def search_receipts(
        self, tenant_id: str, which: ReceiptFilter, mapping_id: str, after: int, limit: int
    ) -> FoundReceipts:
        """At most `limit` receipts with leaf indices above `after` (-1: from the first), in order.

        Those that match the filter and that a mapping picks, if `mapping_id` is not empty.
        """
        columns = tables.receipt.c

        def work(connection: Connection) -> FoundReceipts:
            found = find_leaves(connection, tenant_id, which, mapping_id, after, limit)
            query = (
                _receipts()
                .where(columns.tenant_id == tenant_id, columns.leaf_index.in_(found.leaves))
                .order_by(columns.leaf_index)
            )
            rows = connection.execute(query).mappings() if found.leaves else ()
            return FoundReceipts(tuple(receipt_of(row) for row in rows), found.resume_after)

        if not valid_tenants([tenant_id]):
            return FoundReceipts((), None)
        return read_page(self._engine, [tenant_id], work)

    def list_keys(self, tenant_id: str) -> Sequence[TrustedKey] | None:
        """All keys that the tenant ever had, oldest first; None if there is no such tenant."""
        if not valid_tenants([tenant_id]):
            return None

        def work(connection: Connection) -> Sequence[TrustedKey] | None:
            tenant = tables.tenant.c.tenant_id
            if connection.execute(select(tenant).where(tenant == tenant_id)).first() is None:
                return None
            return list_tenant_keys(connection, tenant_id)

        return read(self._engine, [tenant_id], work)

    def _first(
        self, tenant_ids: Sequence[str], query: Select[*tuple[object, ...]]
    ) -> StoredReceipt | None:
        if not valid_tenants(tenant_ids):
            return None
        row = read(
            self._engine,
            tenant_ids,
            lambda connection: connection.execute(query).mappings().first(),
        )
        return None if row is None else receipt_of(row)


def list_tenant_keys(connection: Connection, tenant_id: str) -> list[TrustedKey]:
    """The keys of a tenant, oldest first."""
    columns = tables.signing_key.c
    query = (
        select(tables.signing_key)
        .where(columns.tenant_id == tenant_id)
        .order_by(columns.valid_from, columns.key_id)
    )
    return [trusted_key_of(row) for row in connection.execute(query).mappings()]


def _receipts() -> Select[*tuple[object, ...]]:
    receipt, body = tables.receipt, tables.receipt_body

    def same_leaf(other: Table) -> ColumnElement[bool]:
        return (other.c.tenant_id == receipt.c.tenant_id) & (
            other.c.leaf_index == receipt.c.leaf_index
        )

    # Of an erased payload there is the record of its erasure instead.
    joined = receipt.outerjoin(body, same_leaf(body)).outerjoin(erasure, same_leaf(erasure))
    columns = (body.c.payload, erasure.c.erased_at, erasure.c.event_receipt_id)
    return select(receipt, *columns).select_from(joined)
