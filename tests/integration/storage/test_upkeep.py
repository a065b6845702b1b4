"""Work over all tenants."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from sqlalchemy import Engine

from oars_grpc.core.action import ActionState
from oars_grpc.core.ports import UpkeepStore
from oars_grpc.core.stored import DueAction
from oars_grpc.storage.ledger import PostgresLedger
from oars_grpc.storage.tables import DUE_STATES
from oars_grpc.storage.upkeep import PostgresUpkeepStore
from tests.support.database import execute
from tests.support.factories import NOW, make_change, make_outcome

# The class satisfies the port; mypy checks it.
_: type[UpkeepStore] = PostgresUpkeepStore


@pytest.fixture
def upkeep(engine: Engine) -> PostgresUpkeepStore:
    return PostgresUpkeepStore(engine)


def test_actions_of_all_tenants_fall_due_at_their_time_in_the_states_that_wait(
    ledger: PostgresLedger, upkeep: PostgresUpkeepStore
) -> None:
    due = [
        make_change(tenant_id, state=state, expires_at=NOW + timedelta(seconds=place))
        for place, (state, tenant_id) in enumerate(
            (state, tenant_id)
            for state in (
                ActionState.APPROVED,
                ActionState.APPROVAL_REQUIRED,
                ActionState.QUARANTINED,
            )
            for tenant_id in ("acme", "globex")
        )
    ]
    others = [
        make_change(state=state, expires_at=NOW)
        for state in ActionState
        if state.value not in DUE_STATES
    ]
    later = make_change(expires_at=NOW + timedelta(days=1))
    never = make_change(expires_at=None)
    ledger.commit([*due, *others, later, never])
    expected = [
        DueAction(
            change.stored.action.request.tenant_id,
            change.stored.action.action_id,
            NOW + timedelta(seconds=place),
        )
        for place, change in enumerate(due)
    ]
    assert upkeep.due_actions(NOW - timedelta(seconds=1), None, 100) == []
    assert upkeep.due_actions(NOW, None, 100) == expected[:1]
    assert upkeep.due_actions(NOW + timedelta(hours=1), None, 100) == expected
    assert upkeep.due_actions(NOW + timedelta(hours=1), None, 2) == expected[:2]
    assert upkeep.due_actions(NOW + timedelta(hours=1), expected[1], 3) == expected[2:5]
    assert upkeep.due_actions(NOW, expected[0], 3) == []
    assert str(upkeep.due_actions(NOW, None, 1)[0].expires_at).endswith("+00:00")


def test_pages_of_due_actions_meet_each_once_also_where_they_expire_together(
    ledger: PostgresLedger, upkeep: PostgresUpkeepStore
) -> None:
    changes = [
        make_change(tenant_id, expires_at=NOW + timedelta(seconds=number % 2))
        for number in range(6)
        for tenant_id in ("globex", "acme")
    ]
    ledger.commit(changes)
    found: list[DueAction] = []
    while page := upkeep.due_actions(NOW + timedelta(seconds=1), found[-1] if found else None, 5):
        found += page
    ordered = sorted(
        (action.expires_at, action.request.tenant_id, action.action_id)
        for action in (change.stored.action for change in changes)
        if action.expires_at is not None
    )
    assert [(due.expires_at, due.tenant_id, due.action_id) for due in found] == ordered


def test_only_expired_outcomes_are_forgotten_and_their_keys_are_free_again(
    ledger: PostgresLedger, upkeep: PostgresUpkeepStore
) -> None:
    past = datetime(2020, 1, 1, tzinfo=UTC)
    expired = [
        make_outcome(tenant_id, key=f"old-{number}", expires_at=past)
        for tenant_id in ("acme", "globex")
        for number in range(2)
    ]
    kept = make_outcome(key="new")
    ledger.commit([make_change(o.scope.tenant_id, outcome=o) for o in (*expired, kept)])
    assert upkeep.purge_outcomes(past - timedelta(days=1), 100) == 0
    assert upkeep.purge_outcomes(past + timedelta(days=1), 3) == 3
    assert upkeep.purge_outcomes(past + timedelta(days=1), 3) == 1
    # Not even a clock that has gone wrong makes it forget what the database thinks is valid.
    assert upkeep.purge_outcomes(datetime(3001, 1, 1, tzinfo=UTC), 100) == 0
    assert ledger.basis("acme", kept.scope).outcome == kept
    assert ledger.basis("acme", expired[0].scope).outcome is None
    again = make_change(outcome=replace(expired[0], response=b"new"))
    ledger.commit([again])
    assert ledger.basis("acme", expired[0].scope).outcome == again.outcome


def _plan_of_a_lookup(url: str, receipt_id: str) -> str:
    """How the application's role finds a receipt by its id."""
    with psycopg.connect(url) as connection:
        connection.execute("SET ROLE oars_app")
        connection.execute("SELECT set_config('oars.tenants', 'acme', true)")
        rows = connection.execute(
            "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) SELECT leaf_index FROM receipt"
            f" WHERE tenant_id = 'acme' AND receipt_id = '{receipt_id}'".encode()
        )
        return "\n".join(row[0] for row in rows)


def test_tables_that_grew_before_they_were_analysed_are_read_by_the_right_index(
    ledger: PostgresLedger, upkeep: PostgresUpkeepStore, database_url: str
) -> None:
    execute(database_url, "ALTER TABLE receipt SET (autovacuum_enabled = false)")
    changes = [make_change() for _ in range(1500)]
    for start in range(0, len(changes), 100):
        ledger.commit(changes[start : start + 100])
    wanted = changes[700].receipts[0].receipt_id
    # Without statistics every index that begins with the tenant looks as good as the right one.
    assert "Rows Removed by Filter: 2999" in _plan_of_a_lookup(database_url, wanted)
    assert upkeep.analyze_new_tables() >= 1
    plan = _plan_of_a_lookup(database_url, wanted)
    assert "using receipt_id_key" in plan
    assert "Rows Removed" not in plan
    assert upkeep.analyze_new_tables() == 0
