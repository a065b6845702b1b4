"""Tags of controls: each receipt once, by whichever replica, and counts that are those of SQL."""

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from sqlalchemy import Engine

from oars_grpc.core.action import ActionState
from oars_grpc.core.control import (
    ControlMapping,
    EvidenceType,
    Tagged,
    evidence_types,
)
from oars_grpc.core.control_ports import ControlRows, ControlStore
from oars_grpc.core.coverage import Period, PeriodCounts, period_start
from oars_grpc.core.receipt_filter import ReceiptFilter
from oars_grpc.core.receipt_terms import terms_of
from oars_grpc.errors import Unavailable
from oars_grpc.storage.controls import ControlTransaction, PostgresControlStore
from oars_grpc.storage.ledger import PostgresLedger
from oars_grpc.storage.receipts import PostgresReceiptStore
from oars_grpc.storage.registry import PostgresRegistryStore
from oars_grpc.use_cases import control_tags
from oars_grpc.use_cases.control_tags import ControlTags
from tests.support.controls import add_mapping, tag_all
from tests.support.database import execute
from tests.support.factories import NOW, make_change, make_next_change

# The classes satisfy the ports; mypy checks it.
_: type[ControlStore] = PostgresControlStore
_rows: type[ControlRows] = ControlTransaction


def tags_of(url: str, mapping: ControlMapping) -> list[int]:
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "SELECT leaf_index FROM receipt_control WHERE mapping_id = %s ORDER BY leaf_index",
            (mapping.mapping_id,),
        ).fetchall()
    return [row[0] for row in rows]


def test_a_mapping_comes_back_as_it_was(engine: Engine) -> None:
    which = ReceiptFilter(agent_id="a", recorded_from=NOW)
    required = (EvidenceType.HUMAN_APPROVAL, EvidenceType.DENIAL)
    mapping = add_mapping(engine, which, required=required)
    store = PostgresControlStore(engine)
    assert store.find_mapping(["globex", "acme"], mapping.mapping_id) == mapping
    assert store.find_mapping(["globex"], mapping.mapping_id) is None
    assert store.list_active("acme", "soc2", mapping.control_id) == [mapping]
    assert store.list_active("acme", "iso", "") == []
    assert store.list_active("globex", "", "") == []


def test_of_many_replicas_each_receipt_is_tagged_once(
    ledger: PostgresLedger, engine: Engine, database_url: str
) -> None:
    """While the log grows; in small pieces, by some who wait and some who do not."""
    mapping, stop = add_mapping(engine, ReceiptFilter(type="action.requested")), threading.Event()
    store = PostgresControlStore(engine)
    failures: list[Exception] = []

    def replica(*, wait: bool) -> None:
        try:
            while not stop.is_set():
                store.tag("acme", mapping.mapping_id, 5, wait=wait)
        except Exception as error:  # noqa: BLE001 - the test tells
            failures.append(error)

    replicas = [
        threading.Thread(target=replica, kwargs={"wait": number % 2 == 0}) for number in range(4)
    ]
    for each in replicas:
        each.start()
    for _ in range(20):
        ledger.commit([make_change(receipts=3) for _ in range(3)])
    stop.set()
    for each in replicas:
        each.join()
    assert failures == []
    assert tag_all(engine, mapping) == 180
    assert tags_of(database_url, mapping) == list(range(0, 180, 3))


def test_who_does_not_wait_leaves_a_mapping_that_another_is_at(
    ledger: PostgresLedger, engine: Engine, database_url: str
) -> None:
    ledger.commit([make_change()])
    mapping, store = add_mapping(engine), PostgresControlStore(engine)
    with psycopg.connect(database_url) as other:
        other.execute("SELECT FROM control_mapping FOR UPDATE")
        assert store.tag("acme", mapping.mapping_id, 5, wait=False) is None
    assert store.tag("acme", mapping.mapping_id, 5, wait=False) == Tagged(2, 2)


def test_a_retired_mapping_gets_no_more_tags_and_keeps_what_it_has(
    ledger: PostgresLedger, engine: Engine, database_url: str
) -> None:
    ledger.commit([make_change()])
    mapping, store = add_mapping(engine), PostgresControlStore(engine)
    tag_all(engine, mapping)
    PostgresRegistryStore(engine).run(
        "acme", lambda registry: registry.retire_mapping("acme", mapping.mapping_id, "me", NOW)
    )
    ledger.commit([make_change()])
    assert store.tag("acme", mapping.mapping_id, 5, wait=True) is None
    assert store.lagging(10) == []
    assert tags_of(database_url, mapping) == [0, 1]
    found = store.find_mapping(["acme"], mapping.mapping_id)
    assert found == replace(mapping, tagged_size=2, retired_at=NOW, retired_by="me")
    assert store.list_active("acme", "", "") == []


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE control_mapping SET tagged_size = 0",
        "UPDATE control_mapping SET retired_at = NULL WHERE retired_at IS NOT NULL",
        "DELETE FROM control_mapping",
        "TRUNCATE control_mapping",
    ],
)
def test_the_owner_himself_cannot_turn_a_mapping_back(
    ledger: PostgresLedger, engine: Engine, database_url: str, statement: str
) -> None:
    ledger.commit([make_change()])
    mapping = add_mapping(engine)
    tag_all(engine, mapping)
    execute(database_url, "UPDATE control_mapping SET retired_at = now()")
    with pytest.raises(psycopg.errors.RestrictViolation, match="append-only"):
        execute(database_url, statement)


def test_a_control_cannot_have_two_active_mappings(engine: Engine) -> None:
    add_mapping(engine, control_id="CC6.1")
    add_mapping(engine, control_id="CC6.1", tenant_id="globex")
    with pytest.raises(Exception, match="control_mapping_active"):
        add_mapping(engine, control_id="CC6.1")


def test_the_follower_goes_through_all_tenants_and_tells_who_cannot_go_on(
    ledger: PostgresLedger, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_tags, "BATCH_LEAVES", 3)
    ledger.commit([*(make_change() for _ in range(5)), make_change("globex")])
    mappings = [add_mapping(engine), add_mapping(engine), add_mapping(engine, tenant_id="globex")]
    store = PostgresControlStore(engine)
    assert [tenant for tenant, _ in store.lagging(10)] == ["acme", "acme", "globex"]
    broken = mappings[0].mapping_id

    class OneBroken(PostgresControlStore):
        def tag(self, tenant_id: str, mapping_id: str, leaves: int, *, wait: bool) -> Tagged | None:
            if mapping_id == broken:
                raise ValueError("a filter of the future")
            return super().tag(tenant_id, mapping_id, leaves, wait=wait)

    (failure,) = ControlTags(OneBroken(engine)).follow()
    assert (failure.tenant_id, failure.mapping_id) == ("acme", broken)
    assert store.lagging(10) == [("acme", broken)]
    assert ControlTags(store).follow() == ()
    assert store.lagging(10) == []


def test_a_round_of_the_follower_and_a_call_are_bounded(
    ledger: PostgresLedger, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_tags, "BATCH_LEAVES", 2)
    monkeypatch.setattr(control_tags, "ROUND_BATCHES", 3)
    monkeypatch.setattr(control_tags, "CALL_LEAVES", 5)
    ledger.commit([make_change() for _ in range(10)])
    mapping, store = add_mapping(engine), PostgresControlStore(engine)
    tags = ControlTags(store)
    assert tags.follow() == ()
    found = store.list_active("acme", "", "")
    assert [each.tagged_size for each in found] == [6]
    assert tags.catch_up(found) == {mapping.mapping_id: Tagged(11, 20)}
    other = add_mapping(engine)
    reached = tags.catch_up(store.list_active("acme", "", ""))
    assert sorted(tagged.tagged_size for tagged in reached.values()) in ([0, 16], [5, 11])
    assert set(reached) == {mapping.mapping_id, other.mapping_id}


def test_a_database_that_is_away_ends_the_round(engine: Engine) -> None:
    class Away(PostgresControlStore):
        def tag(self, tenant_id: str, mapping_id: str, leaves: int, *, wait: bool) -> Tagged | None:
            raise Unavailable("away")

        def lagging(self, limit: int) -> Sequence[tuple[str, str]]:
            return [("acme", "map_1")]

    with pytest.raises(Unavailable):
        ControlTags(Away(engine)).follow()


@pytest.mark.parametrize("period", Period)
def test_counts_are_those_of_the_receipts(
    ledger: PostgresLedger, engine: Engine, period: Period
) -> None:
    start = datetime(2025, 12, 28, 20, 0, tzinfo=UTC)
    for day in range(12):
        change = make_change(updated_at=start + timedelta(days=3 * day), receipts=2)
        ledger.commit([change])
        ledger.commit([make_next_change(change.stored, ActionState.FAILED)])
    everything = add_mapping(engine)
    failed = add_mapping(engine, ReceiptFilter(type="action.failed"))
    for mapping in (everything, failed):
        tag_all(engine, mapping)
    begins, ends = start + timedelta(days=3), start + timedelta(days=27)
    store = PostgresControlStore(engine)
    counted = store.count("acme", [everything.mapping_id, failed.mapping_id], begins, ends, period)
    receipts: Counter[datetime] = Counter()
    evidence: dict[datetime, Counter[EvidenceType]] = {}
    all_ = PostgresReceiptStore(engine).search_receipts("acme", ReceiptFilter(), "", -1, 200)
    for entry in all_.receipts:
        receipt = entry.receipt
        if begins <= receipt.recorded_at < ends:
            at = period_start(receipt.recorded_at, period)
            receipts[at] += 1
            payload = receipt.envelope.payload
            decision = terms_of(payload).decision
            kinds = evidence_types(receipt.action_id, receipt.type, decision, payload)
            evidence.setdefault(at, Counter()).update(kinds)
    assert counted[everything.mapping_id] == {
        at: PeriodCounts(receipts[at], dict(evidence[at])) for at in receipts
    }
    assert counted[failed.mapping_id] == {
        at: PeriodCounts(
            kinds[EvidenceType.EXECUTION_OUTCOME],
            {EvidenceType.EXECUTION_OUTCOME: kinds[EvidenceType.EXECUTION_OUTCOME]},
        )
        for at, kinds in evidence.items()
    }
    assert len(receipts) == {Period.DAY: 8, Period.WEEK: 4, Period.MONTH: 2}[period]
