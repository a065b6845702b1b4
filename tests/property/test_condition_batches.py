"""Asking rules together tells the same as asking them one by one.

The specification asks every rule by itself, of facts bound anew: no index, no list of conditions,
nothing remembered from rule to rule.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from oars_grpc.core import evaluation
from oars_grpc.core.absorbing_list import DEFINITELY_FALSE, DEFINITELY_TRUE, WITHOUT_VALUE
from oars_grpc.core.compiled_rule import RuleOutcome
from oars_grpc.core.condition import ConditionError, bind, check_condition
from oars_grpc.core.condition_batch import affordable_amount, compile_batch
from oars_grpc.core.evaluation import _Questions
from oars_grpc.core.facts import Facts
from oars_grpc.core.policy import (
    CombiningAlgorithm,
    Effect,
    PolicyDocument,
    Rule,
    RuleMatch,
    TimeWindowUtc,
)
from oars_grpc.core.policy_document import validate_document
from oars_grpc.core.risk import RiskTier

ATOMS = (
    "true",
    "false",
    "risk.score > 50",
    "risk.score in [0, 60]",
    "1 / risk.score > 0",
    'risk.tier == "high"',
    "evidence.coherence < 0.5",
    'user.id == "a"',
    'resource.target.startsWith("a")',
    'resource.target.contains("b") // a comment',
    'resource.target.matches("^a.?$")',
    '"a" in context.data_types',
    'context.attributes.team == "a"',
    'caller.attributes["team"] == "a"',
    "has(context.attributes.team)",
    "has(input.n)",
    "input.n > 1",
    "input.n.deeper == 1",
    'input.l[0] == "a"',
    'input.l.exists(x, x == "a")',
    "input.l.all(x, x > 0)",
    "input.l.map(x, x + 1).size() > 1",
    "context.data_types.exists_one(t, t.size() == 1)",
    'time.now < timestamp("2026-01-01T13:00:00Z")',
    "time.hour_utc + 9223372036854775807 > 0",
    "int(input.n) == 1",
    "{'a': true}[string(input.n)]",
    "input == {'n': 1}",
)
NUMBERED = {False: DEFINITELY_FALSE, True: DEFINITELY_TRUE, None: WITHOUT_VALUE}

conditions = st.recursive(
    st.sampled_from(ATOMS),
    lambda inner: st.one_of(
        st.builds("!(\n{}\n)".format, inner),
        st.builds("(\n{}\n) && (\n{}\n)".format, inner, inner),
        st.builds("(\n{}\n) || (\n{}\n)".format, inner, inner),
        st.builds("(\n{}\n) ? (\n{}\n) : (\n{}\n)".format, inner, inner, inner),
    ),
    max_leaves=5,
)
NAMES = ("a", "b")
some_names = st.lists(st.sampled_from(NAMES), max_size=2).map(tuple)
matches = st.builds(
    RuleMatch,
    tool_ids=some_names,
    operations=some_names,
    target_contains=some_names,
    risk_tiers=st.lists(st.sampled_from(RiskTier), max_size=2).map(tuple),
    required_data_types=some_names,
    time_window_utc=st.sampled_from([None, TimeWindowUtc(9, 17), TimeWindowUtc(22, 3)]),
    user_ids=some_names,
)
rules = st.builds(
    Rule,
    id=st.just(""),
    effect=st.sampled_from(Effect),
    match=st.just(RuleMatch()) | matches,
    condition=st.just("") | conditions,
    priority=st.integers(-1, 1),
)
documents = st.builds(
    PolicyDocument,
    name=st.just("p"),
    rules=st.lists(rules, min_size=1, max_size=16).map(
        lambda found: tuple(replace(rule, id=f"r{index}") for index, rule in enumerate(found))
    ),
    combining=st.sampled_from(CombiningAlgorithm),
)
scalars: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, 0, 1, 2, -1.5, "a", "b", "é", [], {}, {"deeper": 1}, 2**70]
)
# For each fact the values that it may have; some of the wrong type, as no fact of an action is.
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "folded.tool_id": st.sampled_from(NAMES),
    "folded.operation": st.sampled_from(NAMES) | st.just(["a"]),
    "folded.target": st.sampled_from(NAMES) | st.just("ab"),
    "folded.data_types": st.lists(st.sampled_from(NAMES)),
    "resource.target": st.sampled_from(("a", "ab", "b")) | st.just(7),
    "context.data_types": st.lists(st.sampled_from(NAMES)),
    "context.attributes": st.dictionaries(st.just("team"), st.sampled_from(NAMES)),
    "caller.attributes": st.dictionaries(st.just("team"), st.sampled_from(NAMES)),
    "user.id": st.sampled_from(NAMES) | st.just("\ud800"),
    "risk.score": st.sampled_from([0, 60]) | st.just("60"),
    "risk.tier": st.sampled_from([tier.value for tier in RiskTier]),
    "evidence.coherence": st.sampled_from([0.2, 0.8]),
    "time.hour_utc": st.sampled_from([0, 12, 23]),
    "time.now": st.just(datetime(2026, 1, 1, 12, tzinfo=UTC)),
    "input": st.fixed_dictionaries({}, optional={"n": scalars, "l": st.lists(scalars, max_size=4)}),
}
known = st.sets(st.sampled_from(NAMES)).map(frozenset)


@st.composite
def facts_of_any_kind(draw: st.DrawFn) -> Facts:
    values = draw(st.fixed_dictionaries({}, optional=VALUES))
    # The amounts decide whether there are lists at all, and what may be read.
    units = draw(st.sampled_from([10, 10, 10, 200, 900, 5_000, 70_000]))
    withheld = "" if "input" in values else "the input was not read"
    return Facts(values, 5, units, withheld, "0" * 64, draw(known))


class OneByOne(_Questions):
    """Every rule asked of facts that no other rule has been asked of."""

    def outcomes(self) -> Iterator[tuple[int, RuleOutcome]]:
        for position, rule in enumerate(self._policy.rules):
            outcome = _Questions(self._policy, self._facts).ask(rule)
            if outcome is not None:
                yield position, outcome


@settings(max_examples=250, deadline=None)
@given(documents, facts_of_any_kind())
def test_an_evaluation_is_that_of_every_rule_asked_by_itself(
    document: PolicyDocument, facts: Facts
) -> None:
    policy = validate_document(document)
    with mock.patch.object(evaluation, "_Questions", OneByOne):
        expected = evaluation.evaluate(policy, facts)
    found = evaluation.evaluate(policy, facts)
    assert found == expected
    for outcomes in (found.matched, found.skipped):
        assert list(outcomes) == sorted(outcomes, key=lambda o: (-o.effect.strictness, o.rule_id))


@settings(max_examples=100, deadline=None)
@given(documents)
def test_a_plan_knows_which_rule_asks_first_about_each_fact(document: PolicyDocument) -> None:
    policy = validate_document(document)
    first: dict[str, int] = {}
    for position, rule in reversed(list(enumerate(policy.rules))):
        first.update(dict.fromkeys(rule.asks, position))
    assert policy.plan.asks == tuple(sorted(first.items()))


@settings(max_examples=150, deadline=None)
@given(st.lists(conditions, min_size=2, max_size=20, unique=True), facts_of_any_kind())
def test_a_list_answers_for_each_condition_what_it_says_by_itself(
    texts: list[str], facts: Facts
) -> None:
    checked = []
    for text in texts:
        with suppress(ConditionError):  # too deep
            checked.append(check_condition(text))
    amount = affordable_amount(checked)
    batch = compile_batch(checked, 3, amount) if amount else None
    if batch is None:
        return
    try:
        bound = bind(facts, {name for each in checked for name in each.condition.reads})
    except Exception:  # noqa: BLE001 - what no evaluation could use either
        return
    answers = batch.answers(bound)
    assert bound.units <= batch.max_units or answers is None
    if answers is None:
        return
    conditions_by_text = {each.condition.text: each.condition for each in checked}
    for number, text in enumerate(batch.texts):
        alone = conditions_by_text[text].evaluate(bound).value
        assert answers[number] == NUMBERED[alone]
