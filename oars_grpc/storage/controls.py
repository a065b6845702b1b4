"""Control mappings and their tags on Postgres: the ports `ControlRows` and `ControlStore`."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import Connection, Engine, Select, and_, func, insert, select, update

from oars_grpc.core.control import (
    ControlMapping,
    EvidenceType,
    Tagged,
    TaggedReceipt,
    evidence_types,
    needs_payload,
)
from oars_grpc.core.coverage import Period, PeriodCounts
from oars_grpc.core.receipt import APPROVAL_DECIDED
from oars_grpc.core.receipt_filter import ReceiptFilter
from oars_grpc.storage import tables
from oars_grpc.storage.codecs import Row, utc, utc_or_none
from oars_grpc.storage.control_tables import control_mapping, receipt_control
from oars_grpc.storage.receipt_search import conditions
from oars_grpc.storage.transaction import read, read_page, valid_tenants, write

# Stored: a type keeps its bit for ever.
_BITS: Mapping[EvidenceType, int] = {
    EvidenceType.POLICY_DECISION: 1,
    EvidenceType.HUMAN_APPROVAL: 2,
    EvidenceType.HUMAN_REJECTION: 4,
    EvidenceType.EXECUTION_OUTCOME: 8,
    EvidenceType.DENIAL: 16,
    EvidenceType.QUARANTINE: 32,
    EvidenceType.CANCELLATION_OR_EXPIRY: 64,
    EvidenceType.ADMINISTRATIVE_EVENT: 128,
}
_INSERT_TAGS = (
    "INSERT INTO receipt_control (tenant_id, mapping_id, leaf_index, recorded_at, evidence)"
    " SELECT %s, %s, * FROM unnest(%s::bigint[], %s::timestamptz[], %s::bigint[])"
)
_MAPPING = control_mapping.c


class ControlTransaction:
    """The part of `PostgresRegistry` that is about controls."""

    _connection: Connection

    def insert_mapping(self, mapping: ControlMapping) -> None:
        """Add a mapping."""
        self._connection.execute(insert(control_mapping), _mapping_row(mapping))

    def mapping(self, tenant_id: str, mapping_id: str) -> ControlMapping | None:
        """The mapping, locked until the end."""
        query = _of([tenant_id]).where(_MAPPING.mapping_id == mapping_id).with_for_update()
        row = self._connection.execute(query).mappings().one_or_none()
        return None if row is None else _mapping_of(row)

    def active_mappings(self, tenant_id: str) -> Sequence[ControlMapping]:
        """All mappings that are not retired; they are few."""
        rows = self._connection.execute(_active(tenant_id, "", "")).mappings()
        return [_mapping_of(row) for row in rows]

    def retire_mapping(self, tenant_id: str, mapping_id: str, by: str, at: datetime) -> None:
        """End an active mapping."""
        self._connection.execute(
            update(control_mapping)
            .where(_MAPPING.tenant_id == tenant_id, _MAPPING.mapping_id == mapping_id)
            .values(retired_at=at, retired_by=by)
        )


class PostgresControlStore:
    """The controls in the database of an engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def find_mapping(self, tenant_ids: Sequence[str], mapping_id: str) -> ControlMapping | None:
        """The mapping, if it belongs to one of the tenants."""
        query = _of(valid_tenants(tenant_ids)).where(_MAPPING.mapping_id == mapping_id)
        found = self._page(tenant_ids, query)
        return found[0] if found else None

    def list_active(
        self, tenant_id: str, framework: str, control_id: str
    ) -> Sequence[ControlMapping]:
        """Mappings that are not retired, by framework and control; empty does not restrict."""
        return self._page([tenant_id], _active(tenant_id, framework, control_id))

    def list_mappings(
        self, tenant_id: str, framework: str, after: str, limit: int, *, retired: bool
    ) -> Sequence[ControlMapping]:
        """Mappings with ids above `after`, oldest first; those retired where `retired` says so."""
        query = _of([tenant_id]).where(_MAPPING.mapping_id > after)
        if framework:
            query = query.where(_MAPPING.framework == framework)
        if not retired:
            query = query.where(_MAPPING.retired_at.is_(None))
        return self._page([tenant_id], query.order_by(_MAPPING.mapping_id).limit(limit))

    def tag(self, tenant_id: str, mapping_id: str, leaves: int, *, wait: bool) -> Tagged | None:
        """Look at the next `leaves` receipts of the log, and tag those that the mapping picks.

        Tags and how far they reach commit together, under the row of the mapping: of several
        replicas one goes on at a time, and none repeats what another did. None where the mapping is
        retired or, unless `wait`, another replica is at it.
        """
        mine = (
            _of([tenant_id])
            .where(_MAPPING.mapping_id == mapping_id, _MAPPING.retired_at.is_(None))
            .with_for_update(skip_locked=not wait)
        )
        head = select(tables.log_head.c.size).where(tables.log_head.c.tenant_id == tenant_id)

        def work(connection: Connection) -> Tagged | None:
            row = connection.execute(mine).mappings().one_or_none()
            if row is None:
                return None
            mapping = _mapping_of(row)
            # Every leaf below the size has committed: indices are given out under the head's lock.
            size = connection.execute(head).scalar_one()
            start, end = mapping.tagged_size, min(size, mapping.tagged_size + leaves)
            if start < end:
                found = list(_picked(connection, mapping, start, end))
                connection.exec_driver_sql(_INSERT_TAGS, _tag_columns(mapping, found))
                connection.execute(
                    update(control_mapping)
                    .where(_MAPPING.tenant_id == tenant_id, _MAPPING.mapping_id == mapping_id)
                    .values(tagged_size=end)
                )
            return Tagged(max(start, end), size)

        return write(self._engine, [tenant_id], work)

    def lagging(self, limit: int) -> Sequence[tuple[str, str]]:
        """Tenant and id of active mappings that have not seen all of their log; worst first."""

        def work(connection: Connection) -> list[tuple[str, str]]:
            rows = connection.exec_driver_sql(
                "SELECT tenant_id, mapping_id FROM oars_lagging_controls(%s::int)", (limit,)
            )
            return [(tenant_id, mapping_id) for tenant_id, mapping_id in rows]

        return read(self._engine, [], work)

    def count(
        self,
        tenant_id: str,
        mapping_ids: Sequence[str],
        from_: datetime,
        until: datetime,
        period: Period,
    ) -> Mapping[str, Mapping[datetime, PeriodCounts]]:
        """Counts by mapping and beginning of period, where there is anything to count."""
        columns = receipt_control.c
        start = func.date_trunc(period.value, columns.recorded_at, "UTC").label("start")
        counts = [
            func.count().filter(columns.evidence.bitwise_and(bit) != 0).label(kind.value)
            for kind, bit in _BITS.items()
        ]
        query = (
            select(columns.mapping_id, start, func.count().label("receipts"), *counts)
            .where(
                columns.tenant_id == tenant_id,
                columns.mapping_id.in_(mapping_ids),
                columns.recorded_at >= from_,
                columns.recorded_at < until,
            )
            .group_by(columns.mapping_id, start)
        )
        if not valid_tenants([tenant_id]) or not mapping_ids:
            return {}
        rows = read_page(
            self._engine, [tenant_id], lambda connection: connection.execute(query).mappings().all()
        )
        found: dict[str, dict[datetime, PeriodCounts]] = {}
        for row in rows:
            evidence = {kind: row[kind.value] for kind in EvidenceType if row[kind.value]}
            by_start = found.setdefault(row["mapping_id"], {})
            by_start[utc(row["start"])] = PeriodCounts(row["receipts"], evidence)
        return found

    def _page(
        self, tenant_ids: Sequence[str], query: Select[*tuple[Any, ...]]
    ) -> list[ControlMapping]:
        if not valid_tenants(tenant_ids):
            return []
        rows = read_page(
            self._engine, tenant_ids, lambda connection: connection.execute(query).mappings().all()
        )
        return [_mapping_of(row) for row in rows]


def _of(tenant_ids: Sequence[str]) -> Select[*tuple[Any, ...]]:
    return select(control_mapping).where(_MAPPING.tenant_id.in_(tenant_ids))


def _active(tenant_id: str, framework: str, control_id: str) -> Select[*tuple[Any, ...]]:
    query = _of([tenant_id]).where(_MAPPING.retired_at.is_(None))
    if framework:
        query = query.where(_MAPPING.framework == framework)
    if control_id:
        query = query.where(_MAPPING.control_id == control_id)
    return query.order_by(_MAPPING.framework, _MAPPING.control_id)


def _picked(
    connection: Connection, mapping: ControlMapping, start: int, end: int
) -> Iterable[TaggedReceipt]:
    """What the mapping picks of the leaves in [start, end)."""
    receipt, body = tables.receipt.c, tables.receipt_body.c
    # The offset makes it the leaves of the span that are compared, whatever is estimated.
    span = (
        select(tables.receipt)
        .where(
            receipt.tenant_id == mapping.tenant_id,
            receipt.leaf_index >= start,
            receipt.leaf_index < end,
        )
        .offset(0)
        .subquery("span")
    )
    payload = and_(
        span.c.type == APPROVAL_DECIDED,
        body.tenant_id == mapping.tenant_id,
        body.leaf_index == span.c.leaf_index,
        body.leaf_index >= start,
        body.leaf_index < end,
    )
    query = (
        select(
            span.c.leaf_index,
            span.c.recorded_at,
            span.c.action_id,
            span.c.type,
            span.c.decision,
            body.payload,
        )
        .select_from(span.outerjoin(tables.receipt_body, payload))
        .where(*conditions(span.c, mapping.tenant_id, mapping.filter).values())
    )
    for row in connection.execute(query).mappings():
        content = row["payload"] if needs_payload(row["type"]) else None
        kinds = evidence_types(row["action_id"], row["type"], row["decision"], content)
        yield TaggedReceipt(row["leaf_index"], utc(row["recorded_at"]), kinds)


def _tag_columns(mapping: ControlMapping, found: Sequence[TaggedReceipt]) -> tuple[object, ...]:
    return (
        mapping.tenant_id,
        mapping.mapping_id,
        [tagged.leaf_index for tagged in found],
        [tagged.recorded_at for tagged in found],
        [sum(_BITS[kind] for kind in tagged.evidence) for tagged in found],
    )


def _mapping_row(mapping: ControlMapping) -> dict[str, object]:
    return {
        "tenant_id": mapping.tenant_id,
        "mapping_id": mapping.mapping_id,
        "framework": mapping.framework,
        "control_id": mapping.control_id,
        "description": mapping.description,
        "filter": orjson.dumps(mapping.filter.to_json()),
        "required_evidence": ",".join(kind.value for kind in mapping.required_evidence),
        "created_at": mapping.created_at,
        "created_by": mapping.created_by,
        "tagged_size": mapping.tagged_size,
        "retired_at": mapping.retired_at,
        "retired_by": mapping.retired_by,
    }


def _mapping_of(row: Row) -> ControlMapping:
    required = row["required_evidence"]
    return ControlMapping(
        mapping_id=row["mapping_id"],
        tenant_id=row["tenant_id"],
        framework=row["framework"],
        control_id=row["control_id"],
        description=row["description"],
        filter=ReceiptFilter.from_json(orjson.loads(row["filter"])),
        required_evidence=tuple(EvidenceType(kind) for kind in required.split(",") if kind),
        created_at=utc(row["created_at"]),
        created_by=row["created_by"],
        tagged_size=row["tagged_size"],
        retired_at=utc_or_none(row["retired_at"]),
        retired_by=row["retired_by"],
    )
