"""Every value comes back from its row as it was; the rows here never see a database."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oars_grpc.core.action import ActionContext, ActionState, Execution, Resource
from oars_grpc.core.approval import ApprovalDecision, ApprovalState, Verdict
from oars_grpc.core.call import IdempotencyScope, StoredOutcome
from oars_grpc.core.envelope import Envelope
from oars_grpc.core.identity import Role
from oars_grpc.core.keys import KeyState
from oars_grpc.core.policy import Effect as RuleEffect
from oars_grpc.core.policy import PolicyDocument, Rule
from oars_grpc.core.risk import RiskConfig
from oars_grpc.core.stored import PolicyState, StoredAction, StoredReceipt
from oars_grpc.core.tenant import TenantSettings
from oars_grpc.storage.approval_codecs import approval_of, approval_row
from oars_grpc.storage.codecs import (
    key_row,
    listed_policy_of,
    outcome_of,
    outcome_row,
    policy_of,
    policy_row,
    stored_key_of,
    tenant_of,
    tenant_row,
)
from oars_grpc.storage.ledger_codecs import (
    action_of,
    action_row,
    receipt_of,
    receipt_row,
)
from tests.support.factories import (
    append_receipt,
    as_read,
    make_action,
    make_approval,
    make_decision,
    make_policy,
    make_principal,
    make_request,
    make_stored_key,
    make_tenant,
)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
moments = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - bounds are naive
counts = st.integers(1, 2**40)
weights = st.integers(0, 100)


@given(
    texts=st.lists(texts, min_size=8, max_size=8),
    attributes=st.dictionaries(texts, texts, max_size=3),
    data_types=st.none() | st.lists(texts, max_size=3).map(tuple),
    chain=st.lists(texts, max_size=3).map(tuple),
    role=st.sampled_from(Role),
    state=st.sampled_from(ActionState),
    execution=st.sampled_from(Execution),
    times=st.lists(moments, min_size=3, max_size=3),
    version=counts,
)
def test_actions(
    texts: list[str],
    attributes: dict[str, str],
    data_types: tuple[str, ...] | None,
    chain: tuple[str, ...],
    role: Role,
    state: ActionState,
    execution: Execution,
    times: list[datetime],
    version: int,
) -> None:
    request = make_request(
        agent_id=texts[0],
        user_id=texts[1],
        caller=make_principal(texts[2], role=role, attributes=attributes),
        resource=Resource(*texts[3:6]),
        delegation_chain=chain,
        context=ActionContext(texts[6], data_types, attributes),
        execution=execution,
    )
    action = make_action(
        request,
        state=state,
        created_at=times[0],
        updated_at=times[1],
        expires_at=times[2] if version % 2 else None,
        version=version,
        last_sequence=version,
        error=texts[7],
    )
    stored = StoredAction(action, make_decision(request))
    assert action_of(action_row(stored)) == as_read(stored)


@given(
    verdicts=st.lists(st.tuples(texts, st.sampled_from(Verdict), texts, moments), max_size=4),
    state=st.sampled_from(ApprovalState),
    version=counts,
)
def test_approvals(
    verdicts: list[tuple[str, Verdict, str, datetime]], state: ApprovalState, version: int
) -> None:
    decisions = tuple(ApprovalDecision(*verdict) for verdict in verdicts)
    approval = make_approval(make_action(), decisions=decisions, state=state, version=version)
    assert approval_of(approval_row(approval)) == approval


@given(moment=moments, index=counts, text=texts)
def test_receipts(moment: datetime, index: int, text: str) -> None:
    _, receipt = append_receipt(make_action(updated_at=moment), detail={"note": text})
    row = {**receipt_row(receipt), "leaf_index": index, "payload": receipt.envelope.payload}
    assert receipt_of(row) == StoredReceipt(index, receipt)
    assert row["receipt_digest"] == receipt.envelope.digest()
    assert row["leaf_hash"] == receipt.envelope.leaf_hash()


def test_an_envelope_that_the_columns_could_not_hold_is_refused() -> None:
    _, receipt = append_receipt(make_action())
    envelope = receipt.envelope
    for wrong in (
        Envelope("text/plain", envelope.payload, envelope.signatures),
        Envelope(envelope.payload_type, envelope.payload, envelope.signatures * 2),
        Envelope(envelope.payload_type, envelope.payload, ()),
    ):
        with pytest.raises(ValueError):
            receipt_row(replace(receipt, envelope=wrong))


@given(name=texts, permit=counts, weights=st.lists(weights, min_size=3, max_size=3))
def test_tenants(name: str, permit: int, weights: list[int]) -> None:
    risk = RiskConfig(read=weights[0], money=weights[1], low_coherence=weights[2])
    tenant = make_tenant(display_name=name, settings=TenantSettings(permit, permit + 1, risk))
    assert tenant_of(tenant_row(tenant)) == tenant


@given(
    state=st.sampled_from(KeyState),
    until=st.none() | moments,
    revoked=st.none() | moments,
    reason=texts,
)
def test_keys(
    state: KeyState, until: datetime | None, revoked: datetime | None, reason: str
) -> None:
    key = make_stored_key(
        state=state, valid_until=until, revoked_at=revoked, revocation_reason=reason
    )
    assert stored_key_of(key_row(key)) == key


NOT_ARCHIVED = {"archived_at": None, "archived_by": None}


@given(
    name=texts,
    effect=st.sampled_from(RuleEffect),
    condition=texts,
    state=st.sampled_from(PolicyState),
)
def test_policies(name: str, effect: RuleEffect, condition: str, state: PolicyState) -> None:
    document = PolicyDocument(name=name, rules=(Rule("r-1", effect, condition=condition),))
    policy = replace(make_policy(document=document, version=7), state=state)
    row = {**policy_row(policy), "policy_state": state.value, **NOT_ARCHIVED}
    assert policy_of(row) == policy
    del row["document"]
    assert listed_policy_of(row) == replace(policy, document=None)


def test_a_listed_policy_cannot_be_stored() -> None:
    with pytest.raises(ValueError, match="not read"):
        policy_row(replace(make_policy(), document=None))


def test_a_document_is_parsed_once_for_its_policy_and_checked_for_each() -> None:
    row = {**policy_row(make_policy(version=1)), "policy_state": "draft", **NOT_ARCHIVED}
    first = policy_of(row)
    assert policy_of({**row, "document": bytes(bytearray(row["document"]))}) == first
    assert policy_of(row).document is first.document
    # Another policy, or another tenant's of the same name, is not taken for it.
    for other in ({"policy_id": "pol_x"}, {"tenant_id": "globex"}, {"digest": "0" * 64}):
        with pytest.raises(RuntimeError, match="digest"):
            policy_of({**row, **other, "document": b"{}"})


@given(words=st.lists(texts, min_size=4, max_size=4), response=st.binary(), moment=moments)
def test_outcomes(words: list[str], response: bytes, moment: datetime) -> None:
    outcome = StoredOutcome(IdempotencyScope("acme", *words), response, moment, moment)
    assert outcome_of(outcome_row(outcome)) == outcome
