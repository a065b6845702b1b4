"""Replaying recorded decisions: which they are, what they rest on, and what cannot be replayed."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from oars_grpc.core.action import ActionContext, Resource
from oars_grpc.core.action_evidence import EvidenceAssessment, EvidenceDetail
from oars_grpc.core.envelope import PAYLOAD_TYPE, Envelope
from oars_grpc.core.log import Leaf, LogFault
from oars_grpc.core.policy import Effect, Rule, RuleMatch, TimeWindowUtc
from oars_grpc.core.policy_document import CompiledPolicy
from oars_grpc.core.receipt import MAXIMUM_ATTRIBUTES_BYTES
from oars_grpc.core.replay import Replayer, Unreplayable
from oars_grpc.core.risk import RiskTier
from tests.support.factories import append_receipt, make_action, make_principal, make_request
from tests.support.replays import chain, changed, erased, leaf_of, policy_of, recorded, replayed

ALLOW = policy_of(Rule("ALL", Effect.ALLOW))
DENY = policy_of(Rule("NONE", Effect.DENY))


def effect(draft: CompiledPolicy, leaf: Any) -> Effect | Unreplayable:
    (found,) = replayed(draft, [leaf])
    if found.evaluation is None:
        assert found.reason is not None
        return found.reason
    return found.evaluation.effect


def test_a_decision_is_the_second_receipt_of_its_chain() -> None:
    _, receipts = chain(ALLOW)
    leaves = [leaf_of(receipt, index) for index, receipt in enumerate(receipts)]
    (found,) = replayed(DENY, leaves)
    assert (found.leaf_index, found.receipt_id) == (1, receipts[1].receipt_id)
    assert found.recorded is Effect.ALLOW
    assert found.evaluation is not None
    assert found.evaluation.effect is Effect.DENY


def test_a_later_decision_of_the_same_action_is_not_replayed() -> None:
    decision, receipts = chain(ALLOW)
    assert decision.effect is Effect.ALLOW
    action = make_action()
    for _ in range(2):
        action, _ = append_receipt(action)
    statement = orjson.loads(receipts[1].envelope.payload)
    detail = {"decision": statement["predicate"]["decision"]}
    _, third = append_receipt(action, "action.denied", detail)
    assert third.sequence == 3
    assert replayed(DENY, [leaf_of(third)]) == []


def test_an_event_that_speaks_of_a_decision_is_none() -> None:
    leaf = recorded(ALLOW)
    assert leaf.leaf.payload is not None
    payload = leaf.leaf.payload.replace(b"urn:oars:receipt:action:v1", b"urn:oars:receipt:event:v1")
    hash_ = Envelope(PAYLOAD_TYPE, payload, ()).leaf_hash()
    assert replayed(DENY, [replace(leaf, leaf=Leaf(0, hash_, payload))]) == []


MATCHES: dict[str, Rule] = {
    "tool": Rule("R", Effect.ALLOW, RuleMatch(tool_ids=("GITHUB",))),
    "operation": Rule("R", Effect.ALLOW, RuleMatch(operations=("get_issue",))),
    "target": Rule("R", Effect.ALLOW, RuleMatch(target_contains=("REPO",))),
    "environment": Rule("R", Effect.ALLOW, RuleMatch(environments=("staging",))),
    "data types": Rule("R", Effect.ALLOW, RuleMatch(required_data_types=("public",))),
    "agent": Rule("R", Effect.ALLOW, RuleMatch(agent_ids=("agent-1",))),
    "user": Rule("R", Effect.ALLOW, RuleMatch(user_ids=("user-1",))),
    "hours": Rule("R", Effect.ALLOW, RuleMatch(time_window_utc=TimeWindowUtc(3, 4))),
    "tier": Rule("R", Effect.ALLOW, RuleMatch(risk_tiers=(RiskTier.LOW,))),
    "caller": Rule("R", Effect.ALLOW, condition="caller.subject == 'spiffe://example/agent'"),
    "role": Rule("R", Effect.ALLOW, condition="caller.role == 'agent'"),
    "account": Rule("R", Effect.ALLOW, condition="caller.service_account_id == 'sa-1'"),
    "attributes": Rule("R", Effect.ALLOW, condition="caller.attributes.team == 'blue'"),
    "stated": Rule("R", Effect.ALLOW, condition="context.attributes.ticket == 'T-1'"),
    "chain": Rule("R", Effect.ALLOW, condition="delegation.chain == ['user-1', 'bot']"),
    "score": Rule("R", Effect.ALLOW, condition="risk.score == 10"),
    "class": Rule("R", Effect.ALLOW, condition="risk.operation_class == 'read'"),
    "time": Rule(
        "R", Effect.ALLOW, condition="time.now == timestamp('2026-02-03T03:04:05.000006Z')"
    ),
    "weekday": Rule("R", Effect.ALLOW, condition="time.weekday == 2"),
    "input": Rule("R", Effect.ALLOW, condition="input.title == 'Größe' && input.issue == 1"),
    "fraction": Rule("R", Effect.ALLOW, condition="input.ratio * 2.0 == 0.5"),
    "size": Rule("R", Effect.ALLOW, condition="input_size_bytes == 42"),
}


@pytest.mark.parametrize("name", MATCHES)
def test_every_fact_comes_back_as_it_was(name: str) -> None:
    request = make_request(
        caller=make_principal(attributes={"team": "blue"}),
        delegation_chain=("user-1", "bot"),
        input={"title": "Größe", "issue": 1, "ratio": 0.25},
    )
    policy = policy_of(MATCHES[name])
    moment = datetime(2026, 2, 3, 3, 4, 5, 6, tzinfo=UTC)
    decision = chain(policy, request, moment)[0]
    assert decision.effect is Effect.ALLOW, decision.evaluation.explanation
    leaf = recorded(policy, request, now=moment)
    (found,) = replayed(policy, [leaf])
    assert found.evaluation == decision.evaluation


def test_what_was_not_stated_stays_missing() -> None:
    request = make_request(user_id="", context=ActionContext(), resource=Resource("t", "get_x"))
    draft = policy_of(
        Rule("ENV", Effect.DENY, RuleMatch(environments=("prod",))),
        Rule("DATA", Effect.QUARANTINE, RuleMatch(required_data_types=("pii",))),
        Rule("USER", Effect.APPROVE, RuleMatch(user_ids=("u",))),
    )
    (found,) = replayed(draft, [recorded(ALLOW, request)])
    assert found.evaluation is not None
    assert found.evaluation.missing_facts == (
        "context.data_types",
        "context.environment",
        "user.id",
    )


def test_the_risk_is_the_recorded_one() -> None:
    leaf = recorded(ALLOW)
    assert leaf.leaf.payload is not None
    decision = orjson.loads(leaf.leaf.payload)["predicate"]["decision"]
    decision["risk"] |= {"score": 77, "tier": "high"}
    draft = policy_of(Rule("R", Effect.DENY, condition="risk.score == 77 && risk.tier == 'high'"))
    assert effect(draft, changed(leaf, decision=decision)) is Effect.DENY


def test_without_a_rule_that_reads_it_the_input_is_not_needed() -> None:
    leaf = replace(recorded(ALLOW), input=None)
    draft = policy_of(Rule("R", Effect.DENY, condition="risk.score >= 0"))
    assert not Replayer(draft).with_inputs
    assert effect(draft, leaf) is Effect.DENY


@pytest.mark.parametrize("condition", ["has(input.x)", "input_size_bytes > 3"])
def test_an_erased_input_that_a_rule_reads_is_not_replayable(condition: str) -> None:
    draft = policy_of(Rule("R", Effect.DENY, condition=condition))
    assert Replayer(draft).with_inputs
    assert effect(draft, replace(recorded(ALLOW), input=None)) is Unreplayable.INPUT_ERASED


def test_an_erased_payload_is_not_replayable_and_its_effect_unknown() -> None:
    (found,) = replayed(DENY, [erased(recorded(ALLOW))])
    assert (found.reason, found.recorded) == (Unreplayable.PAYLOAD_ERASED, None)


def test_erased_payloads_of_other_receipts_are_no_decisions() -> None:
    _, receipts = chain(ALLOW)
    requested = erased(leaf_of(receipts[0]))
    event = replace(erased(leaf_of(receipts[1])), action_id="")
    assert replayed(DENY, [requested, event]) == []


def test_an_input_of_another_digest_is_a_fault_that_names_the_leaf() -> None:
    leaf = replace(recorded(ALLOW, index=7), input=b'{"issue":2}')
    draft = policy_of(Rule("R", Effect.DENY, condition="input.issue == 2"))
    with pytest.raises(LogFault, match="leaf 7 states another digest"):
        Replayer(draft).replay(leaf)


@pytest.mark.parametrize(
    "row", [{"action_id": "act_other"}, {"sequence": 3}, {"receipt_id": "rcpt_other"}]
)
def test_a_row_of_another_receipt_is_a_fault(row: dict[str, Any]) -> None:
    with pytest.raises(LogFault, match="the row of leaf 0 is not about its payload"):
        Replayer(DENY).replay(replace(recorded(ALLOW), **row))


def test_attributes_that_were_not_recorded_are_not_guessed() -> None:
    leaf = changed(recorded(ALLOW), callerAttributes=None)
    asks = policy_of(Rule("R", Effect.DENY, condition="caller.attributes.team == 'blue'"))
    whole = policy_of(Rule("R", Effect.DENY, condition="size(caller.attributes) > 0"))
    assert effect(asks, leaf) is Unreplayable.CALLER_ATTRIBUTES_NOT_RECORDED
    assert effect(whole, leaf) is Unreplayable.CALLER_ATTRIBUTES_NOT_RECORDED
    assert effect(DENY, leaf) is Effect.DENY


@pytest.mark.parametrize(
    "rule",
    [
        Rule("R", Effect.DENY, RuleMatch(environments=("production",))),
        Rule("R", Effect.DENY, RuleMatch(required_data_types=("pii",))),
        Rule("R", Effect.DENY, condition="context.attributes.ticket == 'T-1'"),
        Rule("R", Effect.DENY, condition="folded.environment == 'production'"),
    ],
)
def test_what_unrecorded_attributes_may_have_settled_is_not_guessed(rule: Rule) -> None:
    leaf = changed(recorded(ALLOW), callerAttributes=None)
    assert effect(policy_of(rule), leaf) is Unreplayable.CALLER_ATTRIBUTES_NOT_RECORDED


def test_verified_attributes_win_in_a_replay_as_they_did() -> None:
    verified = make_principal(attributes={"environment": "production", "data_types": "pii"})
    leaf = recorded(ALLOW, make_request(caller=verified))
    production = Rule(
        "R", Effect.DENY, RuleMatch(environments=("production",), required_data_types=("PII",))
    )
    assert effect(policy_of(Rule("ALL", Effect.ALLOW), production), leaf) is Effect.DENY


def test_attributes_too_long_for_a_receipt_are_left_out_of_it() -> None:
    attributes = {"a": "x" * MAXIMUM_ATTRIBUTES_BYTES}
    request = make_request(caller=make_principal(attributes=attributes))
    asks = policy_of(Rule("R", Effect.DENY, condition="caller.attributes.a != ''"))
    leaf = recorded(ALLOW, request)
    assert effect(asks, leaf) is Unreplayable.CALLER_ATTRIBUTES_NOT_RECORDED
    assert effect(DENY, leaf) is Effect.DENY


def test_where_little_data_is_affordable_unrecorded_attributes_may_have_been_too_much() -> None:
    dear = " && ".join(f"context.data_types.all(t, t.contains('{n}'))" for n in range(20))
    draft = policy_of(Rule("R", Effect.DENY, condition=dear))
    rules = [rule.condition for rule in draft.rules]
    assert rules[0] is not None
    leaf = changed(recorded(ALLOW), callerAttributes=None)
    found = effect(draft, leaf)
    if rules[0].max_units < 65_536 or draft.max_units < 65_536:
        assert found is Unreplayable.CALLER_ATTRIBUTES_NOT_RECORDED
    else:
        pytest.fail("the condition is not dear: choose another")


def test_evidence_of_a_later_version_is_not_ignored() -> None:
    leaf = changed(recorded(ALLOW), evidence={"coherence": "0.5"})
    asks = policy_of(Rule("R", Effect.DENY, condition="evidence.coherence < 0.6"))
    assert effect(asks, leaf) is Unreplayable.EVIDENCE_NOT_RECORDED
    assert effect(DENY, leaf) is Effect.DENY


def test_evidence_is_replayed_as_policy_saw_it() -> None:
    scored = EvidenceAssessment(
        digest="d" * 64,
        source="inline",
        lattice_digest="",
        action_embedding_digest="e" * 64,
        dimension=3,
        items=2,
        used=2,
        support=333_333,
        coherence=600_000,
        conflict=1,
        novelty=999_999,
        p_value=500_000,
        detail=EvidenceDetail((), {}),
    )
    leaf = recorded(ALLOW, make_request(evidence=scored))
    for condition, expected in {
        "evidence.support == 0.333333": Effect.DENY,
        "evidence.support < 0.333333": Effect.ALLOW,
        "evidence.conflict == 0.000001 && evidence.novelty < 1.0": Effect.DENY,
        "evidence.risk > 0.5": Effect.DENY,  # no outcome was known: in doubt then as now
    }.items():
        draft = policy_of(Rule("R", Effect.DENY, condition=condition), Rule("A", Effect.ALLOW))
        assert effect(draft, leaf) is expected, condition
    told = orjson.loads(leaf.leaf.payload or b"")["predicate"]["evidence"]
    better = {**told, "scores": {**told["scores"], "support": 999_999}}
    assert effect(draft, changed(leaf, evidence=better)) is Unreplayable.EVIDENCE_NOT_RECORDED


def test_of_an_action_without_evidence_its_facts_are_missing_as_they_were() -> None:
    asks = policy_of(Rule("R", Effect.DENY, condition="evidence.coherence < 0.6"))
    (found,) = replayed(asks, [recorded(asks)])
    assert found.evaluation is not None
    assert found.evaluation.missing_facts == ("evidence.coherence",)


@pytest.mark.parametrize(
    "members",
    [
        {"decision": {"effect": "postpone"}},
        {"decision": {"effect": "allow"}},
        {"decision": {"effect": "allow", "risk": {"score": 1, "tier": "x", "operationClass": "y"}}},
        {"context": {"environment": "x"}},
        {"recordedAt": "yesterday"},
        {"caller": ["x"]},
    ],
)
def test_a_format_that_is_not_known_is_not_replayed(members: dict[str, Any]) -> None:
    assert effect(DENY, changed(recorded(ALLOW), **members)) is Unreplayable.UNKNOWN_FORMAT
