"""Keys within a transaction of the registry, and the log that a revocation measures."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import Engine

from oars_grpc.core.keys import KeyPurpose, KeyState
from oars_grpc.core.ports import Registry
from oars_grpc.core.stored import Change, CommitResult, Committed, StoredAction
from oars_grpc.storage.ledger import PostgresLedger
from oars_grpc.storage.registry import PostgresRegistryStore
from tests.support.factories import (
    NOW,
    append_receipt,
    make_action,
    make_decision,
    make_stored_key,
)


@pytest.fixture
def store(engine: Engine) -> PostgresRegistryStore:
    return PostgresRegistryStore(engine)


def test_the_active_key_of_each_purpose_is_found(store: PostgresRegistryStore) -> None:
    checkpoint = make_stored_key(seed=b"3" * 32, purpose=KeyPurpose.CHECKPOINT)
    newer = make_stored_key(seed=b"4" * 32, valid_from=NOW)

    def work(registry: Registry) -> None:
        assert registry.active_key("acme", KeyPurpose.CHECKPOINT) is None
        registry.insert_key(checkpoint)
        assert registry.active_key("acme", KeyPurpose.CHECKPOINT) == checkpoint
        assert registry.active_key("acme", KeyPurpose.RECEIPT) == make_stored_key()
        for state in (KeyState.RETIRED, KeyState.REVOKED):
            registry.update_key(replace(make_stored_key().trusted, state=state))
            assert registry.active_key("acme", KeyPurpose.RECEIPT) is None
        registry.insert_key(newer)
        assert registry.active_key("acme", KeyPurpose.RECEIPT) == newer
        assert registry.active_key("globex", KeyPurpose.CHECKPOINT) is None

    store.run("acme", work)


def test_the_log_is_measured_under_its_lock(
    store: PostgresRegistryStore, ledger: PostgresLedger
) -> None:
    """Leaves by the time that they were recorded at, whatever the order of the log."""
    times = [NOW, NOW + timedelta(seconds=2), NOW + timedelta(seconds=1), NOW]
    for moment in times:
        action = make_action(updated_at=moment)
        action, receipt = append_receipt(action, "action.requested")
        ledger.commit([Change(StoredAction(action, make_decision()), 0, (receipt,))])
    tick = timedelta(microseconds=1)

    def work(registry: Registry) -> list[int | None]:
        assert registry.lock_log("acme") == 4
        assert registry.lock_log("acme") == 4
        return [
            registry.first_leaf_since("acme", NOW + after)
            for after in (-tick, timedelta(), tick, timedelta(seconds=2), timedelta(seconds=3))
        ]

    assert store.run("acme", work) == [0, 0, 1, 1, None]
    assert store.run("globex", lambda registry: registry.lock_log("globex")) == 0


def test_while_the_log_is_locked_nothing_commits(
    store: PostgresRegistryStore, ledger: PostgresLedger
) -> None:
    action, receipt = append_receipt(make_action(), "action.requested")
    change = Change(StoredAction(action, make_decision()), 0, (receipt,))
    with ThreadPoolExecutor(1) as pool:

        def holding(registry: Registry) -> Future[Sequence[CommitResult]]:
            assert registry.lock_log("acme") == 0
            committing = pool.submit(ledger.commit, [change])
            with pytest.raises(TimeoutError):
                committing.result(timeout=0.5)
            assert registry.lock_log("acme") == 0
            return committing

        assert store.run("acme", holding).result(timeout=20) == [Committed()]
    assert store.run("acme", lambda registry: registry.lock_log("acme")) == 1
