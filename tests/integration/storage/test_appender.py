"""Many callers, few transactions; and each caller answered for its own changes alone."""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import psycopg
import pytest
from psycopg import DataError
from sqlalchemy import Engine

from oars_grpc.core.stored import Change, CommitResult, Committed, Replayed
from oars_grpc.errors import Unavailable
from oars_grpc.storage.appender import CoalescingLedger
from tests.support.database import check_ledger
from tests.support.factories import make_change, make_outcome


@pytest.fixture
def appender(engine: Engine) -> Iterator[CoalescingLedger]:
    ledger = CoalescingLedger(engine)
    yield ledger
    ledger.close()


@contextmanager
def held_log(url: str) -> Iterator[None]:
    """Commits of the tenant wait meanwhile, and what comes after the first gathers."""
    with psycopg.connect(url) as connection:
        connection.execute("SELECT FROM log_head WHERE tenant_id = 'acme' FOR UPDATE")
        yield


def gathered(
    appender: CoalescingLedger, url: str, changes: Sequence[Change]
) -> list[Future[Sequence[CommitResult]]]:
    """Commit each change from a thread of its own: the first alone, the others together."""
    with ThreadPoolExecutor(len(changes)) as pool, held_log(url):
        futures = [pool.submit(appender.commit, changes[:1])]
        while not _waiting(url):
            time.sleep(0.01)
        futures += [pool.submit(appender.commit, [change]) for change in changes[1:]]
        while appender.waiting < len(changes) - 1:
            time.sleep(0.01)
    return futures


def _waiting(url: str) -> bool:
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            " AND datname = current_database()"
        ).fetchone()
    return row is not None and row[0] > 0


def transactions(url: str) -> int:
    """Transactions that wrote the receipts."""
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT count(DISTINCT xmin::text) FROM receipt").fetchone()
    assert row is not None
    return int(row[0])


def test_what_comes_during_a_commit_shares_the_next(
    appender: CoalescingLedger, database_url: str
) -> None:
    changes = [make_change(outcome=make_outcome(key=f"key-{n}")) for n in range(20)]
    futures = gathered(appender, database_url, changes)
    assert [future.result() for future in futures] == [[Committed()]] * 20
    assert transactions(database_url) == 2
    assert check_ledger(database_url) == 40


def test_duplicates_in_one_batch_have_one_winner(
    appender: CoalescingLedger, database_url: str
) -> None:
    outcome = make_outcome(key="one")
    changes = [make_change(), *(make_change(outcome=outcome) for _ in range(10))]
    results = [future.result()[0] for future in gathered(appender, database_url, changes)[1:]]
    assert results.count(Committed()) == 1
    assert results.count(Replayed(outcome)) == 9
    check_ledger(database_url)


def test_a_faulty_change_fails_alone(appender: CoalescingLedger, database_url: str) -> None:
    faulty = make_change()
    action = replace(faulty.stored.action, error="a\x00b")
    faulty = replace(faulty, stored=replace(faulty.stored, action=action))
    changes = [make_change(), make_change(), faulty, make_change()]
    futures = gathered(appender, database_url, changes)
    with pytest.raises(DataError):
        futures[2].result()
    assert [futures[place].result() for place in (0, 1, 3)] == [[Committed()]] * 3
    assert check_ledger(database_url) == 6


def test_a_lost_connection_is_told_to_all_and_nothing_is_tried_again(
    appender: CoalescingLedger, database_url: str
) -> None:
    changes = [make_change() for _ in range(5)]
    with ThreadPoolExecutor(5) as pool, held_log(database_url):
        futures = [pool.submit(appender.commit, [change]) for change in changes]
        while not _waiting(database_url):
            time.sleep(0.01)
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE wait_event_type = 'Lock' AND datname = current_database()"
            )
    errors = [future.exception() for future in futures]
    assert any(errors)
    assert all(error is None or isinstance(error, Unavailable) for error in errors)
    # What was acknowledged is there, and nothing else is.
    assert check_ledger(database_url) == 2 * errors.count(None)
    assert appender.commit([make_change()]) == [Committed()]


def test_closing_commits_what_waits(engine: Engine, database_url: str) -> None:
    appender = CoalescingLedger(engine)
    futures = gathered(appender, database_url, [make_change() for _ in range(5)])
    appender.close()
    assert [future.result(timeout=0) for future in futures] == [[Committed()]] * 5
