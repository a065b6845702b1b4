"""Brings the database to the schema of this program.

The migrations run on a connection of their own, as the role that owns the tables. Of several
servers that start on one database, one migrates while the others wait.
"""

import time
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.pool import NullPool

from oars_grpc.errors import ConfigurationError, Unavailable
from oars_grpc.storage.engine import parsed_url
from oars_grpc.storage.tables import APP_ROLE

# Any number will do as long as every version of this program uses the same.
_LOCK = 0x6F61_7273_0001
_POLL_S = 0.05
_MIGRATIONS = Path(__file__).parent / "migrations"
_INSUFFICIENT_PRIVILEGE = "42501"
# A migration that cannot have its lock on a busy table gives up, so that traffic behind it flows.
_OPTIONS = "-c search_path=public -c timezone=UTC -c lock_timeout=5s -c statement_timeout=0"


def migrate(url: str, *, wait_s: float = 120.0) -> None:
    """Run the migrations that the database lacks; returns at once if there are none.

    Raises:
        Unavailable: the database is out of reach, or somebody else migrated for `wait_s` seconds.
        ConfigurationError: the URL is none, the schema is newer than this program, or the user of
            `url` may not create what the schema needs.
    """
    engine = create_engine(
        parsed_url(url),
        poolclass=NullPool,
        use_native_hstore=False,
        connect_args={
            "connect_timeout": 3,
            "application_name": "oars-migrate",
            "options": _OPTIONS,
        },
    )
    try:
        with engine.connect() as connection:
            _lock(connection, time.monotonic() + wait_s)
            # The lock belongs to the session: it outlives commits and ends with the connection.
            command.upgrade(_config(connection), "head")
    except CommandError as error:
        raise ConfigurationError(
            "the database has a schema that this program does not know: is it a newer one's?"
        ) from error
    except OperationalError as error:
        raise Unavailable("the database is out of reach") from error
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != _INSUFFICIENT_PRIVILEGE:
            raise
        raise ConfigurationError(
            "the database user may not migrate: it must own the schema, and either have CREATEROLE"
            f" or be a member of the role {APP_ROLE}"
        ) from error


def current_revision(engine: Engine) -> str | None:
    """The revision that the database is at; None before the first migration."""
    with engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def is_current(engine: Engine) -> bool:
    """Whether the database has exactly this program's schema."""
    config = Config()
    _locate(config)
    return current_revision(engine) == ScriptDirectory.from_config(config).get_current_head()


def _lock(connection: Connection, deadline: float) -> None:
    """Wait for the migration lock without holding a snapshot.

    Waiting inside `pg_advisory_lock` would deadlock with CREATE INDEX CONCURRENTLY in the holder,
    which waits for all older snapshots.
    """
    while not connection.exec_driver_sql(f"SELECT pg_try_advisory_lock({_LOCK})").scalar_one():
        connection.rollback()
        if time.monotonic() > deadline:
            raise Unavailable("another process has been migrating the database for too long")
        time.sleep(_POLL_S)
    connection.commit()


def _config(connection: Connection) -> Config:
    config = Config(attributes={"connection": connection})
    _locate(config)
    return config


def _locate(config: Config) -> None:
    # The option is interpolated: a percent sign in the path is written twice.
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
