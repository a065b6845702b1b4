"""Migrations, and what the database itself refuses."""

import subprocess
import sys
from collections.abc import Iterator

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, create_engine
from sqlalchemy.pool import NullPool

from oars_grpc.core.receipt_filter import ReceiptFilter
from oars_grpc.errors import ConfigurationError, Unavailable
from oars_grpc.storage.columns import metadata
from oars_grpc.storage.ledger import PostgresLedger
from oars_grpc.storage.schema import current_revision, is_current, migrate
from oars_grpc.storage.tables import DUE_STATES
from tests.support.controls import add_mapping, tag_all
from tests.support.database import create_tenant, execute, new_database, opened
from tests.support.factories import make_change, make_outcome
from tests.support.retention import (
    RETENTION_DAYS,
    finished,
    make_holds,
    make_retention,
    place,
    set_retention,
)

TENANT_TABLES = sorted(metadata.tables)
APPEND_ONLY = (
    "idempotency_outcome",
    "log_node",
    "policy",
    "policy_archive",
    "policy_publication",
    "receipt",
    "receipt_body",
    "receipt_control",
    "receipt_rule",
    "action_body",
    "erasure",
    "legal_hold",
    "legal_hold_step",
)
ROWS_OF_APPROVERS = (
    "INSERT INTO policy_archive SELECT tenant_id, policy_id, now(), 'admin' FROM policy",
    (
        "INSERT INTO second_factor SELECT tenant_id, 'approver', '', now(), 'admin', 0, 0, NULL"
        " FROM tenant"
    ),
    (
        "INSERT INTO approver_key SELECT tenant_id, 'key', 'approver', '', now(), 'admin', NULL, ''"
        " FROM tenant"
    ),
)
ROWS_OF_LATTICES = (
    "INSERT INTO lattice_generation SELECT tenant_id, 'gen', 'current', now() FROM tenant",
    "INSERT INTO lattice_chunk SELECT tenant_id, 'digest', '', now() FROM tenant",
    "INSERT INTO lattice_part SELECT tenant_id, 'gen', 'anchors', 0, 'digest' FROM tenant",
    (
        "INSERT INTO lattice SELECT tenant_id, 'lat', '', 'ready', 'gen', 1, 1, 1, now(), '',"
        " now(), '' FROM tenant"
    ),
    (
        "INSERT INTO lattice_operation SELECT tenant_id, 'op', 'lat', 'done', 0, 0, 0, now(), '',"
        " now(), '', now(), 0, '' FROM tenant"
    ),
)
_APP = "SET ROLE oars_app"
_MIGRATE = (
    "import sys; from oars_grpc.storage.schema import migrate; migrate(sys.argv[1]); print('done')"
)


@pytest.fixture(scope="module")
def filled_url(cluster_url: str, template: str) -> Iterator[str]:
    """A database with actions, receipts and outcomes of two tenants, which no test here changes."""
    with new_database(cluster_url, template) as url:
        _fill(url)
        yield url


def _fill(url: str) -> None:
    with opened(url) as engine:
        for tenant_id in ("acme", "globex"):
            # So many that the log has a whole tile, and with it a node.
            changes = [make_change(tenant_id) for _ in range(128)]
            changes.append(make_change(tenant_id, outcome=make_outcome(tenant_id)))
            PostgresLedger(engine).commit([*changes, finished(tenant_id)])
            tag_all(engine, add_mapping(engine, tenant_id=tenant_id))
            place(make_holds(engine), ReceiptFilter(agent_id="nobody"), tenant_id)
            set_retention(engine, tenant_id, RETENTION_DAYS)
            assert make_retention(engine).erase_due().erased == 3
    execute(url, *ROWS_OF_APPROVERS, *ROWS_OF_LATTICES)


@pytest.fixture
def owner(filled_url: str) -> Iterator[psycopg.Connection]:
    """A session of the superuser, who owns the tables."""
    with psycopg.connect(filled_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def app(filled_url: str) -> Iterator[psycopg.Connection]:
    """A raw session under the application's role."""
    with psycopg.connect(filled_url, autocommit=True) as connection:
        connection.execute(_APP)
        yield connection


def _count(connection: psycopg.Connection, table: str) -> int:
    row = connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()
    assert row is not None
    return int(row[0])


def test_migrations_build_what_the_metadata_says(database_url: str) -> None:
    engine = create_engine(database_url, poolclass=NullPool)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_the_partial_index_of_due_actions_is_over_the_due_states(
    owner: psycopg.Connection,
) -> None:
    row = owner.execute(
        "SELECT pg_get_expr(indpred, indrelid) FROM pg_index"
        " WHERE indexrelid = 'action_due'::regclass"
    ).fetchone()
    assert row is not None
    assert all(f"'{state}'::text" in row[0] for state in DUE_STATES)
    assert row[0].count("::text") == len(DUE_STATES)


def test_migrating_again_changes_nothing(database_url: str) -> None:
    migrate(database_url)
    with opened(database_url) as engine:
        assert current_revision(engine) == "0008"
        assert is_current(engine)


def test_an_unmigrated_database_is_not_current_and_opens_no_engine(cluster_url: str) -> None:
    with new_database(cluster_url) as url:
        engine = create_engine(url, poolclass=NullPool)
        assert current_revision(engine) is None
        assert not is_current(engine)


def test_a_schema_newer_than_the_program_is_refused(database_url: str) -> None:
    execute(database_url, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(ConfigurationError):
        migrate(database_url)


def test_two_processes_migrate_one_empty_database(cluster_url: str, template: str) -> None:
    with new_database(cluster_url) as url:
        _migrate_at_once(url, url)


def test_two_databases_migrate_at_once_though_roles_are_the_clusters(cluster_url: str) -> None:
    with new_database(cluster_url) as one, new_database(cluster_url) as other:
        for _ in range(3):
            _migrate_at_once(one, other)
            for url in (one, other):
                execute(url, "DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
                execute(url, "GRANT USAGE ON SCHEMA public TO PUBLIC")


def _migrate_at_once(*urls: str) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _MIGRATE, url],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for url in urls
    ]
    ends = [(process.communicate(timeout=60), process.returncode) for process in processes]
    assert [(out, code) for (out, _), code in ends] == [("done\n", 0)] * len(urls), ends
    with opened(urls[0]) as engine:
        assert is_current(engine)
        create_tenant(engine, "acme")


def test_a_migration_waits_for_the_lock_only_so_long(database_url: str) -> None:
    with psycopg.connect(database_url) as holder:
        holder.execute("SELECT pg_advisory_lock(%s)", (0x6F61_7273_0001,))
        with pytest.raises(Unavailable):
            migrate(database_url, wait_s=0.2)


def test_an_owner_without_createrole_migrates_where_the_role_exists(
    cluster_url: str, template: str
) -> None:
    name = "plain_owner"
    execute(cluster_url, f"CREATE ROLE {name} LOGIN", f"GRANT oars_app TO {name}")
    try:
        with new_database(cluster_url) as url:
            execute(url, f"ALTER SCHEMA public OWNER TO {name}")
            own = url.replace("postgres@", f"{name}@")
            migrate(own)
            with opened(own) as engine:
                create_tenant(engine, "acme")
                PostgresLedger(engine).commit([make_change()])
    finally:
        execute(cluster_url, f"DROP ROLE {name}")


def test_a_user_who_may_create_nothing_is_told_so(cluster_url: str, template: str) -> None:
    name = "nobody_much"
    execute(cluster_url, f"CREATE ROLE {name} LOGIN")
    try:
        with new_database(cluster_url) as url, pytest.raises(ConfigurationError):
            migrate(url.replace("postgres@", f"{name}@"))
    finally:
        execute(cluster_url, f"DROP ROLE {name}")


@pytest.mark.parametrize("table", TENANT_TABLES)
def test_a_tenant_sees_no_row_of_another_even_by_raw_sql(
    app: psycopg.Connection, table: str
) -> None:
    assert _count(app, table) == 0
    for setting, expected in (("", set()), ("acme", {"acme"}), ("acme,globex", {"acme", "globex"})):
        app.execute("SELECT set_config('oars.tenants', %s, false)", (setting,))
        rows = app.execute(f"SELECT DISTINCT tenant_id FROM {table}".encode()).fetchall()
        # No test row needs an approval; in every other table both tenants have rows.
        assert {row[0] for row in rows} == (set() if table == "approval" else expected)


@pytest.mark.parametrize("table", TENANT_TABLES)
def test_all_tenants_together_are_visible_in_the_list_of_tenants_only(
    app: psycopg.Connection, table: str
) -> None:
    app.execute("SET oars.tenants = '*'")
    assert _count(app, table) == (2 if table == "tenant" else 0)


def test_the_list_of_all_tenants_is_for_reading_only(app: psycopg.Connection) -> None:
    app.execute("SET oars.tenants = '*'")
    assert app.execute("UPDATE tenant SET display_name = 'x'").rowcount == 0


def test_a_row_of_another_tenant_can_be_neither_added_nor_changed(
    app: psycopg.Connection,
) -> None:
    app.execute("SET oars.tenants = 'acme'")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
        app.execute("INSERT INTO action_body VALUES ('globex', 'act_x', '')")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
        app.execute(
            "INSERT INTO receipt_body SELECT 'globex', leaf_index + 9, payload FROM receipt_body"
        )
    assert app.execute("UPDATE action SET error = 'x' WHERE tenant_id = 'globex'").rowcount == 0


def test_a_setting_that_a_transaction_left_behind_shows_nothing(app: psycopg.Connection) -> None:
    with app.transaction():
        app.execute("SELECT set_config('oars.tenants', 'acme', true)")
        assert _count(app, "receipt") == 263
    assert _count(app, "receipt") == 0


@pytest.mark.parametrize("table", APPEND_ONLY)
@pytest.mark.parametrize(
    "statement", ["UPDATE {} SET tenant_id = 'x'", "DELETE FROM {}", "TRUNCATE {} CASCADE"]
)
def test_append_only_tables_refuse_the_application(
    app: psycopg.Connection, table: str, statement: str
) -> None:
    app.execute("SET oars.tenants = 'acme'")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        app.execute(statement.format(table).encode())


@pytest.mark.parametrize("replica", [False, True])
@pytest.mark.parametrize("table", APPEND_ONLY)
@pytest.mark.parametrize(
    "statement", ["UPDATE {} SET tenant_id = 'x'", "DELETE FROM {}", "TRUNCATE {} CASCADE"]
)
def test_append_only_tables_refuse_their_owner_too(
    owner: psycopg.Connection, table: str, statement: str, *, replica: bool
) -> None:
    if replica:
        owner.execute("SET session_replication_role = replica")
    with pytest.raises(psycopg.errors.RestrictViolation, match="append-only"):
        owner.execute(statement.format(table).encode())


def test_the_application_changes_only_the_columns_that_change(app: psycopg.Connection) -> None:
    app.execute("SET oars.tenants = 'acme'")
    for column in ("action_digest", "input_digest", "body", "agent_id", "created_at"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            app.execute(f"UPDATE action SET {column} = {column}".encode())
    for table in ("action", "action_body", "approval", "log_head", "signing_key", "tenant"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            app.execute(f"DELETE FROM {table}".encode())
    for statement in ("UPDATE action_body SET input = ''", "CREATE TABLE mine (a int)"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            app.execute(statement.encode())


def test_every_table_has_row_level_security_and_every_key_begins_with_the_tenant(
    engine: Engine,
) -> None:
    with engine.connect() as connection:
        rows = connection.exec_driver_sql(
            "SELECT relname, relrowsecurity FROM pg_class"
            " WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        ).all()
    assert {name: secured for name, secured in rows if name != "alembic_version"} == dict.fromkeys(
        TENANT_TABLES, True
    )
    for table in metadata.tables.values():
        assert next(iter(table.primary_key.columns)).name == "tenant_id"
