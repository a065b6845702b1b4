import pytest

from oars_grpc.core.action import ActionContext
from oars_grpc.core.decision import (
    PolicyReference,
    decide,
    decision_for_receipt,
    decision_from_json,
    decision_to_json,
)
from oars_grpc.core.denial import Denial
from oars_grpc.core.policy import CombiningAlgorithm, Effect, PolicyDocument, Rule
from oars_grpc.core.policy_document import validate_document
from oars_grpc.core.risk import RiskConfig
from tests.support.factories import NOW, make_request

REFERENCE = PolicyReference("pol_x", 1, "d" * 64)
STRICTEST, FIRST = CombiningAlgorithm


def denied(*rules: Rule, combining: CombiningAlgorithm = STRICTEST) -> Denial | None:
    policy = validate_document(PolicyDocument("p", rules, combining))
    request = make_request(context=ActionContext("staging"))
    return decide(request, REFERENCE, policy, RiskConfig(), NOW).denial


DENY_1, DENY_2 = Rule("d-1", Effect.DENY), Rule("d-2", Effect.DENY)
ASK, ALLOW = Rule("q", Effect.APPROVE), Rule("a", Effect.ALLOW)
UNKNOWN = Rule("u", Effect.DENY, condition="evidence.coherence < 0.5")
NEVER = Rule("n", Effect.DENY, condition="false")
MAYBE = Rule("m", Effect.ALLOW, condition="evidence.support > 0.5")


@pytest.mark.parametrize(
    ("rules", "combining", "expected"),
    [
        ((ALLOW, DENY_2, NEVER, DENY_1), STRICTEST, Denial(("d-1", "d-2"), Effect.ALLOW, ())),
        ((ALLOW, DENY_1, ASK), STRICTEST, Denial(("d-1",), Effect.APPROVE, ())),
        ((DENY_1,), STRICTEST, Denial(("d-1",), Effect.DENY, ())),
        ((UNKNOWN, ALLOW), STRICTEST, Denial(("u",), Effect.ALLOW, ("evidence.coherence",))),
        ((NEVER,), STRICTEST, Denial((), Effect.DENY, ())),
        ((MAYBE,), STRICTEST, Denial((), Effect.DENY, ("evidence.support",))),
        ((DENY_1, ALLOW, DENY_2), FIRST, Denial(("d-1",), Effect.ALLOW, ())),
        ((DENY_1, NEVER, DENY_2, ASK), FIRST, Denial(("d-1", "d-2"), Effect.APPROVE, ())),
        ((MAYBE, DENY_1), FIRST, Denial(("d-1",), Effect.DENY, ("evidence.support",))),
        ((UNKNOWN, MAYBE, ALLOW), FIRST, Denial(("u",), Effect.ALLOW, ("evidence.coherence",))),
        ((ALLOW, DENY_1), FIRST, None),
        ((ASK,), STRICTEST, None),
    ],
)
def test_what_denies_and_what_would_change_it(
    rules: tuple[Rule, ...], combining: CombiningAlgorithm, expected: Denial | None
) -> None:
    assert denied(*rules, combining=combining) == expected


def test_a_denial_survives_storage_and_stands_in_the_receipt() -> None:
    policy = validate_document(PolicyDocument("p", (UNKNOWN, ALLOW)))
    decision = decide(make_request(), REFERENCE, policy, RiskConfig(), NOW)
    stored = decision_to_json(decision)
    assert decision_from_json(stored) == decision
    assert decision_for_receipt(decision)["denial"] == {
        "ruleIds": ["u"],
        "otherwise": "allow",
        "missingFacts": ["evidence.coherence"],
    }


def test_decisions_stored_before_there_were_denials_are_read() -> None:
    policy = validate_document(PolicyDocument("p", (DENY_1,)))
    stored = decision_to_json(decide(make_request(), REFERENCE, policy, RiskConfig(), NOW))
    del stored["denial"]
    assert decision_from_json(stored).denial is None


def test_a_receipt_counts_the_rules_of_a_denial_that_it_leaves_out() -> None:
    rules = tuple(Rule(f"{number:0>64}", Effect.DENY) for number in range(500))
    policy = validate_document(PolicyDocument("p", rules))
    decision = decide(make_request(), REFERENCE, policy, RiskConfig(), NOW)
    carried = decision_for_receipt(decision)
    kept = carried["denial"]["ruleIds"]
    assert kept == [rule.id for rule in rules[: len(kept)]]
    assert carried["omitted"]["denialRules"] == 500 - len(kept) > 0
