"""Grants that approvers sign: exactly the expected bytes, by exactly one key."""

import json
from dataclasses import replace
from typing import Any

import orjson
import pytest
import rfc8785

from oars_grpc.core.canonical import encode_base64
from oars_grpc.core.envelope import PAYLOAD_TYPE, Envelope, sign_payload
from oars_grpc.core.grant import (
    MAXIMUM_ENVELOPE_BYTES,
    GrantMismatch,
    GrantSignatureInvalid,
    check_signed_grant,
    grant_payload,
    sign_grant,
    signed_grant_json,
)
from oars_grpc.core.keys import signing_key

KEY, PUBLIC = signing_key(bytes(range(32)))
OTHER_KEY, OTHER_PUBLIC = signing_key(bytes(range(1, 33)))
STATED: dict[str, Any] = {
    "tenant_id": "acme",
    "approval_id": "apr_1",
    "action_id": "act_1",
    "action_digest": "a" * 64,
    "policy_digest": "b" * 64,
    "display_digest": "c" * 64,
    "approver": "spiffe://example/päule",
    "verdict": "approve",
    "stage": 1,
}
PAYLOAD = grant_payload(**STATED)


def written(envelope: Envelope) -> bytes:
    return json.dumps(envelope.to_json()).encode()


def test_the_payload_is_canonical_and_has_exactly_the_members_of_the_format() -> None:
    stated = orjson.loads(PAYLOAD)
    assert rfc8785.dumps(stated) == PAYLOAD
    assert stated == {
        "type": "urn:oars:approval-grant:v1",
        "tenantId": "acme",
        "approvalId": "apr_1",
        "actionId": "act_1",
        "actionDigest": "a" * 64,
        "policyDigest": "b" * 64,
        "displayDigest": "c" * 64,
        "approver": "spiffe://example/päule",
        "verdict": "approve",
        "stage": 1,
    }


def test_a_grant_is_taken_by_its_key() -> None:
    envelope = sign_grant(PAYLOAD, KEY)
    for given in (written(envelope), envelope.to_json(), envelope):
        grant = check_signed_grant(given, PAYLOAD, PUBLIC)
        assert signed_grant_json(grant) == {
            "envelope": envelope.to_json(),
            "publicKey": encode_base64(PUBLIC),
            "keyId": KEY.key_id,
        }


@pytest.mark.parametrize(
    "changed",
    [
        {"tenant_id": "globex"},
        {"approval_id": "apr_2"},
        {"action_id": "act_2"},
        {"action_digest": "d" * 64},
        {"policy_digest": "d" * 64},
        {"display_digest": "d" * 64},
        {"approver": "spiffe://example/mallory"},
        {"verdict": "reject"},
        {"stage": 2},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_a_grant_of_anything_else_is_refused(changed: dict[str, Any]) -> None:
    other = sign_grant(grant_payload(**{**STATED, **changed}), KEY)
    with pytest.raises(GrantMismatch):
        check_signed_grant(written(other), PAYLOAD, PUBLIC)


def test_the_same_statement_in_another_spelling_is_refused() -> None:
    spaced = json.dumps(orjson.loads(PAYLOAD)).encode()
    with pytest.raises(GrantMismatch):
        check_signed_grant(written(sign_grant(spaced, KEY)), PAYLOAD, PUBLIC)


def test_a_signature_by_another_key_is_refused_whatever_it_calls_itself() -> None:
    by_other = sign_grant(PAYLOAD, OTHER_KEY)
    posing = replace(by_other, signatures=(replace(by_other.signatures[0], keyid=KEY.key_id),))
    for envelope in (by_other, posing):
        with pytest.raises(GrantSignatureInvalid):
            check_signed_grant(written(envelope), PAYLOAD, PUBLIC)
    with pytest.raises(GrantSignatureInvalid):
        check_signed_grant(written(sign_grant(PAYLOAD, KEY)), PAYLOAD, OTHER_PUBLIC)


def test_a_signature_over_another_payload_type_is_no_grant() -> None:
    """A receipt's signature never counts as a grant's: the type is signed, too."""
    receipt = sign_payload(PAYLOAD, KEY)
    assert receipt.payload_type == PAYLOAD_TYPE
    with pytest.raises(ValueError, match="payloadType"):
        check_signed_grant(written(receipt), PAYLOAD, PUBLIC)
    grant = sign_grant(PAYLOAD, KEY)
    relabelled = replace(grant, signatures=receipt.signatures)
    with pytest.raises(GrantSignatureInvalid):
        check_signed_grant(written(relabelled), PAYLOAD, PUBLIC)


GOOD = sign_grant(PAYLOAD, KEY).to_json()
SIGNATURE = GOOD["signatures"][0]


@pytest.mark.parametrize(
    "given",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b"{}",
        json.dumps(GOOD | {"more": 1}).encode(),
        json.dumps(GOOD | {"signatures": []}).encode(),
        json.dumps(GOOD | {"signatures": [SIGNATURE, SIGNATURE]}).encode(),
        json.dumps(GOOD | {"signatures": [SIGNATURE | {"more": 1}]}).encode(),
        json.dumps(GOOD | {"signatures": [SIGNATURE | {"keyid": "\x00" * 16}]}).encode(),
        json.dumps(GOOD | {"signatures": [SIGNATURE | {"keyid": "A" * 16}]}).encode(),
        json.dumps(GOOD | {"signatures": {"keyid": "a"}}).encode(),
        json.dumps(GOOD | {"payload": GOOD["payload"] + "\n"}).encode(),
        json.dumps(GOOD | {"payload": 7}).encode(),
        json.dumps(
            {"payload_type" if k == "payloadType" else k: v for k, v in GOOD.items()}
        ).encode(),
        json.dumps(GOOD).encode() + b" " * MAXIMUM_ENVELOPE_BYTES,
    ],
)
def test_what_is_no_envelope_of_a_grant_is_refused(given: bytes) -> None:
    with pytest.raises(ValueError) as caught:
        check_signed_grant(given, PAYLOAD, PUBLIC)
    assert not isinstance(caught.value, GrantMismatch | GrantSignatureInvalid)
