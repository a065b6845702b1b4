"""Offline: what a receipt says that an approver signed, against what was signed, and by whom."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from oars_grpc.core.canonical import encode_base64
from oars_grpc.core.event import APPROVER_KEY_REGISTERED, APPROVER_KEY_REVOKED, write_event
from oars_grpc.core.grant import check_signed_grant, grant_payload, sign_grant, signed_grant_json
from oars_grpc.core.grant_verification import ApproverTrust, note_registration
from oars_grpc.core.keys import SigningKey, signing_key
from oars_grpc.core.receipt import APPROVAL_DECIDED, Receipt, caller_json
from oars_grpc.core.verification import GRANT, CheckResult, Surroundings, verify_receipt
from tests.support.factories import (
    NOW,
    TENANT,
    append_receipt,
    make_action,
    make_principal,
    make_signing_key,
    make_stored_key,
    new_id,
)

ALICE = make_principal("spiffe://example/älice")
KEY, PUBLIC = signing_key(b"\x07" * 32)
OTHER, OTHER_PUBLIC = signing_key(b"\x08" * 32)
ACTION = make_action()
APPROVAL_ID = new_id("apr")
STATED: dict[str, Any] = {
    "tenant_id": TENANT,
    "approval_id": APPROVAL_ID,
    "action_id": ACTION.action_id,
    "action_digest": ACTION.action_digest,
    "policy_digest": "b" * 64,
    "display_digest": "c" * 64,
    "approver": ALICE.subject,
    "verdict": "approve",
    "stage": 1,
}
Change = Callable[[dict[str, Any]], object]


def grant_json(key: SigningKey = KEY, public: bytes = PUBLIC, **changed: Any) -> dict[str, Any]:
    payload = grant_payload(**{**STATED, **changed})
    envelope = sign_grant(payload, key)
    return signed_grant_json(check_signed_grant(envelope, payload, public))


def decided(change: Change | None = None, grant: Any = ...) -> Receipt:
    """A receipt of a decision; `change` is made to what it says of the approval."""
    approval: dict[str, Any] = {
        "approvalId": APPROVAL_ID,
        "actionDigest": ACTION.action_digest,
        "policyDigest": "b" * 64,
        "displayDigest": "c" * 64,
        "approver": caller_json(ALICE),
        "verdict": "approve",
        "stage": 1,
        "reason": "",
        "grant": grant_json() if grant is ... else grant,
    }
    if change is not None:
        change(approval)
    return append_receipt(ACTION, APPROVAL_DECIDED, {"approval": approval})[1]


def event(type_: str, subject: str = ALICE.subject, public: bytes = PUBLIC) -> Receipt:
    told = {
        "subject": subject,
        "keyId": signing_key_id(public),
        "publicKey": encode_base64(public),
    }
    return write_event(
        receipt_id=new_id("rcpt"),
        tenant_id=TENANT,
        type_=type_,
        caller=ALICE,
        event=told,
        sequence=1,
        previous_receipt_digest="",
        now=NOW,
        key=make_signing_key(),
    )


def signing_key_id(public: bytes) -> str:
    return (KEY if public == PUBLIC else OTHER).key_id


def verdict(receipt: Receipt, trust: ApproverTrust | None = None) -> tuple[bool, list[str], str]:
    """Valid or not, every problem with the grant, and what else is said of it."""
    beside = Surroundings(approvers=trust or ApproverTrust())
    result = verify_receipt(receipt.envelope, [make_stored_key().trusted], beside)
    (check,) = (check for check in result.checks if check.name == GRANT)
    assert result.grant is not None
    assert (check.result is CheckResult.PASSED) is not bool(result.grant.problems)
    return result.valid, list(result.grant.problems), check.detail


def test_a_good_grant_passes_on_the_receipts_own_word() -> None:
    assert verdict(decided()) == (
        True,
        [],
        f"by approver key {KEY.key_id}, on the word of the receipt itself",
    )


@pytest.mark.parametrize(
    "change", [lambda approval: approval.pop("grant"), lambda a: a.update(grant=None)]
)
def test_a_receipt_without_a_grant_has_no_such_check(change: Change) -> None:
    result = verify_receipt(decided(change).envelope, [make_stored_key().trusted])
    assert result.valid
    assert result.grant is None
    assert [check.name for check in result.checks if check.name == GRANT] == []


def test_the_policys_digest_may_stand_beside_the_approval() -> None:
    moved = {"policyId": "p", "version": 1, "digest": "b" * 64}
    approval: dict[str, Any] = {
        "approvalId": APPROVAL_ID,
        "displayDigest": "c" * 64,
        "approver": caller_json(ALICE),
        "verdict": "approve",
        "stage": 1,
        "grant": grant_json(),
    }
    receipt = append_receipt(ACTION, APPROVAL_DECIDED, {"approval": approval, "policy": moved})[1]
    assert verdict(receipt)[:2] == (True, [])


@pytest.mark.parametrize(
    ("stated", "value", "member"),
    [
        ("tenant_id", "globex", "tenantId"),
        ("approval_id", "apr_other", "approvalId"),
        ("action_id", "act_other", "actionId"),
        ("action_digest", "d" * 64, "actionDigest"),
        ("policy_digest", "d" * 64, "policyDigest"),
        ("display_digest", "d" * 64, "displayDigest"),
        ("approver", "spiffe://example/mallory", "approver"),
        ("verdict", "reject", "verdict"),
        ("stage", 2, "stage"),
    ],
)
def test_a_grant_about_anything_else_fails_and_says_in_what(
    stated: str, value: Any, member: str
) -> None:
    """Whoever signs receipts cannot pass a grant of one thing off as that of another."""
    receipt = decided(grant=grant_json(**{stated: value}))
    expected = [f"the grant is about another {member} than the receipt"]
    assert verdict(receipt)[:2] == (False, expected)


@pytest.mark.parametrize("member", ["approvalId", "displayDigest", "verdict", "stage", "approver"])
def test_a_receipt_that_does_not_say_what_was_granted_fails(member: str) -> None:
    valid, problems, _ = verdict(decided(lambda approval: approval.pop(member)))
    assert not valid
    assert problems == [f"the receipt does not say {member}"]


def test_every_difference_is_told() -> None:
    valid, problems, _ = verdict(decided(grant=grant_json(verdict="reject", stage=3)))
    assert not valid
    assert [problem.split()[5] for problem in problems] == ["verdict", "stage"]


def signed_by_nobody(grant: dict[str, Any]) -> None:
    grant["envelope"]["signatures"][0]["sig"] = encode_base64(bytes(64))


def of_another_key(grant: dict[str, Any]) -> None:
    grant["publicKey"], grant["keyId"] = encode_base64(OTHER_PUBLIC), OTHER.key_id


def spelled_otherwise(grant: dict[str, Any]) -> None:
    payload = grant_payload(**STATED).replace(b'","', b'", "')
    grant["envelope"] = sign_grant(payload, KEY).to_json()


def with_more_members(grant: dict[str, Any]) -> None:
    payload = grant_payload(**STATED)[:-1] + b',"z":1}'
    grant["envelope"] = sign_grant(payload, KEY).to_json()


def with_a_true_stage(grant: dict[str, Any]) -> None:
    payload = grant_payload(**STATED).replace(b'"stage":1', b'"stage":true')
    grant["envelope"] = sign_grant(payload, KEY).to_json()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (signed_by_nobody, "the signature is not one of key"),
        (of_another_key, "the envelope names key"),
        (spelled_otherwise, "not canonical JSON"),
        (with_more_members, "has other members"),
        (with_a_true_stage, "another stage"),
        (lambda grant: grant.update(keyId="0" * 16), "keyId is not that of publicKey"),
        (lambda grant: grant.update(publicKey="AAAA"), "publicKey: "),
        (lambda grant: grant.update(publicKey=7), "publicKey: is not text"),
        (lambda grant: grant.update(envelope="x"), "envelope: is not a JSON object"),
        (lambda grant: grant["envelope"].update(payloadType="x"), "payloadType is not"),
        (lambda grant: grant["envelope"].update(payload=encode_base64(b"{")), "is not JSON"),
        (lambda grant: grant["envelope"].update(payload=encode_base64(b"[]")), "not a JSON object"),
        (lambda grant: grant.update(more=1), "is not an object of envelope, keyId, publicKey"),
        (lambda grant: grant.pop("keyId"), "is not an object of envelope, keyId, publicKey"),
    ],
)
def test_a_grant_that_is_not_what_it_says_fails(change: Change, problem: str) -> None:
    grant = copy.deepcopy(grant_json())
    change(grant)
    valid, problems, _ = verdict(decided(grant=grant))
    assert not valid
    assert any(problem in told for told in problems), problems


@pytest.mark.parametrize("grant", [7, "x", [], True, False])
def test_a_grant_of_another_type_fails(grant: Any) -> None:
    assert verdict(decided(grant=grant))[0] is False


def test_pinned_keys_alone_are_accepted() -> None:
    pinned = ApproverTrust(frozenset({PUBLIC, OTHER_PUBLIC}))
    detail = f"by approver key {KEY.key_id}, one of the approver keys supplied"
    assert verdict(decided(), pinned) == (True, [], detail)
    for others in (frozenset({OTHER_PUBLIC}), frozenset[bytes]()):
        valid, problems, _ = verdict(decided(), ApproverTrust(others))
        assert not valid
        assert problems == [f"key {KEY.key_id} is none of the approver keys supplied"]


def test_a_registration_among_the_receipts_says_whose_key_it_is() -> None:
    trust = ApproverTrust()
    note_registration(trust, event(APPROVER_KEY_REGISTERED))
    detail = f"by approver key {KEY.key_id}, registered for the approver in the log"
    assert verdict(decided(), trust) == (True, [], detail)
    of_bob = ApproverTrust()
    note_registration(of_bob, event(APPROVER_KEY_REGISTERED, "spiffe://example/bob"))
    valid, problems, _ = verdict(decided(), of_bob)
    assert not valid
    assert problems == [f"key {KEY.key_id} is registered for 'spiffe://example/bob'"]


def test_what_a_key_signed_after_its_revocation_fails_where_the_order_is_known() -> None:
    for events in (
        [APPROVER_KEY_REGISTERED, APPROVER_KEY_REVOKED],
        [APPROVER_KEY_REVOKED],
        [APPROVER_KEY_REVOKED, APPROVER_KEY_REGISTERED],
    ):
        for in_order in (True, False):
            trust = ApproverTrust(in_order=in_order)
            for type_ in events:
                note_registration(trust, event(type_))
            valid, problems, _ = verdict(decided(), trust)
            assert valid is not in_order
            assert problems == ([f"key {KEY.key_id} was revoked before"] if in_order else [])


def test_a_receipt_of_an_action_registers_no_key() -> None:
    """Only the tenant's own chain tells of keys, whatever an action's receipt calls itself."""
    trust = ApproverTrust()
    told = {"event": {"subject": "x", "keyId": KEY.key_id, "publicKey": "y"}}
    note_registration(trust, append_receipt(ACTION, APPROVER_KEY_REGISTERED, told)[1])
    note_registration(trust, decided())
    assert trust.registered == {}
