"""Controls and coverage: messages ↔ core values."""

from collections.abc import Mapping, Sequence

from oars_grpc.core.control import (
    CONTROL_ID,
    FRAMEWORK,
    ControlMapping,
    EvidenceType,
    in_order,
    parse_control,
)
from oars_grpc.core.coverage import ControlCoverage, CoverageReport, Period, PeriodCoverage
from oars_grpc.generated.oars.v1 import control_pb2
from oars_grpc.transport.filter_messages import write_filter
from oars_grpc.transport.reading import Reader, inverse
from oars_grpc.transport.writing import timestamp

EVIDENCE: Mapping[int, EvidenceType] = {
    control_pb2.EVIDENCE_TYPE_POLICY_DECISION: EvidenceType.POLICY_DECISION,
    control_pb2.EVIDENCE_TYPE_HUMAN_APPROVAL: EvidenceType.HUMAN_APPROVAL,
    control_pb2.EVIDENCE_TYPE_HUMAN_REJECTION: EvidenceType.HUMAN_REJECTION,
    control_pb2.EVIDENCE_TYPE_EXECUTION_OUTCOME: EvidenceType.EXECUTION_OUTCOME,
    control_pb2.EVIDENCE_TYPE_DENIAL: EvidenceType.DENIAL,
    control_pb2.EVIDENCE_TYPE_QUARANTINE: EvidenceType.QUARANTINE,
    control_pb2.EVIDENCE_TYPE_CANCELLATION_OR_EXPIRY: EvidenceType.CANCELLATION_OR_EXPIRY,
    control_pb2.EVIDENCE_TYPE_ADMINISTRATIVE_EVENT: EvidenceType.ADMINISTRATIVE_EVENT,
}
PERIODS: Mapping[int, Period] = {
    control_pb2.COVERAGE_PERIOD_DAY: Period.DAY,
    control_pb2.COVERAGE_PERIOD_WEEK: Period.WEEK,
    control_pb2.COVERAGE_PERIOD_MONTH: Period.MONTH,
}
_EVIDENCE_NUMBERS = inverse(EVIDENCE)


def read_framework(reader: Reader, value: str, *, required: bool = False) -> str:
    """The name of a framework."""
    if required and not value:
        reader.wrong("framework", "is required")
    elif value and not FRAMEWORK.fullmatch(value):
        reader.wrong("framework", "must be 1 to 32 characters of [a-z0-9_]")
    return value


def read_control_id(reader: Reader, value: str, field: str, *, required: bool = False) -> str:
    """The id of a control in its framework."""
    if required and not value:
        reader.wrong(field, "is required")
    elif value and not CONTROL_ID.fullmatch(value):
        reader.wrong(
            field, "must be 1 to 64 printable ASCII characters without spaces and without a colon"
        )
    return value


def read_control(reader: Reader, value: str) -> tuple[str, str] | None:
    """Framework and id of a control that one text names; None if it is empty."""
    if not value:
        return None
    found = parse_control(value)
    if found is None:
        reader.wrong("control", "must be framework, colon and the control's id, such as soc2:CC6.1")
    return found


def read_evidence(reader: Reader, values: Sequence[int], field: str) -> tuple[EvidenceType, ...]:
    """Evidence types, each once."""
    if len(values) > len(EVIDENCE):
        reader.wrong(field, f"has {len(values)} entries; there are {len(EVIDENCE)} types")
        return ()
    found = [
        reader.one_of(value, f"{field}[{place}]", EVIDENCE) for place, value in enumerate(values)
    ]
    known = [kind for kind in found if kind is not None]
    if len(set(known)) < len(known):
        reader.wrong(field, "names a type twice")
    return in_order(known)


def write_mapping(mapping: ControlMapping) -> control_pb2.ControlMapping:
    """The message of a mapping."""
    return control_pb2.ControlMapping(
        mapping_id=mapping.mapping_id,
        tenant_id=mapping.tenant_id,
        framework=mapping.framework,
        control_id=mapping.control_id,
        description=mapping.description,
        filter=write_filter(mapping.filter),
        required_evidence=[_EVIDENCE_NUMBERS[kind] for kind in mapping.required_evidence],
        created_at=timestamp(mapping.created_at),
        created_by=mapping.created_by,
        tagged_size=mapping.tagged_size,
        retired_at=timestamp(mapping.retired_at),
        retired_by=mapping.retired_by,
    )


def write_report(report: CoverageReport) -> control_pb2.GetCoverageReportResponse:
    """The message of a coverage report."""
    return control_pb2.GetCoverageReportResponse(
        controls=[_control(control) for control in report.controls], log_size=report.log_size
    )


def _control(control: ControlCoverage) -> control_pb2.ControlCoverage:
    return control_pb2.ControlCoverage(
        mapping=write_mapping(control.mapping),
        periods=[_cell(period) for period in control.periods],
        periods_with_gaps=sum(bool(period.gaps) for period in control.periods),
        inactive_periods=sum(period.inactive for period in control.periods),
    )


def _cell(period: PeriodCoverage) -> control_pb2.CoverageCell:
    return control_pb2.CoverageCell(
        starts_at=timestamp(period.starts_at),
        ends_at=timestamp(period.ends_at),
        receipts=period.receipts,
        evidence=[
            control_pb2.EvidenceCount(type=_EVIDENCE_NUMBERS[kind], receipts=count)
            for kind, count in period.evidence.items()
        ],
        gaps=[_EVIDENCE_NUMBERS[kind] for kind in period.gaps],
    )
