"""What the analysis of a document finds, and that it holds for every action."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from time import perf_counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oars_grpc.core.action import ActionContext, ActionRequest, Resource
from oars_grpc.core.condition import check_condition
from oars_grpc.core.condition_parts import ABSENT, reads_of, truth_of
from oars_grpc.core.decision import Decision, PolicyReference, decide
from oars_grpc.core.facts import Facts
from oars_grpc.core.identity import Principal, Role
from oars_grpc.core.policy import (
    CombiningAlgorithm,
    Effect,
    PolicyDocument,
    Rule,
    RuleMatch,
    TimeWindowUtc,
)
from oars_grpc.core.policy_analysis import Finding, FindingKind, analyse
from oars_grpc.core.policy_document import CompiledPolicy, validate_document
from oars_grpc.core.risk import RiskConfig, RiskTier

ALLOW, APPROVE, DENY, QUARANTINE = Effect.ALLOW, Effect.APPROVE, Effect.DENY, Effect.QUARANTINE
NEVER, ONLY_MISSING = FindingKind.NEVER_MATCHES, FindingKind.MATCHES_ONLY_MISSING
SHADOWED, DUPLICATE = FindingKind.SHADOWED, FindingKind.DUPLICATE
REDUNDANT, EVERYTHING = FindingKind.REDUNDANT, FindingKind.ALLOWS_EVERYTHING


def found(*rules: Rule, first_match: bool = False) -> dict[str, FindingKind]:
    return {finding.rule_id: finding.kind for finding in findings(*rules, first_match=first_match)}


def findings(*rules: Rule, first_match: bool = False) -> list[Finding]:
    combining = CombiningAlgorithm.FIRST_MATCH if first_match else CombiningAlgorithm.STRICTEST_WINS
    return analyse(validate_document(PolicyDocument("p", rules, combining)))


def rule(name: str, effect: Effect, condition: str = "", **match: Any) -> Rule:
    return Rule(name, effect, RuleMatch(**match), condition)


@pytest.mark.parametrize(
    ("condition", "match"),
    [
        ("false", {}),
        ("1 > 2", {}),
        ("true && !true", {}),
        ("risk.score > 100", {}),
        ("risk.score < 0", {}),
        ("risk.score < 40", {"risk_tiers": (RiskTier.HIGH,)}),
        ("risk.score >= 70 && risk.tier == 'medium'", {}),
        ("risk.tier == 'High'", {}),
        ("risk.operation_class == 'unknown' && risk.score < 40", {}),
        ("risk.operation_class == 'delete'", {}),
        ("time.hour_utc == 24", {}),
        ("time.weekday == 0", {}),
        ("time.hour_utc in [6, 21]", {"time_window_utc": TimeWindowUtc(22, 6)}),
        ("caller.role == 'Admin'", {}),
        ("delegation.depth < 0", {}),
        ("agent.id == 'b'", {"agent_ids": ("a",)}),
        ("resource.tool_id == 'jira'", {"tool_ids": ("slack",)}),
        ("resource.operation in ['a', 'b'] && resource.operation == 'c'", {}),
    ],
)
@pytest.mark.parametrize("effect", [ALLOW, DENY])
def test_a_rule_that_can_never_match_is_found(
    effect: Effect, condition: str, match: dict[str, Any]
) -> None:
    assert found(rule("R", effect, condition, **match)) == {"R": NEVER}


@pytest.mark.parametrize(
    ("condition", "match"),
    [
        ("context.environment == 'prod'", {"environments": ("staging",)}),
        ("folded.environment == 'Prod'", {}),
        ("evidence.coherence > 1.0", {}),
        ("evidence.coherence > 0.5 && evidence.coherence < 0.5", {}),
        ("input.amount > 10 && input.amount < 5", {}),
        ("input.amount == 1 && input.amount == 'one'", {}),
        ("input.urgent == true && input.urgent == 1", {}),
        ("context.attributes.team == 'a' && context.attributes['team'] == 'b'", {}),
        ("user.id == 'bob'", {"user_ids": ("alice",)}),
        ("resource.target == 'a'", {"target_contains": ("b",)}),
    ],
)
def test_of_a_fact_that_may_be_missing_only_an_allow_never_matches(
    condition: str, match: dict[str, Any]
) -> None:
    assert found(rule("R", ALLOW, condition, **match)) == {"R": NEVER}
    assert found(rule("R", DENY, condition, **match)) == {"R": ONLY_MISSING}


@pytest.mark.parametrize(
    ("condition", "match"),
    [
        ("risk.score > 99", {}),
        ("risk.score >= 70", {"risk_tiers": (RiskTier.HIGH,)}),
        ("risk.score < 50 && risk.operation_class == 'unknown'", {}),
        ("time.hour_utc >= 9", {"time_window_utc": TimeWindowUtc(22, 10)}),
        ("resource.operation == 'DELETE'", {"operations": ("delete",)}),
        ("resource.operation != 'delete'", {"operations": ("delete",)}),
        ("resource.target != 'prod'", {"target_contains": ("prod",)}),
        ("input.amount > 10 || input.amount < 5", {}),
        ("input.amount > 10.5 && input.amount < 11", {}),
        ("input.a == 1 || input.a == true", {}),
        ("size(input) > 3 && false || true", {}),
        ("context.data_types.exists(t, t == 'pii')", {"required_data_types": ("none",)}),
        ("evidence.coherence > 0.5 && evidence.coherence < 0.6", {}),
        ("has(input.a) && !has(input.b)", {}),
    ],
)
def test_a_rule_that_can_match_is_left_alone(condition: str, match: dict[str, Any]) -> None:
    assert found(rule("R", DENY, condition, **match)) == {}
    assert found(rule("R", ALLOW, condition, **match)) == {}


@pytest.mark.parametrize(
    ("wide", "narrow"),
    [
        (rule("W", DENY), rule("N", ALLOW, "input.amount > 5")),
        (rule("W", DENY, operations=("Drop_Table", "x")), rule("N", ALLOW, operations=("x",))),
        (rule("W", DENY, operations=("x",)), rule("N", APPROVE, operations=("X",))),
        (rule("W", DENY, operations=("x",)), rule("N", ALLOW, operations=("x",), tool_ids=("t",))),
        (rule("W", DENY, "risk.score >= 70"), rule("N", ALLOW, risk_tiers=(RiskTier.CRITICAL,))),
        (
            rule("W", QUARANTINE, time_window_utc=TimeWindowUtc(20, 8)),
            rule("N", APPROVE, time_window_utc=TimeWindowUtc(22, 6)),
        ),
        (rule("W", DENY, target_contains=("prod",)), rule("N", ALLOW, target_contains=("/prod/",))),
        (
            rule("W", DENY, required_data_types=("PII",)),
            rule("N", ALLOW, required_data_types=("pii", "pci")),
        ),
        (rule("W", DENY, "input.amount > 10"), rule("N", ALLOW, "input.amount >= 20")),
        (rule("W", DENY, "input.amount > 10"), rule("N", APPROVE, "input.amount > 10")),
        (rule("W", DENY, "size(input) > 1"), rule("N", ALLOW, "size(input) > 1 && user.id == 'a'")),
        (rule("W", DENY, "time.weekday >= 6"), rule("N", ALLOW, "time.weekday in [6, 7]")),
        (rule("W", DENY, "user.id != 'a'"), rule("N", ALLOW, "user.id == 'b'")),
    ],
)
@pytest.mark.parametrize("first_match", [False, True])
def test_a_rule_that_never_decides_is_found(wide: Rule, narrow: Rule, *, first_match: bool) -> None:
    assert found(wide, narrow, first_match=first_match) == {"N": SHADOWED}
    # In the other order only the strictness counts, where it does.
    assert ("N" in found(narrow, wide, first_match=first_match)) is not first_match


@pytest.mark.parametrize(
    ("one", "other"),
    [
        # What is missing counts for the approval, and not for what it stands beside.
        (rule("A", ALLOW, "user.id == 'a'"), rule("B", APPROVE, "user.id == 'a'")),
        (rule("A", DENY, operations=("x",)), rule("B", ALLOW, "resource.operation != 'x'")),
        (rule("A", DENY, target_contains=("ab",)), rule("B", ALLOW, target_contains=("a", "abc"))),
        (rule("A", DENY, "input.a > 1"), rule("B", APPROVE, "input.a > 0")),
        (rule("A", DENY, "input.a == 1"), rule("B", ALLOW, "input.a == true")),
        (rule("A", DENY, "has(input.a)"), rule("B", ALLOW, "input.b == 1")),
        (rule("A", DENY, "size(input) > 1"), rule("B", ALLOW, "size(input) > 2")),
        (rule("A", DENY, time_window_utc=TimeWindowUtc(22, 6)), rule("B", APPROVE)),
        (rule("A", DENY, "resource.operation == 'x'"), rule("B", ALLOW, operations=("x",))),
    ],
)
def test_a_rule_that_may_decide_is_not_called_shadowed(one: Rule, other: Rule) -> None:
    for first_match in (False, True):
        assert "B" not in found(one, other, first_match=first_match)


def test_priorities_say_which_rule_is_asked_first() -> None:
    wide, narrow = rule("W", ALLOW, "risk.score >= 0"), rule("N", DENY, operations=("x",))
    assert found(wide, narrow, first_match=True)["N"] is SHADOWED
    assert "N" not in found(wide, replace(narrow, priority=-1), first_match=True)


def test_duplicates_are_found_whatever_their_spelling() -> None:
    one = rule("A", DENY, operations=("Drop", "wipe"), condition="input.n > 1 && true")
    same = rule("B", DENY, operations=("WIPE", "drop", "drop"), condition="1 < input.n")
    assert found(one, same) == {"B": DUPLICATE}
    assert found(one, same, first_match=True) == {"B": DUPLICATE}


def test_a_narrower_rule_that_says_the_same_is_only_noted() -> None:
    (finding,) = findings(rule("W", DENY), rule("N", DENY, operations=("x",)))
    assert (finding.kind, finding.rule_id, finding.is_note) == (REDUNDANT, "N", True)


def test_rules_that_ask_different_people_are_no_duplicates() -> None:
    one = rule("A", APPROVE, operations=("x",))
    assert found(one, replace(one, id="B", workflow_id="board")) == {}


@pytest.mark.parametrize("condition", ["", "true", "risk.score >= 0", "risk.tier != 'none'"])
def test_a_rule_that_allows_everything_is_found(condition: str) -> None:
    assert found(rule("R", ALLOW, condition)) == {"R": EVERYTHING}
    assert found(rule("R", APPROVE, condition)) == {}


def test_findings_name_the_field() -> None:
    (finding,) = findings(rule("R", DENY, "risk.score > 100"))
    assert finding.field == "document.rules[0].condition"
    assert finding.message == "can never match: no action is what its condition asks of risk"
    (finding,) = findings(rule("R", DENY, "risk.score > 80", risk_tiers=(RiskTier.LOW,)))
    assert finding.field == "document.rules[0]"
    assert "both match.risk_tiers and its condition ask of risk" in finding.message


def test_hundreds_of_rules_are_analysed_within_bounds() -> None:
    rules = tuple(
        rule(f"R{n}", APPROVE, f"input.amount > {n}", operations=(f"op-{n}", f"op-{n + 1}"))
        for n in range(300)
    )
    policy = validate_document(PolicyDocument("p", rules))
    began = perf_counter()
    assert analyse(policy) == []
    assert perf_counter() - began < 60


def test_more_values_than_it_asks_at_are_left_alone_but_for_the_same_question() -> None:
    names = [tuple(f"n{block}-{n}" for n in range(200)) for block in range(25)]
    rules = [rule(f"R{n}", ALLOW, operations=each) for n, each in enumerate(names)]
    same = rule("S", DENY, operations=names[3])
    assert found(*rules, same) == {"R3": SHADOWED}
    assert found(*rules, rule("S", DENY, operations=(*names[3][:5], "y"))) == {}


# What holds of every action is tried on many.

NAMES = ("a", "B", "ab", "\uff22", "prod")
CONDITIONS = (
    "",
    "",
    "true",
    "false",
    "risk.score > 100",
    "risk.score >= 70",
    "risk.score < 40 || risk.tier == 'critical'",
    "risk.operation_class == 'unknown' && risk.score < 50",
    "resource.operation == 'a'",
    "resource.operation != 'B' && folded.operation != 'ab'",
    "folded.environment == 'prod'",
    "!(context.environment in ['a', 'prod'])",
    "resource.target == 'ab'",
    "resource.target != 'ab' && user.id != 'a'",
    "resource.target.contains('a')",
    "user.id == 'a' || user.id == 'B'",
    "input.n > 1",
    "input.n > 1 && input.n < 2",
    "input.n == 1",
    "input.n == true",
    "input.n != 'a'",
    "has(input.n)",
    "!has(input.n) || input.n == null",
    "has(input.m.n) && input.m.n >= 1.5",
    "'a' in folded.data_types",
    "evidence.coherence > 0.5",
    "evidence.coherence >= 0.5 && evidence.coherence <= 0.8",
    "time.hour_utc < 12 && time.weekday >= 6",
    "context.attributes.team == 'a'",
    "has(context.attributes.team) && context.attributes['team'] != 'a'",
    "delegation.depth > 0 ? risk.score > 50 : false",
    "caller.role == 'agent'",
)


def some(values: tuple[str, ...]) -> st.SearchStrategy[tuple[str, ...]]:
    return st.just(()) | st.lists(st.sampled_from(values), max_size=3).map(tuple)


matches = st.builds(
    RuleMatch,
    tool_ids=some(("a", "b")),
    operations=some(NAMES),
    target_contains=some(NAMES),
    risk_tiers=st.just(()) | st.lists(st.sampled_from(RiskTier), max_size=2).map(tuple),
    environments=some(NAMES),
    required_data_types=some(NAMES),
    time_window_utc=st.none()
    | st.tuples(st.integers(0, 23), st.integers(0, 23))
    .filter(lambda ends: ends[0] != ends[1])
    .map(lambda ends: TimeWindowUtc(*ends)),
    user_ids=some(NAMES),
)
rules = st.builds(
    Rule,
    id=st.just("placeholder"),
    effect=st.sampled_from(Effect),
    match=st.just(RuleMatch()) | matches,
    condition=st.lists(st.sampled_from(CONDITIONS), max_size=2).map(
        lambda texts: " && ".join(f"({text})" for text in texts if text)
    ),
    priority=st.integers(-1, 1),
)
documents = st.builds(
    PolicyDocument,
    name=st.just("p"),
    rules=st.lists(rules, min_size=1, max_size=5).map(
        lambda found: tuple(replace(each, id=f"r{index}") for index, each in enumerate(found))
    ),
    combining=st.sampled_from(CombiningAlgorithm),
)
MEMBERS = (0, 1, 1.5, 2, 3, "a", "b", True, False, None, [1], {"n": 2})


@st.composite
def decisions(draw: st.DrawFn) -> tuple[ActionRequest, datetime, dict[str, float]]:
    names = st.sampled_from(("", "other", "A", "a\u200b", "\u200b", *NAMES))
    verified = st.dictionaries(
        st.sampled_from(("environment", "data_types", "team")), st.sampled_from(NAMES), max_size=2
    )
    request = ActionRequest(
        tenant_id="acme",
        agent_id="agent-1",
        caller=Principal(
            "spiffe://acme/a",
            "f" * 64,
            draw(st.sampled_from(Role)),
            frozenset({"acme"}),
            attributes=draw(verified),
        ),
        resource=Resource(
            draw(st.sampled_from(("a", "A", "b", "c"))),
            draw(st.sampled_from(("delete", "read", "x", *NAMES))),
            draw(names),
        ),
        user_id=draw(names),
        delegation_chain=draw(some(NAMES)),
        context=ActionContext(
            draw(names),
            draw(st.none() | some(NAMES)),
            draw(st.dictionaries(st.just("team"), st.sampled_from(NAMES))),
        ),
        input=draw(
            st.dictionaries(st.sampled_from(("n", "m")), st.sampled_from(MEMBERS), max_size=2)
        ),
    )
    at = datetime(2026, 1, draw(st.integers(1, 7)), draw(st.integers(0, 23)), tzinfo=UTC)
    coherence = st.sampled_from((0.0, 0.5, 0.65, 1.0))
    return request, at, draw(st.dictionaries(st.just("coherence"), coherence))


def decided(policy: CompiledPolicy, action: tuple[ActionRequest, datetime, Any]) -> Decision:
    request, at, evidence = action
    reference = PolicyReference("", 0, policy.digest)
    return decide(request, reference, policy, RiskConfig(), at, evidence=evidence)


def without(document: PolicyDocument, rule_id: str) -> CompiledPolicy:
    """The document without the rule; a rule that never counts keeps it valid."""
    nobody = Rule("nobody", DENY, condition="false")
    kept = tuple(each for each in document.rules if each.id != rule_id)
    return validate_document(replace(document, rules=(*kept, nobody)))


@settings(max_examples=100, deadline=None)
@given(documents, st.lists(decisions(), min_size=3, max_size=8))
def test_what_is_found_holds_of_every_action(
    document: PolicyDocument, actions: list[tuple[ActionRequest, datetime, Any]]
) -> None:
    policy = validate_document(document)
    for finding in analyse(policy):
        rest = without(document, finding.rule_id)
        for action in actions:
            before = decided(policy, action).evaluation
            after = decided(rest, action).evaluation
            counted = {outcome.rule_id for outcome in before.matched}
            match finding.kind:
                case FindingKind.NEVER_MATCHES:
                    assert finding.rule_id not in counted
                case FindingKind.MATCHES_ONLY_MISSING:
                    assert all(
                        outcome.indeterminate
                        for outcome in before.matched
                        if outcome.rule_id == finding.rule_id
                    )
                case FindingKind.SHADOWED:
                    assert finding.rule_id not in before.deciding
                    assert after.deciding == before.deciding
                case FindingKind.ALLOWS_EVERYTHING:
                    assert not before.default_deny
            if finding.kind not in {EVERYTHING, ONLY_MISSING}:
                assert after.effect is before.effect
                assert after.default_deny is before.default_deny


def every_part() -> Iterator[str]:
    return (text for text in CONDITIONS if text)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(sorted(set(every_part()))),
    st.dictionaries(st.sampled_from(("n", "m")), st.sampled_from(MEMBERS), max_size=2),
    st.sampled_from((0, 39, 40, 60, 70, 100)),
    st.sampled_from(NAMES),
)
def test_truth_is_what_the_evaluator_says(
    text: str, members: dict[str, Any], score: int, name: str
) -> None:
    checked = check_condition(text)
    if reads_of(checked.root) is None:
        return
    values = {
        "risk.score": score,
        "risk.tier": name,
        "risk.operation_class": "unknown",
        "resource.operation": name,
        "folded.operation": name,
        "resource.target": name,
        "delegation.depth": 1,
        "evidence.coherence": 0.65,
        "time.hour_utc": 3,
        "time.weekday": 7,
        "caller.role": name,
        "context.attributes": {"team": name},
        "input": members,
    }
    point: dict[tuple[str, ...], Any] = {(key,): value for key, value in values.items()}
    point[("context.attributes", "team")] = name
    point |= {("input", key): value for key, value in members.items()}
    for key in ("n", "m"):
        point.setdefault(("input", key), ABSENT)
    nested = members.get("m")
    if isinstance(nested, dict):
        point[("input", "m", "n")] = nested.get("n", ABSENT)
    assert truth_of(checked.root, point) is checked.condition.evaluate(Facts(values)).value
