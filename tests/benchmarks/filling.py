"""Fills a tenant with stored actions, quickly: rows like recorded ones, made by the database.

The log stays a log: leaf hashes, frontier, tile roots and size agree, and the server goes on with
it.
"""

import itertools
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy.dialects import postgresql

from oars_grpc.core.merkle import TILE_HEIGHT, Frontier, append
from oars_grpc.storage import tables
from tests.benchmarks.recorded_rows import Hole, PlannedInsert, Rows, plan_inserts

CHUNK = 20_000
_WRITERS = 2
_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call] # SQLAlchemy says nothing of it


@dataclass(frozen=True, slots=True)
class _Fill:
    """A statement for many actions; its parameters follow the first and the last number."""

    statement: sql.Composed
    parameters: Sequence[Any]


def fill(url: str, tenant_id: str, recorded: Rows, actions: int) -> None:
    """Store so many actions more, each with the rows of the recorded one. For a server at rest."""
    with psycopg.connect(url) as owner:
        first_leaf = _grow_log(owner, tenant_id, recorded, actions)
    fills = [_fill_of(insert, first_leaf) for insert in plan_inserts(recorded)]

    def write(chunk: tuple[_Fill, int]) -> None:
        each, first = chunk
        last = min(first + CHUNK, actions) - 1
        with psycopg.connect(url) as owner:
            owner.execute(each.statement, [first, last, *each.parameters])

    chunks = itertools.product(fills, range(0, actions, CHUNK))
    with ThreadPoolExecutor(_WRITERS) as writers:
        list(writers.map(write, chunks))  # raises what a writer raised
    with psycopg.connect(url, autocommit=True) as owner:
        owner.execute("ANALYZE")
        owner.execute("CHECKPOINT")


def _grow_log(owner: psycopg.Connection[Any], tenant_id: str, recorded: Rows, actions: int) -> int:
    """Append the leaves to the tenant's tree; the index of the first."""
    head = owner.execute(
        "SELECT size, frontier FROM log_head WHERE tenant_id = %s FOR UPDATE", (tenant_id,)
    ).fetchone()
    if head is None:
        raise RuntimeError(f"{tenant_id} has no log")
    size, frontier = head
    receipts = sorted(recorded["receipt"], key=_leaf_index)
    hashes = [bytes(receipt["leaf_hash"]) for receipt in receipts]
    leaves = itertools.islice(itertools.cycle(hashes), actions * len(hashes))
    grown, completed = append(Frontier.from_bytes(size, bytes(frontier)), leaves)
    with owner.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO log_node (tenant_id, level, position, hash) VALUES (%s, %s, %s, %s)",
            [
                (tenant_id, subtree.height // TILE_HEIGHT, subtree.index, root)
                for subtree, root in completed
            ],
        )
    owner.execute(
        "UPDATE log_head SET size = %s, frontier = %s WHERE tenant_id = %s",
        (grown.size, grown.to_bytes(), tenant_id),
    )
    return int(size)


def stored_actions(url: str) -> int:
    """How many actions the database holds."""
    with psycopg.connect(url) as owner:
        row = owner.execute("SELECT count(*) FROM action").fetchone()
        return int(row[0]) if row else 0


def _fill_of(insert: PlannedInsert, first_leaf: int) -> _Fill:
    """The insert for a range of numbers instead of one."""
    table = tables.action.metadata.tables[insert.table]
    width = len(table.columns)
    holes = {hole.position: hole for hole in insert.holes}
    values: list[sql.Composable] = []
    parameters: list[Any] = []
    for position, value in enumerate(insert.parameters):
        if position in holes:
            values.append(_expression(holes[position], first_leaf))
        else:
            values.append(sql.Placeholder())
            parameters.append(value)
    comma = sql.SQL(", ")
    rows = [
        sql.SQL("({})").format(comma.join(values[start : start + width]))
        for start in range(0, len(values), width)
    ]
    names = [sql.Identifier(column.name) for column in table.columns]
    typed = [
        # Of a NULL among the values Postgres cannot know the type.
        sql.SQL("made.{}::{}").format(name, sql.SQL(column.type.compile(dialect=_DIALECT)))
        for name, column in zip(names, table.columns, strict=True)
    ]
    statement = sql.SQL(
        "INSERT INTO {table} ({names}) SELECT {typed}"
        " FROM generate_series(%s::bigint, %s::bigint) AS number,"
        " LATERAL (VALUES {rows}) AS made ({names})"
    ).format(
        table=sql.Identifier(table.name),
        names=comma.join(names),
        typed=comma.join(typed),
        rows=comma.join(rows),
    )
    return _Fill(statement, parameters)


def _expression(hole: Hole, first_leaf: int) -> sql.Composed:
    """What `Hole.value` does, in SQL."""
    place = sql.SQL("{} + number * {}").format(hole.first, hole.step)
    if not hole.prefix:
        return sql.SQL("{} + {}").format(first_leaf, place)
    return sql.SQL("{} || lpad(({})::text, 26, '0')").format(hole.prefix, place)


def _leaf_index(row: Mapping[str, Any]) -> int:
    return int(row["leaf_index"])
