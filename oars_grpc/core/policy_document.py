"""Checking a policy document and making it ready: every fault is named before it can decide.

What is compiled here is not compiled again: an evaluation finds sets of folded names and checked
conditions.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from oars_grpc.core.canonical import canonical_json, sha256_hex
from oars_grpc.core.compiled_rule import CompiledRule, Criterion
from oars_grpc.core.condition import (
    DATA_STEPS,
    POLICY_BUDGET,
    CheckedCondition,
    Condition,
    ConditionError,
    affordable_units,
    check_condition,
)
from oars_grpc.core.disguise import KnownNames, known_names
from oars_grpc.core.evaluation_plan import EvaluationPlan, plan_evaluation
from oars_grpc.core.folding import fold
from oars_grpc.core.policy import (
    MATCH_LISTS,
    CombiningAlgorithm,
    Effect,
    PolicyDocument,
    Rule,
    RuleMatch,
    TimeWindowUtc,
)
from oars_grpc.core.risk import RiskTier
from oars_grpc.core.workflow import WORKFLOW_ID
from oars_grpc.errors import FieldViolation, InvalidArgument

# Compiling holds the interpreter: the worst document of these sizes takes below a second, nearly
# all of it for its conditions, of which a character takes up to 15 µs.
MAX_DOCUMENT_BYTES = 256 * 1024
MAX_CONDITIONS_TEXT = 50_000
# Nobody reads more faults than these, and finding each may be dear.
MAX_FAULTY_CONDITIONS = 10
MAX_RULES = 1_000
MAX_VALUES = 200
MAX_VALUE_LENGTH = 512
MAX_NAME_LENGTH = 128
MAX_DESCRIPTION_LENGTH = 1_024
MIN_PRIORITY, MAX_PRIORITY = -(2**31), 2**31 - 1
MAX_RULE_ID_LENGTH = 64
_RULE_ID = re.compile(rf"[A-Za-z0-9._-]{{1,{MAX_RULE_ID_LENGTH}}}")


@dataclass(frozen=True, slots=True)
class CompiledPolicy:
    """A valid document ready to decide; `rules` stand in the order in which they are asked.

    `asks` are the facts that any rule may read, `condition_facts` those that conditions read;
    above `max_units` of data the conditions together would take too long. `plan` follows from
    `rules`, and saves work only.
    """

    document: PolicyDocument
    digest: str
    combining: CombiningAlgorithm
    rules: tuple[CompiledRule, ...]
    asks: tuple[str, ...]
    condition_facts: tuple[str, ...]
    max_units: int
    plan: EvaluationPlan
    known_names: KnownNames


def validate_document(document: PolicyDocument) -> CompiledPolicy:
    """Check a document and compile it.

    Raises:
        InvalidArgument: with one violation for every field at fault.
    """
    # Compiling is the dear part: bounded before it begins.
    characters = sum(len(rule.condition) for rule in document.rules)
    if characters > MAX_CONDITIONS_TEXT:
        raise InvalidArgument.of(
            "document.rules",
            f"have {characters} characters of conditions together; at most {MAX_CONDITIONS_TEXT}"
            " are accepted",
        )
    violations = [*_head_violations(document)]
    seen: dict[str, int] = {}
    compiled: list[CompiledRule] = []
    conditions: list[CheckedCondition] = []
    distinct: dict[str, CheckedCondition] = {}
    least_work = faulty_conditions = 0
    for index, rule in enumerate(document.rules[:MAX_RULES]):
        path = f"document.rules[{index}]"
        if rule.id in seen:
            violations.append(
                FieldViolation(f"{path}.id", f"repeats the id of document.rules[{seen[rule.id]}]")
            )
        seen.setdefault(rule.id, index)
        found = [*_rule_violations(rule, path)]
        try:
            checked = _checked(rule.condition, distinct)
        except ConditionError as error:
            found.append(
                FieldViolation(
                    f"{path}.condition",
                    f"line {error.line}, column {error.column}: {error.message}",
                )
            )
            faulty_conditions += 1
        else:
            least_work += checked.work(DATA_STEPS[0]) if checked else 0
        violations += found
        if not found:
            compiled.append(_compile_rule(rule, checked.condition if checked else None))
            conditions += [checked] if checked else []
        if least_work > POLICY_BUDGET:
            violations.append(
                FieldViolation("document.rules", "the conditions together may take too long")
            )
        if least_work > POLICY_BUDGET or faulty_conditions == MAX_FAULTY_CONDITIONS:
            break
    if violations:
        raise InvalidArgument(violations)
    digest = _checked_digest(document)
    max_units = affordable_units(lambda data: sum(c.work(data) for c in conditions), POLICY_BUDGET)
    # The loop has seen that the smallest step is affordable.
    return _compiled_policy(document, digest, compiled, max_units or DATA_STEPS[0], distinct)


def _checked(text: str, distinct: dict[str, CheckedCondition]) -> CheckedCondition | None:
    """A rule's condition, compiled once for all rules that have the same; None without one."""
    if text and text not in distinct:
        distinct[text] = check_condition(text)
    return distinct.get(text)


def _checked_digest(document: PolicyDocument) -> str:
    """The digest of a document, if it is small enough."""
    try:
        written = canonical_json(document.to_json())
    except ValueError as error:
        raise InvalidArgument.of("document", "must be valid Unicode") from error
    if len(written) > MAX_DOCUMENT_BYTES:
        raise InvalidArgument.of(
            "document",
            f"is {len(written)} bytes long as canonical JSON; at most {MAX_DOCUMENT_BYTES} are"
            " accepted",
        )
    return sha256_hex(written)


def _compiled_policy(
    document: PolicyDocument,
    digest: str,
    rules: list[CompiledRule],
    max_units: int,
    conditions: Mapping[str, CheckedCondition],
) -> CompiledPolicy:
    if document.combining is CombiningAlgorithm.FIRST_MATCH:
        priorities = {rule.id: rule.priority for rule in document.rules}
        rules = sorted(rules, key=lambda rule: priorities[rule.id])  # stable: document order
    return CompiledPolicy(
        document=document,
        digest=digest,
        combining=document.combining,
        rules=tuple(rules),
        asks=tuple(sorted({name for rule in rules for name in rule.asks})),
        condition_facts=tuple(
            sorted({name for rule in rules if rule.condition for name in rule.condition.reads})
        ),
        max_units=max_units,
        plan=plan_evaluation(rules, conditions),
        known_names=known_names(rules),
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
        yield FieldViolation(
            f"{path}.id", f"must be 1 to {MAX_RULE_ID_LENGTH} of A-Z a-z 0-9 . _ -"
        )
    if rule.effect not in set(Effect):
        yield FieldViolation(f"{path}.decision", "unknown decision")
    if len(rule.description) > MAX_DESCRIPTION_LENGTH:
        yield FieldViolation(
            f"{path}.description", f"must be at most {MAX_DESCRIPTION_LENGTH} characters"
        )
    if not MIN_PRIORITY <= rule.priority <= MAX_PRIORITY:
        yield FieldViolation(f"{path}.priority", "must be a 32-bit integer")
    if rule.workflow_id and rule.effect is not Effect.APPROVE:
        yield FieldViolation(f"{path}.workflow_id", "is only for a rule that asks for approval")
    elif rule.workflow_id and not WORKFLOW_ID.fullmatch(rule.workflow_id):
        yield FieldViolation(
            f"{path}.workflow_id",
            "must be 1 to 64 characters of [a-z0-9_-], beginning with a letter",
        )
    yield from _match_violations(rule.match, f"{path}.match")


def _match_violations(match: RuleMatch, path: str) -> Iterator[FieldViolation]:
    for name in MATCH_LISTS.values():
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
