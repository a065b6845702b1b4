"""The one place where transactions begin, are retried, and where driver errors become ours.

What an error of the database means depends on when it came:

    connecting                 nothing happened                      Unavailable
    first statement            a pooled connection was dead          once more on a fresh one
    later, before COMMIT       the server rolled back                Unavailable
    during COMMIT              nobody knows; never retried           Unavailable, and the caller's
                                                                     idempotency key tells
    40001, 40P01, some 23505   the server rolled back: a collision   again, with jitter
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any, TypeVar

import psycopg
from sqlalchemy import Connection, Engine, PoolProxiedConnection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from tenacity import RetryError, Retrying, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_random_exponential

from oars_grpc.core.tenant import TENANT_ID
from oars_grpc.errors import ResourceExhausted, Unavailable
from oars_grpc.storage.prepared import Session, session_of

Result = TypeVar("Result")

ATTEMPTS = 10
OUT_OF_REACH = "the database is out of reach"
ALL_TENANTS = "*"

_COLLISIONS = {"40001", "40P01"}  # serialization_failure, deadlock_detected
_UNIQUE_VIOLATION = "23505"
# Races that the next attempt sees the winner of. Other violations are faults of the program.
_RACES = {
    "action_pkey",
    "approval_pkey",
    "idempotency_outcome_pkey",
    "policy_version_key",
}
_BUSY = {"57014", "55P03"}  # query_canceled (statement_timeout), lock_not_available
# Classes: connection exception, insufficient resources, operator intervention. Single ones: a
# server that is a standby (25006), or that ended an idle or overlong transaction (25P03, 25P04).
_AWAY = ("08", "53", "57P", "25006", "25P03", "25P04")

_BEGIN = "SELECT set_config('oars.tenants', %s, true)"
# Pages of rows differ widely between tenants: one cached plan for all would suit none.
_BEGIN_PAGE = (
    "SELECT set_config('oars.tenants', %s, true),"
    " set_config('plan_cache_mode', 'force_custom_plan', true)"
)


class Collision(Exception):
    """The transaction rolled back for the sake of another one and may run again."""


class _DeadConnection(Exception):
    """The connection was dead before the transaction did anything."""


# Keeps what it knows of a run by thread, so that one serves them all.
_RETRYING = Retrying(
    retry=retry_if_exception_type(Collision),
    stop=stop_after_attempt(ATTEMPTS),
    wait=wait_random_exponential(multiplier=0.01, max=0.5),
)


def valid_tenants(tenant_ids: Sequence[str]) -> list[str]:
    """Those that can be ids of tenants; no others may reach the row-level security setting."""
    return [tenant_id for tenant_id in tenant_ids if TENANT_ID.fullmatch(tenant_id)]


def write(
    engine: Engine, tenant_ids: Sequence[str], work: Callable[[Connection], Result]
) -> Result:
    """Run `work` in a transaction that sees the tenants' rows only, and commit.

    `work` runs again from the start where the transaction collided with another.

    Raises:
        Unavailable: the database is out of reach, or collisions did not end.
        ResourceExhausted: no connection of the pool became free.
    """
    scope = _scope(tenant_ids)
    return _run(lambda: _once(engine, _BEGIN, scope, work))


def write_prepared(
    engine: Engine, tenant_ids: Sequence[str], work: Callable[[Session], Result]
) -> Result:
    """As `write`, for work that is made of prepared statements: what every submission takes."""
    scope = _scope(tenant_ids)

    def once(session: Session) -> Result:
        session.begin(scope)
        result = work(session)
        session.commit()
        return result

    return _run(lambda: _once_prepared(engine, once))


def read_prepared(
    engine: Engine, tenant_ids: Sequence[str], queue: Callable[[Session], Result]
) -> Result:
    """As `write_prepared`, for statements that only read, by keys, all of them in one snapshot.

    `queue` queues them; their rows are there when this returns, after a single round trip.
    """
    scope = _scope(tenant_ids)

    def once(session: Session) -> Result:
        session.begin_snapshot(scope)
        result = queue(session)
        session.end_snapshot()
        return result

    return _run(lambda: _once_prepared(engine, once))


def read(engine: Engine, tenant_ids: Sequence[str], work: Callable[[Connection], Result]) -> Result:
    """As `write`, for work that reads what it knows the keys of."""
    return write(engine, tenant_ids, work)


def read_page(
    engine: Engine, tenant_ids: Sequence[str], work: Callable[[Connection], Result]
) -> Result:
    """As `write`, for work that lists; its queries are planned for the values that they have."""
    scope = _scope(tenant_ids)
    return _run(lambda: _once(engine, _BEGIN_PAGE, scope, work))


def read_every_tenant(engine: Engine, work: Callable[[Connection], Result]) -> Result:
    """As `read_page`, where the table `tenant` shows all its rows and every other table none."""
    return _run(lambda: _once(engine, _BEGIN_PAGE, ALL_TENANTS, work))


def _scope(tenant_ids: Sequence[str]) -> str:
    # An id that can be none's leads to no rows, as any other that is not there.
    return ",".join(valid_tenants(tenant_ids))


def _run(once: Callable[[], Result]) -> Result:
    try:
        result: Result = _RETRYING(_attempt, once)
    except RetryError as error:
        cause = error.last_attempt.exception()
        raise Unavailable("too many calls change the same thing") from cause
    return result


def _attempt(once: Callable[[], Result]) -> Result:
    try:
        return once()
    except _DeadConnection:
        # No connection of the pool that is as old as this one is used again: the next is new.
        try:
            return once()
        except _DeadConnection as error:
            raise Unavailable(OUT_OF_REACH) from error.__cause__


def _once(engine: Engine, begin: str, scope: str, work: Callable[[Connection], Result]) -> Result:
    with _translated(), engine.connect() as connection:
        try:
            connection.exec_driver_sql(begin, (scope,))
        except DBAPIError as error:
            if error.connection_invalidated:
                raise _DeadConnection from error
            raise
        try:
            result = work(connection)
        except psycopg.Error as error:  # of a prepared statement: SQLAlchemy has not seen it
            if _lost(connection):
                connection.invalidate(error)
                raise Unavailable(OUT_OF_REACH) from error
            _roll_back(connection.connection)
            raise
        except BaseException:
            if not connection.invalidated:
                _roll_back(connection.connection)
            raise
        connection.commit()
        return result


def _once_prepared(engine: Engine, transact: Callable[[Session], Result]) -> Result:
    with _translated(), closing(engine.raw_connection()) as pooled:
        session = session_of(pooled)
        try:
            result = transact(session)
        except psycopg.Error as error:
            if session.lost:
                if session.untouched:
                    # As SQLAlchemy does for statements of its own. To dispose of the pool would
                    # have it forget, still open, what other threads have taken out by now.
                    engine.pool._invalidate(pooled, error, _checkin=False)  # noqa: SLF001
                    raise _DeadConnection from error
                raise Unavailable(OUT_OF_REACH) from error
            _roll_back(pooled)
            raise
        except BaseException:
            _roll_back(pooled)
            raise
        finally:
            if session.lost:
                pooled.invalidate()
        return result


def _roll_back(pooled: PoolProxiedConnection) -> None:
    """Roll back on libpq itself: along with its own rollback, the driver deallocates statements."""
    driver: Any = pooled.driver_connection
    if driver is not None and not driver.closed:
        driver.pgconn.exec_(b"ROLLBACK")


@contextmanager
def _translated() -> Iterator[None]:
    """Turn what the driver raises into our errors; what is nobody's fault but ours stays as it is.

    The driver's text never enters a message: it may name hosts, roles and values.
    """
    try:
        yield
    except PoolTimeoutError as error:
        raise ResourceExhausted(
            "all database connections are in use", retry_after_ms=500
        ) from error
    except psycopg.Error as error:
        _raise_ours(error, error)
        if isinstance(error, psycopg.OperationalError) and not error.sqlstate:
            raise Unavailable(OUT_OF_REACH) from error  # no server said that: there was none
        raise
    except DBAPIError as error:
        _raise_ours(error, error.orig)
        if error.connection_invalidated or _failed_to_connect(error):
            raise Unavailable(OUT_OF_REACH) from error
        raise


def _raise_ours(error: Exception, original: BaseException | None) -> None:
    """Raise our error for what the server said, if we have one."""
    state = getattr(original, "sqlstate", None) or ""
    if state in _COLLISIONS or (state == _UNIQUE_VIOLATION and _constraint(original) in _RACES):
        raise Collision from error
    if state in _BUSY:
        raise Unavailable("the database is too busy to answer in time") from error
    if state.startswith(_AWAY):
        raise Unavailable(OUT_OF_REACH) from error


def _constraint(original: BaseException | None) -> str | None:
    diagnostics = getattr(original, "diag", None)
    return getattr(diagnostics, "constraint_name", None)


def _lost(connection: Connection) -> bool:
    driver: Any = connection.connection.driver_connection
    return driver is None or bool(driver.closed)


def _failed_to_connect(error: DBAPIError) -> bool:
    """A failed connection attempt has neither a statement nor a state."""
    return error.statement is None and getattr(error.orig, "sqlstate", None) is None
