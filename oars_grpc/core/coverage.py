"""Coverage: for each control and period, which evidence there is and which is missing."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from oars_grpc.core.control import ControlMapping, EvidenceType

MAXIMUM_PERIODS = 400
# Controls times periods of one report: what its answer holds.
MAXIMUM_CELLS = 4_000


class Period(StrEnum):
    """How long a period is; all begin at midnight UTC, weeks on Monday."""

    DAY = "day"
    WEEK = "week"
    MONTH = "month"


@dataclass(frozen=True, slots=True)
class PeriodCoverage:
    """One control in one period.

    `receipts` counts what the control's filter picked, evidence or not. `gaps` are the required
    types without any receipt, where there was activity at all; without any there is nothing that
    could lack evidence, and the period is `inactive`.
    """

    starts_at: datetime
    ends_at: datetime
    receipts: int
    evidence: Mapping[EvidenceType, int]
    gaps: tuple[EvidenceType, ...]

    @property
    def inactive(self) -> bool:
        """Whether no receipt bore on the control."""
        return self.receipts == 0


@dataclass(frozen=True, slots=True)
class ControlCoverage:
    """One control over all periods."""

    mapping: ControlMapping
    periods: tuple[PeriodCoverage, ...]


@dataclass(frozen=True, slots=True)
class CoverageReport:
    """All controls asked for, and how large the log was when they were tagged."""

    controls: tuple[ControlCoverage, ...]
    log_size: int


@dataclass(frozen=True, slots=True)
class PeriodCounts:
    """What storage counts for one mapping and period."""

    receipts: int
    evidence: Mapping[EvidenceType, int]


NOTHING = PeriodCounts(0, {})


def period_start(moment: datetime, period: Period) -> datetime:
    """The beginning of the period that the moment lies in."""
    day = moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    match period:
        case Period.DAY:
            return day
        case Period.WEEK:
            return day - timedelta(days=day.weekday())
        case Period.MONTH:
            return day.replace(day=1)


def next_start(start: datetime, period: Period) -> datetime:
    """The beginning of the period after the one that begins at `start`."""
    match period:
        case Period.DAY:
            return start + timedelta(days=1)
        case Period.WEEK:
            return start + timedelta(days=7)
        case Period.MONTH:
            return period_start(start + timedelta(days=31), Period.MONTH)


def period_starts(from_: datetime, until: datetime, period: Period) -> Iterator[datetime]:
    """The beginnings of all periods that the range [from_, until) touches."""
    start = period_start(from_, period)
    while start < until:
        yield start
        start = next_start(start, period)


def cover(
    mapping: ControlMapping,
    from_: datetime,
    until: datetime,
    period: Period,
    counts: Mapping[datetime, PeriodCounts],
) -> ControlCoverage:
    """The control over the range; the first and the last period are cut to it."""
    periods = []
    for start in period_starts(from_, until, period):
        found = counts.get(start, NOTHING)
        missing = [kind for kind in mapping.required_evidence if not found.evidence.get(kind)]
        periods.append(
            PeriodCoverage(
                starts_at=max(start, from_),
                ends_at=min(next_start(start, period), until),
                receipts=found.receipts,
                evidence=found.evidence,
                gaps=tuple(missing) if found.receipts else (),
            )
        )
    return ControlCoverage(mapping, tuple(periods))
