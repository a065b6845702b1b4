import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from oars_grpc.core.action import ActionContext
from oars_grpc.core.canonical import canonical_json
from oars_grpc.core.envelope import PAYLOAD_TYPE, Envelope, signature_verifies
from oars_grpc.core.receipt import (
    PREDICATE_TYPE,
    Receipt,
    format_time,
    parse_receipt,
    parse_time,
    write_receipt,
)
from tests.support.factories import (
    NOW,
    append_receipt,
    make_action,
    make_request,
    make_signing_key,
    make_stored_key,
    new_id,
)

RECEIPT_ID = new_id("rcpt")
ACTION = make_action(make_request(delegation_chain=("alice", "planner")))


def make_receipt(**changes: Any) -> Receipt:
    given: dict[str, Any] = {
        "receipt_id": RECEIPT_ID,
        "action": ACTION,
        "type_": "action.requested",
        "detail": {"note": {"count": 1}},
        "now": NOW,
        "key": make_signing_key(),
    }
    return write_receipt(**{**given, **changes})


def test_a_receipt_says_everything_that_matters() -> None:
    statement = json.loads(make_receipt().envelope.payload)
    assert statement == {
        "_type": "https://in-toto.io/Statement/v1",
        "predicateType": "urn:oars:receipt:action:v1",
        "subject": [{"name": ACTION.action_id, "digest": {"sha256": ACTION.action_digest}}],
        "predicate": {
            "receiptId": RECEIPT_ID,
            "tenantId": "acme",
            "actionId": ACTION.action_id,
            "type": "action.requested",
            "sequence": 1,
            "previousReceiptDigest": "",
            "recordedAt": "2026-03-01T12:00:00.123456Z",
            "caller": {
                "subject": "spiffe://example/agent",
                "fingerprintSha256": "ab" * 32,
                "role": "agent",
                "serviceAccountId": "sa-1",
            },
            "agentId": "agent-1",
            "userId": "user-1",
            "delegationChain": ["alice", "planner"],
            "resource": {"toolId": "github", "operation": "get_issue", "target": "repo/1"},
            "context": {
                "environment": "staging",
                "dataTypes": ["public"],
                "attributes": [{"name": "ticket", "value": "T-1"}],
            },
            "execution": "caller",
            "inputDigest": ACTION.input_digest,
            "note": {"count": 1},
        },
    }


def test_a_receipt_is_signed_over_canonical_bytes() -> None:
    envelope = make_receipt().envelope
    assert envelope.payload_type == PAYLOAD_TYPE
    assert canonical_json(json.loads(envelope.payload)) == envelope.payload
    public = make_stored_key().trusted.public_key
    assert signature_verifies(envelope, envelope.signatures[0], public)


def test_the_input_itself_is_not_in_a_receipt() -> None:
    action = make_action(make_request(input={"password": "hunter2"}))
    assert b"hunter2" not in make_receipt(action=action).envelope.payload


def test_data_types_not_stated_are_told_from_none() -> None:
    for data_types, written in ((None, None), ((), [])):
        request = make_request(context=ActionContext("staging", data_types))
        receipt = make_receipt(action=make_action(request))
        context = json.loads(receipt.envelope.payload)["predicate"]["context"]
        assert context["dataTypes"] == written


def test_each_receipt_names_the_digest_of_the_one_before() -> None:
    action, first = append_receipt(ACTION, "action.requested")
    action, second = append_receipt(action, "action.approved")
    assert (first.sequence, second.sequence) == (1, 2)
    assert second.previous_receipt_digest == first.envelope.digest()
    assert parse_receipt(second.envelope).previous_receipt_digest == first.envelope.digest()


def test_what_was_written_is_read_back() -> None:
    _, receipt = append_receipt(append_receipt(ACTION, "action.requested")[0], "action.approved")
    assert parse_receipt(receipt.envelope) == receipt
    assert receipt.key_id == make_signing_key().key_id


def _changed(change: Callable[[dict[str, Any]], object]) -> bytes:
    statement = json.loads(make_receipt().envelope.payload)
    change(statement)
    return canonical_json(statement)


def _set(*path: str, value: Any) -> bytes:
    def change(statement: dict[str, Any]) -> None:
        at: Any = statement
        for name in path[:-1]:
            at = at[name]
        at[path[-1]] = value

    return _changed(change)


PAYLOAD = make_receipt().envelope.payload


@pytest.mark.parametrize(
    ("payload", "problem"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"not json", "not JSON"),
        (b"NaN", "not JSON"),
        (b"null", "not a JSON object"),
        (b"[]", "not a JSON object"),
        (b"[" * 100_000, "not JSON"),
        (b"[" * 600 + b"]" * 600, "not a JSON object"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "not JSON"),
        (b'{"a":' * 1000 + b"1" + b"}" * 1000, "too deeply"),
        (b'{"a":1,"a":1}', "not canonical"),
        (b'{"b":1,"a":1}', "not canonical"),
        (b'{"a": 1}', "not canonical"),
        (b'{"a":1.0}', "not canonical"),
        (b'{"a":"\\u0041"}', "not canonical"),
        (b'{"a":9007199254740993}', "safe integer"),
        (b'{"a":%b}' % (b"9" * 5000), "not JSON"),
        (b'{"a":-%b}' % (b"9" * 400), "not JSON"),
        (b'{"a":18446744073709551616}', "not canonical"),
        (b'{"a":"\\ud800"}', "not JSON"),
        (b"\xef\xbb\xbf" + PAYLOAD, "not JSON"),
        (PAYLOAD + b"\n", "not canonical"),
        (b"{}", "_type"),
        (_set("_type", value="https://in-toto.io/Statement/v0.1"), "_type"),
        (_set("predicateType", value=PREDICATE_TYPE.replace("v1", "v2")), "predicateType"),
        (_set("predicate", value=[]), "predicate is not an object"),
        (_set("subject", value=[]), "subject"),
        (_set("subject", value={}), "subject"),
        (_set("subject", value=["x"]), "subject"),
        (_set("subject", value=[{}, {}]), "subject"),
        (_set("subject", value=[{"name": "act_other"}]), "subject does not name"),
        (_set("subject", value=[{}]), "subject does not name"),
        (_set("predicate", "receiptId", value=7), "predicate.receiptId"),
        (_set("predicate", "tenantId", value=None), "predicate.tenantId"),
        (_set("predicate", "actionId", value={}), "predicate.actionId"),
        (_set("predicate", "receiptId", value="rcpt_x"), "predicate.receiptId is not an id"),
        (_set("predicate", "actionId", value="act_x"), "predicate.actionId is not an id"),
        (_set("predicate", "tenantId", value="a,b"), "predicate.tenantId is not an id"),
        (_set("predicate", "type", value=True), "predicate.type"),
        (_set("predicate", "previousReceiptDigest", value=None), "previousReceiptDigest"),
        (_set("predicate", "recordedAt", value=0), "predicate.recordedAt"),
        (_set("predicate", "recordedAt", value="2026-03-01T12:00:00Z"), "six decimals"),
        (_set("predicate", "recordedAt", value="2026-02-30T12:00:00.000000Z"), "day"),
        (_set("predicate", "sequence", value=0), "sequence"),
        (_set("predicate", "sequence", value=-1), "sequence"),
        (_set("predicate", "sequence", value=True), "sequence"),
        (_set("predicate", "sequence", value="1"), "sequence"),
        (_set("predicate", "sequence", value=1.5), "no integer"),
        (_set("predicate", "sequence", value=2), "only the first receipt"),
        (_set("predicate", "previousReceiptDigest", value="ab" * 32), "only the first receipt"),
    ],
)
def test_a_payload_that_oars_would_not_write_is_refused(payload: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_receipt(Envelope(PAYLOAD_TYPE, payload, ()))


def test_another_payload_type_is_refused() -> None:
    with pytest.raises(ValueError, match="payloadType"):
        parse_receipt(Envelope("application/json", PAYLOAD, ()))


def test_times_are_utc_with_six_decimals() -> None:
    assert format_time(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)) == "2026-01-02T03:04:05.000000Z"
    elsewhere = datetime(2026, 1, 2, 3, 4, 5, 7, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    assert format_time(elsewhere) == "2026-01-01T21:34:05.000007Z"
    assert parse_time(format_time(elsewhere)) == elsewhere


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-01-02T03:04:05Z",
        "2026-01-02T03:04:05.1Z",
        "2026-01-02T03:04:05.1234567Z",
        "2026-01-02T03:04:05.000000+00:00",
        "2026-1-2T3:4:5.000000Z",
        "2026-01-02t03:04:05.000000z",
        "2026-01-02 03:04:05.000000Z",
        "2026-01-02T24:00:00.000000Z",
        "٢٠٢٦-01-02T03:04:05.000000Z",
        "0001-01-02T03:04:05.000000Z0",
    ],
)
def test_every_other_spelling_of_a_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_time(text)


def test_the_key_id_of_an_unsigned_envelope_is_empty() -> None:
    receipt = make_receipt()
    unsigned = Envelope(PAYLOAD_TYPE, receipt.envelope.payload, ())
    assert parse_receipt(unsigned).key_id == ""
