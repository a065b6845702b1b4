"""What a page of a search costs in a log of 300,000 receipts: the same anywhere, whatever is asked.

The statements of each page are caught and explained under the application's role, where row-level
security is in force.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, TypeVar

import pytest
from sqlalchemy import Engine, event

from oars_grpc.core.control import EvidenceType
from oars_grpc.core.coverage import Period
from oars_grpc.core.policy import Effect
from oars_grpc.core.receipt_filter import ReceiptFilter
from oars_grpc.core.risk import RiskTier
from oars_grpc.core.stored import FoundReceipts
from oars_grpc.storage.controls import PostgresControlStore
from oars_grpc.storage.receipt_search import WINDOW
from oars_grpc.storage.receipts import PostgresReceiptStore
from tests.support.database import execute, new_database, opened
from tests.support.factories import NOW

Result = TypeVar("Result")
RECEIPTS = 300_000
PAGE = 50
# Pages of 8 KiB that one page of a search may touch: the entries of its own receipts, each with
# receipt, payload and erasure looked up, or a window of entries that are all looked up in vain.
OF_A_FULL_PAGE = 500
OF_A_WINDOW = 9 * WINDOW
_FILL = (
    f"""
    INSERT INTO receipt SELECT
        'acme', g, 'rcpt-' || g, 'act-' || g / 3, g % 3 + 1,
        (ARRAY['action.requested', 'action.approved', 'action.executed'])[g % 3 + 1],
        'key', '\\x00', 'digest', '', '\\x00',
        '{NOW.isoformat()}'::timestamptz + g * interval '1 s',
        'agent-' || g / 3 % 10, CASE WHEN g < 100000 THEN 'user-1' ELSE '' END,
        'caller-' || g / 30000, 'tool-' || g / 3 % 5, 'operation-' || g / 3 % 7,
        CASE WHEN g % 3 = 1 THEN 'allow' ELSE '' END,
        CASE WHEN g % 3 > 0 THEN 'policy-' || g / 3 % 2 ELSE '' END,
        CASE WHEN g % 3 > 0 THEN g / 3 % 2 + 1 ELSE 0 END,
        CASE WHEN g % 3 = 1 THEN 'low' ELSE '' END
    FROM generate_series(0, {RECEIPTS - 1}) AS g
    """,
    "INSERT INTO receipt_body SELECT tenant_id, leaf_index, '{}' FROM receipt",
    """
    INSERT INTO receipt_rule SELECT tenant_id, 'rule-' || leaf_index / 3 % 4, leaf_index
    FROM receipt WHERE decision <> ''
    """,
    """
    INSERT INTO receipt_control SELECT tenant_id, 'map-1', leaf_index, recorded_at, 1 FROM receipt
    WHERE leaf_index % 9 = 4
    """,
    f"UPDATE log_head SET size = {RECEIPTS} WHERE tenant_id = 'acme'",
    "VACUUM ANALYZE",
)
SECONDS = {
    "narrow": (NOW + timedelta(seconds=200_000), NOW + timedelta(seconds=200_500)),
    "long": (NOW + timedelta(seconds=50_000), NOW + timedelta(seconds=290_000)),
}
SINGLE = {
    "nothing": ReceiptFilter(),
    "action_id": ReceiptFilter(action_id="act-66666"),
    "type": ReceiptFilter(type="action.executed"),
    "agent_id": ReceiptFilter(agent_id="agent-7"),
    "user_id": ReceiptFilter(user_id="user-1"),
    "caller_subject": ReceiptFilter(caller_subject="caller-8"),
    "tool_id": ReceiptFilter(tool_id="tool-3"),
    "operation": ReceiptFilter(operation="operation-3"),
    "decision": ReceiptFilter(decision=Effect.ALLOW),
    "policy_id": ReceiptFilter(policy_id="policy-1"),
    "rule_id": ReceiptFilter(rule_id="rule-2"),
    "risk_tier": ReceiptFilter(risk_tier=RiskTier.LOW),
    "unknown agent": ReceiptFilter(agent_id="nobody"),
    "control": ReceiptFilter(),
}
COMBINED = {
    "narrow time": ReceiptFilter(
        recorded_from=SECONDS["narrow"][0], recorded_until=SECONDS["narrow"][1]
    ),
    "long time": ReceiptFilter(recorded_from=SECONDS["long"][0], recorded_until=SECONDS["long"][1]),
    "open time": ReceiptFilter(recorded_from=SECONDS["long"][0]),
    "policy and version": ReceiptFilter(policy_id="policy-1", policy_version=2),
    "policy and no such version": ReceiptFilter(policy_id="policy-1", policy_version=3),
    "tool, operation, agent": ReceiptFilter(
        tool_id="tool-3", operation="operation-3", agent_id="agent-3"
    ),
    "rule and tier": ReceiptFilter(rule_id="rule-2", risk_tier=RiskTier.LOW),
    "two that never meet": ReceiptFilter(tool_id="tool-3", agent_id="agent-7"),
    "a rule that never meets a type": ReceiptFilter(rule_id="rule-2", type="action.executed"),
    "one that has ended": ReceiptFilter(user_id="user-1", type="action.executed"),
    "type in a long time": ReceiptFilter(
        type="action.executed",
        recorded_from=SECONDS["long"][0],
        recorded_until=SECONDS["long"][1],
    ),
    "agent in a narrow time": ReceiptFilter(
        agent_id="agent-7",
        recorded_from=SECONDS["narrow"][0],
        recorded_until=SECONDS["narrow"][1],
    ),
    "control and tool": ReceiptFilter(tool_id="tool-3"),
}
MAPPINGS = {"control": "map-1", "control and tool": "map-1"}


@dataclass(frozen=True)
class Explained(Generic[Result]):
    """What came of a piece of work, and what all its statements together read."""

    found: Result
    nodes: tuple[dict[str, Any], ...]
    buffers: int


@pytest.fixture(scope="module")
def large(cluster_url: str, template: str) -> Iterator[Engine]:
    """A tenant with a log of 300,000 receipts."""
    with new_database(cluster_url, template) as url:
        execute(url, *_FILL)
        with opened(url, pool_size=2, statement_timeout_ms=120_000) as engine:
            yield engine


def nodes_of(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes_of(child)


def explained(engine: Engine, work: Callable[[], Result]) -> Explained[Result]:
    """Do some work of one transaction, then explain the statements that it ran."""
    caught: list[tuple[str, Any]] = []

    def catch(_c: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        caught.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", catch)
    try:
        result = work()
    finally:
        event.remove(engine, "before_cursor_execute", catch)
    assert "set_config" in caught[0][0]
    nodes: list[dict[str, Any]] = []
    buffers = 0
    with engine.connect() as connection:
        connection.exec_driver_sql(*caught[0])
        assert connection.exec_driver_sql("SELECT current_user").scalar_one() == "oars_app"
        for statement, parameters in caught[1:]:
            explain = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}"
            (plan,) = connection.exec_driver_sql(explain, parameters).scalar_one()
            nodes += nodes_of(plan["Plan"])
            buffers += plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"]
    return Explained(result, tuple(nodes), buffers)


def cost(
    engine: Engine, which: ReceiptFilter, mapping_id: str, after: int
) -> Explained[FoundReceipts]:
    """One page of a search."""
    store = PostgresReceiptStore(engine)
    return explained(engine, lambda: store.search_receipts("acme", which, mapping_id, after, PAGE))


def check_plan(nodes: tuple[dict[str, Any], ...]) -> None:
    assert {node["Node Type"] for node in nodes}.isdisjoint({"Seq Scan", "Bitmap Heap Scan"})
    for node in nodes:
        if "Sort" in node["Node Type"]:
            assert node["Actual Rows"] <= WINDOW
        if "Index" in node["Node Type"]:
            read = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
            assert read * node["Actual Loops"] <= 2 * WINDOW


@pytest.mark.parametrize("after", [-1, 150_000])
@pytest.mark.parametrize("name", SINGLE)
def test_a_page_by_one_field_reads_its_own_entries_only(
    large: Engine, name: str, after: int
) -> None:
    page = cost(large, SINGLE[name], MAPPINGS.get(name, ""), after)
    check_plan(page.nodes)
    assert page.buffers <= OF_A_FULL_PAGE
    ended = name == "unknown agent" or (name, after) == ("user_id", 150_000)
    if name == "action_id":
        assert len(page.found.receipts) == 3
    else:
        assert len(page.found.receipts) == (0 if ended else PAGE)
        assert (page.found.resume_after is None) is ended


@pytest.mark.parametrize("after", [-1, 150_000])
@pytest.mark.parametrize("name", COMBINED)
def test_a_page_by_several_fields_looks_at_no_more_than_a_window(
    large: Engine, name: str, after: int
) -> None:
    page = cost(large, COMBINED[name], MAPPINGS.get(name, ""), after)
    check_plan(page.nodes)
    assert page.buffers <= OF_A_WINDOW
    if name in ("two that never meet", "a rule that never meets a type"):
        assert page.found.receipts == ()
        assert page.found.resume_after is not None
        assert page.found.resume_after > max(after, 0) + WINDOW


def test_two_that_never_meet_are_walked_through_to_the_end(large: Engine) -> None:
    after: int | None = 150_000
    pages = 0
    while after is not None:
        which = COMBINED["two that never meet"]
        page = PostgresReceiptStore(large).search_receipts("acme", which, "", after, PAGE)
        assert page.receipts == ()
        after, pages = page.resume_after, pages + 1
    # The rarer field, of a tenth of all receipts, sets the pace.
    assert pages <= (RECEIPTS - 150_000) / 10 / WINDOW + 1


def test_coverage_reads_one_index_for_the_range_and_nothing_else(large: Engine) -> None:
    begins, days = NOW.replace(hour=0, minute=0, second=0, microsecond=0), timedelta(days=1)
    store = PostgresControlStore(large)
    report = explained(
        large, lambda: store.count("acme", ["map-1"], begins + days, begins + 3 * days, Period.DAY)
    )
    read = [node["Index Name"] for node in report.nodes if "Relation Name" in node]
    assert read == ["receipt_control_time"]
    counts = report.found["map-1"]
    assert sorted(counts) == [begins + days, begins + 2 * days]
    assert {sum(each.evidence.values()) for each in counts.values()} == {86_400 // 9}
    assert {kind for each in counts.values() for kind in each.evidence} == {
        EvidenceType.POLICY_DECISION
    }
    # Some 70 entries fit a page: two days of the four that there are.
    assert report.buffers < 2 * 86_400 / 9 / 50
