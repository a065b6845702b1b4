"""Prepared statements, executed on libpq itself: the path of every submission.

The driver's own cursors cost several times what is sent and received, and SQLAlchemy's as much
again. A statement here is one constant text with arrays as its parameters, prepared once for each
connection. Transactions begin and end in `transaction`, which turns the driver's errors into ours.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGconn, PGresult
from sqlalchemy import Connection, PoolProxiedConnection

from oars_grpc.storage.binary import decoder

_PREPARED = "oars.prepared"  # in the pool's record of a connection
_FINE = (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK)


@dataclass(frozen=True, slots=True)
class Statement:
    """A text with `$1`, `$2` … and the name that it is prepared under."""

    name: bytes
    text: bytes


def statement(name: str, text: str) -> Statement:
    """A statement; names are unique in the program."""
    return Statement(name.encode(), text.encode())


_SEE_TENANTS = statement("see tenants", "SELECT set_config('oars.tenants', $1, true)")


def session_of(connection: Connection | PoolProxiedConnection) -> "Session":
    """The session of a connection of the pool, which remembers what it has prepared."""
    pooled = connection.connection if isinstance(connection, Connection) else connection
    driver: Any = pooled.driver_connection
    return Session(driver, pooled.info.setdefault(_PREPARED, set()))


class Session:
    """Executes statements on a connection of the driver."""

    def __init__(self, driver: psycopg.Connection[Any], prepared: set[bytes]) -> None:
        self._driver = driver
        self._pgconn: PGconn = driver.pgconn
        self._prepared = prepared

    def begin(self, tenants: str) -> None:
        """Begin a transaction that sees the rows of the tenants only."""
        self._checked(self._pgconn.exec_(b"BEGIN"))
        self.execute(_SEE_TENANTS, [tenants.encode()])

    def commit(self) -> None:
        """Commit it.

        Raises:
            RuntimeError: it had failed before, and was rolled back now.
        """
        result = self._checked(self._pgconn.exec_(b"COMMIT"))
        if result.command_status != b"COMMIT":
            raise RuntimeError("a failed transaction was to be committed")

    @property
    def lost(self) -> bool:
        """Whether the connection is."""
        return bool(self._driver.closed)

    @property
    def backend_pid(self) -> int:
        """The process of the server that serves this session."""
        return self._pgconn.backend_pid

    def rows(self, statement: Statement, parameters: Sequence[bytes]) -> list[tuple[Any, ...]]:
        """The rows that a statement answers with; its parameters are in binary form."""
        result = self.execute(statement, parameters)
        if not result.ntuples:
            return []
        decoders: list[Callable[[bytes], Any]] = [
            decoder(result.ftype(column)) for column in range(result.nfields)
        ]
        found = []
        for row in range(result.ntuples):
            values = []
            for column, read in enumerate(decoders):
                data = result.get_value(row, column)
                values.append(None if data is None else read(data))
            found.append(tuple(values))
        return found

    def changed(self, statement: Statement, parameters: Sequence[bytes]) -> int:
        """How many rows a statement has written."""
        return self.execute(statement, parameters).command_tuples or 0

    def execute(self, statement: Statement, parameters: Sequence[bytes]) -> PGresult:
        """Execute; the interpreter is free for other threads meanwhile.

        Raises:
            psycopg.Error: as the server or the loss of it has it.
        """
        if statement.name not in self._prepared:
            self._checked(self._pgconn.prepare(statement.name, statement.text))
            self._prepared.add(statement.name)
        return self._checked(
            self._pgconn.exec_prepared(
                statement.name, parameters, [1] * len(parameters), result_format=1
            )
        )

    def _checked(self, result: PGresult) -> PGresult:
        if result.status not in _FINE:
            raise error_from_result(result, encoding=self._driver.info.encoding)
        return result
