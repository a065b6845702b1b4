"""Fuzz of the live port: whatever bytes come in, the answer is an answer or the caller's fault."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import grpc
import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from oars_grpc.generated.oars.v1 import action_pb2, policy_pb2, receipt_pb2, tenant_pb2
from oars_grpc.local.stack import LocalStack
from tests.integration.test_hostile_input import base, faultless
from tests.support.client import Client, client_for
from tests.support.identities import add_identity
from tests.support.rpcs import (
    RPCS,
    grpc_refusal,
    rest_deadline,
    rest_refusal,
    submission,
)

TENANT = "tenant_fuzz"
BOUNDED = settings(max_examples=120, deadline=None, database=None)
NAMES = st.sampled_from(sorted(RPCS))

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)
TOKENS = st.sampled_from(
    [
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        ".",
        ",",
        "?",
        ":",
        "!",
        "-",
        "+",
        "*",
        "/",
        "%",
        "&&",
        "||",
        "==",
        "!=",
        "<",
        "<=",
        "in",
        "true",
        "false",
        "null",
        "0",
        "1",
        "9e99",
        "1u",
        '"a"',
        "'b'",
        "r'c'",
        "b'\\xff'",
        "risk.score",
        "risk.tier",
        "resource.operation",
        "context.data_types",
        "input.a",
        "evidence",
        "has",
        "size",
        "matches",
        "all",
        "map",
        "exists",
        "timestamp",
        "duration",
        "int",
        "string",
        "dyn",
        "é",
        "\n",
        "/*",
        "//",
    ]
)


@pytest.fixture(scope="module")
def fuzzer(stack: LocalStack) -> Iterator[Client]:
    """An administrator of a tenant that may be bent out of shape."""
    add_identity(stack, "fuzzer", role="admin", tenants=[TENANT])
    with client_for(stack, "fuzzer") as client:
        client.tenants.CreateTenant(tenant_pb2.CreateTenantRequest(tenant_id=TENANT), timeout=20)
        yield client
        client.actions.SubmitAction(submission(), timeout=20)  # it still serves


def send(client: Client, name: str, raw: bytes) -> list[bytes]:
    """Send; an error must be the caller's fault (it may quote what was sent)."""
    rpc = RPCS[name]
    try:
        if rpc.descriptor.server_streaming:
            return list(client.channel.unary_stream(rpc.path, bytes, bytes)(raw, timeout=2))
        return [client.channel.unary_unary(rpc.path, bytes, bytes)(raw, timeout=30)]
    except grpc.RpcError as error:
        refusal = faultless(grpc_refusal(error))
        # A watch of approvals goes on until shortly before its deadline, in good time or not.
        late = refusal.code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert name == "WatchApprovals" or not late, refusal
        return []


def valid(name: str) -> bytes:
    request: Any = base(name)
    if "tenant_id" in RPCS[name].fields:
        request.tenant_id = TENANT
    raw: bytes = request.SerializeToString()
    return raw


@st.composite
def mutated(draw: st.DrawFn, raw: bytes) -> bytes:
    """A few bytes changed, put in, taken out or repeated."""
    data = bytearray(raw)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        match draw(st.integers(0, 3)):
            case 0:
                data[at:at] = draw(st.binary(min_size=1, max_size=4))
            case 1:
                del data[at : at + draw(st.integers(1, 8))]
            case 2:
                data[at : at + 1] = bytes([draw(st.integers(0, 255))])
            case _:
                data[at:at] = data[at : at + draw(st.integers(1, 64))]
    return bytes(data)


@BOUNDED
@seed(1)
@given(name=NAMES, raw=st.binary(max_size=256))
def test_random_bytes(fuzzer: Client, name: str, raw: bytes) -> None:
    send(fuzzer, name, raw)


@settings(BOUNDED, max_examples=300)
@seed(2)
@given(data=st.data())
def test_messages_with_a_few_bytes_changed(fuzzer: Client, data: st.DataObject) -> None:
    name = data.draw(NAMES)
    send(fuzzer, name, data.draw(mutated(valid(name))))


@BOUNDED
@seed(3)
@given(
    text=st.text(max_size=40),
    object_=st.dictionaries(st.text(max_size=8), JSON, max_size=4),
    labels=st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=3),
    number=st.integers(-(2**31), 2**31 - 1),
)
def test_any_text_number_and_object_in_a_submission(
    fuzzer: Client, text: str, object_: dict[str, Any], labels: dict[str, str], number: int
) -> None:
    request = submission()
    request.resource.operation = request.context.environment = request.resource.target = text
    request.context.data_types[:] = [text]
    request.context.attributes.update(labels)
    request.execution = number % 3
    try:
        request.input.update(object_)
    except (ValueError, OverflowError):
        return  # not even a Struct
    for raw in send(fuzzer, "SubmitAction", request.SerializeToString()):
        answer = action_pb2.SubmitActionResponse.FromString(raw)
        assert answer.action.resource.operation == text
        assert len(answer.receipts) == 2


@settings(BOUNDED, max_examples=150)
@seed(4)
@given(condition=st.lists(TOKENS, max_size=25).map(" ".join) | st.text(max_size=60))
def test_any_condition(fuzzer: Client, condition: str) -> None:
    """What is accepted is also decided, with an action that lacks most facts."""
    request: Any = policy_pb2.SimulatePolicyRequest(agent_id="a")
    request.resource.tool_id = request.resource.operation = "t"
    request.document.name = "n"
    request.document.rules.add(id="r", effect=policy_pb2.EFFECT_ALLOW, condition=condition)
    send(fuzzer, "SimulatePolicy", request.SerializeToString())


@BOUNDED
@seed(5)
@given(data=st.data())
def test_receipts_with_a_few_bytes_changed_do_not_verify(
    fuzzer: Client, data: st.DataObject
) -> None:
    receipt = fuzzer.actions.SubmitAction(submission(), timeout=20).receipts[0]
    payload = data.draw(mutated(receipt.envelope.payload))
    request = receipt_pb2.VerifyReceiptRequest(envelope=receipt.envelope)
    request.envelope.payload = payload
    for raw in send(fuzzer, "VerifyReceipt", request.SerializeToString()):
        valid_ = receipt_pb2.VerifyReceiptResponse.FromString(raw).valid
        assert valid_ is (payload == receipt.envelope.payload)


@settings(BOUNDED, max_examples=200)
@seed(6)
@given(name=NAMES, body=JSON, fields=st.dictionaries(st.text(max_size=8), JSON, max_size=3))
def test_any_json_over_rest(fuzzer: Client, name: str, body: Any, fields: dict[str, Any]) -> None:
    rpc = RPCS[name]
    known = sorted(rpc.descriptor.input_type.fields_by_camelcase_name)
    value = {known[len(fields) % len(known)]: body, **fields}
    path = rpc.route.replace("{tenant_id}", TENANT)
    path = path.replace("{", "").replace("}", "")
    if rpc.verb == "GET":
        query = {key: str(item) for key, item in value.items()}
        answer = fuzzer.rest.get(path, params=query, headers=rest_deadline(rpc))
    else:
        answer = fuzzer.rest.request(rpc.verb, path, json=value)
    if not answer.is_success:
        faultless(rest_refusal(answer))


@BOUNDED
@seed(7)
@given(tail=st.text(max_size=24), query=st.text(max_size=24), key=st.binary(max_size=24))
def test_any_path_query_and_header_over_rest(
    fuzzer: Client, tail: str, query: str, key: bytes
) -> None:
    """Bytes that no HTTP client can send in a header are replaced."""
    sendable = bytes(byte for byte in key if byte >= 32 and byte != 127).strip()
    answer = fuzzer.rest.post(
        f"/v1/actions/{quote(tail, safe='/:;@%')}",
        params={"q": query} if query else None,
        json={},
        headers={b"idempotency-key": sendable},
    )
    if not answer.is_success:
        faultless(rest_refusal(answer))
