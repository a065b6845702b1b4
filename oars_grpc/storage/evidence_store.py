"""What goes into evidence bundles, on Postgres: the port `EvidenceStore`."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Connection, Engine, func, select

from oars_grpc.core.envelope import PAYLOAD_TYPE, Envelope, Signature
from oars_grpc.core.evidence_export import EvidenceBasis
from oars_grpc.core.evidence_lines import BundledLeaf, ErasedPayload
from oars_grpc.core.keys import KeyPurpose, KeyState, StoredKey, TrustedKey
from oars_grpc.core.log import LogFault
from oars_grpc.storage import tables
from oars_grpc.storage.codecs import Row, stored_key_of, utc
from oars_grpc.storage.controls import PostgresControlStore
from oars_grpc.storage.receipts import list_tenant_keys
from oars_grpc.storage.retention_tables import erasure
from oars_grpc.storage.transaction import read, read_page, valid_tenants

# A payload has at most 65,000 bytes: so many receipts are what an export holds at a time.
_PAGE = 256
# How far the clocks of servers may stand apart before a range by time misses a receipt at its ends.
_SKEW = timedelta(hours=1)


class PostgresEvidenceStore:
    """The evidence in the database of an engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._controls = PostgresControlStore(engine)

    def basis(self, tenant_id: str) -> EvidenceBasis | None:
        """Keys and the mappings in force; None if there is no tenant with a key that signs."""
        if not valid_tenants([tenant_id]):
            return None
        columns = tables.signing_key.c
        signing = select(tables.signing_key).where(
            columns.tenant_id == tenant_id,
            columns.purpose == KeyPurpose.RECEIPT.value,
            columns.state == KeyState.ACTIVE.value,
        )

        def work(connection: Connection) -> tuple[list[TrustedKey], StoredKey] | None:
            row = connection.execute(signing).mappings().one_or_none()
            if row is None:
                return None
            return list_tenant_keys(connection, tenant_id), stored_key_of(row)

        found = read(self._engine, [tenant_id], work)
        if found is None:
            return None
        mappings = self._controls.list_active(tenant_id, "", "")
        return EvidenceBasis(tuple(found[0]), found[1], tuple(mappings))

    def leaves(self, tenant_id: str, first: int, end: int) -> Sequence[BundledLeaf]:
        """The leaves [first, end), or the first of them, in order: a page bounded in bytes.

        Raises:
            LogFault: a payload is gone, and no erasure tells of it.
        """
        receipt, body, erased = tables.receipt, tables.receipt_body, erasure
        query = (
            select(
                receipt.c.leaf_index,
                receipt.c.leaf_hash,
                receipt.c.key_id,
                receipt.c.signature,
                body.c.payload,
                erased.c.erased_at,
                erased.c.event_receipt_id,
            )
            .select_from(receipt)
            .outerjoin(body, _same(body.c.tenant_id, body.c.leaf_index))
            .outerjoin(erased, _same(erased.c.tenant_id, erased.c.leaf_index))
            .where(
                receipt.c.tenant_id == tenant_id,
                receipt.c.leaf_index >= first,
                receipt.c.leaf_index < min(end, first + _PAGE),
            )
            .order_by(receipt.c.leaf_index)
        )
        rows = read_page(
            self._engine, [tenant_id], lambda connection: connection.execute(query).mappings().all()
        )
        return [_leaf(tenant_id, row) for row in rows]

    def bounds(
        self, tenant_id: str, recorded_from: datetime | None, recorded_until: datetime | None
    ) -> tuple[int, int] | None:
        """The first index [first, end) that holds every receipt of the time; None: there is none.

        By time the log is nearly, but not quite, in order. What is looked at is the first and the
        last hour of the range, by the index of times, so that a range of years costs no more.
        """
        columns = tables.receipt.c
        within: list[ColumnElement[bool]] = [columns.tenant_id == tenant_id]
        if recorded_from is not None:
            within.append(columns.recorded_at >= recorded_from)
        if recorded_until is not None:
            within.append(columns.recorded_at < recorded_until)
        earliest = select(func.min(columns.recorded_at)).where(*within)
        latest = select(func.max(columns.recorded_at)).where(*within)

        def work(connection: Connection) -> tuple[int, int] | None:
            begins = connection.execute(earliest).scalar_one()
            ends = connection.execute(latest).scalar_one()
            if begins is None or ends is None:
                return None
            first = select(func.min(columns.leaf_index)).where(
                *within, columns.recorded_at <= begins + _SKEW
            )
            last = select(func.max(columns.leaf_index)).where(
                *within, columns.recorded_at >= ends - _SKEW
            )
            lowest: int = connection.execute(first).scalar_one()
            highest: int = connection.execute(last).scalar_one()
            return lowest, highest + 1

        return read_page(self._engine, [tenant_id], work)


def _same(tenant_id: ColumnElement[str], leaf_index: ColumnElement[int]) -> ColumnElement[bool]:
    receipt = tables.receipt.c
    return (tenant_id == receipt.tenant_id) & (leaf_index == receipt.leaf_index)


def _leaf(tenant_id: str, row: Row) -> BundledLeaf:
    index, hash_ = row["leaf_index"], bytes(row["leaf_hash"])
    if row["payload"] is not None:
        signature = Signature(row["key_id"], bytes(row["signature"]))
        envelope = Envelope(PAYLOAD_TYPE, bytes(row["payload"]), (signature,))
        return BundledLeaf(index, hash_, envelope)
    if row["erased_at"] is None:
        raise LogFault(
            f"log of tenant {tenant_id}: the payload of leaf {index} is gone, and no erasure tells"
            " of it"
        )
    erased = ErasedPayload(utc(row["erased_at"]), row["event_receipt_id"])
    return BundledLeaf(index, hash_, None, erased)
