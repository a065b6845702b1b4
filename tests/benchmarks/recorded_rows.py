"""Rows that OARS really wrote, recorded and made into inserts of rows like them.

Nothing here names a column that only some tables have, but for the four that tell one action's rows
from another's: whatever tables an allowed submit writes, the floor and the growth run write, too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy import Table, UniqueConstraint

from oars_grpc.storage import tables

# What tells the rows of one action from those of another.
IDENTITIES = ("action_id", "receipt_id", "leaf_index", "key")

Rows = Mapping[str, Sequence[Mapping[str, Any]]]


@dataclass(frozen=True, slots=True)
class Hole:
    """A place among the parameters that is filled anew for each action."""

    position: int
    prefix: str
    first: int
    step: int

    def value(self, number: int) -> str | int:
        """For the action of this number: an id as long as the real ones, or an index."""
        place = self.first + number * self.step
        return f"{self.prefix}{place:026d}" if self.prefix else place


@dataclass(frozen=True, slots=True)
class PlannedInsert:
    """One statement for the rows of one table, and its parameters."""

    table: str
    statement: bytes
    parameters: Sequence[Any]
    holes: Sequence[Hole]

    def values(self, number: int) -> list[Any]:
        """The parameters for the action of this number."""
        values = list(self.parameters)
        for hole in self.holes:
            values[hole.position] = hole.value(number)
        return values


def stored_keys(connection: psycopg.Connection[Any]) -> Mapping[str, set[tuple[Any, ...]]]:
    """The primary keys of all rows of all tables: for the small database before a recording."""
    return {
        table.name: set(connection.execute(_select(table, _key(table))).fetchall())
        for table in tables.action.metadata.sorted_tables
    }


def new_rows(
    connection: psycopg.Connection[Any], before: Mapping[str, set[tuple[Any, ...]]]
) -> Rows:
    """The rows, table by table, that were not there before."""
    found: dict[str, Sequence[Mapping[str, Any]]] = {}
    for table in tables.action.metadata.sorted_tables:
        names = table.columns.keys()
        rows = [
            dict(zip(names, row, strict=True))
            for row in connection.execute(_select(table, names)).fetchall()
        ]
        key = _key(table)
        new = [row for row in rows if tuple(row[name] for name in key) not in before[table.name]]
        if new:
            found[table.name] = sorted(new, key=lambda row: [str(row[name]) for name in key])
    return found


def plan_inserts(rows: Rows) -> list[PlannedInsert]:
    """One insert for each table; each execution with another number writes rows of their own.

    Raises:
        ValueError: the rows of a table could not be told apart from those of another action.
    """
    numbering = _Numbering(rows)
    return [_plan(table, rows[table.name], numbering) for table in _written(rows)]


def in_one_statement(inserts: Sequence[PlannedInsert]) -> PlannedInsert:
    """The same inserts as one statement: all but the last in a WITH clause."""
    *firsts, last = inserts
    parameters: list[Any] = []
    holes: list[Hole] = []
    for insert in inserts:
        holes += [replace(each, position=len(parameters) + each.position) for each in insert.holes]
        parameters += insert.parameters
    named = [b"%s AS (%s)" % (each.table.encode(), each.statement) for each in firsts]
    clause = b"WITH " + b", ".join(named) + b" " if named else b""
    return PlannedInsert(last.table, clause + last.statement, parameters, holes)


def _written(rows: Rows) -> list[Table]:
    written = [table for table in tables.action.metadata.sorted_tables if table.name in rows]
    for table in written:
        uniques = [
            constraint.columns.keys()
            for constraint in table.constraints
            if isinstance(constraint, UniqueConstraint)
        ]
        for names in (_key(table), *uniques):
            if not set(names) & set(IDENTITIES):
                raise ValueError(f"rows of {table.name} are told apart by {names} only")
    return written


class _Numbering:
    """Which of the recorded ids stands for what: the same id is replaced by the same everywhere."""

    def __init__(self, rows: Rows) -> None:
        self._values = {
            name: sorted(
                {
                    row[name]
                    for found in rows.values()
                    for row in found
                    if row.get(name) not in (None, "")
                }
            )
            for name in IDENTITIES
        }

    def hole(self, position: int, name: str, value: Any) -> Hole:
        values = self._values[name]
        prefix = "" if isinstance(value, int) else value[: value.find("_") + 1] or "k"
        return Hole(position, prefix, values.index(value), len(values))


def _plan(table: Table, rows: Sequence[Mapping[str, Any]], numbering: _Numbering) -> PlannedInsert:
    names = table.columns.keys()
    parameters: list[Any] = []
    holes: list[Hole] = []
    for row in rows:
        for name in names:
            value = row[name]
            if name in IDENTITIES and value not in (None, ""):
                holes.append(numbering.hole(len(parameters), name, value))
            parameters.append(value)
    row_of_places = sql.SQL("({})").format(sql.SQL(", ").join([sql.Placeholder()] * len(names)))
    statement = sql.SQL("INSERT INTO {} ({}) VALUES {}").format(
        sql.Identifier(table.name),
        sql.SQL(", ").join(map(sql.Identifier, names)),
        sql.SQL(", ").join([row_of_places] * len(rows)),
    )
    return PlannedInsert(table.name, statement.as_bytes(), parameters, holes)


def _key(table: Table) -> list[str]:
    return [column.name for column in table.primary_key]


def _select(table: Table, names: Sequence[str]) -> sql.Composed:
    return sql.SQL("SELECT {} FROM {}").format(
        sql.SQL(", ").join(map(sql.Identifier, names)), sql.Identifier(table.name)
    )
