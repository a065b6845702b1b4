from datetime import UTC, datetime
from time import perf_counter
from typing import Any

import pytest

from oars_grpc.core.action import ActionContext, ActionRequest, Resource
from oars_grpc.core.canonical import sha256_hex
from oars_grpc.core.condition import Condition
from oars_grpc.core.evaluation import Evaluation, evaluate
from oars_grpc.core.facts import Facts, action_facts
from oars_grpc.core.identity import Principal, Role
from oars_grpc.core.policy import (
    CombiningAlgorithm,
    Effect,
    PolicyDocument,
    Rule,
    RuleMatch,
    TimeWindowUtc,
)
from oars_grpc.core.policy_document import validate_document
from oars_grpc.core.risk import RiskConfig, RiskTier, assess_risk

NOW = datetime(2026, 1, 1, 23, tzinfo=UTC)
CALLER = Principal("spiffe://acme/a", "f" * 64, Role.AGENT, frozenset({"acme"}))


def make_facts(**given: Any) -> Facts:
    request = ActionRequest(
        tenant_id="acme",
        agent_id=given.get("agent_id", "agent-1"),
        caller=CALLER,
        resource=Resource(
            given.get("tool_id", "jira"),
            given.get("operation", "create_ticket"),
            given.get("target", "PROJ-1"),
        ),
        user_id=given.get("user_id", "alice"),
        context=ActionContext(
            given.get("environment", "staging"), given.get("data_types", ("pii", "pci"))
        ),
        input=given.get("input", {"amount": 20}),
    )
    return action_facts(request, assess_risk(request, RiskConfig()), NOW)


def decide(
    *rules: Rule, facts: Facts | None = None, first_match: bool = False, **given: Any
) -> Evaluation:
    combining = CombiningAlgorithm.FIRST_MATCH if first_match else CombiningAlgorithm.STRICTEST_WINS
    policy = validate_document(PolicyDocument("p", rules, combining))
    return evaluate(policy, facts or make_facts(**given))


def matches(match: RuleMatch, **given: Any) -> bool | None:
    """Whether a rule with this match matches; None if indeterminate."""
    outcomes = decide(Rule("R", Effect.DENY, match), **given).matched
    if not outcomes:
        return False
    return None if outcomes[0].indeterminate else True


@pytest.mark.parametrize(
    ("match", "given", "expected"),
    [
        (RuleMatch(), {}, True),
        (RuleMatch(tool_ids=("jira", "slack")), {}, True),
        (RuleMatch(tool_ids=("slack",)), {}, False),
        (RuleMatch(tool_ids=("JIRA",)), {"tool_id": "\uff2aira"}, True),
        (RuleMatch(operations=("delete",)), {"operation": "DE\u200bLETE"}, True),
        (RuleMatch(operations=("Stra\u00dfe",)), {"operation": "STRASSE"}, True),
        (RuleMatch(operations=("delete",)), {"operation": ""}, None),
        (RuleMatch(operations=("delete",)), {"operation": "\u200b"}, None),
        (RuleMatch(environments=("Staging",)), {}, True),
        (RuleMatch(environments=("production",)), {"environment": ""}, None),
        (RuleMatch(target_contains=("nope", "proj")), {}, True),
        (RuleMatch(target_contains=("nope",)), {}, False),
        (RuleMatch(target_contains=("nope",)), {"target": ""}, None),
        (RuleMatch(required_data_types=("PII", "pci")), {}, True),
        (RuleMatch(required_data_types=("pii", "phi")), {}, False),
        (RuleMatch(required_data_types=("pii",)), {"data_types": ()}, False),
        (RuleMatch(required_data_types=("pii",)), {"data_types": None}, None),
        (RuleMatch(risk_tiers=(RiskTier.MEDIUM,)), {}, True),
        (RuleMatch(risk_tiers=(RiskTier.HIGH,)), {}, False),
        (RuleMatch(time_window_utc=TimeWindowUtc(22, 6)), {}, True),
        (RuleMatch(time_window_utc=TimeWindowUtc(6, 23)), {}, False),
        (RuleMatch(agent_ids=("agent-1",)), {}, True),
        (RuleMatch(agent_ids=("Agent-1",)), {}, False),
        (RuleMatch(user_ids=("bob",)), {}, False),
        (RuleMatch(user_ids=("bob",)), {"user_id": ""}, None),
        (RuleMatch(user_ids=("bob",), tool_ids=("jira",)), {"user_id": ""}, None),
        (RuleMatch(user_ids=("bob",), tool_ids=("slack",)), {"user_id": ""}, False),
        (RuleMatch(environments=("dev",), agent_ids=("x",)), {"environment": ""}, False),
        (RuleMatch(target_contains=("a",), required_data_types=("x",)), {"target": ""}, False),
    ],
)
def test_match_fields_in_three_values(
    match: RuleMatch, given: dict[str, Any], *, expected: bool | None
) -> None:
    assert matches(match, **given) is expected


def test_a_missing_risk_assessment_is_indeterminate() -> None:
    facts = make_facts().without("risk.tier")
    assert matches(RuleMatch(risk_tiers=(RiskTier.HIGH,)), facts=facts) is None


def test_a_false_condition_beats_a_missing_match_fact() -> None:
    rule = Rule("R", Effect.DENY, RuleMatch(user_ids=("bob",)), condition="input.amount > 100")
    assert decide(rule, user_id="").matched == ()


@pytest.mark.parametrize(
    ("effects", "expected"),
    [
        ([Effect.ALLOW, Effect.APPROVE, Effect.QUARANTINE, Effect.DENY], Effect.DENY),
        ([Effect.ALLOW, Effect.QUARANTINE, Effect.APPROVE], Effect.QUARANTINE),
        ([Effect.APPROVE, Effect.ALLOW], Effect.APPROVE),
        ([Effect.ALLOW], Effect.ALLOW),
    ],
)
def test_the_strictest_matching_effect_wins(effects: list[Effect], expected: Effect) -> None:
    evaluation = decide(*(Rule(effect.value, effect) for effect in effects))
    assert evaluation.effect is expected
    assert evaluation.deciding == (expected.value,)
    assert len(evaluation.matched) == len(effects)
    assert not evaluation.default_deny


@pytest.mark.parametrize("effect", list(Effect))
@pytest.mark.parametrize("first_match", [False, True])
def test_indeterminate_counts_unless_it_would_allow(effect: Effect, *, first_match: bool) -> None:
    rule = Rule("R", effect, RuleMatch(user_ids=("bob",)))
    evaluation = decide(rule, user_id="", first_match=first_match)
    assert evaluation.missing_facts == ("user.id",)
    if effect is Effect.ALLOW:
        assert (evaluation.effect, evaluation.default_deny) == (Effect.DENY, True)
        assert [outcome.rule_id for outcome in evaluation.skipped] == ["R"]
        assert "R would allow but user.id is missing" in evaluation.explanation
    else:
        assert (evaluation.effect, evaluation.default_deny) == (effect, False)
        assert evaluation.matched[0].indeterminate
        assert "R counts although user.id is missing" in evaluation.explanation


def test_forbidden_by_a_rule_reads_apart_from_nothing_permits() -> None:
    forbidden = decide(Rule("R-7", Effect.DENY), Rule("R-8", Effect.ALLOW))
    assert (forbidden.default_deny, forbidden.explanation) == (False, "Forbidden by R-7.")
    nothing = decide(Rule("R-8", Effect.ALLOW, RuleMatch(tool_ids=("slack",))))
    assert (nothing.default_deny, nothing.explanation) == (True, "Nothing permits this.")
    assert (nothing.effect, nothing.deciding, nothing.matched) == (Effect.DENY, (), ())


def test_first_match_takes_the_lowest_priority_and_passes_over_an_indeterminate_allow() -> None:
    rules = (
        Rule("deny", Effect.DENY, priority=3),
        Rule("approve", Effect.APPROVE, priority=2),
        Rule("allow", Effect.ALLOW, RuleMatch(user_ids=("bob",)), priority=1),
    )
    evaluation = decide(*rules, user_id="", first_match=True)
    assert (evaluation.effect, evaluation.deciding) == (Effect.APPROVE, ("approve",))
    assert [outcome.rule_id for outcome in evaluation.matched] == ["approve"]
    assert [outcome.rule_id for outcome in evaluation.skipped] == ["allow"]
    assert decide(*rules, user_id="bob", first_match=True).effect is Effect.ALLOW


@pytest.mark.parametrize("effect", list(Effect))
def test_a_failing_condition_is_indeterminate(effect: Effect) -> None:
    evaluation = decide(Rule("R", effect, condition="input.amount.deeper > 1"))
    assert evaluation.effect is (Effect.DENY if effect is Effect.ALLOW else effect)
    assert (*evaluation.matched, *evaluation.skipped)[0].indeterminate


@pytest.mark.parametrize("effect", list(Effect))
def test_an_unforeseen_error_never_allows(effect: Effect, monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*_: object) -> None:
        raise KeyError("secret")

    monkeypatch.setattr(Condition, "evaluate", explode)
    evaluation = decide(Rule("R", effect, condition="true"))
    assert evaluation.effect is (Effect.DENY if effect is Effect.ALLOW else effect)
    outcome = (*evaluation.matched, *evaluation.skipped)[0]
    assert outcome.reason == "the rule could not be evaluated (KeyError)"


@pytest.mark.parametrize("value", ["a secret", {"pin": "a secret"}, ["a secret"], 7, None])
def test_whatever_the_input_is_its_text_is_its_digest(value: object) -> None:
    facts = Facts({"input": value, "user.id": "alice"}, input_digest="ab" * 32)
    assert facts.text("input") == f"sha256:{'ab' * 32}"
    assert facts.text("user.id") == "alice"


def test_facts_read_are_named_with_their_values_and_the_input_only_by_digest() -> None:
    rules = (
        Rule("a", Effect.DENY, RuleMatch(environments=("x",), required_data_types=("pii",))),
        Rule("b", Effect.ALLOW, RuleMatch(user_ids=("u",)), condition="input.amount > risk.score"),
        Rule("c", Effect.DENY, condition="time.now > time.now"),
    )
    read = dict(decide(*rules, user_id="", environment="Staging").facts_read)
    assert read == {
        "context.environment": "Staging",
        "context.data_types": '["pii","pci"]',
        "input": "sha256:" + sha256_hex(b'{"amount":20}'),
        "risk.score": "40",
        "time.now": "2026-01-01T23:00:00Z",
    }


def test_first_match_reads_no_fact_of_the_rules_after_the_deciding_one() -> None:
    rules = (
        Rule("a", Effect.ALLOW, RuleMatch(agent_ids=("agent-1",))),
        Rule("b", Effect.DENY, RuleMatch(user_ids=("alice",)), priority=1),
    )
    assert [name for name, _ in decide(*rules, first_match=True).facts_read] == ["agent.id"]


def test_more_data_than_the_conditions_may_read_is_indeterminate() -> None:
    quadratic = "!input.l.exists(x, x in input.l)"
    small, large = {"l": [1] * 9}, {"l": [1] * 5_000}
    assert decide(Rule("R", Effect.DENY, condition=quadratic), input=small).default_deny
    evaluation = decide(Rule("R", Effect.DENY, condition=quadratic), input=large)
    assert evaluation.matched[0].indeterminate
    assert "more data" in evaluation.explanation
    assert decide(Rule("R", Effect.ALLOW, condition=quadratic), input=large).default_deny


def test_conditions_fine_alone_read_less_together() -> None:
    rules = [
        Rule(f"r{number}", Effect.DENY, condition="input.l.exists(x, input.l.exists(y, x != y))")
        for number in range(14)
    ]
    policy = validate_document(PolicyDocument("p", tuple(rules)))
    condition = policy.rules[0].condition
    assert condition is not None
    assert policy.max_units < condition.max_units
    facts = make_facts(input={"l": [1] * 9, "text": "x" * 16 * policy.max_units})
    assert facts.input_units + facts.other_units < condition.max_units
    assert len(decide(rules[0], facts=facts).matched) == 0
    assert all(outcome.indeterminate for outcome in evaluate(policy, facts).matched)
    assert len(evaluate(policy, facts).matched) == 14


def test_a_withheld_input_says_why() -> None:
    evaluation = decide(Rule("R", Effect.DENY, condition="input.l == 1"), input={"l": [0] * 70_000})
    assert evaluation.missing_facts == ("input.l",)
    assert "too large for conditions" in evaluation.explanation


def test_evaluation_is_fast_enough_to_stand_in_every_call() -> None:
    """Ten times the targets of 100 µs for 20 rules and 1 ms for 1,000, for a busy machine."""
    for count, target_s in ((20, 100e-6), (1_000, 1e-3)):
        rules = tuple(
            Rule(
                f"r{number}",
                list(Effect)[number % 4],
                RuleMatch(operations=(f"op{number}",), environments=("staging",)),
            )
            for number in range(count)
        )
        policy, facts = validate_document(PolicyDocument("p", rules)), make_facts()
        best = min(_seconds(policy, facts) for _ in range(20))
        assert best < 10 * target_s


def _seconds(policy: Any, facts: Facts) -> float:
    started = perf_counter()
    evaluate(policy, facts)
    return perf_counter() - started
