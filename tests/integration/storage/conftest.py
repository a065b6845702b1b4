"""Fixtures: a cluster per session, a migrated database with two tenants per test."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from oars_grpc.local.postgres import EmbeddedPostgres
from oars_grpc.storage.ledger import PostgresLedger
from oars_grpc.storage.schema import migrate
from tests.support.database import (
    TEMPLATE,
    create_tenant,
    execute,
    new_database,
    opened,
    url_of,
)

TENANTS = ("acme", "globex")


@pytest.fixture(scope="session")
def cluster_url() -> Iterator[str]:
    """A server without fsync, which only a loss of power would miss.

    With TEST_DATABASE_URL (a superuser's) it is that one instead: another version, say.
    """
    if given := os.environ.get("TEST_DATABASE_URL"):
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="oars-") as directory:
        settings = {"fsync": "off", "max_connections": "150"}
        with EmbeddedPostgres(Path(directory), settings=settings) as server:
            yield server.url


@pytest.fixture(scope="session")
def template(cluster_url: str) -> str:
    """The name of a migrated database with the tenants, to be copied."""
    execute(cluster_url, f"DROP DATABASE IF EXISTS {TEMPLATE}", f"CREATE DATABASE {TEMPLATE}")
    url = url_of(cluster_url, TEMPLATE)
    migrate(url)
    with opened(url) as engine:
        for tenant_id in TENANTS:
            create_tenant(engine, tenant_id)
    return TEMPLATE


@pytest.fixture
def database_url(cluster_url: str, template: str) -> Iterator[str]:
    """A database of the test's own, migrated, with the tenants."""
    with new_database(cluster_url, template) as url:
        yield url


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """Connections under the application's role."""
    with opened(database_url, pool_size=8) as engine:
        yield engine


@pytest.fixture
def ledger(engine: Engine) -> PostgresLedger:
    """The ledger of the test's database."""
    return PostgresLedger(engine)
