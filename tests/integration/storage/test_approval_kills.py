"""A server killed at any point between a decision and the execution that follows it.

Another replica then does what a caller would: repeats the decision, and the start, under the keys
of the calls that were cut off. Neither is an approval lost, nor a grant used twice.
"""

import os
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from oars_grpc.core.action import ActionState
from oars_grpc.core.approval import ApprovalState
from tests.support.database import check_ledger, checked_log
from tests.support.factories import new_id
from tests.support.forks import Forks, forks_of
from tests.support.postgres_proxy import Failure, PostgresProxy
from tests.support.replicas import Replica, approver, replica

# Reads, locks, writes and COMMIT of both calls: with fewer statements this would test nothing.
LEAST_MESSAGES, MOST_MESSAGES = 20, 200
PENDING = (ActionState.APPROVAL_REQUIRED, ApprovalState.PENDING)
GRANTED = (ActionState.APPROVED, ApprovalState.APPROVED)
STARTED = (ActionState.EXECUTING, ApprovalState.CONSUMED)


@pytest.fixture
def proxy(database_url: str) -> Iterator[PostgresProxy]:
    with tempfile.TemporaryDirectory(prefix="oars-") as directory:
        proxy = PostgresProxy(database_url, Path(directory) / "s")
        yield proxy
        proxy.close()


@pytest.fixture
def survivor(database_url: str) -> Iterator[Replica]:
    """A replica with a connection of its own, which nothing happens to."""
    with replica(database_url) as server:
        yield server


def receipts_of(url: str, action_id: str) -> Counter[str]:
    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT type FROM receipt WHERE action_id = %s", (action_id,))
        return Counter(row[0].removeprefix("action.") for row in rows)


@pytest.fixture
def decider(proxy: PostgresProxy) -> Iterator[Forks]:
    """Processes on the far side of the proxy that decide and are killed."""
    with forks_of("tests.support.decider", proxy.url) as forks:
        yield forks


def run_decider(
    decider: Forks, proxy: PostgresProxy, approval_id: str, message: int, failure: Failure
) -> tuple[list[str], int]:
    """Let a process decide and start, and kill it at a message.

    What it had acknowledged, and its exit code: -9, or 0 where there was no such message any more.
    """
    pid = decider.fork(approval_id)
    proxy.arm(message, failure, on_failure=lambda: os.kill(pid, signal.SIGKILL))
    decider.tell()
    ended = decider.hear_the_end()
    proxy.count()
    return ended


@pytest.mark.parametrize("failure", list(Failure))
def test_a_kill_between_decision_and_execution_loses_nothing_and_uses_nothing_twice(
    failure: Failure,
    proxy: PostgresProxy,
    decider: Forks,
    survivor: Replica,
    database_url: str,
) -> None:
    found: Counter[tuple[ActionState, ApprovalState]] = Counter()
    for message in range(1, MOST_MESSAGES):
        approval = survivor.submit(new_id("act"))
        acknowledged, code = run_decider(decider, proxy, approval.approval_id, message, failure)
        if code == 0:
            break
        assert code == -9
        states = survivor.states(approval)
        found[states] += 1
        # What was acknowledged is there; the grant is used exactly where the action has started.
        assert states in {PENDING, GRANTED, STARTED}
        assert "decided" not in acknowledged or states != PENDING
        assert "started" not in acknowledged or states == STARTED
        # Whoever repeats the calls under their keys gets them done, or finds them done: once.
        decided = survivor.decide(approval, approver("bob"), key=f"decide {approval.approval_id}")
        begun = survivor.start(approval.action_id, key=f"start {approval.approval_id}")
        assert decided.replayed == (states != PENDING)
        assert begun.replayed == (states == STARTED)
        assert survivor.states(approval) == STARTED
        assert receipts_of(database_url, approval.action_id) == {
            "requested": 1,
            "approval_required": 1,
            "approval_decided": 1,
            "approved": 1,
            "executing": 1,
        }
    assert code == 0  # every message had its turn
    assert message > LEAST_MESSAGES
    # What comes after the COMMIT of the start is the end of the connections.
    assert set(found) == {PENDING, GRANTED, STARTED}
    check_ledger(database_url)
    assert checked_log(database_url) == []
