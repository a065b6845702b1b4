"""Every write of the commit path, by {failed, not persisted; failed, persisted; process killed}.

The failures are made between the client and a real Postgres, at every message of a commit that has
the server do something, wherever it stands among those that travel with it. Afterwards the check of
the log must pass, and every receipt that was acknowledged must be in it.
"""

import os
import signal
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import psycopg
import pytest

from oars_grpc.core.stored import Change, CommitResult, Committed, Replayed
from oars_grpc.errors import Unavailable
from oars_grpc.storage.appender import CoalescingLedger
from tests.support.committer import BATCH, make_batch
from tests.support.database import check_ledger, checked_log, opened
from tests.support.forks import Forks, forks_of
from tests.support.postgres_proxy import Failure, PostgresProxy


@pytest.fixture
def proxy(database_url: str) -> Iterator[PostgresProxy]:
    with tempfile.TemporaryDirectory(prefix="oars-") as directory:
        proxy = PostgresProxy(database_url, Path(directory) / "s")
        yield proxy
        proxy.close()


@pytest.fixture
def ledger(proxy: PostgresProxy) -> Iterator[CoalescingLedger]:
    """The ledger of the server, on the far side of the proxy."""
    with opened(proxy.url, pool_size=2) as engine:
        ledger = CoalescingLedger(engine)
        ledger.commit(make_batch(1))
        yield ledger
        ledger.close()


# BEGIN, tenants, actions, approvals and heads travel together, before anything is written.
LOCKING = 5


def _messages(proxy: PostgresProxy, ledger: CoalescingLedger) -> int:
    """How many statements a commit takes."""
    proxy.count()
    ledger.commit(make_batch(2))
    assert proxy.seen >= LOCKING + 7  # keys, writes, COMMIT: if fewer, this matrix tests nothing
    return proxy.seen


def _stored(url: str) -> set[str]:
    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT DISTINCT action_id FROM receipt").fetchall()
    return {row[0] for row in rows}


def _ids(batch: Sequence[Change]) -> set[str]:
    return {change.stored.action.action_id for change in batch}


def _settled(result: CommitResult, change: Change) -> bool:
    return result == Committed() or (isinstance(result, Replayed) and change.outcome is not None)


@pytest.mark.parametrize("failure", list(Failure))
def test_a_failure_at_any_write_leaves_a_whole_log_and_an_honest_answer(
    failure: Failure, proxy: PostgresProxy, ledger: CoalescingLedger, database_url: str
) -> None:
    messages = _messages(proxy, ledger)
    refused, kept = 0, 0
    for message in range(1, messages + 1):
        batch = make_batch(2)
        before = _stored(database_url)
        proxy.arm(message, failure)
        try:
            results = ledger.commit(batch)
        except Unavailable:
            refused += 1
            left = _stored(database_url) - before
            assert left in (set(), _ids(batch))  # all of a transaction, or nothing
            kept += bool(left)
            proxy.count()
            # Whoever repeats the call under its key gets it done, or finds it done: once.
            results = ledger.commit(batch)
        assert all(_settled(*pair) for pair in zip(results, batch, strict=True))
        assert _stored(database_url) - before == _ids(batch)
        check_ledger(database_url)
        assert checked_log(database_url) == []
    # Nothing can have come of a connection that died over the first round trip: it is replaced.
    assert refused == messages - LOCKING
    # Exactly one message brings the COMMIT to the server: carried out, it stays.
    assert kept == (failure is Failure.PERSISTED)


@pytest.fixture
def committer(proxy: PostgresProxy) -> Iterator[Forks]:
    """Processes on the far side of the proxy that commit and are killed."""
    with forks_of("tests.support.committer", proxy.url) as forks:
        yield forks


@pytest.mark.parametrize("failure", list(Failure))
def test_a_process_killed_at_any_write_loses_nothing_that_it_acknowledged(
    failure: Failure,
    proxy: PostgresProxy,
    ledger: CoalescingLedger,
    committer: Forks,
    database_url: str,
) -> None:
    messages = _messages(proxy, ledger)
    acknowledged: set[str] = set()
    for message in range(1, messages + 1):
        acknowledged |= _kill_at(committer, proxy, message, failure)
        assert checked_log(database_url) == []
        check_ledger(database_url)
        assert acknowledged <= _stored(database_url)
    assert len(acknowledged) == BATCH * messages


def _kill_at(committer: Forks, proxy: PostgresProxy, message: int, failure: Failure) -> set[str]:
    """Let a process commit, and kill it at a message of its second batch; what it acknowledged."""
    proxy.count()
    pid = committer.fork("commit")
    committer.tell()
    acknowledged = set(committer.hear())
    proxy.arm(message, failure, on_failure=lambda: os.kill(pid, signal.SIGKILL))
    committer.tell()
    words, code = committer.hear_the_end()
    assert code == -9
    return acknowledged | set(words)
