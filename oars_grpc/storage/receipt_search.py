"""Finds the leaves of a log that a filter picks; what a page costs depends on neither.

Every field of a filter has an index (tenant, value, place in the log). A page

1. asks each of these indexes how far its next `WINDOW` entries reach, and goes by the one that
   reaches farthest: there the field is rarest, whatever statistics say of the log as a whole;
2. looks these entries up in the log, in order, and keeps those that match the other fields;
3. ends when it is full or the entries are over, and says where to go on.

So a page may be empty and not the last. Times are not in the order of the log, for replicas have
clocks of their own. A range of up to `WINDOW` receipts is read from the index of times, exactly. Of
a longer one the places in the log are found by bisection, in which `CLOCK_SPREAD` is left at both
ends, and every receipt between them is compared.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Select,
    Table,
    cast,
    exists,
    func,
    select,
    text,
    true,
)
from sqlalchemy.sql.base import ReadOnlyColumnCollection

from oars_grpc.core.receipt_filter import ReceiptFilter
from oars_grpc.storage import tables
from oars_grpc.storage.control_tables import receipt_control

WINDOW = 2_000
# How far apart the clocks of replicas may be before a search by a long range of time could miss a
# receipt at its ends.
CLOCK_SPREAD = timedelta(minutes=1)

_RECEIPT = tables.receipt.c
Columns = ReadOnlyColumnCollection[str, Any]
Conditions = Mapping[str, ColumnElement[bool]]


@dataclass(frozen=True, slots=True)
class FoundLeaves:
    """Places in the log, and where to go on; None where nothing is left."""

    leaves: Sequence[int]
    resume_after: int | None


@dataclass(frozen=True, slots=True)
class _Source:
    """An index that has the leaves of one value in their order; `field` is what it answers."""

    field: str
    leaf: Column[int]
    where: tuple[ColumnElement[bool], ...]

    def leaves(self, after: int, before: int | None) -> Select[int]:
        """The leaves between two places, both exclusive."""
        query = select(self.leaf.label("leaf_index")).where(*self.where, self.leaf > after)
        return query if before is None else query.where(self.leaf < before)


def find_leaves(
    connection: Connection,
    tenant_id: str,
    which: ReceiptFilter,
    mapping_id: str,
    after: int,
    limit: int,
) -> FoundLeaves:
    """At most `limit` leaves above `after` that match, in order.

    `mapping_id` restricts to what a control picks, if it is not empty.
    """
    asked = conditions(_RECEIPT, tenant_id, which, mapping_id)
    if which.action_id:
        # The chain of an action is short.
        chain = _indexed("action_id", tables.receipt, tenant_id, action_id=which.action_id)
        return _take(connection, tenant_id, chain.leaves(after, None).offset(0), asked, limit)
    before = None
    if which.recorded_from or which.recorded_until:
        leaves = _in_range(connection, tenant_id, which)
        if leaves is not None:
            short = _listed([leaf for leaf in leaves if leaf > after])
            return _take(connection, tenant_id, short, asked, limit)
        first, before = _bounds(connection, tenant_id, which)
        after = max(after, first - 1)
    sources = _sources(tenant_id, which, mapping_id)
    if len(sources) == 1 and not asked.keys() - {sources[0].field}:
        query = sources[0].leaves(after, None)
        return _take(connection, tenant_id, query, {}, limit)
    source, reach = _farthest(connection, sources, after, before)
    query = source.leaves(after, before if reach is None else reach + 1)
    others = {field: condition for field, condition in asked.items() if field != source.field}
    found = _take(connection, tenant_id, query, others, limit)
    return found if found.resume_after is not None else FoundLeaves(found.leaves, reach)


def conditions(
    columns: Columns, tenant_id: str, which: ReceiptFilter, mapping_id: str = ""
) -> Conditions:
    """What a filter asks of rows with the columns of `receipt`, by field."""
    equal = {
        "action_id": which.action_id,
        "type": which.type,
        "agent_id": which.agent_id,
        "user_id": which.user_id,
        "caller_subject": which.caller_subject,
        "tool_id": which.tool_id,
        "operation": which.operation,
        "decision": which.decision,
        "policy_id": which.policy_id,
        "policy_version": which.policy_version,
        "risk_tier": which.risk_tier,
    }
    found = {field: columns[field] == value for field, value in equal.items() if value}
    if which.rule_id:
        found["rule_id"] = _among(tables.receipt_rule, columns, tenant_id, rule_id=which.rule_id)
    if mapping_id:
        found["control"] = _among(receipt_control, columns, tenant_id, mapping_id=mapping_id)
    if which.recorded_from:
        found["recorded_from"] = columns["recorded_at"] >= which.recorded_from
    if which.recorded_until:
        found["recorded_until"] = columns["recorded_at"] < which.recorded_until
    return found


def _among(table: Table, columns: Columns, tenant_id: str, **values: str) -> ColumnElement[bool]:
    """Whether another table has a row for the receipt."""
    own = table.alias()
    # The offset keeps it a lookup for each receipt: as a join it might read all of the other table.
    return exists(
        select(own.c.leaf_index)
        .where(
            own.c.tenant_id == tenant_id,
            own.c.leaf_index == columns["leaf_index"],
            *(own.c[name] == value for name, value in values.items()),
        )
        .offset(0)
        .correlate_except(own)
    )


def _indexed(field: str, table: Table, tenant_id: str, **values: str) -> _Source:
    own = table.alias("indexed")
    equal = tuple(own.c[name] == value for name, value in values.items())
    return _Source(field, own.c.leaf_index, (own.c.tenant_id == tenant_id, *equal))


def _sources(tenant_id: str, which: ReceiptFilter, mapping_id: str) -> list[_Source]:
    """The indexes of the fields given; that of the log itself where there are none."""
    fields = {
        "type": which.type,
        "agent_id": which.agent_id,
        "user_id": which.user_id,
        "caller_subject": which.caller_subject,
        "tool_id": which.tool_id,
        "operation": which.operation,
        "decision": which.decision,
        "policy_id": which.policy_id,
        "risk_tier": which.risk_tier,
    }
    found = [
        _indexed(field, tables.receipt, tenant_id, **{field: value})
        for field, value in fields.items()
        if value
    ]
    if which.rule_id:
        rule = _indexed("rule_id", tables.receipt_rule, tenant_id, rule_id=which.rule_id)
        found.append(rule)
    if mapping_id:
        found.append(_indexed("control", receipt_control, tenant_id, mapping_id=mapping_id))
    return found or [_indexed("leaf_index", tables.receipt, tenant_id)]


def _farthest(
    connection: Connection, sources: Sequence[_Source], after: int, before: int | None
) -> tuple[_Source, int | None]:
    """The index whose next entries reach farthest, and the last of them; None: they end before."""
    ends = [
        source.leaves(after, before)
        .order_by(source.leaf)
        .offset(WINDOW - 1)
        .limit(1)
        .scalar_subquery()
        for source in sources
    ]
    reached = connection.execute(select(*ends)).one()
    for source, end in zip(sources, reached, strict=True):
        if end is None:
            return source, None
    best = max(range(len(sources)), key=reached.__getitem__)
    return sources[best], reached[best]


def _take(
    connection: Connection, tenant_id: str, source: Select[int], asked: Conditions, limit: int
) -> FoundLeaves:
    """The first leaves of a source that satisfy the conditions."""
    entries = source.subquery("entries")
    # LATERAL with a limit: a lookup by key for each entry, in their order, whatever is estimated.
    looked_up = (
        select(_RECEIPT.leaf_index)
        .where(
            _RECEIPT.tenant_id == tenant_id,
            _RECEIPT.leaf_index == entries.c.leaf_index,
            *asked.values(),
        )
        .limit(1)
        .lateral("looked_up")
    )
    query = (
        select(looked_up.c.leaf_index)
        .select_from(entries.join(looked_up, true()))
        .order_by(entries.c.leaf_index)
        .limit(limit + 1)
    )
    leaves = connection.execute(query).scalars().all()
    if len(leaves) > limit:
        return FoundLeaves(leaves[:limit], leaves[limit - 1])
    return FoundLeaves(leaves, None)


def _listed(leaves: Sequence[int]) -> Select[int]:
    return select(func.unnest(cast(leaves, ARRAY(BigInteger))).label("leaf_index"))


def _in_range(connection: Connection, tenant_id: str, which: ReceiptFilter) -> Sequence[int] | None:
    """All leaves in the range of time, in order; None if they are more than the window."""
    own = tables.receipt.alias("timed")
    query = select(own.c.leaf_index).where(own.c.tenant_id == tenant_id)
    if which.recorded_from:
        query = query.where(own.c.recorded_at >= which.recorded_from)
    if which.recorded_until:
        query = query.where(own.c.recorded_at < which.recorded_until)
    # The order makes it the index of times that is read, whatever is estimated.
    query = query.order_by(own.c.recorded_at, own.c.leaf_index).limit(WINDOW + 1)
    leaves = connection.execute(query).scalars().all()
    return None if len(leaves) > WINDOW else sorted(leaves)


def _bounds(connection: Connection, tenant_id: str, which: ReceiptFilter) -> tuple[int, int | None]:
    """Between which leaves a range of time lies: the first, and the one after the last."""
    first, before = 0, None
    if which.recorded_from:
        first = _bisect(connection, tenant_id, which.recorded_from - CLOCK_SPREAD)
    if which.recorded_until:
        before = _bisect(connection, tenant_id, which.recorded_until + CLOCK_SPREAD)
    return first, before


def _bisect(connection: Connection, tenant_id: str, moment: datetime) -> int:
    """A leaf from the moment or later whose predecessor is from before it."""
    found = {"tenant_id": tenant_id, "moment": moment}
    place: int = connection.execute(_BISECT, found).scalar_one()
    return place


_BISECT = text(
    """
    WITH RECURSIVE bisection (low, high) AS (
        SELECT 0::bigint, size FROM log_head WHERE tenant_id = :tenant_id
        UNION ALL
        SELECT
            CASE WHEN middle.recorded_at < :moment THEN (low + high) / 2 + 1 ELSE low END,
            CASE WHEN middle.recorded_at < :moment THEN high ELSE (low + high) / 2 END
        FROM bisection, LATERAL (
            SELECT recorded_at FROM receipt
            WHERE tenant_id = :tenant_id AND leaf_index = (low + high) / 2
            LIMIT 1
        ) AS middle
        WHERE low < high
    )
    SELECT low FROM bisection WHERE low = high
    """
)
