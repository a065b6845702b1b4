from collections.abc import Sequence
from time import perf_counter
from typing import Any

import pytest

from oars_grpc.core import evaluation
from oars_grpc.core.absorbing_list import DEFINITELY_FALSE, DEFINITELY_TRUE, absorbing
from oars_grpc.core.compiled_rule import CompiledRule, RuleOutcome
from oars_grpc.core.condition import (
    CONDITION_BUDGET,
    DATA_STEPS,
    POLICY_BUDGET,
    CheckedCondition,
    Condition,
    bind,
    check_condition,
    environment,
)
from oars_grpc.core.condition_batch import (
    MAX_BATCH,
    ConditionBatch,
    affordable_amount,
    compile_batch,
    work_at,
)
from oars_grpc.core.evaluation import evaluate
from oars_grpc.core.facts import Facts
from oars_grpc.core.policy import CombiningAlgorithm, Effect, PolicyDocument, Rule, RuleMatch
from oars_grpc.core.policy_document import CompiledPolicy, validate_document

FACTS = Facts(
    {
        "risk.score": 60,
        "user.id": "alice",
        "context.data_types": ["pii"],
        "input": {"n": 3, "text": "x", "l": [1, 2]},
    },
    input_units=6,
    other_units=4,
)


def checked(*texts: str) -> list[CheckedCondition]:
    return [check_condition(text) for text in texts]


def batch_of(*texts: str) -> ConditionBatch:
    conditions = checked(*texts)
    batch = compile_batch(conditions, 0, affordable_amount(conditions))
    assert batch is not None
    return batch


def answers(batch: ConditionBatch, facts: Facts = FACTS) -> list[bool | None]:
    bound = bind(facts, facts.values)
    found = batch.answers(bound)
    assert found is not None
    return [{DEFINITELY_FALSE: False, DEFINITELY_TRUE: True}.get(answer) for answer in found]


def policy_of(*texts: str, effect: Effect = Effect.DENY, **changes: Any) -> CompiledPolicy:
    rules = tuple(Rule(f"R{n:03}", effect, condition=text) for n, text in enumerate(texts))
    return validate_document(PolicyDocument("p", rules, **changes))


def batches(policy: CompiledPolicy) -> list[tuple[str, ...]]:
    return [batch.texts for segment in policy.plan.segments for batch, _ in segment.batches]


def test_a_condition_without_a_value_spoils_no_other() -> None:
    batch = batch_of(
        "risk.score > 50",
        "evidence.coherence > 0.5",
        "risk.score > 70",
        "input.text > 3",
        "1 / (risk.score - 60) == 1",
        "evidence.coherence > 0.5 || risk.score == 60",
        "evidence.coherence > 0.5 && risk.score == 61",
    )
    assert answers(batch) == [True, None, False, None, None, True, False]


def test_comments_and_line_breaks_stay_within_their_condition() -> None:
    texts = ("risk.score > 50 // ]", "risk.score\n > 70 //, true", '"]," == user.id', "true")
    assert answers(batch_of(*texts)) == [True, False, False, True]


def test_a_condition_too_deep_for_a_list_is_left_out() -> None:
    depth = 1
    while True:
        text = "(" * depth + "risk.score > 50" + ")" * depth
        try:
            environment().compile(f"[{text}]")
        except RuntimeError:
            break
        depth += 1
    check_condition(text)  # by itself it is none too deep
    policy = policy_of("risk.score > 1", text, "risk.score > 2", "risk.score > 100")
    assert batches(policy) == [("risk.score > 1", "risk.score > 2", "risk.score > 100")]
    assert evaluate(policy, FACTS).deciding == ("R000", "R001", "R002")


def test_conditions_that_iterate_stand_in_lists_of_their_own() -> None:
    policy = policy_of(
        "risk.score > 1",
        "input.l.exists(x, x == 2)",
        "risk.score > 100",
        "context.data_types.all(t, t == 'pii')",
    )
    assert batches(policy) == [
        ("risk.score > 1", "risk.score > 100"),
        ("input.l.exists(x, x == 2)", "context.data_types.all(t, t == 'pii')"),
    ]
    assert evaluate(policy, FACTS).deciding == ("R000", "R001", "R003")


def test_a_list_that_meets_the_limit_of_iterations_gives_no_answer_and_costs_no_value() -> None:
    texts = [f"input.l.all(x, x != {n})" for n in range(12)]
    facts = Facts({"input": {"l": [100] * 1_000}}, input_units=1_001)
    conditions = checked(*texts)
    batch = compile_batch(conditions, 0, DATA_STEPS[-1])
    assert batch is not None
    assert batch.answers(bind(facts, ["input"])) is None
    assert all(each.condition.evaluate(facts).value is True for each in conditions)
    assert len(evaluate(policy_of(*texts), facts).deciding) == len(texts)


def test_above_its_amount_of_data_a_batch_gives_no_answer() -> None:
    batch = batch_of(*(f'"{n}" in context.data_types' for n in range(100)))
    assert batch.max_units in DATA_STEPS[:-1]
    for units, told in ((batch.max_units, True), (batch.max_units + 1, False)):
        facts = Facts({"context.data_types": ["pii"]}, other_units=units)
        bound = bind(facts, ["context.data_types"])
        assert (batch.answers(bound) is not None) is told


@pytest.mark.parametrize(
    "texts",
    [
        [f"risk.score > {n}" for n in range(1_000)],
        [f'"{n}" in context.data_types' for n in range(1_000)],
        [f"input.l.exists(x, x == {n})" for n in range(100)],
        [f'input.t.contains("{n}" + input.u)' for n in range(100)],
        [f"input.l.exists(x, x in input.l) || risk.score == {n}" for n in range(20)],
    ],
    ids=lambda texts: texts[0],
)
def test_lists_keep_to_the_bounds_of_a_condition_and_of_a_policy(texts: Sequence[str]) -> None:
    conditions = {each.condition.text: each for each in checked(*texts)}
    amount = affordable_amount(conditions.values())
    total = sum(work_at(each, amount) for each in conditions.values())
    assert amount == 0 or 3 * total <= POLICY_BUDGET
    policy = policy_of(*texts)
    for segment in policy.plan.segments:
        assert sum(len(batch.texts) for batch, _ in segment.batches) <= MAX_BATCH
        for batch, _ in segment.batches:
            assert batch.max_units <= amount
            work = sum(conditions[text].work(batch.max_units) for text in batch.texts)
            assert 2 * work <= CONDITION_BUDGET  # each condition is evaluated twice at most


@pytest.mark.parametrize("count", [50, 200, 1_000, 5_000])
def test_no_amount_of_data_makes_a_list_slow(count: int) -> None:
    texts = [f"input.l.exists(x, x.contains(input.l[0]) || x == '{n}')" for n in range(40)]
    policy = policy_of(*texts)
    facts = Facts({"input": {"l": ["ab"] * count}}, input_units=count + 2)
    bound = bind(facts, ["input"])
    for segment in policy.plan.segments:
        for batch, _ in segment.batches:
            started = perf_counter()
            batch.answers(bound)
            assert perf_counter() - started < 0.2  # ten times the budget, for a busy machine


def test_equal_conditions_are_evaluated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = policy_of(*["input.missing > 3"] * 5, "risk.score > 1")
    assert batches(policy) == [("input.missing > 3", "risk.score > 1")]
    evaluated: list[str] = []
    real = Condition.evaluate

    def counted(self: Condition, facts: Any) -> Any:
        evaluated.append(self.text)
        return real(self, facts)

    monkeypatch.setattr(Condition, "evaluate", counted)
    found = evaluate(policy, FACTS)
    assert [outcome.indeterminate for outcome in found.matched] == [True] * 5 + [False]
    assert evaluated == ["input.missing > 3"]


def test_rules_that_their_match_rules_out_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    document = PolicyDocument(
        "p",
        tuple(
            Rule(f"R{n}", Effect.DENY, RuleMatch(user_ids=(user,)), f"risk.score > {n}")
            for n, user in enumerate(["bob"] * 40 + ["alice"])
        ),
    )
    policy = validate_document(document)
    asked: list[str] = []
    real = evaluation._Questions.ask

    def counted(self: Any, rule: CompiledRule) -> RuleOutcome | None:
        asked.append(rule.id)
        return real(self, rule)

    monkeypatch.setattr(evaluation._Questions, "ask", counted)
    assert evaluate(policy, FACTS).deciding == ("R40",)
    assert asked == ["R40"]


def test_the_first_match_ends_the_asking_of_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"risk.score > {n}" for n in range(3 * MAX_BATCH)]
    policy = policy_of(*texts, combining=CombiningAlgorithm.FIRST_MATCH)
    assert [len(each) for each in batches(policy)] == [MAX_BATCH] * 3
    told: list[int] = []
    real = ConditionBatch.answers

    def counted(self: ConditionBatch, bound: Any) -> list[int] | None:
        told.append(self.first)
        return real(self, bound)

    monkeypatch.setattr(ConditionBatch, "answers", counted)
    assert evaluate(policy, FACTS).deciding == ("R000",)
    assert told == [0]


def test_wrapping_refuses_what_is_not_a_list_of_so_many() -> None:
    listed = environment().compile("[true, false]").serialize()
    single = environment().compile("true").serialize()
    for serialized, count in ((listed, 3), (single, 1)):
        with pytest.raises(ValueError, match="a list of"):
            absorbing(serialized, count)


def test_a_condition_that_finds_none_of_its_facts_has_the_value_it_always_has() -> None:
    condition = check_condition("evidence.coherence > 0.5 || user.id == 'a'").condition
    nothing, other = condition.evaluate(Facts({})), condition.evaluate(Facts({"risk.score": 1}))
    assert nothing == other
    assert (nothing.value, nothing.missing) == (None, ("evidence.coherence", "user.id"))
    assert condition.evaluate(Facts({"user.id": "a"})).value is True
    assert check_condition("!has(input.x) || true").condition.evaluate(Facts({})).value is True
