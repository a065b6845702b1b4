"""Replaying the very policy that decided changes nothing, whatever was asked and stated."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from oars_grpc.core.action import ActionContext, ActionRequest, Resource
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
from tests.support.factories import make_principal, make_request
from tests.support.replays import chain, leaf_of, replayed

NAMES = st.sampled_from(
    ["", "a", "Ⓐ", "b", "production", "ß", "delete_a", "get_b", "pii", "x" * 40]
)
TEXTS = st.lists(NAMES.filter(bool), max_size=3).map(tuple)
WANTED = st.lists(NAMES.filter(bool), max_size=2).map(tuple)
MAPS = st.dictionaries(st.sampled_from(["team", "t", "a.b"]), NAMES, max_size=2)
VERIFIED = st.dictionaries(
    st.sampled_from(["team", "t", "environment", "data_types"]), NAMES, max_size=3
)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(-1e6, 1e6, allow_nan=False).map(lambda n: int(n) if n.is_integer() else n)
    | NAMES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("amn"), inner, max_size=3)
    ),
    max_leaves=8,
)
CONDITIONS = st.sampled_from(
    [
        "",
        "risk.score >= 45",
        "input.a > 1",
        "has(input.m)",
        "input.n == 'a' || caller.attributes.team == 'a'",
        "input_size_bytes > 10",
        "size(caller.attributes) > 0",
        "context.attributes.t == 'b'",
        "delegation.depth > 1",
        "delegation.chain.exists(d, d == 'a')",
        "folded.operation.startsWith('delete') && time.hour_utc < 12",
        "evidence.coherence > 0.5",
        "caller.role == 'agent' && user.id != ''",
        "time.now > timestamp('2026-03-01T00:00:00Z')",
        "1 / size(delegation.chain) == 1",
    ]
)
REQUESTS = st.builds(
    ActionRequest,
    tenant_id=st.just("acme"),
    agent_id=NAMES,
    caller=st.builds(
        lambda attributes, account: make_principal(
            attributes=attributes, service_account_id=account
        ),
        VERIFIED,
        NAMES,
    ),
    resource=st.builds(Resource, NAMES, NAMES, NAMES),
    user_id=NAMES,
    delegation_chain=TEXTS,
    context=st.builds(ActionContext, NAMES, st.none() | TEXTS, MAPS),
    input=st.dictionaries(st.sampled_from("amn"), JSON, max_size=3),
)
MATCHES = st.builds(
    RuleMatch,
    tool_ids=WANTED,
    operations=WANTED,
    target_contains=WANTED,
    risk_tiers=st.lists(st.sampled_from(RiskTier), max_size=2).map(tuple),
    environments=WANTED,
    required_data_types=WANTED,
    time_window_utc=st.none() | st.integers(0, 22).map(lambda hour: TimeWindowUtc(hour, hour + 1)),
    agent_ids=WANTED,
    user_ids=WANTED,
)
DOCUMENTS = st.builds(
    lambda rules, combining: PolicyDocument(
        "p", tuple(replace(rule, id=f"R-{n}") for n, rule in enumerate(rules)), combining
    ),
    st.lists(
        st.builds(
            Rule,
            id=st.just("R"),
            effect=st.sampled_from(Effect),
            match=MATCHES | st.just(RuleMatch()),
            condition=CONDITIONS,
            priority=st.integers(0, 3),
        ),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from(CombiningAlgorithm),
)
MOMENTS = st.datetimes(datetime(2026, 1, 1), datetime(2026, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001 - the strategy takes naive bounds


@settings(deadline=None)
@given(DOCUMENTS, REQUESTS, MOMENTS)
def test_the_policy_that_decided_says_the_same_again(
    document: PolicyDocument, request: ActionRequest, now: datetime
) -> None:
    policy = validate_document(document)
    decision, receipts = chain(policy, request, now)
    leaves = [leaf_of(receipts[0]), leaf_of(receipts[1], 1, request.input_bytes())]
    (found,) = replayed(policy, leaves)
    assert found.reason is None
    assert found.recorded is decision.effect
    assert found.evaluation is not None
    assert found.evaluation.effect is decision.effect
    # Not only the effect: why, too, but for what a replay without the input says of it.
    assert found.evaluation.matched == decision.evaluation.matched
    assert found.evaluation.deciding == decision.evaluation.deciding
    assert found.evaluation.missing_facts == decision.evaluation.missing_facts
    assert found.evaluation.facts_read == decision.evaluation.facts_read


@settings(deadline=None)
@given(DOCUMENTS, DOCUMENTS, MOMENTS)
def test_a_replay_says_what_the_draft_would_have_said(
    recording: PolicyDocument, draft: PolicyDocument, now: datetime
) -> None:
    request = make_request(input={"a": 2, "n": "a"})
    recorded, receipts = chain(validate_document(recording), request, now)
    compiled = validate_document(draft)
    asked, _ = chain(compiled, request, now)
    (found,) = replayed(compiled, [leaf_of(receipts[1], 1, request.input_bytes())])
    assert (found.recorded, found.evaluation) == (recorded.effect, asked.evaluation)
