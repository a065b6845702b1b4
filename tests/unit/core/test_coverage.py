"""Periods, gaps, and periods in which nothing happened."""

from datetime import UTC, datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from oars_grpc.core.control import ControlMapping, EvidenceType
from oars_grpc.core.coverage import (
    Period,
    PeriodCounts,
    cover,
    next_start,
    period_start,
    period_starts,
)
from oars_grpc.core.receipt_filter import ReceiptFilter
from tests.support.factories import NOW

E = EvidenceType
MOMENTS = st.integers(0, 10**17).map(
    lambda us: datetime(1900, 1, 1, tzinfo=UTC) + timedelta(microseconds=us // 16)
)


def mapping(*required: EvidenceType) -> ControlMapping:
    return ControlMapping("map_1", "acme", "soc2", "CC6.1", "", ReceiptFilter(), required, NOW, "")


@given(MOMENTS, st.sampled_from(Period))
def test_every_moment_lies_in_one_period(moment: datetime, period: Period) -> None:
    start = period_start(moment, period)
    assert start <= moment < next_start(start, period)
    assert period_start(start, period) == start
    assert period_start(next_start(start, period) - timedelta(microseconds=1), period) == start


def test_periods_begin_at_midnight_utc_on_monday_and_on_the_first() -> None:
    moment = datetime(2024, 2, 29, 23, 30, tzinfo=timezone(timedelta(hours=-2)))
    assert period_start(moment, Period.DAY) == datetime(2024, 3, 1, tzinfo=UTC)
    assert period_start(moment, Period.WEEK) == datetime(2024, 2, 26, tzinfo=UTC)
    assert period_start(moment, Period.MONTH) == datetime(2024, 3, 1, tzinfo=UTC)
    december = datetime(2024, 12, 1, tzinfo=UTC)
    assert next_start(december, Period.MONTH) == datetime(2025, 1, 1, tzinfo=UTC)


def test_the_periods_of_a_range_are_all_it_touches() -> None:
    begins = datetime(2026, 3, 1, 12, tzinfo=UTC)
    days = list(period_starts(begins, begins + timedelta(days=2), Period.DAY))
    assert [day.day for day in days] == [1, 2, 3]
    midnight = datetime(2026, 3, 3, tzinfo=UTC)
    assert len(list(period_starts(begins, midnight, Period.DAY))) == 2


def test_gaps_are_required_types_missing_where_something_happened() -> None:
    begins = datetime(2026, 3, 1, 12, tzinfo=UTC)
    ends = begins + timedelta(days=3)
    first, second = (datetime(2026, 3, day, tzinfo=UTC) for day in (1, 2))
    counts = {
        first: PeriodCounts(5, {E.DENIAL: 2, E.HUMAN_APPROVAL: 1}),
        second: PeriodCounts(4, {E.POLICY_DECISION: 3}),
    }
    required = (E.HUMAN_APPROVAL, E.DENIAL)
    covered = cover(mapping(*required), begins, ends, Period.DAY, counts)
    assert [period.gaps for period in covered.periods] == [(), required, (), ()]
    assert [period.inactive for period in covered.periods] == [False, False, True, True]
    assert [period.receipts for period in covered.periods] == [5, 4, 0, 0]
    assert covered.periods[0].starts_at == begins
    assert covered.periods[-1].ends_at == ends
    for one, following in zip(covered.periods, covered.periods[1:], strict=False):
        assert one.ends_at == following.starts_at


def test_activity_that_is_no_evidence_makes_gaps_too() -> None:
    begins = datetime(2026, 3, 1, tzinfo=UTC)
    ends = begins + timedelta(days=1)
    covered = cover(mapping(E.DENIAL), begins, ends, Period.DAY, {begins: PeriodCounts(1, {})})
    assert covered.periods[0].gaps == (E.DENIAL,)
