"""Checking a policy document and making it ready: every fault is named before it can decide.

What is compiled here is not compiled again: an evaluation finds sets of folded names and checked
conditions.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from oars_grpc.core.condition import (
    DATA_STEPS,
    POLICY_BUDGET,
    Condition,
    ConditionError,
    compile_condition,
)
from oars_grpc.core.facts import fold
from oars_grpc.core.policy import (
    CombiningAlgorithm,
    Effect,
    PolicyDocument,
    Rule,
    RuleMatch,
    TimeWindowUtc,
)
from oars_grpc.core.risk import RiskTier
from oars_grpc.errors import FieldViolation, InvalidArgument

MAX_CONDITIONS_TEXT = 100_000
MAX_RULES = 1_000
MAX_VALUES = 200
MAX_VALUE_LENGTH = 512
MAX_NAME_LENGTH = 128
MAX_DESCRIPTION_LENGTH = 2_000
MAX_PRIORITY = 2**31 - 1
_RULE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True)
class Criterion:
    """One question to one fact.

    `fact` is what compares, `asks` what a user reads of: the fact as sent.
    """

    fact: str
    asks: str
    wanted: frozenset[str | int]


@dataclass(frozen=True, slots=True)
class CompiledRule:
    """A rule ready to be asked; `asks` names every fact that it may read."""

    id: str
    effect: Effect
    criteria: tuple[Criterion, ...]
    target_contains: tuple[str, ...]
    required_data_types: frozenset[str]
    condition: Condition | None
    asks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CompiledPolicy:
    """A valid document ready to decide; `rules` stand in the order in which they are asked.

    `asks` are the facts that any rule may read, `condition_facts` those that conditions read;
    above `max_units` of data the conditions together would take too long.
    """

    document: PolicyDocument
    digest: str
    combining: CombiningAlgorithm
    rules: tuple[CompiledRule, ...]
    asks: tuple[str, ...]
    condition_facts: tuple[str, ...]
    max_units: int


def validate_document(document: PolicyDocument) -> CompiledPolicy:
    """Check a document and compile it.

    Raises:
        InvalidArgument: with one violation for every field at fault.
    """
    # Compiling is the dear part, a third of a millisecond and more each: bounded before it begins.
    written = sum(len(rule.condition) for rule in document.rules)
    if written > MAX_CONDITIONS_TEXT:
        raise InvalidArgument.of(
            "document.rules",
            f"have {written} characters of conditions together; at most {MAX_CONDITIONS_TEXT}"
            " are accepted",
        )
    violations = [*_head_violations(document)]
    seen: dict[str, int] = {}
    compiled: list[CompiledRule] = []
    for index, rule in enumerate(document.rules[:MAX_RULES]):
        path = f"document.rules[{index}]"
        if rule.id in seen:
            violations.append(
                FieldViolation(f"{path}.id", f"repeats the id of document.rules[{seen[rule.id]}]")
            )
        seen.setdefault(rule.id, index)
        found = [*_rule_violations(rule, path)]
        try:
            condition = compile_condition(rule.condition) if rule.condition else None
        except ConditionError as error:
            found.append(
                FieldViolation(
                    f"{path}.condition",
                    f"line {error.line}, column {error.column}: {error.message}",
                )
            )
        violations += found
        if not found:
            compiled.append(_compile_rule(rule, condition))
    if not violations:
        conditions = [rule.condition for rule in compiled if rule.condition is not None]
        work = [sum(step) for step in zip(*(c.work for c in conditions), strict=True)]
        affordable = [
            data
            for data, units in zip(DATA_STEPS, work or [0] * len(DATA_STEPS), strict=True)
            if units <= POLICY_BUDGET
        ]
        if affordable:
            return _compiled_policy(document, compiled, conditions, max(affordable))
        violations.append(
            FieldViolation("document.rules", "the conditions together may take too long")
        )
    raise InvalidArgument(violations)


def _compiled_policy(
    document: PolicyDocument,
    rules: list[CompiledRule],
    conditions: list[Condition],
    max_units: int,
) -> CompiledPolicy:
    if document.combining is CombiningAlgorithm.FIRST_MATCH:
        priorities = {rule.id: rule.priority for rule in document.rules}
        rules = sorted(rules, key=lambda rule: priorities[rule.id])  # stable: document order
    return CompiledPolicy(
        document=document,
        digest=document.digest,
        combining=document.combining,
        rules=tuple(rules),
        asks=tuple(sorted({name for rule in rules for name in rule.asks})),
        condition_facts=tuple(sorted({name for c in conditions for name in c.reads})),
        max_units=max_units,
    )


def _compile_rule(rule: Rule, condition: Condition | None) -> CompiledRule:
    match = rule.match
    hours = match.time_window_utc.hours() if match.time_window_utc else frozenset[int]()
    candidates = (
        Criterion("folded.operation", "resource.operation", _folded(match.operations)),
        Criterion("folded.tool_id", "resource.tool_id", _folded(match.tool_ids)),
        Criterion("folded.environment", "context.environment", _folded(match.environments)),
        Criterion("risk.tier", "risk.tier", frozenset(tier.value for tier in match.risk_tiers)),
        Criterion("agent.id", "agent.id", frozenset(match.agent_ids)),
        Criterion("user.id", "user.id", frozenset(match.user_ids)),
        Criterion("time.hour_utc", "time.hour_utc", hours),
    )
    criteria = tuple(criterion for criterion in candidates if criterion.wanted)
    asks = {criterion.asks for criterion in criteria}
    if match.target_contains:
        asks.add("resource.target")
    if match.required_data_types:
        asks.add("context.data_types")
    if condition is not None:
        asks.update(condition.reads)
    return CompiledRule(
        id=rule.id,
        effect=rule.effect,
        criteria=criteria,
        target_contains=tuple(fold(part) for part in match.target_contains),
        required_data_types=frozenset(fold(name) for name in match.required_data_types),
        condition=condition,
        asks=tuple(sorted(asks)),
    )


def _folded(names: tuple[str, ...]) -> frozenset[str | int]:
    return frozenset(fold(name) for name in names)


def _head_violations(document: PolicyDocument) -> Iterator[FieldViolation]:
    if not 1 <= len(document.name) <= MAX_NAME_LENGTH:
        yield FieldViolation("document.name", f"must have 1 to {MAX_NAME_LENGTH} characters")
    if len(document.description) > MAX_DESCRIPTION_LENGTH:
        yield FieldViolation(
            "document.description", f"must be at most {MAX_DESCRIPTION_LENGTH} characters"
        )
    if document.combining not in set(CombiningAlgorithm):
        yield FieldViolation("document.combining", "unknown combining algorithm")
    if not 1 <= len(document.rules) <= MAX_RULES:
        yield FieldViolation("document.rules", f"must have 1 to {MAX_RULES} rules")


def _rule_violations(rule: Rule, path: str) -> Iterator[FieldViolation]:
    if not _RULE_ID.fullmatch(rule.id):
        yield FieldViolation(f"{path}.id", "must be 1 to 64 of A-Z a-z 0-9 . _ -")
    if rule.effect not in set(Effect):
        yield FieldViolation(f"{path}.decision", "unknown decision")
    if len(rule.description) > MAX_DESCRIPTION_LENGTH:
        yield FieldViolation(
            f"{path}.description", f"must be at most {MAX_DESCRIPTION_LENGTH} characters"
        )
    if abs(rule.priority) > MAX_PRIORITY:
        yield FieldViolation(f"{path}.priority", "must be a 32-bit integer")
    yield from _match_violations(rule.match, f"{path}.match")


def _match_violations(match: RuleMatch, path: str) -> Iterator[FieldViolation]:
    for name in (
        "tool_ids",
        "operations",
        "target_contains",
        "environments",
        "required_data_types",
        "agent_ids",
        "user_ids",
    ):
        values: tuple[str, ...] = getattr(match, name)
        if len(values) > MAX_VALUES:
            yield FieldViolation(f"{path}.{name}", f"must have at most {MAX_VALUES} values")
        for index, value in enumerate(values[:MAX_VALUES]):
            if len(value) > MAX_VALUE_LENGTH or not fold(value):
                yield FieldViolation(
                    f"{path}.{name}[{index}]", f"must have 1 to {MAX_VALUE_LENGTH} characters"
                )
    for index, tier in enumerate(match.risk_tiers):
        if tier not in set(RiskTier):
            yield FieldViolation(f"{path}.risk_tiers[{index}]", "unknown risk tier")
    if match.time_window_utc is not None:
        yield from _window_violations(match.time_window_utc, f"{path}.time_window_utc")


def _window_violations(window: TimeWindowUtc, path: str) -> Iterator[FieldViolation]:
    for name, hour in (("start_hour", window.start_hour), ("end_hour", window.end_hour)):
        if not 0 <= hour <= 23:
            yield FieldViolation(f"{path}.{name}", "must be from 0 to 23")
    if window.start_hour == window.end_hour:
        yield FieldViolation(path, "start_hour and end_hour must differ")
