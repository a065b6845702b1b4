"""The facts of an action that policy rules may ask about, by dotted name.

A fact that the action lacks is missing, never an empty value, so that a rule asking about it is
indeterminate rather than silently false (design §2 promise 3). Stating nothing and stating that
there is none differ: `context.data_types` is missing for None and an empty list for ().

Names, targets and environments come twice: as sent (`resource.operation`) and folded
(`folded.operation`), the form in which match fields compare. A condition that is to hold whatever
the caller's spelling asks for the folded one.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any

from oars_grpc.core.action import ActionRequest
from oars_grpc.core.canonical import canonical_json, sha256_hex
from oars_grpc.core.effective_context import EffectiveContext, effective_context
from oars_grpc.core.folding import fold
from oars_grpc.core.risk import RiskAssessment


class FactType(StrEnum):
    """What kind of value a fact has; conditions are type-checked against it."""

    STRING = "string"
    INT = "int"
    DOUBLE = "double"
    STRINGS = "list(string)"
    STRING_MAP = "map(string, string)"
    TIMESTAMP = "timestamp"
    JSON = "json"


FACT_TYPES: Mapping[str, FactType] = {
    "resource.tool_id": FactType.STRING,
    "resource.operation": FactType.STRING,
    "resource.target": FactType.STRING,
    "context.environment": FactType.STRING,
    "context.data_types": FactType.STRINGS,
    "context.attributes": FactType.STRING_MAP,
    "folded.tool_id": FactType.STRING,
    "folded.operation": FactType.STRING,
    "folded.target": FactType.STRING,
    "folded.environment": FactType.STRING,
    "folded.data_types": FactType.STRINGS,
    "agent.id": FactType.STRING,
    "user.id": FactType.STRING,
    "caller.subject": FactType.STRING,
    "caller.role": FactType.STRING,
    "caller.service_account_id": FactType.STRING,
    "caller.attributes": FactType.STRING_MAP,
    "delegation.chain": FactType.STRINGS,
    "delegation.depth": FactType.INT,
    "input": FactType.JSON,
    "input_size_bytes": FactType.INT,
    "risk.score": FactType.INT,
    "risk.tier": FactType.STRING,
    "risk.operation_class": FactType.STRING,
    "evidence.coherence": FactType.DOUBLE,
    "evidence.support": FactType.DOUBLE,
    "evidence.conflict": FactType.DOUBLE,
    "evidence.novelty": FactType.DOUBLE,
    "evidence.risk": FactType.DOUBLE,
    "evidence.risk_low": FactType.DOUBLE,
    "evidence.risk_high": FactType.DOUBLE,
    "time.hour_utc": FactType.INT,
    "time.weekday": FactType.INT,
    "time.now": FactType.TIMESTAMP,
}

# Facts whose parts count as facts of their own: `context.attributes.team`, `input.amount`.
ATTRIBUTE_FACTS = frozenset({"context.attributes", "caller.attributes"})
INPUT = "input"

# The evaluator recurses natively over values: some 20,000 levels overflow the stack and kill the
# process. Requests are limited well below this; here is the last line.
MAX_INPUT_DEPTH = 64
# One unit is one JSON value or 16 bytes of text: the measure that bounds a condition's work.
MAX_UNITS = 65_536


@lru_cache(maxsize=4096)
def split_name(name: str) -> tuple[str, str]:
    """The declared fact and the key of a name: `context.attributes.a.b` has key `a.b`."""
    for fact in ATTRIBUTE_FACTS:
        if name.startswith(f"{fact}."):
            return fact, name.removeprefix(f"{fact}.")
    return name, ""


@dataclass(frozen=True, slots=True)
class Facts:
    """The present facts by name; a name that is not in `values` is missing.

    `input_units` and `other_units` measure the data (see `MAX_UNITS`); `withheld` says why
    the input is not among the facts, empty when it is or when there was none to give.
    `known_data_types` (folded) are there whatever else is, where the data types are not stated.
    """

    values: Mapping[str, Any]
    input_units: int = 0
    other_units: int = 0
    withheld: str = ""
    input_digest: str = ""
    known_data_types: frozenset[str] = frozenset()

    def get(self, name: str) -> Any:
        """The fact's value, or None when it is missing."""
        return self.values.get(name)

    def lookup(self, name: str, path: tuple[str, ...]) -> bool:
        """Whether the fact, and the member of it at `path`, is present."""
        value = self.values.get(name)
        for step in path:
            if not isinstance(value, Mapping) or step not in value:
                return False
            value = value[step]
        return name in self.values

    def has(self, name: str) -> bool:
        """Whether the fact of this name, an attribute's included, is present."""
        if name in self.values:  # nearly always: most names are of whole facts
            return True
        root, key = split_name(name)
        return bool(key) and key in self.values.get(root, ())

    def without(self, *names: str) -> "Facts":
        """The same facts with some of them missing."""
        kept = {name: value for name, value in self.values.items() if name not in names}
        return replace(self, values=kept)

    def text(self, name: str) -> str:
        """The value as a receipt shows it.

        The input appears as its digest only: receipts are kept for years and read by many.
        """
        value = self.values.get(name)
        if type(value) is str and name != INPUT:  # nearly always
            return value
        root, key = split_name(name)
        value = self.values[root]
        if key:
            return str(value[key])
        if root == INPUT:
            return f"sha256:{self.input_digest}"
        if type(value) in _SHOWN_PLAINLY:
            return str(value)
        if isinstance(value, datetime):
            return value.isoformat().replace("+00:00", "Z")
        if isinstance(value, _CONTAINERS):
            return canonical_json(value).decode()
        return str(value)


def action_facts(
    request: ActionRequest,
    risk: RiskAssessment | None,
    now: datetime,
    evidence: Mapping[str, float] | None = None,
    *,
    input_bytes: bytes | None = None,
    context: EffectiveContext | None = None,
) -> Facts:
    """The facts of an action at a moment; `context.*` are those of its effective context.

    `input_bytes` and `context` spare a caller that has them the work of making them twice.

    An input that was not read is missing, and so is its size unless `input_bytes` tells it.

    Raises:
        ValueError: `now` has no time zone, or `evidence` has an unknown name or a value outside
            [0, 1].
    """
    if now.tzinfo is None:
        raise ValueError("now must carry a time zone")
    if now.tzinfo is not UTC:
        now = now.astimezone(UTC)
    encoded = input_bytes
    if encoded is None and request.input is not None:
        encoded = request.input_bytes()
    resource, caller = request.resource, request.caller
    context = effective_context(request) if context is None else context
    data_types = None if context.data_types is None else list(context.data_types)
    values: dict[str, Any] = {
        "resource.tool_id": resource.tool_id or None,
        "resource.operation": resource.operation or None,
        "resource.target": resource.target or None,
        "context.environment": context.environment or None,
        "context.data_types": data_types,
        "context.attributes": dict(context.attributes),
        "folded.tool_id": fold(resource.tool_id) or None,
        "folded.operation": fold(resource.operation) or None,
        "folded.target": fold(resource.target) or None,
        "folded.environment": fold(context.environment) or None,
        "folded.data_types": None if data_types is None else [fold(t) for t in data_types],
        "agent.id": request.agent_id or None,
        "user.id": request.user_id or None,
        "caller.subject": caller.subject or None,
        "caller.role": caller.role.value,
        "caller.service_account_id": caller.service_account_id or None,
        "caller.attributes": dict(caller.attributes),
        "delegation.chain": list(request.delegation_chain),
        "delegation.depth": len(request.delegation_chain),
        "input_size_bytes": None if encoded is None else len(encoded),
        "time.hour_utc": now.hour,
        "time.weekday": now.isoweekday(),
        "time.now": now,
    }
    if risk is not None:
        values["risk.score"] = risk.score
        values["risk.tier"] = risk.tier.value
        values["risk.operation_class"] = risk.operation_class.value
    values.update(_evidence_facts(evidence or {}))
    present = {name: value for name, value in values.items() if value is not None}
    other_units = _units(present.values(), MAX_UNITS)[0]
    input_units, depth = _units(() if request.input is None else (request.input,), MAX_UNITS)
    withheld = ""
    if request.input is None:
        withheld = "the input was not read"
    elif input_units > MAX_UNITS:
        withheld = "the input is too large for conditions"
    elif depth > MAX_INPUT_DEPTH:
        withheld = "the input is nested too deeply for conditions"
    else:
        present[INPUT] = request.input
    digest = "" if encoded is None else sha256_hex(encoded)
    known = frozenset(map(fold, context.known_data_types))
    return Facts(present, input_units, other_units, withheld, digest, known)


def _evidence_facts(evidence: Mapping[str, float]) -> dict[str, float]:
    facts = {}
    for name, value in evidence.items():
        fact = f"evidence.{name}"
        if fact not in FACT_TYPES:
            raise ValueError(f"unknown evidence {name!r}")
        if not 0.0 <= value <= 1.0:  # also refuses NaN
            raise ValueError(f"{fact} must be in [0, 1]")
        facts[fact] = float(value)
    return facts


_SHOWN_PLAINLY = frozenset({str, int})
_CONTAINERS = (list, dict)  # a union would be made anew each time
_SCALARS = frozenset({int, float, bool, type(None), datetime})
_PLAIN = _SCALARS | {dict, list, tuple}


def _units(values: Collection[Any], limit: int) -> tuple[int, int]:
    """Units and nesting depth of JSON values, counted until the limit is passed."""
    units, deepest = 0, 0
    pending = [(1, values)]
    while pending:
        depth, items = pending.pop()
        if depth > deepest:
            deepest = depth
            if depth > MAX_INPUT_DEPTH:
                break
        units += len(items)
        if units > limit:
            break
        for value in items:
            kind = type(value)
            if kind in _SCALARS:
                continue
            if kind is str or (kind not in _PLAIN and isinstance(value, str)):
                # At most four bytes of UTF-8 a character.
                units += len(value) // (16 if value.isascii() else 4)
            # Whether something is a mapping takes long to find out, and nearly all are plain.
            elif kind is dict or (kind not in _PLAIN and isinstance(value, Mapping)):
                units += sum(map(len, value)) // 4
                pending.append((depth + 1, value.values()))
            elif isinstance(value, list | tuple):
                pending.append((depth + 1, value))
    return units, deepest
