"""What a rule asks, taken apart into questions about facts that depend on each other.

A question is put to a point: a value for each of a few facts, where one that is not named is
missing. Its answer is true, false or unknown (None), as in `evaluation.py`. A rule is the
conjunction of its questions. Of a condition, each part between `&&` is a question of its own if it
compares facts of one group with constants; any other part is opaque: nothing is known of it but
that the same expression has the same answer.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from oars_grpc.core.checked_expression import Node
from oars_grpc.core.compiled_rule import CompiledRule
from oars_grpc.core.condition_parts import (
    Point,
    Variable,
    constants_of,
    parts_of,
    reads_of,
    shape_of,
    truth_of,
)

DATA_TYPES: Variable = ("folded.data_types",)
# Where data types are not stated: those that the identity is known to handle.
KNOWN_DATA_TYPES: Variable = ("known data types",)
TRUTH: Variable = ("truth",)

# Facts of one group say something about each other.
_GROUPS: Mapping[str, str] = {
    "resource.tool_id": "resource.tool_id",
    "folded.tool_id": "resource.tool_id",
    "resource.operation": "resource.operation",
    "folded.operation": "resource.operation",
    "resource.target": "resource.target",
    "folded.target": "resource.target",
    "context.environment": "context.environment",
    "folded.environment": "context.environment",
    "risk.score": "risk",
    "risk.tier": "risk",
    "risk.operation_class": "risk",
    "time.hour_utc": "time",
    "time.weekday": "time",
}
_FIELDS: Mapping[str, str] = {
    "resource.operation": "match.operations",
    "resource.tool_id": "match.tool_ids",
    "context.environment": "match.environments",
    "risk.tier": "match.risk_tiers",
    "agent.id": "match.agent_ids",
    "user.id": "match.user_ids",
    "time.hour_utc": "match.time_window_utc",
}
CONDITION = "condition"


class Question(Protocol):
    """One question to facts of one group; equal questions have equal answers."""

    def answer(self, point: Point) -> bool | None:
        """True, false, or None where a fact is missing."""
        ...

    def constants(self) -> Iterator[tuple[Variable, Any]]:
        """What the answer depends on: facts, each with a constant that it is compared with."""
        ...


@dataclass(frozen=True, slots=True)
class OneOf:
    """Is the fact one of these?"""

    variable: Variable
    wanted: frozenset[str | int]

    def answer(self, point: Point) -> bool | None:
        """See `Question`."""
        value = point.get(self.variable)
        return None if value is None else value in self.wanted

    def constants(self) -> Iterator[tuple[Variable, Any]]:
        """See `Question`."""
        return ((self.variable, value) for value in self.wanted)


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of text that a fact is asked to contain."""

    text: str


@dataclass(frozen=True, slots=True)
class ContainsAny:
    """Does the target contain one of these?"""

    parts: tuple[str, ...]

    def answer(self, point: Point) -> bool | None:
        """See `Question`."""
        value = point.get(("folded.target",))
        return None if value is None else any(part in value for part in self.parts)

    def constants(self) -> Iterator[tuple[Variable, Any]]:
        """See `Question`."""
        return ((("folded.target",), Part(part)) for part in self.parts)


@dataclass(frozen=True, slots=True)
class AllOf:
    """Are all these data types there?"""

    required: frozenset[str]

    def answer(self, point: Point) -> bool | None:
        """See `Question`."""
        if DATA_TYPES in point:
            return bool(self.required <= point[DATA_TYPES])
        return True if self.required <= point[KNOWN_DATA_TYPES] else None

    def constants(self) -> Iterator[tuple[Variable, Any]]:
        """See `Question`."""
        yield DATA_TYPES, self.required


@dataclass(frozen=True, slots=True)
class Holds:
    """Does a part of a condition hold?

    Equal where the shapes are: as values of Python, `== true` and `== 1` would be the same.
    """

    node: Node = field(compare=False)
    shape: tuple[Any, ...]

    def answer(self, point: Point) -> bool | None:
        """See `Question`."""
        return truth_of(self.node, point)

    def constants(self) -> Iterator[tuple[Variable, Any]]:
        """See `Question`."""
        return constants_of(self.node)


@dataclass(frozen=True, slots=True)
class Opaque:
    """Something whose answer may be anything."""

    def answer(self, point: Point) -> bool | None:
        """See `Question`."""
        found: bool | None = point[TRUTH]
        return found

    def constants(self) -> Iterator[tuple[Variable, Any]]:
        """See `Question`."""
        return iter(())


@dataclass(frozen=True, slots=True)
class Term:
    """A question, the group of facts that it is about, and the field of the rule that asks it.

    An opaque one is a group of its own; the same expression is the same group.
    """

    group: str
    question: Question
    source: str


def opaque(term: Term) -> Term:
    """The term as one of which nothing is known."""
    return Term(f"opaque {term.question!r}", Opaque(), term.source)


def terms_of(rule: CompiledRule, condition: Node | None) -> list[Term]:
    """All that a rule asks; `condition` is the root of its checked condition."""
    terms = [
        Term(
            _GROUPS.get(criterion.fact, criterion.fact),
            OneOf((criterion.fact,), criterion.wanted),
            _FIELDS[criterion.asks],
        )
        for criterion in rule.criteria
    ]
    if rule.target_contains:
        question = ContainsAny(rule.target_contains)
        terms.append(Term("resource.target", question, "match.target_contains"))
    if rule.required_data_types:
        required = AllOf(rule.required_data_types)
        terms.append(Term("context.data_types", required, "match.required_data_types"))
    if condition is not None:
        terms += [_term(part) for part in parts_of(condition)]
    return terms


def _term(node: Node) -> Term:
    read, shape = reads_of(node), shape_of(node)
    groups = {_group(variable) for variable in read or ()}
    if read is None or len(groups) > 1:
        return Term(f"opaque {shape!r}", Opaque(), CONDITION)
    return Term(groups.pop() if groups else "", Holds(node, shape), CONDITION)


def _group(variable: Variable) -> str:
    return _GROUPS.get(variable[0], ".".join(variable))
