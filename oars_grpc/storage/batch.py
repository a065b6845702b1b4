"""Statements that write any number of rows with one constant text, from one array per column.

A constant text is prepared once per connection, whatever the size of the batch; a VALUES list
would be a new statement for every size.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from psycopg.pq.abc import PGresult
from sqlalchemy import Column, Table

from oars_grpc.storage.binary import Encode, array_of
from oars_grpc.storage.prepared import Session, Statement, statement

Row = Mapping[str, Any]
_ValueOf = Callable[[Row], Any]


@dataclass(frozen=True, slots=True)
class Insert:
    """INSERT rows of all columns of a table."""

    statement: Statement
    columns: tuple[tuple[_ValueOf, Encode], ...]

    def write(self, session: Session, rows: Sequence[Row]) -> None:
        """Insert the rows; without any, nothing."""
        if rows:
            session.execute(self.statement, self.parameters(rows))

    def parameters(self, rows: Sequence[Row]) -> list[bytes]:
        """The columns of the rows as arrays."""
        return [encode(list(map(value_of, rows))) for value_of, encode in self.columns]


def insert_into(table: Table, ending: str = "") -> Insert:
    """The statement of a table; `ending` follows its rows."""
    names = ", ".join(column.name for column in table.columns)
    text = f"INSERT INTO {table.name} ({names}) SELECT * FROM {_unnest(table.columns)}{ending}"  # noqa: S608 - names from our own metadata
    return Insert(statement(f"insert {table.name}", text), _encoders(table.columns))


@dataclass(frozen=True, slots=True)
class Update:
    """UPDATE the rows that have the key and the version expected."""

    statement: Statement
    columns: tuple[tuple[_ValueOf, Encode], ...]
    versions: Encode

    def write(self, session: Session, rows: Sequence[tuple[Row, int]]) -> None:
        """Update rows, each of which is locked and given with the version that it must have.

        The transaction fails with a RuntimeError if one has another version.
        """
        if not rows:
            return
        changed = [row for row, _ in rows]
        parameters = [encode(list(map(value_of, changed))) for value_of, encode in self.columns]
        parameters.append(self.versions([version for _, version in rows]))

        def check(result: PGresult) -> None:
            if result.command_tuples != len(rows):
                raise RuntimeError("a locked row changed its version")

        session.execute(self.statement, parameters, check)


def update_of(table: Table, changed: Sequence[str]) -> Update:
    """The statement that changes the columns, the version among them.

    The keys bound what is read, whichever way around the planner joins: its plan may date from when
    the table was empty.
    """
    keys = [column.name for column in table.primary_key.columns]
    given = [table.columns[name] for name in (*keys, *changed)]
    version = table.columns["version"]
    names = ", ".join((*keys, *changed, "expected_version"))
    assigned = ", ".join(f"{name} = new.{name}" for name in changed)
    matched = " AND ".join(f"old.{name} = new.{name}" for name in keys)
    bounded = " AND ".join(f"old.{name} = ANY (${at}::text[])" for at, name in enumerate(keys, 1))
    text = (
        f"UPDATE {table.name} AS old SET {assigned} FROM {_unnest([*given, version])}"  # noqa: S608 - names from our own metadata
        f" AS new ({names}) WHERE {matched} AND old.version = new.expected_version AND {bounded}"
    )
    _, versions = array_of(version)
    return Update(statement(f"update {table.name}", text), _encoders(given), versions)


def _unnest(columns: Iterable[Column[Any]]) -> str:
    kinds = [array_of(column)[0] for column in columns]
    return f"unnest({', '.join(f'${at}::{kind}' for at, kind in enumerate(kinds, 1))})"


def _encoders(columns: Iterable[Column[Any]]) -> tuple[tuple[_ValueOf, Encode], ...]:
    return tuple((itemgetter(column.name), array_of(column)[1]) for column in columns)
