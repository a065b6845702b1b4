from collections.abc import Mapping

import pytest

from oars_grpc.core.action import ActionContext, ActionRequest
from oars_grpc.core.decision import PolicyReference, decide, decision_for_receipt
from oars_grpc.core.effective_context import Contradiction, EffectiveContext, effective_context
from oars_grpc.core.policy import Effect, PolicyDocument, Rule, RuleMatch
from oars_grpc.core.policy_document import validate_document
from oars_grpc.core.risk import CONTRADICTION, RiskConfig, assess_risk
from tests.support.factories import NOW, make_principal, make_request

VERIFIED = {"environment": "production", "data_types": "pii, Secret ,pii", "team": "payments"}


def asked(context: ActionContext, attributes: Mapping[str, str] | None = None) -> ActionRequest:
    caller = make_principal(attributes=VERIFIED if attributes is None else attributes)
    return make_request(caller=caller, context=context)


def test_without_verified_attributes_what_is_asserted_counts() -> None:
    context = ActionContext("staging", ("public",), {"ticket": "T-1"})
    expected = EffectiveContext("staging", ("public",), (), {"ticket": "T-1"}, ())
    assert effective_context(asked(context, {})) == expected


def test_a_verified_environment_wins_and_the_other_contradicts() -> None:
    found = effective_context(asked(ActionContext("staging")))
    assert found.environment == "production"
    expected = Contradiction("context.environment", "staging", "production")
    assert found.contradictions == (expected,)


@pytest.mark.parametrize(
    "spelling", ["production", "PRODUCTION", "\uff30roduction", "pro\u00adduction"]
)
def test_another_spelling_of_the_verified_value_contradicts_nothing(spelling: str) -> None:
    found = effective_context(asked(ActionContext(spelling)))
    assert (found.environment, found.contradictions) == ("production", ())


def test_what_is_left_out_contradicts_nothing_and_is_filled_in() -> None:
    found = effective_context(asked(ActionContext()))
    assert found == EffectiveContext(
        "production",
        None,  # there may be more than is known
        ("pii", "Secret"),
        {"environment": "production", "data_types": "pii, Secret ,pii", "team": "payments"},
        (),
    )


def test_known_data_types_are_added_to_those_stated() -> None:
    found = effective_context(asked(ActionContext("", ("PII", "public"))))
    assert found.data_types == ("PII", "public", "Secret")
    assert found.known_data_types == ()
    expected = Contradiction("context.data_types", "PII, public", "pii, Secret")
    assert found.contradictions == (expected,)


def test_stating_more_data_types_than_are_known_contradicts_nothing() -> None:
    found = effective_context(asked(ActionContext("", ("secret", "pii", "money"))))
    assert (found.data_types, found.contradictions) == (("secret", "pii", "money"), ())


def test_stating_that_there_are_none_contradicts_known_ones() -> None:
    (found,) = effective_context(asked(ActionContext("", ()))).contradictions
    assert (found.asserted, found.verified) == ("none", "pii, Secret")


def test_an_identity_known_to_handle_none_adds_none() -> None:
    found = effective_context(asked(ActionContext("", None), {"data_types": "none"}))
    assert (found.data_types, found.known_data_types) == (None, ())


def test_verified_attributes_win_by_name() -> None:
    context = ActionContext("", None, {"team": "sales", "ticket": "T-1"})
    found = effective_context(asked(context, {"team": "payments", "region": "eu"}))
    assert found.attributes == {"team": "payments", "ticket": "T-1", "region": "eu"}
    assert found.contradictions == (Contradiction("context.attributes.team", "sales", "payments"),)


def test_the_request_keeps_what_was_asserted() -> None:
    """The action digest binds to what was asked, whatever is known of the caller."""
    context = ActionContext("staging", ("public",), {"team": "sales"})
    verified, plain = asked(context), asked(context, {})
    effective_context(verified)
    assert verified.context == context
    assert verified.digest("0" * 64) == plain.digest("0" * 64)


def test_a_contradiction_is_a_signal_with_both_values_cut_short() -> None:
    context = ActionContext("s" * 64, ())
    risk = assess_risk(asked(context), RiskConfig(contradiction=7))
    details = [s.detail for s in risk.signals if s.name == CONTRADICTION]
    assert details == [
        f"context.environment is production, not {'s' * 32}...",
        "context.data_types is pii, Secret, not none",
    ]
    assert {s.weight for s in risk.signals if s.name == CONTRADICTION} == {7}


def test_a_contradiction_without_weight_is_still_shown() -> None:
    risk = assess_risk(asked(ActionContext("dev")), RiskConfig(contradiction=0))
    assert CONTRADICTION in {signal.name for signal in risk.signals}


def test_the_receipt_shows_the_effective_value_and_the_signal() -> None:
    document = PolicyDocument(
        "p",
        (
            Rule(
                "prod",
                Effect.DENY,
                RuleMatch(environments=("production",)),
                'context.attributes.team == "payments"',
            ),
            Rule("any", Effect.ALLOW),
        ),
    )
    request = asked(ActionContext("dev", ("pii", "secret"), {"team": "sales"}))
    policy, reference = validate_document(document), PolicyReference("pol_x", 1, "d" * 64)
    decision = decide(request, reference, policy, RiskConfig(), NOW)
    carried = decision_for_receipt(decision)
    assert decision.effect is Effect.DENY
    assert {"name": "context.environment", "value": "production"} in carried["facts"]
    assert {"name": "context.attributes.team", "value": "payments"} in carried["facts"]
    signals = [s for s in carried["risk"]["signals"] if s["name"] == CONTRADICTION]
    assert [signal["weight"] for signal in signals] == [25, 25]


def test_a_rule_that_requires_known_data_types_matches_where_none_are_stated() -> None:
    def outcome(required: str) -> tuple[Effect, bool]:
        rule = Rule("r", Effect.DENY, RuleMatch(required_data_types=(required,)))
        policy = validate_document(PolicyDocument("p", (rule, Rule("a", Effect.ALLOW))))
        reference = PolicyReference("pol_x", 1, "d" * 64)
        evaluation = decide(asked(ActionContext()), reference, policy, RiskConfig(), NOW).evaluation
        return evaluation.effect, evaluation.matched[0].indeterminate

    assert outcome("PII") == (Effect.DENY, False)
    assert outcome("money") == (Effect.DENY, True)
