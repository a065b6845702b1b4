"""Search finds what `matches` says, page by page, while others append."""

import random
import threading
from dataclasses import fields, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine

from oars_grpc.core.action import Resource
from oars_grpc.core.policy import Effect
from oars_grpc.core.receipt_filter import ReceiptFilter, matches
from oars_grpc.core.receipt_terms import terms_of
from oars_grpc.core.risk import RiskTier
from oars_grpc.core.stored import Change, StoredReceipt
from oars_grpc.storage import receipt_search
from oars_grpc.storage.controls import PostgresControlStore
from oars_grpc.storage.ledger import PostgresLedger
from oars_grpc.storage.receipts import PostgresReceiptStore
from tests.support.controls import add_mapping
from tests.support.factories import NOW, make_change, make_principal, make_request

TOOLS, OPERATIONS = ("desk", "bank", "mail"), ("create_ticket", "delete_all", "read_mail")
AGENTS, USERS, CALLERS = ("agent-1", "agent-2", "agent-3"), ("", "user-1"), ("one", "two")


def random_change(chance: random.Random, number: int) -> Change:
    """An action of few values, so that filters meet; times run in disorder, by seconds."""
    request = make_request(
        agent_id=chance.choice(AGENTS),
        user_id=chance.choice(USERS),
        caller=make_principal(f"spiffe://example/{chance.choice(CALLERS)}"),
        resource=Resource(chance.choice(TOOLS), chance.choice(OPERATIONS), "x"),
    )
    moment = NOW + timedelta(minutes=number, seconds=chance.randint(-50, 50))
    return make_change(
        request=request, receipts=chance.randint(1, 3), created_at=moment, updated_at=moment
    )


def random_filter(chance: random.Random, all_: list[StoredReceipt]) -> ReceiptFilter:
    """Some fields of a receipt that there is, and sometimes one that there is not."""
    receipt = chance.choice(all_).receipt
    terms = terms_of(receipt.envelope.payload)
    known: dict[str, Any] = {
        "action_id": receipt.action_id,
        "type": receipt.type,
        "agent_id": terms.agent_id,
        "user_id": terms.user_id,
        "caller_subject": terms.caller_subject,
        "tool_id": terms.tool_id,
        "operation": terms.operation,
        "decision": Effect(terms.decision) if terms.decision else None,
        "policy_id": terms.policy_id,
        "policy_version": terms.policy_version if terms.policy_id else 0,
        "rule_id": terms.rule_ids[0] if terms.rule_ids else "",
        "risk_tier": RiskTier(terms.risk_tier) if terms.risk_tier else None,
        "recorded_from": receipt.recorded_at - timedelta(minutes=chance.randint(0, 40)),
        "recorded_until": receipt.recorded_at + timedelta(minutes=chance.randint(0, 40)),
    }
    assert set(known) == {field.name for field in fields(ReceiptFilter)}
    chosen = {name for name in known if chance.random() < 0.2 or name == "action_id"}
    if chance.random() < 0.9:
        chosen.discard("action_id")
    found = ReceiptFilter(**{name: known[name] for name in chosen})
    return replace(found, agent_id="agent-9") if chance.random() < 0.05 else found


def pages(
    store: PostgresReceiptStore, which: ReceiptFilter, limit: int, mapping_id: str = ""
) -> list[StoredReceipt]:
    """All pages, one after the other."""
    found: list[StoredReceipt] = []
    after: int | None = -1
    while after is not None:
        page = store.search_receipts("acme", which, mapping_id, after, limit)
        assert len(page.receipts) <= limit
        found += page.receipts
        assert page.resume_after is None or page.resume_after > after
        after = page.resume_after
    return found


@pytest.mark.parametrize("window", [20, 2_000])
def test_search_finds_exactly_what_the_filter_means(
    ledger: PostgresLedger, engine: Engine, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    """With the window as it is everything is within it; with a small one nothing is."""
    monkeypatch.setattr(receipt_search, "WINDOW", window)
    chance = random.Random(window)
    for start in range(0, 80, 40):
        ledger.commit([random_change(chance, start + number) for number in range(40)])
    ledger.commit([make_change("globex") for _ in range(20)])
    store = PostgresReceiptStore(engine)
    all_ = pages(store, ReceiptFilter(), 200)
    assert [entry.leaf_index for entry in all_] == list(range(len(all_)))
    hits = 0
    for _ in range(80):
        which = random_filter(chance, all_)
        expected = [
            entry
            for entry in all_
            if matches(which, entry.receipt, terms_of(entry.receipt.envelope.payload))
        ]
        assert pages(store, which, chance.randint(5, 30)) == expected, which
        hits += bool(expected)
    assert hits > 40


def test_search_by_control_finds_what_its_filter_means_and_nothing_that_is_not_tagged(
    ledger: PostgresLedger, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receipt_search, "WINDOW", 7)
    chance = random.Random(3)
    ledger.commit([random_change(chance, number) for number in range(60)])
    store, controls = PostgresReceiptStore(engine), PostgresControlStore(engine)
    all_ = pages(store, ReceiptFilter(), 200)
    for _ in range(5):
        mapping = add_mapping(engine, random_filter(chance, all_))
        picked = [
            entry
            for entry in all_
            if matches(mapping.filter, entry.receipt, terms_of(entry.receipt.envelope.payload))
        ]
        half = controls.tag("acme", mapping.mapping_id, len(all_) // 2, wait=True)
        assert half is not None
        assert (half.tagged_size, half.log_size, half.complete) == (
            len(all_) // 2,
            len(all_),
            False,
        )
        found = pages(store, ReceiptFilter(), 5, mapping.mapping_id)
        assert found == [entry for entry in picked if entry.leaf_index < half.tagged_size]
        rest = controls.tag("acme", mapping.mapping_id, 10_000, wait=True)
        assert rest is not None
        assert rest.complete
        assert pages(store, ReceiptFilter(), 5, mapping.mapping_id) == picked
        both = ReceiptFilter(type="action.requested", agent_id="agent-1")
        assert pages(store, both, 3, mapping.mapping_id) == [
            entry
            for entry in picked
            if matches(both, entry.receipt, terms_of(entry.receipt.envelope.payload))
        ]


def test_pages_meet_each_receipt_once_while_others_append(
    ledger: PostgresLedger, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receipt_search, "WINDOW", 5)
    store, over = PostgresReceiptStore(engine), threading.Event()
    which = ReceiptFilter(type="action.requested", tool_id="desk")
    chance = random.Random(5)
    ledger.commit([random_change(chance, number) for number in range(30)])

    def append() -> None:
        number = 30
        while not over.is_set():
            ledger.commit([random_change(chance, number + extra) for extra in range(3)])
            number += 3

    appending = threading.Thread(target=append)
    appending.start()
    try:
        walks = [pages(store, which, 4) for _ in range(8)]
    finally:
        over.set()
        appending.join()
    settled = [
        entry.leaf_index
        for entry in pages(store, ReceiptFilter(), 200)
        if matches(which, entry.receipt, terms_of(entry.receipt.envelope.payload))
    ]
    for walk in walks:
        leaves = [entry.leaf_index for entry in walk]
        # Each walk is all there was up to where it ended: no hole, no repetition.
        assert leaves == settled[: len(leaves)]
        assert leaves
    assert len(walks[-1]) > len(walks[0])


def test_a_long_range_of_time_is_found_although_clocks_disagree(
    ledger: PostgresLedger, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to `CLOCK_SPREAD`: each receipt is off by up to half of it."""
    monkeypatch.setattr(receipt_search, "WINDOW", 10)
    chance = random.Random(9)

    def moment(number: int) -> datetime:
        return NOW + timedelta(seconds=3 * number + chance.uniform(-30, 30))

    for start in range(0, 300, 50):
        moments = [moment(start + number) for number in range(50)]
        ledger.commit([make_change(receipts=1, updated_at=at) for at in moments])
    store = PostgresReceiptStore(engine)
    all_ = pages(store, ReceiptFilter(), 200)
    for _ in range(40):
        begins = NOW + timedelta(seconds=chance.uniform(-60, 900))
        which = ReceiptFilter(
            recorded_from=begins if chance.random() < 0.8 else None,
            recorded_until=begins + timedelta(seconds=chance.uniform(1, 600)),
        )
        expected = [
            entry.leaf_index
            for entry in all_
            if matches(which, entry.receipt, terms_of(entry.receipt.envelope.payload))
        ]
        assert [entry.leaf_index for entry in pages(store, which, 7)] == expected
