"""Prepared statements, executed on libpq itself: the path of every submission.

The driver's own cursors cost several times what is sent and received, and SQLAlchemy's as much
again. A statement here is one constant text with arrays as its parameters, prepared once for each
connection. Transactions begin and end in `transaction`, which turns the driver's errors into ours.

Statements travel together, in libpq's pipeline mode: what nobody waits for stays queued until an
answer is asked for, or the transaction ends. A commit is then two or three round trips, and not
one for each statement: each of them costs a wait, and threads that take turns around it.

    BEGIN ─ tenants ─ locks ─▶ answers      writes ─ … ─ writes ─ COMMIT ─▶ answers

https://www.postgresql.org/docs/current/libpq-pipeline-mode.html
"""

import select
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.errors import error_from_result
from psycopg.pq import ConnStatus, ExecStatus
from psycopg.pq.abc import PGconn, PGresult
from sqlalchemy import Connection, PoolProxiedConnection

from oars_grpc.storage.binary import decoder

_PREPARED = "oars.prepared"  # in the pool's record of a connection
_FINE = (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK)

# Looks at the answer to a statement that was queued.
Check = Callable[[PGresult], None]
_Queued = tuple["Statement", Sequence[bytes], Check | None]


@dataclass(frozen=True, slots=True)
class Statement:
    """A text with `$1`, `$2` … and the name that it is prepared under."""

    name: bytes
    text: bytes


def statement(name: str, text: str) -> Statement:
    """A statement; names are unique in the program."""
    return Statement(name.encode(), text.encode())


_BEGIN, _COMMIT = statement("begin", "BEGIN"), statement("commit", "COMMIT")
# One snapshot for all statements, which as long as they only read collide with nothing.
_BEGIN_SNAPSHOT = statement("begin snapshot", "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
_SEE_TENANTS = statement("see tenants", "SELECT set_config('oars.tenants', $1, true)")
# What reads so looks rows up by their keys: no plan for the values of the moment would be better.
_SEE_TENANTS_BY_KEY = statement(
    "see tenants by key",
    "SELECT set_config('oars.tenants', $1, true),"
    " set_config('plan_cache_mode', 'force_generic_plan', true)",
)


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
        self._queued: list[_Queued] = []
        # Nothing can have come of a session that was lost in this state.
        self.untouched = True

    def begin(self, tenants: str) -> None:
        """Begin a transaction that sees the rows of the tenants only."""
        self.execute(_BEGIN, [])
        self.execute(_SEE_TENANTS, [tenants.encode()])

    def begin_snapshot(self, tenants: str) -> None:
        """As `begin`, of a transaction that reads the database as it is at one moment."""
        self.execute(_BEGIN_SNAPSHOT, [])
        self.execute(_SEE_TENANTS_BY_KEY, [tenants.encode()])

    def end_snapshot(self) -> None:
        """End it, in the round trip of whatever is queued: there is nothing to keep or to lose."""
        self.execute(_COMMIT, [], _check_committed)
        self.flush()

    def commit(self) -> None:
        """Commit it, after whatever is queued; what is checked, before that.

        Raises:
            RuntimeError: it had failed before, and was rolled back now.
        """
        if any(check is not None for _, _, check in self._queued):
            self.flush()
        self.execute(_COMMIT, [], _check_committed)
        self.untouched = False
        self.flush()

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
        found = self.queue_rows(statement, parameters)
        self.flush()
        return found

    def queue_rows(
        self, statement: Statement, parameters: Sequence[bytes]
    ) -> list[tuple[Any, ...]]:
        """As `rows`, of a statement that waits for the next flush: the list is filled by it."""
        found: list[tuple[Any, ...]] = []
        self.execute(statement, parameters, lambda result: found.extend(_rows_of(result)))
        return found

    def execute(
        self, statement: Statement, parameters: Sequence[bytes], check: Check | None = None
    ) -> None:
        """Queue a statement; the next flush sends it, and lets `check` see its answer.

        Raises:
            psycopg.Error: it cannot be prepared.
        """
        if statement.name not in self._prepared:
            self._checked(self._pgconn.prepare(statement.name, statement.text))
            self._prepared.add(statement.name)
        self._queued.append((statement, parameters, check))

    def flush(self) -> None:
        """Send what is queued and wait for the answers; other threads go on meanwhile.

        After a statement that failed the server does none of those behind it.

        Raises:
            psycopg.Error: as the server or the loss of it has it.
        """
        queued, self._queued = self._queued, []
        if not queued:
            return
        try:
            results = self._exchange(queued)
        except BaseException:
            self._driver.close()  # half a pipeline cannot be taken up again
            raise
        for result, (_, _, check) in zip(results, queued, strict=True):
            self._checked(result)
            if check is not None:
                check(result)

    def _exchange(self, queued: Sequence[_Queued]) -> list[PGresult]:
        """Send statements and receive as many answers.

        Raises:
            psycopg.Error: the connection was lost meanwhile.
        """
        connection = self._pgconn
        connection.enter_pipeline_mode()
        for asked, parameters, _ in queued:
            formats = [1] * len(parameters)
            connection.send_query_prepared(asked.name, parameters, formats, result_format=1)
        connection.pipeline_sync()
        poller = select.poll()
        poller.register(connection.socket, select.POLLIN | select.POLLOUT)
        while connection.flush():
            # Both ways at once: a server that cannot write its answers reads no more either.
            (_, events), *_ = poller.poll()
            if events & ~select.POLLOUT:
                connection.consume_input()
        poller.modify(connection.socket, select.POLLIN)
        results: list[PGresult] = []
        while (result := self._next_result(poller, results)) is not None:
            results.append(result)
        connection.exit_pipeline_mode()
        return results

    def _next_result(self, poller: select.poll, results: Sequence[PGresult]) -> PGresult | None:
        """The next answer; None at the end of the pipeline."""
        connection = self._pgconn
        while True:
            try:
                while connection.is_busy():
                    poller.poll()
                    connection.consume_input()
            except psycopg.OperationalError:
                for before in results:  # what the server said before it left tells more
                    self._checked(before)
                raise
            result: PGresult | None = connection.get_result()
            if result is not None:
                # A server that went away before says so in place of the first answer.
                if result.status in _FINE:
                    self.untouched = False
                return None if result.status == ExecStatus.PIPELINE_SYNC else result
            # The end of the answers to one statement; or of them all.
            if connection.status != ConnStatus.OK:
                raise psycopg.OperationalError("the connection was lost")

    def _checked(self, result: PGresult) -> PGresult:
        if result.status not in _FINE:
            raise error_from_result(result, encoding=self._driver.info.encoding)
        return result


def _check_committed(result: PGresult) -> None:
    if result.command_status != b"COMMIT":
        raise RuntimeError("a failed transaction was to be committed")


def _rows_of(result: PGresult) -> list[tuple[Any, ...]]:
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
