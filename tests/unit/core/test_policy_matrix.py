"""The golden decision matrix on the engine, and that the matrix keeps covering what it must."""

from itertools import product

import pytest

from oars_grpc.core.decision import Decision, PolicyReference, decide
from oars_grpc.core.evaluation import Evaluation, evaluate
from oars_grpc.core.facts import action_facts
from oars_grpc.core.policy import CombiningAlgorithm, Effect, PolicyDocument
from oars_grpc.core.policy_document import CompiledPolicy, validate_document
from oars_grpc.core.risk import RiskConfig
from tests.support.policy_matrix import NOON, Case, Expectation, matrix

POLICIES, CASES = matrix()
COMPILED = {name: validate_document(document) for name, document in POLICIES.items()}
# What a rule's match may ask, and the fact that a receipt names when it is missing.
FIELDS = {
    "tool_ids": "resource.tool_id",
    "operations": "resource.operation",
    "target_contains": "resource.target",
    "risk_tiers": "risk.tier",
    "environments": "context.environment",
    "required_data_types": "context.data_types",
    "time_window_utc": "time.hour_utc",
    "agent_ids": "agent.id",
    "user_ids": "user.id",
    "condition": "input.amount",
}


def evaluation_of(case: Case, policy: CompiledPolicy) -> Evaluation:
    now = case.time or NOON
    reference = PolicyReference("pol_x", 1, policy.digest)
    decision: Decision = decide(case.request(), reference, policy, RiskConfig(), now)
    if not case.without:
        return decision.evaluation
    facts = action_facts(case.request(), decision.risk, now).without(*case.without)
    return evaluate(policy, facts)


def told(evaluation: Evaluation) -> Expectation:
    outcomes = (*evaluation.matched, *evaluation.skipped)
    return Expectation(
        effect=evaluation.effect.value,
        deciding=tuple(sorted(evaluation.deciding)),
        counted=tuple(sorted(outcome.rule_id for outcome in evaluation.matched)),
        skipped=tuple(sorted(outcome.rule_id for outcome in evaluation.skipped)),
        indeterminate=tuple(sorted(o.rule_id for o in outcomes if o.indeterminate)),
        missing=tuple(sorted(evaluation.missing_facts)),
        default_deny=evaluation.default_deny,
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_engine_decides_as_the_matrix_says(case: Case) -> None:
    assert told(evaluation_of(case, COMPILED[case.policy])) == case.expect


def test_the_matrix_is_large_and_names_nothing_twice() -> None:
    assert len(CASES) >= 150
    assert len({case.name for case in CASES}) == len(CASES)
    assert {case.policy for case in CASES} == set(POLICIES)


def asked_alone(document: PolicyDocument, field: str) -> dict[str, Effect]:
    """The rules that ask nothing but this field, and what they say."""
    found = {}
    for rule in document.rules:
        match = rule.match
        asked = {name for name in FIELDS if name != "condition" and getattr(match, name)}
        asked |= {"condition"} if rule.condition else set()
        if asked == {field}:
            found[rule.id] = rule.effect
    return found


def covered() -> set[tuple[str, str]]:
    """(field, how it came out) of every rule that asks a single field."""
    found = set()
    for case, field in product(CASES, FIELDS):
        for rule_id in asked_alone(POLICIES[case.policy], field):
            if rule_id in case.expect.indeterminate:
                outcome = "missing" if FIELDS[field] in case.expect.missing else "no value"
            elif rule_id in case.expect.counted:
                outcome = "match"
            else:
                outcome = "no match"
            found.add((field, outcome))
    return found


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("outcome", ["match", "no match", "missing"])
def test_every_field_matches_does_not_match_and_is_missing(field: str, outcome: str) -> None:
    assert (field, outcome) in covered()


@pytest.mark.parametrize("combining", CombiningAlgorithm)
@pytest.mark.parametrize("effect", Effect)
def test_every_effect_decides_and_is_unsure_under_both_algorithms(
    effect: Effect, combining: CombiningAlgorithm
) -> None:
    sure = unsure = default_deny = False
    for case in CASES:
        document = POLICIES[case.policy]
        if document.combining is not combining:
            continue
        rules = {rule.id for rule in document.rules if rule.effect is effect}
        sure |= bool(rules & (set(case.expect.deciding) - set(case.expect.indeterminate)))
        counts = set(case.expect.skipped if effect is Effect.ALLOW else case.expect.deciding)
        unsure |= bool(rules & counts & set(case.expect.indeterminate))
        default_deny |= case.expect.default_deny
    assert sure
    assert unsure
    assert default_deny


def test_the_matrix_has_ties_several_missing_facts_and_windows_that_wrap() -> None:
    priorities = [
        [rule.priority for rule in document.rules]
        for document in POLICIES.values()
        if document.combining is CombiningAlgorithm.FIRST_MATCH
    ]
    assert any(len(set(found)) < len(found) for found in priorities)
    assert any(len(set(found)) == len(found) > 2 for found in priorities)
    assert sum(len(case.expect.missing) >= 3 for case in CASES) >= 3
    assert sum(len(case.expect.deciding) >= 2 for case in CASES) >= 2
    windows = [rule.match.time_window_utc for p in POLICIES.values() for rule in p.rules]
    assert any(window and window.end_hour < window.start_hour for window in windows)
    conditions = " ".join(rule.condition for p in POLICIES.values() for rule in p.rules)
    for surface in ("has(", ".exists(", ".all(", ".filter(", ".map(", " in ", "||", "&&", " ? "):
        assert surface in conditions
    for surface in ("duration(", "timestamp(", "time.now", "matches(", "double(", "int("):
        assert surface in conditions
