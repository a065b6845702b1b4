"""Statements that write any number of rows with one constant text, from one array per column.

A constant text is prepared once per connection, whatever the size of the batch; a VALUES list
would be a new statement for every size.
"""

from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import Column, Connection, Table
from sqlalchemy.dialects import postgresql

Row = Mapping[str, object]

_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call] # SQLAlchemy leaves it untyped


def insert_sql(table: Table) -> str:
    """INSERT rows of all columns in their order in the metadata."""
    names = ", ".join(column.name for column in table.columns)
    return f"INSERT INTO {table.name} ({names}) SELECT * FROM {_unnest(table.columns)}"  # noqa: S608 - names from our own metadata


def update_sql(table: Table, changed: Sequence[str]) -> str:
    """UPDATE the rows that have the key and the version given.

    The arrays are those of the primary key, of the changed columns (the new version among them)
    and of the version that each row must have; then those of the key once more. The repetition
    bounds what is read by the keys, whichever way around the planner joins: its plan may date
    from when the table was empty.
    """
    keys = [column.name for column in table.primary_key.columns]
    given = [table.columns[name] for name in (*keys, *changed)] + [table.columns["version"]]
    names = ", ".join((*keys, *changed, "expected_version"))
    assigned = ", ".join(f"{name} = new.{name}" for name in changed)
    matched = " AND ".join(f"old.{name} = new.{name}" for name in keys)
    bounded = " AND ".join(f"old.{name} = ANY (%s::text[])" for name in keys)
    return (
        f"UPDATE {table.name} AS old SET {assigned} FROM {_unnest(given)} AS new ({names})"  # noqa: S608 - names from our own metadata
        f" WHERE {matched} AND old.version = new.expected_version AND {bounded}"
    )


def arrays(rows: Sequence[Sequence[object]]) -> tuple[list[object], ...]:
    """Rows turned into columns, as the statements of this module take them."""
    return tuple(list(column) for column in zip(*rows, strict=True))


def values(names: Iterable[str], row: Row) -> list[object]:
    """The named columns of a row, in the order of the names."""
    return [row[name] for name in names]


def insert(connection: Connection, table: Table, statement: str, rows: Sequence[Row]) -> None:
    """Execute a statement of `insert_sql(table)`; without rows, nothing."""
    if rows:
        names = table.columns.keys()
        columns = arrays([values(names, row) for row in rows])
        connection.exec_driver_sql(statement, columns)


def _unnest(columns: Iterable[Column[object]]) -> str:
    # Binary: bytes as text would be twice as long, and elements of text need quoting.
    parameters = [f"%b::{column.type.compile(_DIALECT).lower()}[]" for column in columns]
    return f"unnest({', '.join(parameters)})"
