"""Which receipts a search, a control or an export is about.

`matches` is the meaning; storage answers the same by its indexes, and a test compares the two.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from enum import StrEnum
from typing import Any

from oars_grpc.core.policy import Effect
from oars_grpc.core.receipt import Receipt, format_time, parse_time
from oars_grpc.core.receipt_terms import ReceiptTerms
from oars_grpc.core.risk import RiskTier


@dataclass(frozen=True, slots=True)
class ReceiptFilter:
    """All given fields must match; empty ones do not restrict.

    `policy_version` is of `policy_id`. `recorded_from` is inclusive, `recorded_until` exclusive.
    """

    action_id: str = ""
    type: str = ""
    agent_id: str = ""
    user_id: str = ""
    caller_subject: str = ""
    tool_id: str = ""
    operation: str = ""
    decision: Effect | None = None
    policy_id: str = ""
    policy_version: int = 0
    rule_id: str = ""
    risk_tier: RiskTier | None = None
    recorded_from: datetime | None = None
    recorded_until: datetime | None = None

    def to_json(self) -> dict[str, Any]:
        """Restricted canonical JSON: only what restricts."""
        given = {_NAMES[field.name]: getattr(self, field.name) for field in fields(self)}
        return {name: _written(value) for name, value in given.items() if value}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "ReceiptFilter":
        """The inverse of `to_json`.

        Raises:
            ValueError: a member or a value that `to_json` does not write.
        """
        unknown = value.keys() - _FIELDS.keys()
        if unknown:
            raise ValueError(f"a filter has no member {', '.join(sorted(unknown))}")
        return cls(**{_FIELDS[name]: _READ.get(name, _same)(item) for name, item in value.items()})


def matches(which: ReceiptFilter, receipt: Receipt, terms: ReceiptTerms) -> bool:
    """Whether the receipt, whose payload gives the terms, is among those meant."""
    return (
        _is(which.action_id, receipt.action_id)
        and _is(which.type, receipt.type)
        and _is(which.agent_id, terms.agent_id)
        and _is(which.user_id, terms.user_id)
        and _is(which.caller_subject, terms.caller_subject)
        and _is(which.tool_id, terms.tool_id)
        and _is(which.operation, terms.operation)
        and _is(which.decision or "", terms.decision)
        and _is(which.policy_id, terms.policy_id)
        and which.policy_version in (0, terms.policy_version)
        and (not which.rule_id or which.rule_id in terms.rule_ids)
        and _is(which.risk_tier or "", terms.risk_tier)
        and (which.recorded_from is None or receipt.recorded_at >= which.recorded_from)
        and (which.recorded_until is None or receipt.recorded_at < which.recorded_until)
    )


def _is(asked: str, found: str) -> bool:
    return not asked or asked == found


def _member(field: str) -> str:
    head, *rest = field.split("_")
    return head + "".join(word.capitalize() for word in rest)


def _written(value: object) -> object:
    if isinstance(value, StrEnum):
        return value.value
    return format_time(value) if isinstance(value, datetime) else value


def _same(value: object) -> object:
    return value


_NAMES = {field.name: _member(field.name) for field in fields(ReceiptFilter)}
_FIELDS = {member: field for field, member in _NAMES.items()}
_READ: Mapping[str, Any] = {
    "decision": Effect,
    "riskTier": RiskTier,
    "recordedFrom": parse_time,
    "recordedUntil": parse_time,
}
