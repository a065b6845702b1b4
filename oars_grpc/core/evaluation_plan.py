"""How the rules of a policy are asked with little work: what is made once, when it is compiled."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from oars_grpc.core.compiled_rule import CompiledRule, RuleOutcome
from oars_grpc.core.condition import CheckedCondition
from oars_grpc.core.condition_batch import (
    DEAR,
    LIST_BUDGET,
    MAX_BATCH,
    ConditionBatch,
    affordable_amount,
    compile_batch,
    work_at,
)
from oars_grpc.core.rule_index import RuleIndex, index_rules

# Where one of these is not written, nothing iterates; where one is, something may.
_MACROS = ("all", "exists", "map", "filter")


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive rules, and the batches of the conditions that come up first among them.

    With each batch goes the set of all rules that have a condition in it.
    """

    start: int
    end: int
    batches: tuple[tuple[ConditionBatch, int], ...]


@dataclass(frozen=True, slots=True)
class EvaluationPlan:
    """What spares an evaluation work; rules are numbered in the order in which they are asked.

    Attributes:
        index: what the match fields leave possible.
        segments: all rules in order.
        slots: for each rule the number of its condition; equal conditions have one number, and
            rules without a condition have `conditions`.
        conditions: how many different ones there are.
        outcomes: for each rule its outcome where it matches and nothing is missing.
        ranks: for each rule its place among all, strictest first, then by id.
        asks: every fact that a rule asks about, by name, and the first rule that does.
    """

    index: RuleIndex
    segments: tuple[Segment, ...]
    slots: tuple[int, ...]
    conditions: int
    outcomes: tuple[RuleOutcome, ...]
    ranks: tuple[int, ...]
    asks: tuple[tuple[str, int], ...]


def plan_evaluation(
    rules: Sequence[CompiledRule], checked: Mapping[str, CheckedCondition]
) -> EvaluationPlan:
    """Plan for rules in the order in which they are asked, and their conditions by text."""
    amount = affordable_amount(checked.values())
    numbers: dict[str, int] = {}
    drafts: list[tuple[int, int, list[ConditionBatch]]] = []
    for start, end, fresh in _portions(rules, checked, amount):
        batches = []
        for conditions in fresh:
            batch = compile_batch(conditions, len(numbers), amount) if amount else None
            if batch is not None:
                numbers.update(zip(batch.texts, range(batch.first, batch.end), strict=True))
                batches.append(batch)
        drafts.append((start, end, batches))
    for text in checked:
        numbers.setdefault(text, len(numbers))
    slots = tuple(
        numbers[rule.condition.text] if rule.condition else len(numbers) for rule in rules
    )
    return EvaluationPlan(
        index=index_rules(rules),
        segments=tuple(
            Segment(start, end, tuple((batch, _rules_of(batch, slots)) for batch in batches))
            for start, end, batches in drafts
        ),
        slots=slots,
        conditions=len(numbers),
        outcomes=tuple(RuleOutcome(rule.id, rule.effect) for rule in rules),
        ranks=_ranks(rules),
        asks=_asks(rules),
    )


def _portions(
    rules: Sequence[CompiledRule], checked: Mapping[str, CheckedCondition], amount: int
) -> Iterator[tuple[int, int, tuple[list[CheckedCondition], ...]]]:
    """Runs of rules with the conditions that are new in each, those that may iterate apart."""
    seen: set[str] = set()
    start = work = 0
    plain: list[CheckedCondition] = []
    iterating: list[CheckedCondition] = []
    for position, rule in enumerate(rules):
        if rule.condition is None or rule.condition.text in seen:
            continue
        condition = checked[rule.condition.text]
        more = work_at(condition, amount) if amount else 0
        if more > DEAR:
            continue
        if work + more > LIST_BUDGET or len(plain) + len(iterating) == MAX_BATCH:
            yield start, position, (plain, iterating)
            start, work, plain, iterating = position, 0, [], []
        work += more
        seen.add(rule.condition.text)
        iterates = any(macro in rule.condition.text for macro in _MACROS)
        (iterating if iterates else plain).append(condition)
    yield start, len(rules), (plain, iterating)


def _rules_of(batch: ConditionBatch, slots: Sequence[int]) -> int:
    rules = 0
    for position, slot in enumerate(slots):
        if batch.first <= slot < batch.end:
            rules |= 1 << position
    return rules


def _ranks(rules: Sequence[CompiledRule]) -> tuple[int, ...]:
    order = sorted(range(len(rules)), key=lambda position: strictest_first(rules[position]))
    ranks = {position: rank for rank, position in enumerate(order)}
    return tuple(ranks[position] for position in range(len(rules)))


def strictest_first(rule: CompiledRule) -> tuple[int, str]:
    """The order in which a decision names its rules."""
    return -rule.effect.strictness, rule.id


def _asks(rules: Sequence[CompiledRule]) -> tuple[tuple[str, int], ...]:
    first: dict[str, int] = {}
    for position, rule in enumerate(rules):
        for name in rule.asks:
            first.setdefault(name, position)
    return tuple(sorted(first.items()))
