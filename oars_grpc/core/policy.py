"""A policy document: rules, what they match, and how their effects combine.

These are values only. `policy_document.py` validates and compiles them, `evaluation.py` decides.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

from oars_grpc.core.canonical import canonical_json, sha256_hex
from oars_grpc.core.risk import RiskTier
from oars_grpc.errors import FieldViolation, InvalidArgument

_E = TypeVar("_E", bound=StrEnum)


class Effect(StrEnum):
    """What a rule decides, strictest first."""

    DENY = "deny"
    QUARANTINE = "quarantine"
    APPROVE = "approve"
    ALLOW = "allow"

    @property
    def strictness(self) -> int:
        """How strict the effect is: deny 3, quarantine 2, approve 1, allow 0."""
        return _STRICTNESS[self]


_STRICTNESS = {effect: 3 - rank for rank, effect in enumerate(Effect)}


class CombiningAlgorithm(StrEnum):
    """How the effects of several matching rules become one.

    STRICTEST_WINS: every matching rule counts and the strictest effect is the decision; the order
    of rules and their priorities mean nothing.
    FIRST_MATCH: rules are asked by priority, the lower number first and ties in document order;
    the first match is the decision.
    """

    STRICTEST_WINS = "strictest_wins"
    FIRST_MATCH = "first_match"


@dataclass(frozen=True, slots=True)
class TimeWindowUtc:
    """Hours of the day in UTC, start inclusive, end exclusive; wraps midnight if end < start."""

    start_hour: int
    end_hour: int

    def hours(self) -> frozenset[int]:
        """The hours inside the window; validation has refused equal ends."""
        length = (self.end_hour - self.start_hour) % 24
        return frozenset((self.start_hour + offset) % 24 for offset in range(length))


@dataclass(frozen=True, slots=True)
class RuleMatch:
    """What a rule asks of an action; all given fields must match, an empty one asks nothing.

    Within a field any of the values suffices (`target_contains`: any of the substrings), except
    `required_data_types`, which must all be present. Tools, operations, targets, environments and
    data types compare folded (`folding.fold`); agent and user ids compare exactly.
    """

    tool_ids: tuple[str, ...] = ()
    operations: tuple[str, ...] = ()
    target_contains: tuple[str, ...] = ()
    risk_tiers: tuple[RiskTier, ...] = ()
    environments: tuple[str, ...] = ()
    required_data_types: tuple[str, ...] = ()
    time_window_utc: TimeWindowUtc | None = None
    agent_ids: tuple[str, ...] = ()
    user_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule; an empty condition asks nothing.

    `workflow_id` names who answers where an approve rule decides; empty is the default workflow.
    """

    id: str
    effect: Effect
    match: RuleMatch = field(default_factory=RuleMatch)
    condition: str = ""
    priority: int = 0
    description: str = ""
    workflow_id: str = ""


@dataclass(frozen=True, slots=True)
class PolicyDocument:
    """A tenant's rules and how they combine."""

    name: str
    rules: tuple[Rule, ...]
    combining: CombiningAlgorithm = CombiningAlgorithm.STRICTEST_WINS
    description: str = ""

    def to_json(self) -> dict[str, Any]:
        """The one JSON form of the document; every field is there, but for hours and workflow."""
        return {
            "name": self.name,
            "description": self.description,
            "combining": self.combining.value,
            "rules": [_rule_to_json(rule) for rule in self.rules],
        }

    @classmethod
    def from_json(cls, value: Any) -> "PolicyDocument":
        """The document of a JSON object; fields left out have their defaults.

        Raises:
            InvalidArgument: an unknown field or value, or one of the wrong type.
        """
        reader = _Reader(value, "document", {"name", "description", "combining", "rules"})
        return cls(
            name=reader.text("name"),
            description=reader.text("description"),
            combining=reader.one_of("combining", CombiningAlgorithm, "strictest_wins"),
            rules=tuple(
                _rule_from_json(rule, f"document.rules[{index}]")
                for index, rule in enumerate(reader.array("rules"))
            ),
        )

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over the canonical JSON of the document."""
        return sha256_hex(canonical_json(self.to_json()))


# The members of a match that are lists of texts: in JSON, and as attributes.
MATCH_LISTS = {
    "toolIds": "tool_ids",
    "operations": "operations",
    "targetContains": "target_contains",
    "environments": "environments",
    "requiredDataTypes": "required_data_types",
    "agentIds": "agent_ids",
    "userIds": "user_ids",
}


def _rule_to_json(rule: Rule) -> dict[str, Any]:
    window = rule.match.time_window_utc
    match: dict[str, Any] = {
        name: list(getattr(rule.match, attribute)) for name, attribute in MATCH_LISTS.items()
    }
    match["riskTiers"] = [tier.value for tier in rule.match.risk_tiers]
    if window is not None:
        match["timeWindowUtc"] = {"startHour": window.start_hour, "endHour": window.end_hour}
    # Left out where it is empty: documents of before there were workflows keep their digests.
    workflow = {"workflowId": rule.workflow_id} if rule.workflow_id else {}
    return {
        "id": rule.id,
        "description": rule.description,
        "priority": rule.priority,
        "decision": rule.effect.value,
        "match": match,
        "condition": rule.condition,
        **workflow,
    }


def _rule_from_json(value: Any, path: str) -> Rule:
    reader = _Reader(
        value,
        path,
        {"id", "description", "priority", "decision", "match", "condition", "workflowId"},
    )
    return Rule(
        id=reader.text("id"),
        description=reader.text("description"),
        priority=reader.integer("priority", 0),
        effect=reader.one_of("decision", Effect, None),
        match=_match_from_json(reader.value.get("match", {}), f"{path}.match"),
        condition=reader.text("condition"),
        workflow_id=reader.text("workflowId"),
    )


def _match_from_json(value: Any, path: str) -> RuleMatch:
    reader = _Reader(value, path, {*MATCH_LISTS, "riskTiers", "timeWindowUtc"})
    window = None
    if "timeWindowUtc" in reader.value:
        hours = _Reader(
            reader.value["timeWindowUtc"], f"{path}.time_window_utc", {"startHour", "endHour"}
        )
        window = TimeWindowUtc(hours.integer("startHour", None), hours.integer("endHour", None))
    lists = {
        attribute: tuple(reader.texts(name, attribute)) for name, attribute in MATCH_LISTS.items()
    }
    tiers = tuple(
        _member(tier, RiskTier, f"{path}.risk_tiers[{index}]")
        for index, tier in enumerate(reader.array("riskTiers", "risk_tiers"))
    )
    return RuleMatch(time_window_utc=window, risk_tiers=tiers, **lists)


def _member(value: Any, members: type[_E], path: str) -> _E:
    known = [member.value for member in members]
    if value not in known:
        raise InvalidArgument.of(path, f"must be one of {', '.join(known)}")
    return members(value)


class _Reader:
    """Reads one JSON object strictly; paths in errors are those of the proto fields."""

    def __init__(self, value: Any, path: str, names: set[str]) -> None:
        if not isinstance(value, Mapping):
            raise InvalidArgument.of(path, "must be an object")
        unknown = sorted(str(name) for name in value if name not in names)
        if unknown:
            raise InvalidArgument([FieldViolation(f"{path}.{n}", "unknown field") for n in unknown])
        self.value, self.path = value, path

    def text(self, name: str) -> str:
        found = self.value.get(name, "")
        if not isinstance(found, str):
            raise InvalidArgument.of(f"{self.path}.{name}", "must be a string")
        return found

    def integer(self, name: str, default: int | None) -> int:
        found = self.value.get(name, default)
        if not isinstance(found, int) or isinstance(found, bool):
            raise InvalidArgument.of(f"{self.path}.{name}", "must be an integer")
        return found

    def one_of(self, name: str, members: type[_E], default: str | None) -> _E:
        return _member(self.value.get(name, default), members, f"{self.path}.{name}")

    def array(self, name: str, proto_name: str = "") -> list[Any]:
        found = self.value.get(name, [])
        if not isinstance(found, list | tuple):
            raise InvalidArgument.of(f"{self.path}.{proto_name or name}", "must be a list")
        return list(found)

    def texts(self, name: str, proto_name: str) -> list[str]:
        found = self.array(name, proto_name)
        for index, value in enumerate(found):
            if not isinstance(value, str):
                raise InvalidArgument.of(f"{self.path}.{proto_name}[{index}]", "must be a string")
        return found
