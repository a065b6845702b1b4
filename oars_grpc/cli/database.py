"""The database of the server, for commands that look into it without a server."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Engine

from oars_grpc.errors import ConfigurationError
from oars_grpc.local.postgres import EmbeddedPostgres
from oars_grpc.storage.engine import open_engine
from oars_grpc.storage.schema import is_current

_TIMEOUT_MS = 10_000


@contextmanager
def opened_database(url: str, data_directory: Path) -> Iterator[Engine]:
    """Connections under the application's role; without a URL to the embedded Postgres.

    Raises:
        ConfigurationError: there is no such database, or its schema is not this program's.
        Unavailable: it is out of reach.
    """
    if not url:
        if not (data_directory / "data").is_dir():
            raise ConfigurationError(
                f"no OARS_DATABASE_URL, and no embedded Postgres in {data_directory}"
            )
        with (
            EmbeddedPostgres(data_directory) as postgres,
            opened_database(postgres.url, data_directory) as engine,
        ):
            yield engine
        return
    engine = open_engine(
        url,
        pool_size=2,
        statement_timeout_ms=_TIMEOUT_MS,
        lock_timeout_ms=_TIMEOUT_MS,
        application_name="oars-log",
    )
    try:
        if not is_current(engine):
            raise ConfigurationError(
                "the schema of the database is not this program's: run oars migrate, or the"
                " version of oars that serves"
            )
        yield engine
    finally:
        engine.dispose()
