"""Connections and servers that die at every point of a commit."""

import gc
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine

from oars_grpc.core.stored import Change, Committed, Replayed, Superseded
from oars_grpc.errors import Unavailable
from oars_grpc.local.postgres import EmbeddedPostgres
from oars_grpc.storage.engine import ping
from oars_grpc.storage.ledger import PostgresLedger
from oars_grpc.storage.prepared import Session, Statement
from oars_grpc.storage.schema import migrate
from oars_grpc.storage.transaction import read
from oars_grpc.storage.upkeep import PostgresUpkeepStore
from tests.support.database import check_ledger, create_tenant, execute, opened
from tests.support.factories import (
    as_read,
    make_approval,
    make_change,
    make_next_change,
    make_outcome,
)

# begin, tenants, actions, approvals, heads, pending, keys, action, input, update, approval, growth,
# receipts, payloads, rules, commit: what the batch below executes.
STATEMENTS = 16


class Faults:
    """Kills the backend of a connection before the statement of a number.

    What was queued before it is sent and done first, so that the transaction is as far as that.
    """

    def __init__(self, patch: pytest.MonkeyPatch, url: str) -> None:
        self.seen = 0
        self._statement = 0
        self._url = url
        prepared = Session.execute

        def execute(session: Session, statement: Statement, *arguments: Any) -> None:
            self._count(session)
            prepared(session, statement, *arguments)

        patch.setattr(Session, "execute", execute)

    def before(self, statement: int) -> None:
        """Count from here, and kill before the statement."""
        self.seen, self._statement = 0, statement

    def _count(self, session: Session) -> None:
        self.seen += 1
        if self.seen == self._statement:
            session.flush()
            _terminate(session.backend_pid, self._url)


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch, database_url: str) -> Faults:
    return Faults(monkeypatch, database_url)


def _terminate(backend: int, url: str) -> None:
    execute(url, f"SELECT pg_terminate_backend({backend}, 5000)")


def _batch(created: Change) -> list[Change]:
    """A batch that needs every statement of the write path."""
    change = make_change(outcome=make_outcome())
    approval = make_approval(change.stored.action)
    return [
        Change(change.stored, 0, change.receipts, approval=approval, outcome=change.outcome),
        make_next_change(created.stored),
    ]


@pytest.fixture
def created(ledger: PostgresLedger) -> Change:
    change = make_change()
    assert ledger.commit([change]) == [Committed()]
    return change


def test_the_batch_of_these_tests_has_as_many_statements_as_they_assume(
    ledger: PostgresLedger, faults: Faults, created: Change
) -> None:
    faults.before(0)
    ledger.commit(_batch(created))
    assert faults.seen == STATEMENTS


def test_a_connection_dead_before_the_first_statement_costs_nothing(
    ledger: PostgresLedger, faults: Faults, database_url: str, created: Change
) -> None:
    faults.before(1)
    assert ledger.commit(_batch(created)) == [Committed(), Committed()]
    assert check_ledger(database_url) == 5


def test_what_other_threads_use_meanwhile_is_closed_and_not_forgotten(database_url: str) -> None:
    """A connection that is dropped open warns as it is collected, and warnings are errors here."""
    with opened(database_url, pool_size=2) as engine:
        ledger = PostgresLedger(engine)

        def backend(connection: Connection) -> int:
            (pid,) = connection.exec_driver_sql("SELECT pg_backend_pid()").one()
            return int(pid)

        def beside(connection: Connection) -> tuple[int, int]:
            return backend(connection), read(engine, [], backend)

        used, idle = read(engine, [], beside)

        def meet_a_dead_one(connection: Connection) -> None:
            assert backend(connection) == used
            _terminate(idle, database_url)
            assert ledger.commit([make_change()]) == [Committed()]

        read(engine, [], meet_a_dead_one)
        assert not {used, idle} & set(read(engine, [], beside))
    gc.collect()


@pytest.mark.parametrize("statement", range(2, STATEMENTS + 1))
def test_a_connection_killed_before_a_statement_leaves_nothing_behind(
    ledger: PostgresLedger, faults: Faults, database_url: str, created: Change, statement: int
) -> None:
    faults.before(statement)
    batch = _batch(created)
    with pytest.raises(Unavailable, match=r"^the database is out of reach$"):
        ledger.commit(batch)
    assert check_ledger(database_url) == 2
    assert batch[0].outcome is not None
    assert ledger.basis("acme", batch[0].outcome.scope).outcome is None
    assert ledger.find_action(["acme"], created.stored.action.action_id) == as_read(created.stored)
    assert ledger.commit(batch) == [Committed(), Committed()]
    assert check_ledger(database_url) == 5


@pytest.mark.parametrize("persisted", [False, True])
def test_a_connection_lost_at_commit_is_unavailable_and_the_key_tells_what_became_of_it(
    ledger: PostgresLedger,
    database_url: str,
    created: Change,
    monkeypatch: pytest.MonkeyPatch,
    *,
    persisted: bool,
) -> None:
    commits = 0
    commit = Session.commit

    def lose(session: Session) -> None:
        nonlocal commits
        commits += 1
        if commits == 1:
            if persisted:
                commit(session)
            _terminate(session.backend_pid, database_url)
        commit(session)

    monkeypatch.setattr(Session, "commit", lose)
    batch = _batch(created)
    with pytest.raises(Unavailable, match=r"^the database is out of reach$"):
        ledger.commit(batch)
    assert commits == 1
    assert check_ledger(database_url) == (5 if persisted else 2)
    again = ledger.commit(batch)
    assert batch[0].outcome is not None
    first = Replayed(batch[0].outcome)
    assert again == ([first, Superseded()] if persisted else [Committed(), Committed()])
    assert check_ledger(database_url) == 5


def test_a_key_whose_outcome_is_purged_in_between_is_free_for_the_next_attempt(
    ledger: PostgresLedger, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    past = datetime(2020, 1, 1, tzinfo=UTC)
    ledger.commit([make_change(outcome=make_outcome(expires_at=past))])
    purged = []
    prepared = Session.execute

    def purge(session: Session, statement: Statement, *arguments: Any) -> None:
        if statement.name == b"find outcomes":
            purged.append(PostgresUpkeepStore(engine).purge_outcomes(datetime.now(UTC), 10))
        prepared(session, statement, *arguments)

    monkeypatch.setattr(Session, "execute", purge)
    assert ledger.commit([make_change(outcome=make_outcome())]) == [Committed()]
    assert purged == [1]


@pytest.fixture
def own_server() -> Iterator[EmbeddedPostgres]:
    """A server of the test's own, to be killed."""
    with tempfile.TemporaryDirectory(prefix="oars-") as directory:
        server = EmbeddedPostgres(Path(directory), settings={"fsync": "off"})
        with server:
            migrate(server.url)
            yield server


def test_a_killed_server_makes_calls_unavailable_and_loses_nothing_it_confirmed(
    own_server: EmbeddedPostgres,
) -> None:
    url = own_server.url
    confirmed: list[str] = []
    unavailable = threading.Event()
    stop = threading.Event()
    surprises: list[BaseException] = []

    with opened(url, pool_size=4) as engine:
        create_tenant(engine, "acme")
        ledger = PostgresLedger(engine)

        def work(number: int) -> None:
            turn = 0
            while not stop.is_set():
                turn += 1
                change = make_change(outcome=make_outcome(key=f"{number}-{turn}"))
                try:
                    results = ledger.commit([change])
                except Unavailable:
                    unavailable.set()
                    time.sleep(0.02)
                except BaseException as error:  # noqa: BLE001 - told to the test below
                    surprises.append(error)
                    return
                else:
                    assert results == [Committed()]
                    confirmed.append(change.stored.action.action_id)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        _wait_until(lambda: len(confirmed) > 20)
        os.kill(own_server.pid, signal.SIGKILL)
        assert unavailable.wait(20)
        with pytest.raises(Unavailable):
            _until_refused(engine)
        own_server.start()
        before = len(confirmed)
        _wait_until(lambda: len(confirmed) > before + 20)
        stop.set()
        for thread in threads:
            thread.join(20)
        assert surprises == []
        check_ledger(url)
        missing = [one for one in confirmed if ledger.find_action(["acme"], one) is None]
        assert missing == []


def _wait_until(condition: Any, timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _until_refused(engine: Engine) -> None:
    """Backends outlive their postmaster by a moment."""
    for _ in range(500):
        ping(engine)
        time.sleep(0.01)
