"""Which receipt is evidence of what."""

from typing import Any

import pytest

from oars_grpc.core.action import ActionState
from oars_grpc.core.canonical import statement_json
from oars_grpc.core.control import EvidenceType, evidence_types, in_order, parse_control
from oars_grpc.core.decision import decision_for_receipt
from oars_grpc.core.receipt import APPROVAL_DECIDED, Receipt
from oars_grpc.core.receipt_terms import terms_of
from tests.support.factories import append_receipt, make_action, make_decision

E = EvidenceType


def kinds_of(receipt: Receipt) -> set[EvidenceType]:
    payload = receipt.envelope.payload
    found = evidence_types(receipt.action_id, receipt.type, terms_of(payload).decision, payload)
    return set(found)


def written(type_: str, **detail: Any) -> Receipt:
    return append_receipt(make_action(), type_, detail)[1]


def decided(verdict: str, role: str) -> Receipt:
    approver = {
        "subject": "spiffe://example/a",
        "fingerprintSha256": "",
        "role": role,
        "serviceAccountId": "",
    }
    return written(APPROVAL_DECIDED, approval={"approver": approver, "verdict": verdict})


POLICY = {"decision": decision_for_receipt(make_decision())}
PEOPLE = {"approval": {"decisions": [{"approver": "spiffe://example/a", "verdict": "approve"}]}}


@pytest.mark.parametrize(
    ("type_", "detail", "expected"),
    [
        ("action.requested", {}, set()),
        ("action.executing", {}, set()),
        ("action.approved", POLICY, {E.POLICY_DECISION}),
        ("action.approved", PEOPLE, set()),
        ("action.approval_required", POLICY, {E.POLICY_DECISION}),
        ("action.approval_required", {}, set()),
        ("action.denied", POLICY, {E.POLICY_DECISION, E.DENIAL}),
        ("action.denied", PEOPLE, {E.DENIAL}),
        ("action.quarantined", POLICY, {E.POLICY_DECISION, E.QUARANTINE}),
        ("action.executed", {}, {E.EXECUTION_OUTCOME}),
        ("action.failed", {}, {E.EXECUTION_OUTCOME}),
        ("action.canceled", {}, {E.CANCELLATION_OR_EXPIRY}),
        ("action.expired", {}, {E.CANCELLATION_OR_EXPIRY}),
    ],
)
def test_a_receipt_of_an_action_is_evidence_of(
    type_: str, detail: dict[str, Any], expected: set[EvidenceType]
) -> None:
    assert kinds_of(written(type_, **detail)) == expected


def test_every_state_of_an_action_is_decided_above() -> None:
    (mark,) = test_a_receipt_of_an_action_is_evidence_of.pytestmark
    assert {case[0] for case in mark.args[1]} == {f"action.{state}" for state in ActionState}


@pytest.mark.parametrize("role", ["approver", "admin"])
def test_what_people_decide_is_human_oversight(role: str) -> None:
    assert kinds_of(decided("approve", role)) == {E.HUMAN_APPROVAL}
    assert kinds_of(decided("reject", role)) == {E.HUMAN_REJECTION}


@pytest.mark.parametrize("role", ["agent", "gateway", "operator", "auditor", ""])
def test_what_others_decide_is_not(role: str) -> None:
    assert kinds_of(decided("approve", role)) == set()
    assert kinds_of(decided("reject", role)) == set()


def test_what_policy_approved_by_itself_is_not() -> None:
    kinds = kinds_of(written("action.approved", **POLICY))
    assert kinds.isdisjoint({E.HUMAN_APPROVAL, E.HUMAN_REJECTION})


def test_a_decision_whose_payload_is_erased_is_evidence_of_nothing() -> None:
    for payload in (None, b""):
        assert evidence_types("act_1", APPROVAL_DECIDED, "", payload) == frozenset()


def test_an_event_of_the_tenant_is_administrative_whatever_its_type_says() -> None:
    for type_ in ("key.rotated", "action.denied"):
        found = evidence_types("", type_, "", statement_json({}))
        assert found == {E.ADMINISTRATIVE_EVENT}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("soc2:CC6.1", ("soc2", "CC6.1")),
        ("eu_ai_act:Art.14", ("eu_ai_act", "Art.14")),
        ("a:!~", ("a", "!~")),
        ("soc2", None),
        (":CC6.1", None),
        ("soc2:", None),
        ("SOC2:CC6.1", None),
        ("soc2:CC6:1", None),
        ("soc2:CC 6", None),
        ("soc2:é", None),
        ("soc2:" + "x" * 65, None),
        ("s" * 33 + ":x", None),
        ("soc2:CC6.1\n", None),
    ],
)
def test_a_control_is_named_by_framework_colon_and_id(
    text: str, expected: tuple[str, str] | None
) -> None:
    assert parse_control(text) == expected


def test_types_come_in_their_order_and_once() -> None:
    assert in_order([E.DENIAL, E.POLICY_DECISION, E.DENIAL]) == (E.POLICY_DECISION, E.DENIAL)
