"""Whatever a caller asserts against what is verified: never a weaker answer than to the truth."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from oars_grpc.core.action import ActionContext, ActionRequest
from oars_grpc.core.decision import Decision, PolicyReference, decide
from oars_grpc.core.effective_context import effective_context, verified_data_types
from oars_grpc.core.folding import fold
from oars_grpc.core.policy import Effect, PolicyDocument, Rule, RuleMatch
from oars_grpc.core.policy_document import validate_document
from oars_grpc.core.risk import RiskConfig, assess_risk
from tests.support.factories import NOW, make_principal, make_request

ENVIRONMENTS = ("", "production", "staging", "Production", "dev", "prod\u200buction")
DATA_TYPES = ("pii", "PII", "secret", "public", "none")
names = st.sampled_from(("team", "environment", "data_types"))
verified = st.fixed_dictionaries(
    {},
    optional={
        "environment": st.sampled_from(ENVIRONMENTS),
        "data_types": st.lists(st.sampled_from(DATA_TYPES)).map(",".join),
        "team": st.sampled_from(("payments", "sales")),
    },
)
contexts = st.builds(
    ActionContext,
    st.sampled_from(ENVIRONMENTS),
    st.none() | st.lists(st.sampled_from(DATA_TYPES[:4]), max_size=3).map(tuple),
    st.dictionaries(names, st.sampled_from(("payments", "sales", "production")), max_size=3),
)
requests = st.builds(
    lambda attributes, context: make_request(
        caller=make_principal(attributes=attributes), context=context
    ),
    verified,
    contexts,
)


def truthful(request: ActionRequest) -> ActionRequest:
    """The same request, stating what is verified where something is."""
    attributes = request.caller.attributes
    known, context = verified_data_types(attributes), request.context
    stated = None if context.data_types is None and not known else (context.data_types or ())
    folded = frozenset(map(fold, stated or ()))
    return replace(
        request,
        context=ActionContext(
            attributes.get("environment", "") or context.environment,
            None
            if stated is None
            else (*stated, *(name for name in known if fold(name) not in folded)),
            {**context.attributes, **attributes},
        ),
    )


@given(requests)
def test_the_risk_is_never_lower_than_with_the_truth_stated(request: ActionRequest) -> None:
    config = RiskConfig()
    asserted, true = assess_risk(request, config), assess_risk(truthful(request), config)
    assert asserted.score >= true.score


@given(requests)
def test_the_truth_contradicts_nothing(request: ActionRequest) -> None:
    assert effective_context(truthful(request)).contradictions == ()


@given(requests)
def test_contradictions_are_there_exactly_where_what_is_stated_differs(
    request: ActionRequest,
) -> None:
    context, attributes = request.context, request.caller.attributes
    environment = attributes.get("environment", "")
    expected = {
        f"context.attributes.{name}"
        for name in context.attributes.keys() & attributes.keys()
        if fold(context.attributes[name]) != fold(attributes[name])
    }
    if environment and context.environment and fold(environment) != fold(context.environment):
        expected.add("context.environment")
    known = set(map(fold, verified_data_types(attributes)))
    if context.data_types is not None and not known <= set(map(fold, context.data_types)):
        expected.add("context.data_types")
    assert {found.fact for found in effective_context(request).contradictions} == expected


POLICY = validate_document(
    PolicyDocument(
        "p",
        (
            Rule("prod", Effect.DENY, RuleMatch(environments=("production",))),
            Rule("pii", Effect.DENY, RuleMatch(required_data_types=("pii",))),
            Rule("both", Effect.QUARANTINE, RuleMatch(required_data_types=("pii", "secret"))),
            Rule("team", Effect.APPROVE, condition='context.attributes.team == "payments"'),
            Rule("types", Effect.APPROVE, condition='"secret" in folded.data_types'),
            Rule("any", Effect.ALLOW),
        ),
    )
)


def decided(request: ActionRequest) -> Decision:
    return decide(request, PolicyReference("pol_x", 1, "d" * 64), POLICY, RiskConfig(), NOW)


@settings(max_examples=300, deadline=None)
@given(requests)
def test_rules_about_the_truth_count_whatever_is_asserted(request: ActionRequest) -> None:
    """All but those of values that nothing verifies and the caller states: they are the same."""
    asserted, true = decided(request).evaluation, decided(truthful(request)).evaluation
    assert {o.rule_id for o in true.matched} <= {o.rule_id for o in asserted.matched}
    assert asserted.effect.strictness >= true.effect.strictness
