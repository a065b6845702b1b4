"""Policy combination against a specification small enough to read.

A rule's fields come to true, false or unknown; the rule is their conjunction in Kleene's logic;
rules combine as design §5 says. The specification knows neither folding nor compiled sets.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from hypothesis import given, settings
from hypothesis import strategies as st

from oars_grpc.core.action import ActionContext, ActionRequest, Resource
from oars_grpc.core.evaluation import Evaluation, evaluate
from oars_grpc.core.facts import Facts, action_facts
from oars_grpc.core.identity import Principal, Role
from oars_grpc.core.operation_class import OperationClass
from oars_grpc.core.policy import (
    CombiningAlgorithm,
    Effect,
    PolicyDocument,
    Rule,
    RuleMatch,
    TimeWindowUtc,
)
from oars_grpc.core.policy_document import validate_document
from oars_grpc.core.risk import RiskAssessment, RiskTier

STRICTEST_FIRST = [Effect.DENY, Effect.QUARANTINE, Effect.APPROVE, Effect.ALLOW]
NAMES = ("a", "b")
HIDEABLE = (
    "folded.tool_id",
    "folded.operation",
    "folded.environment",
    "folded.target",
    "folded.data_types",
    "context.environment",
    "context.data_types",
    "user.id",
    "risk.tier",
    "risk.score",
    "evidence.coherence",
    "input",
)
CONDITIONS: dict[str, Callable[[Facts], bool | None]] = {
    "": lambda _: True,
    "risk.score > 50": lambda facts: _compare(facts.get("risk.score"), 50),
    "input.n > 1": lambda facts: _compare((facts.get("input") or {}).get("n"), 1),
    "evidence.coherence > 0.5": lambda facts: _compare(facts.get("evidence.coherence"), 0.5),
    "user.id == 'a' || true": lambda _: True,
    "user.id == 'a' && false": lambda _: False,
}


def _compare(value: float | None, bound: float) -> bool | None:
    return None if value is None else value > bound


def specified_match(rule: Rule, facts: Facts) -> bool | None:
    match, window = rule.match, rule.match.time_window_utc

    def one_of(wanted: tuple[str, ...], name: str) -> bool | None:
        value = facts.get(name)
        return True if not wanted else None if value is None else value in wanted

    answers = [
        one_of(match.tool_ids, "folded.tool_id"),
        one_of(match.operations, "folded.operation"),
        one_of(match.environments, "folded.environment"),
        one_of(match.user_ids, "user.id"),
        one_of(tuple(tier.value for tier in match.risk_tiers), "risk.tier"),
        CONDITIONS[rule.condition](facts),
    ]
    if match.target_contains:
        target = facts.get("folded.target")
        answers.append(None if target is None else any(p in target for p in match.target_contains))
    if match.required_data_types:
        stated = facts.get("folded.data_types")
        answers.append(
            None if stated is None else all(t in stated for t in match.required_data_types)
        )
    if window is not None:
        start, end, hour = window.start_hour, window.end_hour, facts.get("time.hour_utc")
        answers.append(start <= hour < end if start < end else hour >= start or hour < end)
    return False if False in answers else None if None in answers else True


def specified_effect(document: PolicyDocument, facts: Facts) -> tuple[Effect, bool]:
    """The effect, and whether it is a deny by default."""
    ordered = document.rules
    if document.combining is CombiningAlgorithm.FIRST_MATCH:
        ordered = tuple(sorted(ordered, key=lambda rule: rule.priority))
    counted = []
    for rule in ordered:
        value = specified_match(rule, facts)
        if value is True or (value is None and rule.effect is not Effect.ALLOW):
            counted.append(rule.effect)
        if value is True and document.combining is CombiningAlgorithm.FIRST_MATCH:
            break  # the indeterminate rules before it might have been the first match
    if not counted:
        return Effect.DENY, True
    return min(counted, key=STRICTEST_FIRST.index), False


def some(values: tuple[str, ...]) -> st.SearchStrategy[tuple[str, ...]]:
    return st.one_of(st.just(()), st.lists(st.sampled_from(values), max_size=2).map(tuple))


windows = st.none() | st.tuples(st.integers(0, 23), st.integers(0, 23)).filter(
    lambda ends: ends[0] != ends[1]
).map(lambda ends: TimeWindowUtc(*ends))
matches = st.builds(
    RuleMatch,
    tool_ids=some(NAMES),
    operations=some(NAMES),
    target_contains=some(NAMES),
    risk_tiers=st.one_of(st.just(()), st.lists(st.sampled_from(RiskTier), max_size=2).map(tuple)),
    environments=some(NAMES),
    required_data_types=some(NAMES),
    time_window_utc=windows,
    user_ids=some(NAMES),
)
rules = st.builds(
    Rule,
    id=st.just("placeholder"),
    effect=st.sampled_from(Effect),
    match=st.just(RuleMatch()) | matches,
    condition=st.sampled_from(sorted(CONDITIONS)),
    priority=st.integers(-1, 1),
)
documents = st.builds(
    PolicyDocument,
    name=st.just("p"),
    rules=st.lists(rules, min_size=1, max_size=6).map(
        lambda found: tuple(replace(rule, id=f"r{index}") for index, rule in enumerate(found))
    ),
    combining=st.sampled_from(CombiningAlgorithm),
)
CALLER = Principal("spiffe://acme/a", "f" * 64, Role.AGENT, frozenset({"acme"}))


@st.composite
def facts_of_actions(draw: st.DrawFn) -> Facts:
    name = st.sampled_from(("", *NAMES))
    request = ActionRequest(
        tenant_id="acme",
        agent_id="agent-1",
        caller=CALLER,
        resource=Resource(draw(name), draw(name), draw(name)),
        user_id=draw(name),
        context=ActionContext(draw(name), draw(st.none() | some(NAMES))),
        input=draw(st.sampled_from([{}, {"n": 1}, {"n": 2}])),
    )
    score = draw(st.sampled_from([0, 60]))
    risk = RiskAssessment(score, draw(st.sampled_from(RiskTier)), (), OperationClass.READ)
    return action_facts(
        request,
        draw(st.none() | st.just(risk)),
        datetime(2026, 1, 1, draw(st.integers(0, 23)), tzinfo=UTC),
        draw(st.sampled_from([None, {"coherence": 0.2}, {"coherence": 0.8}])),
    )


def decide(document: PolicyDocument, facts: Facts) -> Evaluation:
    return evaluate(validate_document(document), facts)


@settings(max_examples=400, deadline=None)
@given(documents, facts_of_actions())
def test_the_decision_is_the_specified_one(document: PolicyDocument, facts: Facts) -> None:
    evaluation = decide(document, facts)
    assert (evaluation.effect, evaluation.default_deny) == specified_effect(document, facts)


@settings(max_examples=200, deadline=None)
@given(documents, facts_of_actions())
def test_the_outcomes_account_for_the_decision(document: PolicyDocument, facts: Facts) -> None:
    evaluation = decide(document, facts)
    effects = {rule.id: rule.effect for rule in document.rules}
    for outcome in (*evaluation.matched, *evaluation.skipped):
        rule = next(rule for rule in document.rules if rule.id == outcome.rule_id)
        assert outcome.indeterminate is (specified_match(rule, facts) is None)
        assert bool(outcome.reason) is outcome.indeterminate
    assert {effects[rule_id] for rule_id in evaluation.deciding} <= {evaluation.effect}
    assert bool(evaluation.deciding) is not evaluation.default_deny


@settings(max_examples=200, deadline=None)
@given(documents, facts_of_actions(), st.data())
def test_strictest_wins_does_not_depend_on_order(
    document: PolicyDocument, facts: Facts, data: st.DataObject
) -> None:
    document = replace(document, combining=CombiningAlgorithm.STRICTEST_WINS)
    shuffled = replace(document, rules=tuple(data.draw(st.permutations(document.rules))))
    assert decide(document, facts) == decide(shuffled, facts)


@settings(max_examples=200, deadline=None)
@given(documents, facts_of_actions(), rules)
def test_adding_a_rule_that_does_not_allow_never_weakens(
    document: PolicyDocument, facts: Facts, rule: Rule
) -> None:
    document = replace(document, combining=CombiningAlgorithm.STRICTEST_WINS)
    before = decide(document, facts)
    added = replace(document, rules=(*document.rules, replace(rule, id="added")))
    after = decide(added, facts)
    if rule.effect is Effect.DENY or not before.default_deny:
        assert after.effect.strictness >= before.effect.strictness
    if rule.effect is not Effect.ALLOW and before.effect is not Effect.ALLOW:
        assert after.effect is not Effect.ALLOW


@settings(max_examples=400, deadline=None)
@given(documents, facts_of_actions(), st.sets(st.sampled_from(HIDEABLE), min_size=1))
def test_hiding_facts_never_makes_an_allow_appear(
    document: PolicyDocument, facts: Facts, hidden: set[str]
) -> None:
    before, after = decide(document, facts), decide(document, facts.without(*hidden))
    if before.effect is not Effect.ALLOW:
        assert after.effect is not Effect.ALLOW


@settings(max_examples=200, deadline=None)
@given(documents, facts_of_actions(), st.sets(st.sampled_from(HIDEABLE), min_size=1))
def test_hiding_facts_never_weakens_what_a_rule_decided(
    document: PolicyDocument, facts: Facts, hidden: set[str]
) -> None:
    """A deny by default may become an approval, since an indeterminate approve counts (§5)."""
    document = replace(document, combining=CombiningAlgorithm.STRICTEST_WINS)
    before, after = decide(document, facts), decide(document, facts.without(*hidden))
    if not before.default_deny and not after.default_deny:
        assert after.effect.strictness >= before.effect.strictness


@settings(max_examples=100, deadline=None)
@given(documents)
def test_nothing_known_never_allows_unless_a_rule_asks_nothing(document: PolicyDocument) -> None:
    evaluation = decide(document, Facts({"time.hour_utc": 12}))
    unconditional = any(
        rule.effect is Effect.ALLOW and specified_match(rule, Facts({"time.hour_utc": 12})) is True
        for rule in document.rules
    )
    assert evaluation.effect is not Effect.ALLOW or unconditional


@settings(max_examples=200, deadline=None)
@given(documents)
def test_documents_survive_their_json_form(document: PolicyDocument) -> None:
    again = PolicyDocument.from_json(document.to_json())
    assert (again, again.digest) == (document, document.digest)
