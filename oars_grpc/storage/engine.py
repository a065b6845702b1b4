"""Opens the pool of connections, all of them under the application's own role."""

import psycopg
from sqlalchemy import URL, Connection, Engine, create_engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError

from oars_grpc.errors import ConfigurationError, Unavailable
from oars_grpc.storage.tables import APP_ROLE
from oars_grpc.storage.transaction import OUT_OF_REACH, read

CONNECT_TIMEOUT_S = 3
PING_TIMEOUT_MS = 1000
_POSTGRES_VERSION = 150_000
_SCHEMES = {"postgresql", "postgres", "postgresql+psycopg"}

_LOGIN_ROLE = """
SELECT
    current_setting('server_version_num')::int,
    EXISTS (SELECT FROM pg_roles WHERE rolname = %(role)s),
    CASE WHEN EXISTS (SELECT FROM pg_roles WHERE rolname = %(role)s)
        THEN pg_has_role(session_user, %(role)s, 'MEMBER') ELSE false END
"""
# pg_has_role and has_table_privilege see through memberships: whoever is in the owner's role has
# the owner's rights, and row-level security does not hold against owners.
_EFFECTIVE_ROLE = """
SELECT
    rolname,
    rolsuper,
    rolbypassrls,
    EXISTS (
        SELECT FROM pg_class
        WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace
            AND pg_has_role(pg_roles.oid, relowner, 'USAGE')
    ),
    EXISTS (
        SELECT FROM pg_class
        WHERE relnamespace = 'public'::regnamespace
            AND relname IN ('receipt', 'receipt_body', 'idempotency_outcome')
            AND has_table_privilege(pg_roles.oid, pg_class.oid, 'UPDATE, DELETE, TRUNCATE')
    )
FROM pg_roles WHERE rolname = current_user
"""


def open_engine(
    url: str,
    *,
    pool_size: int,
    statement_timeout_ms: int,
    lock_timeout_ms: int,
    application_name: str,
    pool_timeout_s: float = 2.0,
) -> Engine:
    """A pool of connections that act as the role `oars_app`.

    `pool_timeout_s` is how long a transaction waits for a connection of the pool.

    Raises:
        Unavailable: the database is out of reach.
        ConfigurationError: the URL is none, the schema was never migrated, or the role could get
            around row-level security or change receipts.
    """
    # As startup options the settings cost no round trip, cannot be forgotten by a reconnect, and
    # are what RESET returns to.
    options = {
        "role": APP_ROLE,
        "search_path": "public",
        "timezone": "UTC",
        "statement_timeout": str(statement_timeout_ms),
        "lock_timeout": str(lock_timeout_ms),
        # A receipt is durable before its action is allowed (design §2 promise 1), whatever default
        # the database or the login role has.
        "synchronous_commit": "on",
        # A process that stands still in a transaction would hold its tenants' heads forever.
        "idle_in_transaction_session_timeout": str(max(30_000, 2 * statement_timeout_ms)),
        # A cached generic plan where it is no worse; reads of pages ask for custom ones.
        "plan_cache_mode": "auto",
        # Every statement of ours finds its rows by a key. A plan made while a table was small
        # would scan it, and be kept for minutes while the table grows.
        "enable_seqscan": "off",
    }
    arguments: dict[str, str | int] = {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "application_name": application_name,
        # Notice a peer that vanished without a word; without effect on Unix sockets.
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        "tcp_user_timeout": 15_000,
    }
    parsed = parsed_url(url)
    _check_login(parsed, arguments)
    engine = create_engine(
        parsed,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=pool_timeout_s,
        pool_use_lifo=True,
        isolation_level="READ COMMITTED",
        use_native_hstore=False,
        # The text of an error may reach a log: requests and sealed keys stay out of it.
        hide_parameters=True,
        connect_args={
            **arguments,
            "options": " ".join(f"-c {name}={value}" for name, value in options.items()),
        },
    )
    try:
        _check_effective_role(engine)
    except BaseException:
        engine.dispose()
        raise
    return engine


def ping(engine: Engine) -> None:
    """Ask the database for a sign of life.

    Raises:
        Unavailable: it gave none within about a second.
        ResourceExhausted: all connections of the pool are in use; the database may well live.
    """

    def work(connection: Connection) -> None:
        connection.exec_driver_sql(
            "SELECT set_config('statement_timeout', %s, true)", (str(PING_TIMEOUT_MS),)
        )
        connection.exec_driver_sql("SELECT FROM log_head LIMIT 1")

    read(engine, [], work)


def parsed_url(url: str) -> URL:
    """The URL with the driver that OARS uses.

    Raises:
        ConfigurationError: it is not the URL of a Postgres database.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:  # ValueError: of a port that is no number
        raise ConfigurationError("the database URL is not one") from error
    if parsed.drivername not in _SCHEMES:
        raise ConfigurationError("the database URL does not begin with postgresql://")
    return parsed.set(drivername="postgresql+psycopg")


def _check_login(url: URL, arguments: dict[str, str | int]) -> None:
    """Refuse with the cause what would otherwise fail as an unexplained connection error."""
    conninfo = url.set(drivername="postgresql").render_as_string(hide_password=False)
    try:
        with psycopg.connect(conninfo, **arguments) as connection:  # type: ignore[arg-type] # keywords of libpq
            row = connection.execute(_LOGIN_ROLE, {"role": APP_ROLE}).fetchone()
    except psycopg.OperationalError as error:
        raise Unavailable(OUT_OF_REACH) from error
    except psycopg.ProgrammingError as error:
        raise ConfigurationError("the database URL is not one") from error
    version, exists, member = row or (0, False, False)
    if version < _POSTGRES_VERSION:
        raise ConfigurationError("the database is older than Postgres 15")
    if not exists:
        raise ConfigurationError(f"the role {APP_ROLE} is missing: migrate the database first")
    if not member:
        raise ConfigurationError(
            f"the database user is not a member of {APP_ROLE}: GRANT {APP_ROLE} TO it"
        )


def _check_effective_role(engine: Engine) -> None:
    try:
        with engine.connect() as connection:
            row = connection.exec_driver_sql(_EFFECTIVE_ROLE).one()
    except OperationalError as error:
        raise Unavailable(OUT_OF_REACH) from error
    except DBAPIError as error:
        raise ConfigurationError("the database does not answer as Postgres 15 does") from error
    role, superuser, bypasses, owns, changes = row
    faults = {
        "is a superuser": superuser,
        "has BYPASSRLS": bypasses,
        "owns tables": owns,
        "may change receipts": changes,
        f"is not {APP_ROLE}": role != APP_ROLE,
    }
    found = [fault for fault, present in faults.items() if present]
    if found:
        raise ConfigurationError(f"the role {role} of the application {', '.join(found)}")
