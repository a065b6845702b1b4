"""The smallest set of rules that deny: without exactly these the decision is another."""

from dataclasses import replace
from itertools import combinations

from hypothesis import given, settings

from oars_grpc.core.denial import Denial, denial_of
from oars_grpc.core.evaluation import Evaluation, evaluate
from oars_grpc.core.facts import Facts
from oars_grpc.core.policy import Effect, PolicyDocument
from oars_grpc.core.policy_document import validate_document
from tests.property.test_policy_combination import documents, facts_of_actions


def decided(document: PolicyDocument, facts: Facts) -> tuple[Evaluation, Denial | None]:
    policy = validate_document(document)
    evaluation = evaluate(policy, facts)
    return evaluation, denial_of(policy, facts, evaluation)


def effect_without(document: PolicyDocument, rule_ids: set[str], facts: Facts) -> Effect:
    """The decision of the document without these rules; one without any rule denies."""
    rules = tuple(rule for rule in document.rules if rule.id not in rule_ids)
    return decided(replace(document, rules=rules), facts)[0].effect if rules else Effect.DENY


@settings(max_examples=200, deadline=None)
@given(documents, facts_of_actions())
def test_a_denial_is_there_exactly_where_the_action_is_denied(
    document: PolicyDocument, facts: Facts
) -> None:
    evaluation, denial = decided(document, facts)
    assert (denial is not None) is (evaluation.effect is Effect.DENY)
    if denial is not None:
        assert (denial.rule_ids == ()) is evaluation.default_deny


@settings(max_examples=200, deadline=None)
@given(documents, facts_of_actions())
def test_without_exactly_these_rules_the_decision_is_the_other_one(
    document: PolicyDocument, facts: Facts
) -> None:
    _, denial = decided(document, facts)
    if denial is not None:
        assert effect_without(document, set(denial.rule_ids), facts) is denial.otherwise


@settings(max_examples=200, deadline=None)
@given(documents, facts_of_actions())
def test_with_any_of_them_left_the_action_is_still_denied(
    document: PolicyDocument, facts: Facts
) -> None:
    _, denial = decided(document, facts)
    rule_ids = denial.rule_ids if denial is not None else ()
    for size in range(len(rule_ids)):
        for subset in combinations(rule_ids, size):
            assert effect_without(document, set(subset), facts) is Effect.DENY


@settings(max_examples=200, deadline=None)
@given(documents, facts_of_actions())
def test_the_missing_facts_are_those_of_the_rules_that_would_change_it(
    document: PolicyDocument, facts: Facts
) -> None:
    evaluation, denial = decided(document, facts)
    if denial is not None:
        counted = {
            name for o in evaluation.matched for name in o.missing if o.effect is Effect.DENY
        }
        assert counted <= set(denial.missing_facts)
        assert not any(facts.has(name) for name in denial.missing_facts)
