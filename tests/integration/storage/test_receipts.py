"""Reading receipts."""

from sqlalchemy import Engine

from oars_grpc.core.receipt_filter import ReceiptFilter
from oars_grpc.storage.ledger import PostgresLedger
from oars_grpc.storage.receipts import PostgresReceiptStore
from tests.support.factories import make_change


def test_receipts_read_back_byte_for_byte_in_log_order(
    ledger: PostgresLedger, engine: Engine
) -> None:
    changes = [make_change(), make_change()]
    ledger.commit(changes)
    stored = PostgresReceiptStore(engine).search_receipts("acme", ReceiptFilter(), "", -1, 10)
    assert stored.resume_after is None
    assert [entry.leaf_index for entry in stored.receipts] == [0, 1, 2, 3]
    assert [entry.receipt for entry in stored.receipts] == [
        *changes[0].receipts,
        *changes[1].receipts,
    ]


def test_receipts_filter_and_page_in_log_order(ledger: PostgresLedger, engine: Engine) -> None:
    changes = [make_change(), make_change(receipts=3)]
    ledger.commit(changes)
    receipts = PostgresReceiptStore(engine)

    def indices(which: ReceiptFilter, after: int = -1, limit: int = 10) -> list[int]:
        found = receipts.search_receipts("acme", which, "", after, limit).receipts
        return [entry.leaf_index for entry in found]

    assert indices(ReceiptFilter(), after=1, limit=2) == [2, 3]
    assert indices(ReceiptFilter(type="action.requested")) == [0, 2]
    assert indices(ReceiptFilter(action_id=changes[1].stored.action.action_id)) == [2, 3, 4]
