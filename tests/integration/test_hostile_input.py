"""Hostile input over REST and gRPC: a precise refusal, nothing of the inside, and service goes on.

Most tables are made from the descriptors: every rpc, every field of a kind. What is refused by the
sidecar has its own reasons; what is refused by the server names the field.
"""

import json
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from oars_grpc.generated.oars.v1 import (
    action_evidence_pb2,
    action_pb2,
    approval_pb2,
    approver_pb2,
    control_pb2,
    evidence_pb2,
    policy_pb2,
    receipt_pb2,
    retention_pb2,
    tenant_pb2,
)
from oars_grpc.transport.access import ACCESS
from tests.support.client import Client, action_body, submit
from tests.support.factories import new_id
from tests.support.rpcs import (
    LATTICE_RPCS,
    RPCS,
    UNKNOWN_IDS,
    Refusal,
    Rpc,
    call_grpc,
    call_rest,
    document,
    grounded_submission,
    grpc_refusal,
    lattice_request,
    packed,
    refused_by_grpc,
    registration,
    rest_refusal,
)

# Any: keyword arguments of messages take dicts, which the stubs do not know.
A: Any = action_pb2
P: Any = policy_pb2
R: Any = receipt_pb2
T: Any = tenant_pb2
V: Any = approval_pb2
C: Any = control_pb2
E: Any = evidence_pb2
E2: Any = action_evidence_pb2
H: Any = retention_pb2
K: Any = approver_pb2
INVALID = grpc.StatusCode.INVALID_ARGUMENT
INSIDE = re.compile(
    r"Traceback|/\w+\.py\b|line \d+, in |site-packages|psycopg|sqlalchemy|postgres|/tmp/"
    r"|\.sock|0x[0-9a-f]{8}|upstream|envoy|grpcio|python",
    re.IGNORECASE,
)
JSON_HEADERS = {"content-type": "application/json"}
MARK = "QQQQQQQQ"
# DER of an Ed25519 public key up to its 32 bytes (RFC 8410).
ED25519_PREFIX = bytes.fromhex("302a300506032b6570032100")


@pytest.fixture(autouse=True)
def _still_serves(agent: Client) -> Iterator[None]:
    """After each test a good request is answered, over REST and gRPC."""
    yield
    submit(agent, action_body())
    agent.actions.ListActions(A.ListActionsRequest(page_size=1), timeout=10)


def faultless(refusal: Refusal) -> Refusal:
    """The refusal, which must be the client's fault."""
    assert refusal.code not in (
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.UNAVAILABLE,
    ), refusal
    return refusal


def clean(refusal: Refusal) -> Refusal:
    """The same, and it must tell nothing of the inside."""
    assert not INSIDE.search(repr(faultless(refusal))), refusal
    return refusal


def workflow_settings() -> T.TenantSettings:
    stage = V.Stage(name="approval", sla_seconds=60)
    return T.TenantSettings(workflows=[V.Workflow(workflow_id="default", stages=[stage])])


FILLED: dict[str, Message] = {
    "SubmitAction": grounded_submission(),
    "SimulatePolicy": json_format.ParseDict(
        action_body() | {"time": "2026-01-01T00:00:00Z"},
        P.SimulatePolicyRequest(
            document=document(), caller={"subject": "spiffe://oars.dev/x", "role": "agent"}
        ),
    ),
    "CreateTenant": T.CreateTenantRequest(tenant_id="tenant_alpha", settings=workflow_settings()),
    "UpdateTenant": T.UpdateTenantRequest(tenant_id="tenant_alpha", settings=workflow_settings()),
    "CompleteAction": A.CompleteActionRequest(outcome=A.OUTCOME_FAILED, error="down"),
    "DecideApproval": V.DecideApprovalRequest(
        verdict=V.VERDICT_APPROVE, action_digest="a" * 64, display_digest="b" * 64
    ),
    "CreatePolicy": P.CreatePolicyRequest(document=document()),
    "ReplayPolicy": P.ReplayPolicyRequest(document=document()),
    "VerifyReceipt": R.VerifyReceiptRequest(
        envelope={"payload": b"{}"},
        keys=[{"tenant_id": "tenant_alpha", "public_key": b"k", "valid_from": {"seconds": 1}}],
    ),
    "EnrollSecondFactor": K.EnrollSecondFactorRequest(tenant_id="tenant_alpha", subject="s"),
    "RemoveSecondFactor": K.RemoveSecondFactorRequest(tenant_id="tenant_alpha", subject="s"),
    "GetSecondFactor": K.GetSecondFactorRequest(tenant_id="tenant_alpha", subject="s"),
    "RegisterApproverKey": registration("tenant_alpha"),
    "RevokeApproverKey": K.RevokeApproverKeyRequest(
        tenant_id="tenant_alpha", key_id="0" * 16, reason="lost"
    ),
    "ListApproverKeys": K.ListApproverKeysRequest(tenant_id="tenant_alpha"),
    "ListTrustedKeys": R.ListTrustedKeysRequest(tenant_id="tenant_alpha"),
    "RevokeSigningKey": T.RevokeSigningKeyRequest(
        tenant_id="tenant_alpha", key_id="0" * 16, reason="lost"
    ),
    "CreateControlMapping": C.CreateControlMappingRequest(
        framework="soc2",
        control_id="CC6.1",
        required_evidence=[C.EVIDENCE_TYPE_POLICY_DECISION],
    ),
    "GetCoverageReport": C.GetCoverageReportRequest(
        framework="soc2",
        **{"from": {"seconds": 1_700_000_000}},
        until={"seconds": 1_700_086_400},
        period=C.COVERAGE_PERIOD_DAY,
    ),
    "PlaceLegalHold": H.PlaceLegalHoldRequest(
        tenant_id="tenant_alpha", name="matter", reason="asked for"
    ),
    "ReleaseLegalHold": H.ReleaseLegalHoldRequest(tenant_id="tenant_alpha", reason="over"),
    "GetLegalHold": H.GetLegalHoldRequest(tenant_id="tenant_alpha"),
    "ListLegalHolds": H.ListLegalHoldsRequest(tenant_id="tenant_alpha"),
    "ProveCompleteness": R.ProveCompletenessRequest(tenant_id="tenant_alpha"),
    "GetCheckpoint": R.GetCheckpointRequest(tenant_id="tenant_alpha"),
    "GetConsistencyProof": R.GetConsistencyProofRequest(tenant_id="tenant_alpha", from_size=1),
    **{name: lattice_request(name) for name in LATTICE_RPCS},
}


def base(name: str) -> Any:
    """A request that is well formed, about things that do not exist where it names any."""
    rpc = RPCS[name]
    request: Any = rpc.request_class()
    for field, value in UNKNOWN_IDS.items():
        if field in rpc.fields and name != "VerifyReceipt":
            setattr(request, field, value)
    if name in FILLED:
        request.MergeFrom(FILLED[name])
    elif rpc.descriptor.containing_service.name == "TenantService" and "tenant_id" in rpc.fields:
        request.tenant_id = "tenant_alpha"
    return request


Place = tuple[FieldDescriptor, ...]


def in_map(field: FieldDescriptor) -> bool:
    """Whether a field is the key or the value of a map's entry."""
    entry = field.containing_type
    return entry is not None and entry.GetOptions().map_entry


def is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def places(message: Descriptor, wanted: Callable[[FieldDescriptor], bool]) -> Iterator[Place]:
    """Where a request has fields of a kind, down to every nested message."""
    for field in message.fields:
        if wanted(field):
            yield (field,)
        if field.message_type and field.message_type.file.package == "oars.v1":
            for rest in places(field.message_type, wanted):
                yield (field, *rest)


def path_of(place: Place) -> str:
    """The path as BadRequest writes it; lists and maps are filled with one entry."""
    if place[-1].name == "value" and in_map(place[-1]):
        return f"{path_of(place[:-2])}.{place[-2].name}[k]".lstrip(".")
    return ".".join(f"{f.name}[0]" if f.is_repeated else f.name for f in place)


def put(request: Message, place: Place, value: Any) -> None:
    """Set one field of a request."""
    found: Any = request
    for field in place[:-1]:
        found = getattr(found, field.name)
        if field.is_repeated and not is_map(field):
            found = found[0] if found else found.add()
    last = place[-1]
    if in_map(last) and last.name == "value":
        found["k"] = value
    elif in_map(last):
        found[value] = "v" if place[-2].name == "attributes" else 1
    elif last.is_repeated:
        getattr(found, last.name)[:] = [value]
    elif last.message_type:
        getattr(found, last.name).CopyFrom(value)
    else:
        setattr(found, last.name, value)


def is_text(field: FieldDescriptor) -> bool:
    return field.type == FieldDescriptor.TYPE_STRING


def has_type(name: str) -> Callable[[FieldDescriptor], bool]:
    return lambda f: f.message_type is not None and f.message_type.full_name == name


def judged(rpc: Rpc, place: Place) -> bool:
    """What verification judges rather than the parser: labels and what is signed."""
    return rpc.name == "VerifyReceipt" and place[-1].name in (
        "keyid",
        "payload_type",
        "key_id",
        "revocation_reason",
        "proof",
    )


ALL = sorted(RPCS)
WITH_BODY = sorted(name for name, rpc in RPCS.items() if rpc.verb != "GET")


Ask = Callable[[str], Client]


@pytest.fixture
def ask(agent: Client, admin: Client) -> Ask:
    """Someone whom access control lets through; agents list receipts of one action only."""

    def choose(name: str) -> Client:
        roles = ACCESS[RPCS[name].path].roles or frozenset()
        return agent if "agent" in roles and name != "ListReceipts" else admin

    return choose


@pytest.mark.parametrize("name", ALL)
def test_control_characters_are_refused_in_every_text_field(ask: Ask, name: str) -> None:
    rpc = RPCS[name]
    for place in places(rpc.descriptor.input_type, is_text):
        for text in ("a\x00b", "a\x1bb", "\x00", "a\u0085b"):
            request = base(name)
            put(request, place, text)
            if judged(rpc, place):
                (answer,) = call_grpc(ask(name), rpc, request)
                assert isinstance(answer, R.VerifyReceiptResponse)
                assert not answer.valid
                continue
            refusal = clean(refused_by_grpc(ask(name), rpc, request))
            expected = path_of(place)
            if in_map(place[-1]) and place[-1].name == "key":
                expected = path_of(place[:-1]).removesuffix("[0]")
            # There may be more to say against it, but of no other field.
            assert (refusal.code, {*refusal.fields}) == (INVALID, {expected}), (text, refusal)


@pytest.mark.parametrize("name", ALL)
def test_bytes_that_are_not_utf8_are_refused_in_every_text_field(ask: Ask, name: str) -> None:
    rpc = RPCS[name]
    for place in places(rpc.descriptor.input_type, is_text):
        request = base(name)
        put(request, place, MARK)
        raw = request.SerializeToString().replace(
            MARK.encode(), b"\xed\xa0\x80\xff\xfe\xc0\xaf\x80"
        )
        refusal = clean(refused_by_grpc(ask(name), rpc, raw))
        assert (refusal.code, refusal.fields) == (INVALID, ("request",))


@pytest.mark.parametrize("name", WITH_BODY)
def test_lone_surrogates_in_json_are_refused(ask: Ask, name: str) -> None:
    rpc = RPCS[name]
    for place in places(rpc.descriptor.input_type, is_text):
        if f"{{{place[0].name}}}" in rpc.route:
            continue
        request = base(name)
        put(request, place, MARK)
        written = json_format.MessageToJson(request).encode()
        for text in (rb"\ud800", rb"\udfff", rb"\ud800x", b"\xff\xfe", b"\xed\xa0\x80"):
            answer = ask(name).rest.request(
                rpc.verb,
                rest_path(rpc, request),
                content=written.replace(MARK.encode(), text),
                headers=JSON_HEADERS,
            )
            assert clean(rest_refusal(answer)).code is INVALID, (path_of(place), text)


def rest_path(rpc: Rpc, request: Message) -> str:
    return re.sub(r"\{(\w+)\}", lambda m: getattr(request, m.group(1)) or "x", rpc.route)


def wrong_values(field: FieldDescriptor) -> tuple[Any, ...]:
    """JSON of a type that the field does not have."""
    if field.is_repeated:
        # One value stands for a list of one, in the transcoder's eyes.
        return (
            ([], "x", 1) if is_map(field) else ("x", 7, ["x"]) if field.message_type else ({}, [{}])
        )
    if field.message_type:
        return ("x", [], 7.5, True)
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING:
            return ({}, [], 7, True) if is_text(field) else ({}, [], "!!!")
        case FieldDescriptor.CPPTYPE_ENUM:
            return ("NO_SUCH_VALUE", {}, [], 1.5, 2**40, "")
        case FieldDescriptor.CPPTYPE_BOOL:
            return ("maybe", {}, 7)
        case _:
            return ("x", {}, [], 1.5, 10**30, True)


@pytest.mark.parametrize("name", WITH_BODY)
def test_json_of_a_wrong_type_is_refused_for_every_field(ask: Ask, name: str) -> None:
    rpc = RPCS[name]
    for place in places(rpc.descriptor.input_type, lambda _: True):
        if f"{{{place[0].name}}}" in rpc.route:
            continue
        for value in wrong_values(place[-1]):
            body: Any = value
            for field in reversed(place):
                wrapped = body if field is place[-1] or not field.is_repeated else [body]
                body = {field.json_name: wrapped}
            answer = ask(name).rest.request(rpc.verb, rest_path(rpc, base(name)), json=body)
            assert answer.is_client_error, (path_of(place), value, answer.text)
            assert clean(rest_refusal(answer)).code is INVALID


@pytest.mark.parametrize("name", ALL)
def test_unknown_numbers_are_refused_in_every_enum(ask: Ask, name: str) -> None:
    rpc = RPCS[name]
    for place in places(rpc.descriptor.input_type, lambda f: f.enum_type is not None):
        for number in (99, -1, 2**31 - 1):
            request = base(name)
            put(request, place, number)
            refusal = clean(refused_by_grpc(ask(name), rpc, request))
            assert (refusal.code, refusal.fields[:1]) == (INVALID, (path_of(place),))


@pytest.mark.parametrize("name", ALL)
def test_times_out_of_range_are_refused(ask: Ask, name: str) -> None:
    rpc = RPCS[name]
    kind = has_type("google.protobuf.Timestamp")
    for place in places(rpc.descriptor.input_type, kind):
        for seconds, nanos in ((2**62, 0), (-(2**63), 0), (0, -1), (0, 10**9), (253402300800, 0)):
            request = base(name)
            put(request, place, Timestamp(seconds=seconds, nanos=nanos))
            refusal = clean(refused_by_grpc(ask(name), rpc, request))
            assert (refusal.code, refusal.fields) == (INVALID, (path_of(place),))


def nested_bytes(levels: int) -> bytes:
    """A serialised Value of lists in lists, deeper than a message class would write."""
    raw = b"\x08\x00"
    for _ in range(levels):
        for tag in (b"\x0a", b"\x32"):  # ListValue.values, Value.list_value
            raw = tag + varint(len(raw)) + raw
    return raw


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


@pytest.mark.parametrize("name", ALL)
def test_json_objects_have_limits(ask: Ask, name: str) -> None:
    rpc = RPCS[name]
    deep: list[Any] = []
    for _ in range(40):
        deep = [deep]
    huge_paths = {"k" * 300_000: [None] * 60_000}
    for place in places(rpc.descriptor.input_type, has_type("google.protobuf.Struct")):
        for value in (
            {"a": "b\x00"},
            {"a\x00": 1},
            {"a": {"b": ["\x00"]}},
            {"a": math.nan},
            {"a": [math.inf]},
            {"a": {"b": -math.inf}},
            {"a": 2.0**53},
            {"a": -(2.0**53)},
            {"a": 1e308},
            {"a": deep},
            {"a": "x" * 140_000},
            {"a": [math.nan] * 5000},
            {"é" * 5000: math.nan},
            huge_paths,
        ):
            request = base(name)
            getattr(request, place[0].name).update(value)
            refusal = clean(refused_by_grpc(ask(name), rpc, request))
            assert refusal.code is INVALID
            assert all(
                re.match(rf"{place[0].name}\b|request$", field) for field in refusal.fields
            ), refusal
        request = base(name)
        getattr(request, place[0].name).fields["a"].SetInParent()  # a Value of no kind
        assert refused_by_grpc(ask(name), rpc, request).fields == (f"{place[0].name}.a",)
        entry = b"\x0a\x01a\x12" + varint(len(nested_bytes(200))) + nested_bytes(200)
        struct = b"\x0a" + varint(len(entry)) + entry
        tag = varint(place[0].number << 3 | 2)
        raw = base(name).SerializeToString() + tag + varint(len(struct)) + struct
        assert clean(refused_by_grpc(ask(name), rpc, raw)).fields == ("request",)


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e400", "9007199254740992"])
def test_numbers_that_json_or_doubles_lack_are_refused_over_rest(agent: Client, text: str) -> None:
    body = json.dumps(action_body(input={"n": MARK})).replace(f'"{MARK}"', text)
    answer = agent.rest.post("/v1/actions", content=body.encode(), headers=JSON_HEADERS)
    assert clean(rest_refusal(answer)).code is INVALID


BAD_IDS: tuple[str, ...] = (
    "x",
    "{head}_",
    "{head}_{body}0",
    "xx_{body}",
    "{head}_{upper}",
    "{head}_" + "z" * 26,
)
BAD_IDS += ("{head}_" + "0" * 26, "{head}-{body}", " {head}_{body}", "{head}_{body}\n", "x" * 5000)
BAD_TENANTS = ("A", "1a", "a" * 65, "a b", "é", "../x", "a\n", "a/b", "*", "x" * 5000)


@pytest.mark.parametrize("name", ALL)
def test_malformed_ids_are_refused(ask: Ask, name: str) -> None:
    rpc = RPCS[name]
    for field in sorted(rpc.fields & {*UNKNOWN_IDS, "tenant_id"}):
        texts: tuple[str, ...] = BAD_TENANTS
        if field != "tenant_id":
            head, _, body = UNKNOWN_IDS[field].partition("_")
            texts = tuple(
                text.format(head=head, body=body, upper=body.upper().replace("0", "A"))
                for text in BAD_IDS
            )
        for text in texts:
            request = base(name)
            if field == "receipt_id" and name == "VerifyReceipt":
                request.ClearField("envelope")
            setattr(request, field, text)
            refusal = clean(refused_by_grpc(ask(name), rpc, request))
            assert (refusal.code, refusal.fields) == (INVALID, (field,)), text
            rest = clean(rest_refusal(call_rest(ask(name), rpc, request)))
            assert rest.code in (INVALID, grpc.StatusCode.NOT_FOUND)  # `a/b` is another route


@pytest.mark.parametrize("name", ALL)
def test_required_fields_are_named_when_missing(ask: Ask, name: str) -> None:
    """An empty message names what it lacks: the first id, or everything that is required."""
    required = {
        "SubmitAction": ("agent_id", "resource.tool_id", "resource.operation"),
        "SimulatePolicy": ("agent_id", "resource.tool_id", "resource.operation"),
        "CreatePolicy": ("document",),
        "ReplayPolicy": ("draft",),
        "VerifyReceipt": ("receipt_id",),
        "CreateTenant": ("tenant_id",),
        "RevokeSigningKey": ("tenant_id", "key_id", "reason"),
        "EnrollSecondFactor": ("tenant_id", "subject"),
        "RemoveSecondFactor": ("tenant_id", "subject"),
        "GetSecondFactor": ("tenant_id", "subject"),
        "RegisterApproverKey": ("tenant_id", "subject", "public_key", "proof"),
        "RevokeApproverKey": ("tenant_id", "key_id", "reason"),
        "CreateControlMapping": ("framework", "control_id"),
        "PlaceLegalHold": ("tenant_id", "name", "reason"),
        "ReleaseLegalHold": ("tenant_id", "reason"),
        "SettleOnce": ("dimension", "anchors", "query"),
        "CreateSmallLattice": ("dimension", "anchors"),
        "UpsertAnchors": ("indices", "anchors"),
        "RemoveAnchors": ("indices",),
        "QueryLattice": ("queries",),
        "ScoreChain": ("query", "chain"),
        "ComputeGates": ("query",),
        "VerifyLatticeReceipt": ("receipt_id",),
    }
    rpc = RPCS[name]
    named = re.search(r"\{(\w+)\}", rpc.route)
    expected = required.get(name, (named.group(1),) if named else ())
    if not expected:
        assert call_grpc(ask(name), rpc, b"")  # a list of the caller's one tenant
        return
    refusal = clean(refused_by_grpc(ask(name), rpc, b""))
    assert refusal.code is INVALID
    assert set(refusal.fields) == set(expected)
    if rpc.verb != "GET" and not named:
        assert rest_refusal(ask(name).rest.request(rpc.verb, rpc.route, json={})) == refusal


ACTION = UNKNOWN_IDS["action_id"]
APPROVAL = UNKNOWN_IDS["approval_id"]


def complete(**fields: Any) -> Any:
    return A.CompleteActionRequest(action_id=ACTION, **fields)


def decide(**fields: Any) -> Any:
    shown = {"display_digest": "b" * 64}
    return V.DecideApprovalRequest(approval_id=APPROVAL, **(shown | fields))


def with_context(**context: Any) -> Any:
    return json_format.ParseDict(action_body(context=context), A.SubmitActionRequest())


def with_evidence(**evidence: Any) -> Any:
    """A submission whose evidence is fine but for what is changed; None leaves a member out."""
    request = grounded_submission()
    for name, value in evidence.items():
        request.evidence.ClearField(name)
        if name == "items":
            request.evidence.items.extend(value)
        elif value is not None:
            setattr(request.evidence, name, value)
    return request


def item(**changes: Any) -> Any:
    members = {"id": "i", "text": "t", "embedding": packed(1, 0, 0)} | changes
    return E2.EvidenceItem(**{name: value for name, value in members.items() if value is not None})


def policy(*rules: dict[str, Any], **fields: Any) -> Any:
    made = [{"id": f"r{n}", "effect": "EFFECT_ALLOW"} | rule for n, rule in enumerate(rules)]
    body = {"document": {"name": "n", "rules": made} | fields}
    return json_format.ParseDict(body, P.CreatePolicyRequest())


def tenant(**settings: Any) -> Any:
    return T.UpdateTenantRequest(tenant_id="tenant_alpha", settings=settings)


RULE = "document.rules[0]"
WINDOW = f"{RULE}.match.time_window_utc"
REFUSED: dict[str, tuple[str, Message, tuple[str, ...]]] = {
    "long cursor": (
        "WatchApprovals",
        V.WatchApprovalsRequest(cursor="x" * 257),
        ("cursor",),
    ),
    "forged cursor": (
        "WatchApprovals",
        V.WatchApprovalsRequest(cursor="AAAAAAAAAAAAAAAAAAAAAAAwIA"),
        ("cursor",),
    ),
    "no outcome": ("CompleteAction", complete(), ("outcome",)),
    "failed, no error": ("CompleteAction", complete(outcome=2), ("error",)),
    "succeeded, error": ("CompleteAction", complete(outcome=1, error="x"), ("error",)),
    "long error": ("CompleteAction", complete(outcome=2, error="x" * 2049), ("error",)),
    "no verdict": ("DecideApproval", decide(action_digest="a" * 64), ("verdict",)),
    "no digest": ("DecideApproval", decide(verdict=1), ("action_digest",)),
    "nothing shown": (
        "DecideApproval",
        decide(verdict=1, action_digest="a" * 64, display_digest=""),
        ("display_digest",),
    ),
    "five digits": (
        "DecideApproval",
        decide(verdict=1, action_digest="a" * 64, one_time_code="12345"),
        ("one_time_code",),
    ),
    "long grant": (
        "DecideApproval",
        decide(verdict=1, action_digest="a" * 64, signed_grant="x" * 8193),
        ("signed_grant",),
    ),
    "not started, no error": ("CompleteAction", complete(outcome=3), ("error",)),
    "upper digest": (
        "DecideApproval",
        decide(verdict=1, action_digest="A" * 64),
        ("action_digest",),
    ),
    "long reason": (
        "CancelAction",
        A.CancelActionRequest(action_id=ACTION, reason="x" * 1025),
        ("reason",),
    ),
    "33 data types": (
        "SubmitAction",
        with_context(dataTypes=[f"t{n}" for n in range(33)]),
        ("context.data_types",),
    ),
    "none and more": (
        "SubmitAction",
        with_context(dataTypes=["none", "pii"]),
        ("context.data_types",),
    ),
    "33 attributes": (
        "SubmitAction",
        with_context(attributes={f"a{n}": "" for n in range(33)}),
        ("context.attributes",),
    ),
    "long attribute name": (
        "SubmitAction",
        with_context(attributes={"é" * 20000: ""}),
        ("context.attributes",),
    ),
    "17 delegators": (
        "SubmitAction",
        A.SubmitActionRequest(
            agent_id="a", resource={"tool_id": "t", "operation": "o"}, delegation_chain=["x"] * 17
        ),
        ("delegation_chain",),
    ),
    "evidence of nothing": ("SubmitAction", with_evidence(items=[]), ("evidence",)),
    "items and a lattice": (
        "SubmitAction",
        with_evidence(lattice_id=new_id("lat")),
        ("evidence",),
    ),
    "no lattice's id": (
        "SubmitAction",
        with_evidence(items=[], lattice_id=new_id("act")),
        ("evidence.lattice_id",),
    ),
    "no embedding of the action": (
        "SubmitAction",
        with_evidence(action_embedding=None),
        ("evidence.action_embedding",),
    ),
    "half a number": (
        "SubmitAction",
        with_evidence(items=[], lattice_id=new_id("lat"), action_embedding=bytes(9)),
        ("evidence.action_embedding",),
    ),
    "embedding of zeros": (
        "SubmitAction",
        with_evidence(action_embedding=bytes(12)),
        ("evidence.action_embedding",),
    ),
    "129 items": (
        "SubmitAction",
        with_evidence(items=[item(id=f"i{n}") for n in range(129)]),
        ("evidence.items",),
    ),
    "embeddings of 2049 numbers": (
        "SubmitAction",
        with_evidence(items=[], lattice_id=new_id("lat"), action_embedding=packed(*[1] * 2049)),
        ("evidence.action_embedding",),
    ),
    "more than 512 KiB of embeddings": (
        "SubmitAction",
        with_evidence(
            action_embedding=packed(*[1] * 2048),
            items=[item(id=f"i{n}", embedding=packed(*[1] * 2048)) for n in range(65)],
        ),
        ("evidence",),
    ),
    "everything wrong with an item": (
        "SubmitAction",
        with_evidence(
            items=[item(), item(id="", text=None, embedding=None, trust=math.nan, adverse=-0.1)]
        ),
        (
            "evidence.items[1].id",
            "evidence.items[1]",
            "evidence.items[1].embedding",
            "evidence.items[1].trust",
            "evidence.items[1].adverse",
        ),
    ),
    "embeddings that are none": (
        "SubmitAction",
        with_evidence(
            items=[
                item(id="a", embedding=packed(math.nan, 1, 1)),
                item(id="b", embedding=packed(1, math.inf, 1)),
                item(id="c", embedding=packed(1, 1)),
                item(id="d", embedding=packed(0, -0.0, 0)),
                item(id="e", embedding=packed(1, 1, 2e15)),
            ]
        ),
        tuple(f"evidence.items[{n}].embedding" for n in range(5)),
    ),
    "items of one id": (
        "SubmitAction",
        with_evidence(items=[item(), item(id="j"), item()]),
        ("evidence.items[2].id",),
    ),
    "upper digest of an item": (
        "SubmitAction",
        with_evidence(items=[item(text=None, digest="A" * 64)]),
        ("evidence.items[0].digest",),
    ),
    "long text of an item": (
        "SubmitAction",
        with_evidence(items=[item(text="x" * 2049)]),
        ("evidence.items[0].text",),
    ),
    "1001 rules": ("CreatePolicy", policy(*[{}] * 1001), ("document.rules",)),
    "no rules": ("CreatePolicy", policy(), ("document.rules",)),
    "no name": ("CreatePolicy", policy({}, name=""), ("document.name",)),
    "no effect": ("CreatePolicy", policy({"effect": 0}), (f"{RULE}.effect",)),
    "rule twice": (
        "CreatePolicy",
        policy({"id": "r"}, {}, {"id": "r"}),
        ("document.rules[2].id",),
    ),
    "201 tools": (
        "CreatePolicy",
        policy({"match": {"toolIds": ["t"] * 201}}),
        (f"{RULE}.match.tool_ids",),
    ),
    "hours over the day": (
        "CreatePolicy",
        policy({"match": {"timeWindowUtc": {"startHour": 24, "endHour": -1}}}),
        (f"{WINDOW}.start_hour", f"{WINDOW}.end_hour"),
    ),
    "hours the same": (
        "CreatePolicy",
        policy({"match": {"timeWindowUtc": {"startHour": 3, "endHour": 3}}}),
        (WINDOW,),
    ),
    "permit over a day": (
        "UpdateTenant",
        tenant(permit_seconds=86401),
        ("settings.permit_seconds",),
    ),
    "negative wait": ("UpdateTenant", tenant(approval_seconds=-1), ("settings.approval_seconds",)),
    "unknown weight": (
        "UpdateTenant",
        tenant(risk_weights={"nope": 1}),
        ("settings.risk_weights",),
    ),
    "long weight": (
        "UpdateTenant",
        tenant(risk_weights={"é" * 200_000: 1}),
        ("settings.risk_weights",),
    ),
    "long subject": (
        "EnrollSecondFactor",
        K.EnrollSecondFactorRequest(tenant_id="tenant_alpha", subject="s" * 1025),
        ("subject",),
    ),
    "no Ed25519 key": (
        "RegisterApproverKey",
        registration("tenant_alpha", public_key=b"\x30\x00"),
        ("public_key",),
    ),
    "key of small order": (
        "RegisterApproverKey",
        registration("tenant_alpha", public_key=ED25519_PREFIX + b"\x01" + bytes(31)),
        ("public_key",),
    ),
    "large key": (
        "RegisterApproverKey",
        registration("tenant_alpha", public_key=b"x" * 1025),
        ("public_key",),
    ),
    "short proof": (
        "RegisterApproverKey",
        registration("tenant_alpha", proof=b"x" * 63),
        ("proof",),
    ),
    "blank reason": (
        "RevokeApproverKey",
        K.RevokeApproverKeyRequest(tenant_id="tenant_alpha", key_id="0" * 16, reason=" "),
        ("reason",),
    ),
    "65 keys": (
        "VerifyReceipt",
        R.VerifyReceiptRequest(envelope={}, keys=[{}] * 65),
        ("keys",),
    ),
    "large payload": (
        "VerifyReceipt",
        R.VerifyReceiptRequest(envelope={"payload": b"x" * (256 * 1024 + 1)}),
        ("envelope.payload",),
    ),
    "id and envelope": (
        "VerifyReceipt",
        R.VerifyReceiptRequest(envelope={}, receipt_id=UNKNOWN_IDS["receipt_id"]),
        ("receipt_id",),
    ),
}


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_values_out_of_bounds_are_refused_over_both(ask: Ask, case: str) -> None:
    name, request, fields = REFUSED[case]
    over_grpc = clean(refused_by_grpc(ask(name), RPCS[name], request))
    assert (over_grpc.code, over_grpc.fields) == (INVALID, fields)
    assert clean(rest_refusal(call_rest(ask(name), RPCS[name], request))) == over_grpc


@pytest.mark.parametrize("name", [name for name in ALL if "page_size" in RPCS[name].fields])
def test_pages_out_of_range_and_foreign_tokens_are_refused(
    ask: Ask, admin: Client, name: str
) -> None:
    rpc = RPCS[name]
    for _ in range(2):
        submit(admin, action_body())
    page = admin.actions.ListActions(A.ListActionsRequest(page_size=1), timeout=10)
    token = page.next_page_token
    for field, value in (
        *(("page_size", number) for number in (-1, 201, 2**31 - 1, -(2**31))),
        *(("page_token", text) for text in ("garbage", "é", "A" * 8000, "=" * 9, "Ę" * 64)),
        ("page_token", token[:-2] + ("AA" if token[-2:] != "AA" else "BB")),
        ("page_token", token + "A"),
        ("page_token", token if name != "ListActions" else token[1:]),
    ):
        request = base(name)
        setattr(request, field, value)
        refusal = clean(refused_by_grpc(ask(name), rpc, request))
        assert (refusal.code, refusal.fields) == (INVALID, (field,)), value
        assert rest_refusal(call_rest(ask(name), rpc, request)) == refusal


@pytest.mark.parametrize(
    ("condition", "line", "column"),
    [
        ("1 +", 1, 4),
        ("true &&\n  bogus == 1", 2, 3),
        ("risk.score", 1, 1),
        ("risk.score > 99999999999999999999", 1, 14),
        ("(" * 900 + "true" + ")" * 900, 1, 1),
        ('"' + "😀" * 1900, 1, 1),
        ("z" * 2000, 1, 1),
        ('"\\ud800" == ""', 1, 1),
    ],
)
def test_a_bad_condition_is_refused_with_its_place(
    admin: Client, condition: str, line: int, column: int
) -> None:
    request = policy({"condition": condition})
    refusal = clean(refused_by_grpc(admin, RPCS["CreatePolicy"], request))
    ((field, description),) = refusal.violations
    assert field == f"{RULE}.condition"
    assert description.startswith(f"line {line}, column {column}: ")
    assert rest_refusal(call_rest(admin, RPCS["CreatePolicy"], request)) == refusal


def test_a_thousand_faults_are_one_answer_that_arrives(admin: Client) -> None:
    """Violations travel in trailers, of which there is room for 8 KiB."""
    request = policy(*({"id": "é" * 64, "condition": "x +"} for _ in range(1000)))
    refusal = clean(refused_by_grpc(admin, RPCS["CreatePolicy"], request))
    assert refusal.code is INVALID
    assert len(refusal.fields) > 2
    assert rest_refusal(call_rest(admin, RPCS["CreatePolicy"], request)) == refusal


BAD_HEADERS: dict[str, tuple[str, str | bytes]] = {
    "a key of 300 bytes": ("idempotency-key", "k" * 300),
    "an empty key": ("idempotency-key", ""),
    "a key with a tab": ("idempotency-key", "a\tb"),
    "a key in UTF-8": ("idempotency-key", "schlüssel"),
    "a key of no encoding": ("idempotency-key", b"\xff\xfe"),
    "a long request id": ("x-request-id", "r" * 129),
    "a request id with a blank": ("x-request-id", "a b"),
    "a request id with markup": ("x-request-id", "<x>"),
    "a request id in UTF-8": ("x-request-id", "ü"),
}


@pytest.mark.parametrize("name", WITH_BODY)
def test_malformed_headers_are_refused(ask: Ask, name: str) -> None:
    rpc, request = RPCS[name], base(name)
    for case, (header, value) in BAD_HEADERS.items():
        if header == "idempotency-key" and not ACCESS[rpc.path].mutating:
            continue  # only changes take a key
        raw = value if isinstance(value, bytes) else value.encode()
        answer = ask(name).rest.request(
            rpc.verb,
            rest_path(rpc, request),
            content=b"{}",
            headers=[(b"content-type", b"application/json"), (header.encode(), raw)],
        )
        assert clean(rest_refusal(answer)).fields == (header,), case
        if raw.isascii() and raw.decode().isprintable():  # grpcio sends nothing else
            metadata = ((header, raw.decode()),)
            refusal = clean(refused_by_grpc(ask(name), rpc, request, metadata))
            assert refusal.fields == (header,), case


def test_a_key_given_twice_is_refused(agent: Client) -> None:
    header = "idempotency-key"
    twice = [("content-type", "application/json"), (header, "a"), (header, "a")]
    answer = agent.rest.post("/v1/actions", content=b"{}", headers=twice)
    assert clean(rest_refusal(answer)).fields == (header,)
    pair = ((header, "a"), (header, "b"))
    assert refused_by_grpc(agent, RPCS["SubmitAction"], b"", pair).fields == (header,)


@pytest.mark.parametrize("bytes_", [40_000, 200_000])
def test_huge_headers_are_refused(agent: Client, bytes_: int) -> None:
    """Over HTTP/2 the sidecar ends the stream without an answer: there is none to be precise in."""
    answer = agent.rest.get("/v1/actions", headers={"x-big": "a" * bytes_})
    assert answer.status_code == 431
    assert clean(rest_refusal(answer)).reason == "HEADERS_TOO_LARGE"
    many = agent.rest.get("/v1/actions", headers={f"x-{n}": "a" for n in range(150)})
    assert clean(rest_refusal(many)).reason == "HEADERS_TOO_LARGE"
    with pytest.raises(grpc.RpcError):
        call_grpc(agent, RPCS["ListActions"], b"", (("x-big", "a" * bytes_),))


@pytest.mark.parametrize("name", ["SubmitAction", "CreatePolicy", "VerifyReceipt", "CreateTenant"])
def test_ten_megabytes_are_refused(ask: Ask, name: str) -> None:
    rpc = RPCS[name]
    body = b'{"tenantId":"' + b"a" * 10_000_000 + b'"}'
    answer = ask(name).rest.request(rpc.verb, rpc.route, content=body, headers=JSON_HEADERS)
    assert answer.status_code == 413
    assert clean(rest_refusal(answer)).reason == "REQUEST_TOO_LARGE"
    over_grpc = clean(refused_by_grpc(ask(name), rpc, b"\x0a" * 10_000_000))
    assert over_grpc.code is grpc.StatusCode.RESOURCE_EXHAUSTED


BODIES: dict[str, bytes] = {
    "null": b"null",
    "a list": b"[]",
    "a text": b'"x"',
    "a number": b"1",
    "cut off": b'{"agentId":',
    "two values": b"{} {}",
    "a NUL": b"\x00",
    "a byte order mark": b"\xff\xfe{\x00}\x00",
    "an unquoted name": b"{agentId: 1,,}",
    "200 lists": b'{"input":{"a":' + b"[" * 200 + b"]" * 200 + b"}}",
    "200 objects": b'{"input":' + b'{"a":' * 200 + b"1" + b"}" * 200 + b"}",
    "200 levels in an unknown field": b'{"zzz":' + b"[" * 200 + b"]" * 200 + b"}",
    "100,000 open lists": b'{"input":{"a":' + b"[" * 100_000,
}


@pytest.mark.parametrize("name", WITH_BODY)
def test_bodies_that_are_no_request_are_refused(ask: Ask, name: str) -> None:
    rpc = RPCS[name]
    for case, body in BODIES.items():
        answer = ask(name).rest.request(
            rpc.verb, rest_path(rpc, base(name)), content=body, headers=JSON_HEADERS
        )
        assert clean(rest_refusal(answer)).code is INVALID, case


@pytest.mark.parametrize("name", ALL)
def test_malformed_protobuf_is_refused(ask: Ask, name: str) -> None:
    for raw in (b"\xff", b"\x08", b"\x0a\x7f", b"\x0a\xff\xff\xff\xff\x0f", b"\x0b"):
        refusal = clean(refused_by_grpc(ask(name), RPCS[name], raw))
        assert (refusal.code, refusal.fields) == (INVALID, ("request",)), raw


@pytest.mark.parametrize("name", WITH_BODY)
def test_other_content_types_are_refused(ask: Ask, name: str) -> None:
    rpc = RPCS[name]
    for content_type in ("text/plain", "application/xml", "", "multipart/form-data"):
        answer = ask(name).rest.request(
            rpc.verb,
            rest_path(rpc, base(name)),
            content=b"{}",
            headers={"content-type": content_type},
        )
        assert answer.status_code == 415
        assert clean(rest_refusal(answer)).reason == "UNSUPPORTED_CONTENT_TYPE"


@pytest.mark.parametrize(
    "path", ["/oars.v1.ActionService/Nope", "/oars.v9.Nope/SubmitAction", "/nothing", "/a/b/c"]
)
def test_unknown_methods_are_unimplemented(agent: Client, path: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        agent.channel.unary_unary(path, bytes, bytes)(b"", timeout=10)
    assert clean(grpc_refusal(caught.value)).code is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/v1/nothing", grpc.StatusCode.NOT_FOUND),
        ("/v1/actions/a/b/c", grpc.StatusCode.NOT_FOUND),
        ("/v1/actions/%00", INVALID),
        ("/v1/actions/%ff%fe", INVALID),
        ("/v1/actions/%2e%2e%2fpolicies", INVALID),
        ("/v1/actions?page_size=x", INVALID),
        ("/v1/actions?page_size=99999999999", INVALID),
        ("/v1/actions?state=NOPE", INVALID),
        ("/v1/actions?state=99", INVALID),
        ("/v1/actions?nope=1", INVALID),
        ("/v1/actions?agent_id=%00", INVALID),
        ("/v1/actions?tenant_id=%ED%A0%80", INVALID),
        ("/v1/receipts?type=%0a", INVALID),
        ("/oars.v1.ActionService/SubmitAction", grpc.StatusCode.NOT_FOUND),
    ],
)
def test_paths_and_queries_that_mean_nothing_are_refused(
    agent: Client, path: str, code: grpc.StatusCode
) -> None:
    assert clean(rest_refusal(agent.rest.get(path))).code is code


def test_of_two_equal_members_the_last_counts_everywhere(agent: Client) -> None:
    """The transcoder cannot refuse them (deploy/envoy/README.md); one reading is what matters."""
    body = json.dumps(action_body())[:-1] + ', "agent_id": "agent-2", "agentId": "agent-3"}'
    answer = agent.rest.post("/v1/actions", content=body.encode(), headers=JSON_HEADERS)
    assert answer.json()["action"]["agentId"] == "agent-3"
    assert {receipt["type"] for receipt in answer.json()["receipts"]} >= {"action.requested"}


def test_a_receipt_of_any_bytes_is_judged_and_never_breaks(agent: Client) -> None:
    for payload in (
        b"",
        b"null",
        b"\xff",
        b"[" * 100_000,
        b"[" * 900 + b"]" * 900,
        b'{"a":' * 1000 + b"1" + b"}" * 1000,
        b'{"_type":"https://in-toto.io/Statement/v1","predicate":[],"subject":[null]}',
        b'{"a":"\\ud800"}',
        b'{"a":1e400}',
        b'{"a":18446744073709551615}',
    ):
        request = R.VerifyReceiptRequest(
            envelope={"payload_type": "application/vnd.in-toto+json", "payload": payload},
            previous={"payload": payload},
        )
        request.envelope.signatures.add(keyid="\x00", sig=b"x")
        answer = agent.receipts.VerifyReceipt(request, timeout=20)
        assert not answer.valid
        assert not INSIDE.search(" ".join(answer.errors)), answer.errors
