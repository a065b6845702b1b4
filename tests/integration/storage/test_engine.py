"""Opening connections, and what faults of the database become."""

import threading
import time

import psycopg
import pytest
from sqlalchemy import Connection, Engine, make_url
from sqlalchemy.exc import DataError, ProgrammingError

from oars_grpc.errors import ConfigurationError, OarsError, ResourceExhausted, Unavailable
from oars_grpc.storage.engine import open_engine, ping
from oars_grpc.storage.schema import migrate
from oars_grpc.storage.transaction import ATTEMPTS, Collision, read, write
from tests.support.database import execute, new_database, opened


def _open(url: str) -> Engine:
    return open_engine(
        url,
        pool_size=1,
        statement_timeout_ms=1000,
        lock_timeout_ms=1000,
        application_name="oars-test",
    )


def test_connections_act_as_the_application_with_its_settings(engine: Engine) -> None:
    with engine.connect() as connection:
        row = connection.exec_driver_sql(
            "SELECT current_user, current_setting('timezone'), current_setting('application_name'),"
            " current_setting('synchronous_commit'), current_setting('statement_timeout'),"
            " current_setting('transaction_isolation'), current_setting('search_path')"
        ).one()
    assert tuple(row) == ("oars_app", "UTC", "oars-test", "on", "10s", "read committed", "public")


@pytest.mark.parametrize("scope", ["DATABASE {}", "ROLE postgres IN DATABASE {}"])
def test_a_default_of_the_database_or_role_does_not_make_commits_less_durable(
    database_url: str, scope: str
) -> None:
    scope = scope.format(make_url(database_url).database)
    execute(database_url, f"ALTER {scope} SET synchronous_commit = off")
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SHOW synchronous_commit").fetchone() == ("off",)
    with opened(database_url) as engine, engine.connect() as connection:
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar_one() == "on"
        connection.exec_driver_sql("RESET synchronous_commit")
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar_one() == "on"


def test_reset_role_does_not_lead_back_to_the_owner(engine: Engine) -> None:
    with engine.connect() as connection:
        connection.exec_driver_sql("RESET ROLE")
        assert connection.exec_driver_sql("SELECT current_user").scalar_one() == "oars_app"


@pytest.mark.parametrize(
    ("grant", "revoke", "fault"),
    [
        ("ALTER ROLE oars_app BYPASSRLS", "ALTER ROLE oars_app NOBYPASSRLS", "BYPASSRLS"),
        ("ALTER ROLE oars_app SUPERUSER", "ALTER ROLE oars_app NOSUPERUSER", "superuser"),
        ("ALTER TABLE log_head OWNER TO oars_app", "ALTER TABLE log_head OWNER TO postgres", "own"),
        ("GRANT DELETE ON receipt TO oars_app", "REVOKE DELETE ON receipt FROM oars_app", "change"),
    ],
)
def test_a_role_that_could_get_around_the_walls_is_refused(
    database_url: str, grant: str, revoke: str, fault: str
) -> None:
    execute(database_url, grant)
    try:
        with pytest.raises(ConfigurationError, match=fault):
            _open(database_url)
    finally:
        execute(database_url, revoke)


def test_a_login_user_outside_the_role_is_told_so(cluster_url: str, database_url: str) -> None:
    execute(cluster_url, "CREATE ROLE stranger LOGIN")
    try:
        with pytest.raises(ConfigurationError, match="not a member"):
            _open(database_url.replace("postgres@", "stranger@"))
    finally:
        execute(cluster_url, "DROP ROLE stranger")


def test_a_database_out_of_reach_is_unavailable_and_a_url_that_is_none_a_mistake(
    cluster_url: str,
) -> None:
    with pytest.raises(Unavailable) as caught:
        _open("postgresql://someone:secret@127.0.0.1:1/nowhere")
    assert caught.value.message == "the database is out of reach"
    with pytest.raises(Unavailable):
        migrate("postgresql://someone:secret@127.0.0.1:1/nowhere")
    for url in ("not a url", "mysql://localhost/oars"):
        with pytest.raises(ConfigurationError):
            _open(url)
        with pytest.raises(ConfigurationError):
            migrate(url)


def test_a_pool_in_use_is_exhausted_with_a_delay(database_url: str) -> None:
    with opened(database_url, pool_size=1, pool_timeout_s=0.1) as engine, engine.connect():
        with pytest.raises(ResourceExhausted) as caught:
            read(engine, ["acme"], _count_tenants)
        assert caught.value.retry_after_ms > 0
        with pytest.raises(ResourceExhausted):
            ping(engine)


def test_a_dead_pooled_connection_costs_no_call(database_url: str) -> None:
    with opened(database_url, pool_size=3) as engine:
        ping(engine)
        connections = [engine.connect() for _ in range(3)]
        for connection in connections:
            connection.close()
        _terminate_all(database_url)
        for _ in range(3):
            assert read(engine, ["acme"], _count_tenants) == 1
        _terminate_all(database_url)
        ping(engine)


def test_a_connection_lost_in_the_middle_is_not_tried_again(database_url: str) -> None:
    calls = 0

    def work(connection: Connection) -> None:
        nonlocal calls
        calls += 1
        _terminate_all(database_url)
        connection.exec_driver_sql("SELECT 1")

    with opened(database_url) as engine:
        with pytest.raises(Unavailable, match="out of reach"):
            write(engine, ["acme"], work)
        assert calls == 1
        assert read(engine, ["acme"], _count_tenants) == 1


def test_a_statement_or_lock_that_takes_too_long_is_unavailable(database_url: str) -> None:
    with opened(database_url, statement_timeout_ms=200, lock_timeout_ms=100) as engine:
        with pytest.raises(Unavailable, match="too busy"):
            read(engine, [], lambda connection: connection.exec_driver_sql("SELECT pg_sleep(5)"))
        with psycopg.connect(database_url) as holder:
            holder.execute("SELECT FROM log_head FOR UPDATE")
            with pytest.raises(Unavailable, match="too busy"):
                write(
                    engine,
                    ["acme"],
                    lambda connection: connection.exec_driver_sql(
                        "SELECT FROM log_head FOR UPDATE"
                    ),
                )


def test_a_deadlock_is_run_again(engine: Engine) -> None:
    barrier = threading.Barrier(2)
    attempts = []

    def work(first: str, second: str) -> None:
        def lock(connection: Connection) -> None:
            attempts.append(first)
            connection.exec_driver_sql(
                "SELECT FROM log_head WHERE tenant_id = %s FOR UPDATE", (first,)
            )
            if len(attempts) <= 2:
                barrier.wait(10)
            connection.exec_driver_sql(
                "SELECT FROM log_head WHERE tenant_id = %s FOR UPDATE", (second,)
            )

        write(engine, ["acme", "globex"], lock)

    threads = [
        threading.Thread(target=work, args=pair)
        for pair in (("acme", "globex"), ("globex", "acme"))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert len(attempts) >= 3


def test_collisions_end_as_unavailable_after_a_bounded_number_of_attempts(engine: Engine) -> None:
    attempts = []

    def work(connection: Connection) -> None:
        attempts.append(time.monotonic())
        raise Collision("again")

    with pytest.raises(Unavailable):
        write(engine, ["acme"], work)
    assert len(attempts) == ATTEMPTS


def test_a_fault_of_the_program_stays_a_fault_and_is_none_of_the_family(engine: Engine) -> None:
    with pytest.raises(DataError) as caught:
        read(engine, [], lambda c: c.exec_driver_sql("SELECT %s::text", ("secret\x00",)))
    assert not isinstance(caught.value, OarsError)
    assert "secret" not in str(caught.value)
    assert read(engine, ["acme"], _count_tenants) == 1


def test_a_database_without_the_schema_gives_no_sign_of_life(
    cluster_url: str, template: str
) -> None:
    with new_database(cluster_url) as url, opened(url) as engine, pytest.raises(ProgrammingError):
        ping(engine)


def _count_tenants(connection: Connection) -> int:
    count: int = connection.exec_driver_sql("SELECT count(*) FROM tenant").scalar_one()
    return count


def _terminate_all(url: str) -> None:
    execute(
        url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
