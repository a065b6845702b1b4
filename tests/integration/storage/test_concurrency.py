"""Many writers at once."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from threading import Barrier, Event

import psycopg
from sqlalchemy import Engine

from oars_grpc.core.action import ActionState
from oars_grpc.core.ports import Registry
from oars_grpc.core.receipt_filter import ReceiptFilter
from oars_grpc.core.stored import (
    Change,
    CommitResult,
    Committed,
    Replayed,
    Superseded,
)
from oars_grpc.storage.ledger import PostgresLedger
from oars_grpc.storage.receipts import PostgresReceiptStore
from oars_grpc.storage.registry import PostgresRegistryStore
from tests.support.database import check_ledger, opened, publish_policy
from tests.support.factories import (
    NOW,
    make_change,
    make_next_change,
    make_outcome,
    make_policy,
)

TENANTS = ("acme", "globex")


def _together(
    count: int, work: Callable[[int], Sequence[CommitResult]]
) -> list[Sequence[CommitResult]]:
    """Run the work in that many threads, all of which begin at the same moment."""
    barrier = Barrier(count)

    def begin(number: int) -> Sequence[CommitResult]:
        barrier.wait(30)
        return work(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(begin, range(count)))


def _deadlocks(url: str) -> int:
    """How many there were; the server knows when the sessions have ended."""
    with psycopg.connect(url, autocommit=True) as connection:
        for _ in range(500):
            row = connection.execute(
                "SELECT (SELECT deadlocks FROM pg_stat_database"
                " WHERE datname = current_database()),"
                " (SELECT count(*) FROM pg_stat_activity WHERE application_name = 'oars-test'"
                " AND datname = current_database())"
            ).fetchone()
            assert row is not None
            if row[1] == 0:
                return int(row[0])
            time.sleep(0.01)
    raise AssertionError("the sessions of the test did not end")


def test_indices_have_no_gaps_whoever_commits(database_url: str) -> None:
    with opened(database_url) as one, opened(database_url) as other:
        ledgers = [PostgresLedger(one), PostgresLedger(other)]

        def work(number: int) -> Sequence[CommitResult]:
            results: list[CommitResult] = []
            for turn in range(8):
                # Tenants in both orders: heads are locked in one order all the same.
                order = TENANTS if (number + turn) % 2 else TENANTS[::-1]
                batch = [make_change(tenant_id) for tenant_id in order * (1 + turn % 3)]
                results += ledgers[number % 2].commit(batch)
            return results

        results = _together(8, work)
    assert {result for part in results for result in part} == {Committed()}
    assert _deadlocks(database_url) == 0
    changes = sum(len(part) for part in results)
    assert check_ledger(database_url) == 2 * changes


def test_fifty_calls_under_one_key_have_one_outcome(database_url: str) -> None:
    with opened(database_url, pool_size=50) as engine:
        ledger = PostgresLedger(engine)
        changes = [
            make_change(outcome=make_outcome(response=b"answer %d" % number))
            for number in range(50)
        ]
        results = [
            results[0] for results in _together(50, lambda number: ledger.commit([changes[number]]))
        ]
    winners = [number for number, result in enumerate(results) if result == Committed()]
    assert len(winners) == 1
    replayed = {result.outcome for result in results if isinstance(result, Replayed)}
    assert replayed == {changes[winners[0]].outcome}
    assert Counter(map(type, results)) == {Committed: 1, Replayed: 49}
    assert check_ledger(database_url) == 2


def _wait_for_waiting(observer: psycopg.Connection, count: int) -> None:
    """Until so many sessions of the database wait for locks."""
    for _ in range(1000):
        waiting = observer.execute(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'"
        ).fetchone()
        if waiting == (count,):
            return
        time.sleep(0.01)
    raise AssertionError("nothing was held up")


def _hold_up(url: str, statement: str, batches: Sequence[Sequence[Change]]) -> list[CommitResult]:
    """Commit two batches at once, held up by a session that has executed the statement.

    When it lets go, batches that took their locks in different orders wait for each other.
    """
    with opened(url) as engine, ThreadPoolExecutor(2) as pool:
        ledger = PostgresLedger(engine)
        with psycopg.connect(url) as holder, psycopg.connect(url, autocommit=True) as observer:
            holder.execute(statement.encode())
            futures = [pool.submit(ledger.commit, batch) for batch in batches]
            _wait_for_waiting(observer, 2)
            holder.rollback()
        return [result for future in futures for result in future.result(30)]


def test_keys_in_crossing_order_do_not_deadlock(database_url: str) -> None:
    batches = [
        [make_change(outcome=make_outcome(key=key)) for key in order]
        for order in (("a", "b", "c"), ("c", "b", "a"))
    ]
    held = (
        "INSERT INTO idempotency_outcome VALUES"
        " ('acme', 'spiffe://example/agent', 'SubmitAction', 'b', '', '', now(), now())"
    )
    results = _hold_up(database_url, held, batches)
    assert Counter(map(type, results)) == {Committed: 3, Replayed: 3}
    assert _deadlocks(database_url) == 0
    assert check_ledger(database_url) == 6


def test_actions_in_crossing_order_do_not_deadlock(database_url: str, engine: Engine) -> None:
    created = [make_change() for _ in range(3)]
    PostgresLedger(engine).commit(created)
    engine.dispose()
    batches = [
        [make_next_change(change.stored) for change in order] for order in (created, created[::-1])
    ]
    middle = created[1].stored.action.action_id
    held = f"SELECT FROM action WHERE action_id = '{middle}' FOR UPDATE"
    results = _hold_up(database_url, held, batches)
    assert Counter(map(type, results)) == {Committed: 3, Superseded: 3}
    assert _deadlocks(database_url) == 0
    assert check_ledger(database_url) == 9


def test_a_batch_locks_all_its_actions_before_any_head(database_url: str, engine: Engine) -> None:
    created = make_change()
    PostgresLedger(engine).commit([created])
    engine.dispose()
    outcome = make_outcome()
    batches = [
        # The second meets the key of the first, and is settled in a round of its own.
        [make_change(outcome=outcome), make_next_change(created.stored, outcome=outcome)],
        [make_next_change(created.stored)],
    ]
    results = _hold_up(database_url, "SELECT FROM log_head FOR UPDATE", batches)
    assert results == [Committed(), Replayed(outcome), Committed()]
    assert _deadlocks(database_url) == 0
    assert check_ledger(database_url) == 5


def test_a_commit_that_waits_for_a_publication_is_superseded_by_it(
    engine: Engine, database_url: str
) -> None:
    ledger = PostgresLedger(engine)
    outcome = make_outcome()
    decided = make_change(outcome=outcome, expected_revision=ledger.basis("acme", None).revision)
    with (
        ThreadPoolExecutor(1) as pool,
        psycopg.connect(database_url, autocommit=True) as observer,
    ):

        def publish(registry: Registry) -> Future[Sequence[CommitResult]]:
            registry.lock_tenant("acme")
            policy = registry.insert_policy(make_policy())
            registry.publish("acme", policy.policy_id, "bob", NOW)
            commit = pool.submit(ledger.commit, [decided])
            _wait_for_waiting(observer, 1)
            return commit

        commit = PostgresRegistryStore(engine).run("acme", publish)
        assert commit.result(30) == [Superseded()]
    assert ledger.basis("acme", outcome.scope).outcome is None
    again = replace(decided, expected_revision=3)
    assert ledger.commit([again]) == [Committed()]
    assert check_ledger(database_url) == 2


class _Race:
    """Decisions and publications of two tenants at once."""

    def __init__(self, url: str) -> None:
        # What had committed when a publication was answered: the size of the tenant's log then.
        self.answered: dict[tuple[str, int], int] = {}
        self.decided: list[tuple[str, int, str]] = []
        self.results: list[CommitResult] = []
        self.over = Event()
        self._url = url

    def decide(self, engine: Engine, number: int) -> None:
        """Decide and commit until the race is over, also on a basis that has grown old."""
        ledger = PostgresLedger(engine)
        # Tenants in both orders: heads are locked in one order all the same.
        order = TENANTS if number % 2 else TENANTS[::-1]
        try:
            while not self.over.is_set():
                bases = [ledger.basis(tenant_id, None).revision for tenant_id in order]
                for _ in range(3):
                    self._commit(ledger, list(zip(order, bases, strict=True)))
        finally:
            self.over.set()  # nobody waits for one that has failed

    def _commit(self, ledger: PostgresLedger, decisions: Sequence[tuple[str, int]]) -> None:
        batch = [make_change(tenant_id, expected_revision=n) for tenant_id, n in decisions]
        results = ledger.commit(batch)
        self.results += results
        for decision, change, result in zip(decisions, batch, results, strict=True):
            if result == Committed():
                self.decided.append((*decision, change.stored.action.action_id))

    def publish(self, engine: Engine, tenant_id: str) -> None:
        """Publish several times, and let some decisions commit after each."""
        for revision in range(3, 11):
            publish_policy(engine, tenant_id)
            with psycopg.connect(self._url) as observer:
                row = observer.execute(
                    "SELECT size FROM log_head WHERE tenant_id = %s", (tenant_id,)
                ).fetchone()
            assert row is not None
            self.answered[tenant_id, revision] = row[0]
            seen = len(self.results)
            while len(self.results) < seen + 16 and not self.over.is_set():
                time.sleep(0.001)


def test_once_a_publication_is_answered_nothing_commits_under_an_earlier_one(
    database_url: str,
) -> None:
    race = _Race(database_url)
    with opened(database_url, pool_size=8) as engine:
        with ThreadPoolExecutor(4) as pool, ThreadPoolExecutor(2) as publishers:
            deciding = [pool.submit(race.decide, engine, number) for number in range(4)]
            publishing = [publishers.submit(race.publish, engine, one) for one in TENANTS]
            wait(publishing, 60)
            race.over.set()
            for future in (*publishing, *deciding):
                future.result(30)
        receipts = PostgresReceiptStore(engine)
        last_leaf = {
            (tenant_id, entry.receipt.action_id): entry.leaf_index
            for tenant_id in TENANTS
            for entry in receipts.search_receipts(
                tenant_id, ReceiptFilter(), "", -1, 100_000
            ).receipts
        }
    assert {type(result) for result in race.results} == {Committed, Superseded}
    late = [
        action_id
        for tenant_id, revision, action_id in race.decided
        if last_leaf[tenant_id, action_id] >= race.answered.get((tenant_id, revision + 1), 100_000)
    ]
    assert late == []
    assert _deadlocks(database_url) == 0
    assert check_ledger(database_url) == 2 * len(race.decided)


def test_of_racing_transitions_one_wins(engine: Engine, database_url: str) -> None:
    ledger = PostgresLedger(engine)
    created = [make_change() for _ in range(5)]
    ledger.commit(created)

    def work(number: int) -> Sequence[CommitResult]:
        order = created if number % 2 else created[::-1]
        state = ActionState.EXECUTED if number % 2 else ActionState.FAILED
        return ledger.commit([make_next_change(change.stored, state) for change in order])

    results = _together(8, work)
    counted = Counter(type(result) for part in results for result in part)
    assert counted == {Committed: 5, Superseded: 35}
    assert check_ledger(database_url) == 15


def test_one_action_created_by_many_at_once_is_created_once(
    engine: Engine, database_url: str
) -> None:
    ledger = PostgresLedger(engine)
    change = make_change()
    results = _together(8, lambda _: ledger.commit([change]))
    assert Counter(type(part[0]) for part in results) == {Committed: 1, Superseded: 7}
    assert check_ledger(database_url) == 2
