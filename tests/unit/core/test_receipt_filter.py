"""What a filter means, and that it comes back from storage as it was."""

from dataclasses import fields, replace
from datetime import timedelta
from typing import Any

import pytest

from oars_grpc.core.policy import Effect
from oars_grpc.core.receipt import Receipt
from oars_grpc.core.receipt_filter import ReceiptFilter, matches
from oars_grpc.core.receipt_terms import ReceiptTerms, terms_of
from oars_grpc.core.risk import RiskTier
from tests.support.factories import NOW, make_change, new_id


@pytest.fixture(scope="module")
def receipt() -> Receipt:
    return make_change().receipts[1]


@pytest.fixture(scope="module")
def terms(receipt: Receipt) -> ReceiptTerms:
    """A receipt with a decision and rules; a policy stands beside the decision."""
    found = terms_of(receipt.envelope.payload)
    assert found.decision
    assert found.rule_ids
    return replace(found, policy_id=new_id("pol"), policy_version=3)


def full(receipt: Receipt, terms: ReceiptTerms) -> dict[str, Any]:
    """Every field, as the receipt has it."""
    return {
        "action_id": receipt.action_id,
        "type": receipt.type,
        "agent_id": terms.agent_id,
        "user_id": terms.user_id,
        "caller_subject": terms.caller_subject,
        "tool_id": terms.tool_id,
        "operation": terms.operation,
        "decision": Effect(terms.decision),
        "policy_id": terms.policy_id,
        "policy_version": terms.policy_version,
        "rule_id": terms.rule_ids[-1],
        "risk_tier": RiskTier(terms.risk_tier),
        "recorded_from": receipt.recorded_at,
        "recorded_until": receipt.recorded_at + timedelta(microseconds=1),
    }


OTHER: dict[str, Any] = {
    "decision": Effect.QUARANTINE,
    "policy_version": 4,
    "risk_tier": RiskTier.CRITICAL,
    "recorded_from": NOW + timedelta(microseconds=1),
    "recorded_until": NOW,
}


def test_the_empty_filter_means_every_receipt(receipt: Receipt, terms: ReceiptTerms) -> None:
    assert matches(ReceiptFilter(), receipt, terms)


@pytest.mark.parametrize("name", [field.name for field in fields(ReceiptFilter)])
def test_each_field_restricts_alone_and_with_all_others(
    receipt: Receipt, terms: ReceiptTerms, name: str
) -> None:
    given = full(receipt, terms)
    assert matches(ReceiptFilter(**given), receipt, terms)
    assert matches(ReceiptFilter(**{name: given[name]}), receipt, terms)
    other = OTHER.get(name, "another")
    assert not matches(ReceiptFilter(**{name: other}), receipt, terms)
    assert not matches(ReceiptFilter(**given | {name: other}), receipt, terms)


def test_a_range_begins_with_its_first_moment_and_ends_before_its_last(
    receipt: Receipt, terms: ReceiptTerms
) -> None:
    at, tick = receipt.recorded_at, timedelta(microseconds=1)
    assert matches(ReceiptFilter(recorded_from=at, recorded_until=at + tick), receipt, terms)
    assert not matches(ReceiptFilter(recorded_from=at + tick), receipt, terms)
    assert not matches(ReceiptFilter(recorded_until=at), receipt, terms)


def test_a_filter_comes_back_from_json_and_says_only_what_restricts(
    receipt: Receipt, terms: ReceiptTerms
) -> None:
    which = ReceiptFilter(**full(receipt, terms))
    written = which.to_json()
    assert len(written) == len(fields(ReceiptFilter))
    assert written["recordedFrom"] == "2026-03-01T12:00:00.123456Z"
    assert written["decision"] == terms.decision
    assert type(written["decision"]) is str
    assert ReceiptFilter.from_json(written) == which
    for name, value in full(receipt, terms).items():
        alone = ReceiptFilter(**{name: value})
        assert len(alone.to_json()) == 1
        assert ReceiptFilter.from_json(alone.to_json()) == alone
    assert ReceiptFilter().to_json() == {}


@pytest.mark.parametrize(
    "value", [{"agent": "x"}, {"decision": "maybe"}, {"recordedFrom": "2026-03-01"}]
)
def test_what_no_filter_writes_is_refused(value: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"agent|maybe|2026"):
        ReceiptFilter.from_json(value)
