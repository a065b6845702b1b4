"""Rounds of upkeep on the real database: everything due expires, whatever one tenant's trouble."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine

from oars_grpc.core.action import ActionState
from oars_grpc.storage.ledger import PostgresLedger
from oars_grpc.storage.upkeep import PostgresUpkeepStore
from oars_grpc.system import SystemChance
from oars_grpc.use_cases import rounds
from oars_grpc.use_cases.keyring import Keyring
from oars_grpc.use_cases.upkeep import Upkeep
from tests.support.database import check_ledger, execute
from tests.support.factories import KEY_ENCRYPTION_KEY, NOW, make_change, make_outcome


class LaterClock:
    """The factories' time and an hour."""

    def now(self) -> datetime:
        return NOW + timedelta(hours=1)


@pytest.fixture
def upkeep(engine: Engine, ledger: PostgresLedger) -> Upkeep:
    clock, chance = LaterClock(), SystemChance()
    keyring = Keyring(KEY_ENCRYPTION_KEY, chance, clock)
    return Upkeep(
        ledger=ledger,
        store=PostgresUpkeepStore(engine),
        keyring=keyring,
        clock=clock,
        chance=chance,
    )


def test_one_tenants_broken_key_does_not_keep_the_others_waiting(
    upkeep: Upkeep,
    ledger: PostgresLedger,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rounds, "BATCH", 2)  # the broken ones fill a batch of their own
    broken = [
        make_change("acme", state=ActionState.APPROVED, expires_at=NOW + timedelta(seconds=n))
        for n in range(3)
    ]
    sound = [
        make_change("globex", state=ActionState.APPROVED, expires_at=NOW + timedelta(minutes=1))
        for _ in range(3)
    ]
    ledger.commit([*broken, *sound])
    execute(
        database_url,
        "UPDATE signing_key SET encrypted_seed = sha256(encrypted_seed) WHERE tenant_id = 'acme'",
    )
    report = upkeep.expire_due()
    assert report.done == 3
    assert {failure.due.action_id for failure in report.failures} == {
        change.stored.action.action_id for change in broken
    }
    for change in sound:
        stored = ledger.find_action(["globex"], change.stored.action.action_id)
        assert stored is not None
        assert stored.action.state is ActionState.EXPIRED
    check_ledger(database_url)


def test_a_round_purges_more_than_one_batch(
    upkeep: Upkeep, ledger: PostgresLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "BATCH", 2)
    # The database lets go only of what is past its time by its own clock, too.
    long_ago = datetime(2020, 1, 1, tzinfo=UTC)
    outcomes = [
        replace(make_outcome(key=f"key-{number}"), expires_at=long_ago) for number in range(7)
    ]
    ledger.commit([make_change(outcome=outcome) for outcome in outcomes])
    assert upkeep.purge_outcomes() == 7
    assert upkeep.purge_outcomes() == 0
