"""What the planner makes of the statements."""

import time

import psycopg

from oars_grpc.core.action import ActionState
from oars_grpc.core.log import HashRange
from oars_grpc.core.receipt_filter import ReceiptFilter
from oars_grpc.core.stored import ActionFilter, ApprovalFilter, DueAction
from oars_grpc.storage.ledger import PostgresLedger
from oars_grpc.storage.log_store import PostgresLogStore
from oars_grpc.storage.receipts import PostgresReceiptStore
from oars_grpc.storage.registry import PostgresRegistryStore
from oars_grpc.storage.upkeep import PostgresUpkeepStore
from tests.support.database import opened
from tests.support.factories import NOW, make_change, make_next_change, make_outcome


def test_no_statement_reads_a_whole_table(database_url: str) -> None:
    """Also after the plans have become generic, which they do while the tables are small."""
    before = _scans(database_url)
    with opened(database_url, pool_size=1) as engine:
        ledger, receipts = PostgresLedger(engine), PostgresReceiptStore(engine)
        registry, upkeep = PostgresRegistryStore(engine), PostgresUpkeepStore(engine)
        log = PostgresLogStore(engine)
        for turn in range(12):
            outcome = make_outcome(key=f"key-{turn}")
            change = make_change(outcome=outcome)
            ledger.commit([change, make_change("globex")])
            ledger.commit([make_change(outcome=outcome), make_next_change(change.stored)])
            ledger.basis("acme", outcome.scope)
            action_id = change.stored.action.action_id
            ledger.find_action(["acme", "globex"], action_id)
            ledger.find_approval(["acme"], action_id)
            ledger.list_actions("acme", ActionFilter(ActionState.EXECUTED), action_id, 5)
            ledger.list_approvals("acme", ApprovalFilter(), action_id, 5)
            receipts.find_receipt(["acme", "globex"], change.receipts[0].receipt_id)
            receipts.find_in_log(["acme", "globex"], change.receipts[1].receipt_id, 5)
            receipts.search_receipts("acme", ReceiptFilter(action_id=action_id), "", 3, 5)
            receipts.list_keys("acme")
            log.head("acme")
            log.hashes("acme", [HashRange(0, 0, 2), HashRange(1, 0, 1)])
            log.leaves("acme", 3, 5)
            log.leaf_of(["acme", "globex"], change.receipts[0].receipt_id)
            registry.list_tenants(None, "", 5)
            registry.list_policies("acme", 0, 5, archived=False)
            upkeep.due_actions(NOW, DueAction("acme", action_id, NOW), 5)
            upkeep.purge_outcomes(NOW, 5)
    after = _scans(database_url)
    assert {name for name in after if after[name] != before[name]} == set()


def _scans(url: str) -> dict[str, int]:
    """Sequential scans so far of each table; the server counts when the sessions have ended."""
    with psycopg.connect(url, autocommit=True) as connection:
        while connection.execute(
            "SELECT FROM pg_stat_activity WHERE application_name = 'oars-test'"
            " AND datname = current_database()"
        ).fetchone():
            time.sleep(0.01)
        rows = connection.execute("SELECT relname, seq_scan FROM pg_stat_user_tables").fetchall()
    return dict(rows)
