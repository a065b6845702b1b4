"""The rpcs with their routes, calls in both ways, refusals read alike, and whole requests."""

import os
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote
from uuid import UUID

import grpc
import httpx
import numpy as np
import pytest
from google.api import annotations_pb2
from google.protobuf import json_format
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from oars_grpc.core.approver_key import registration_message
from oars_grpc.core.ids import format_id
from oars_grpc.core.keys import signing_key
from oars_grpc.generated.oars.v1 import (
    action_pb2,
    approval_pb2,
    approver_pb2,
    control_pb2,
    evidence_pb2,
    lattice_pb2,
    policy_pb2,
    receipt_pb2,
    retention_pb2,
    tenant_pb2,
)
from tests.support.client import Client
from tests.support.factories import new_id

FILES = (
    action_pb2,
    approval_pb2,
    approver_pb2,
    control_pb2,
    evidence_pb2,
    lattice_pb2,
    policy_pb2,
    receipt_pb2,
    retention_pb2,
    tenant_pb2,
)
TENANT = "tenant_parity"
# Well formed, and of nothing that exists.
UNKNOWN = UUID("01890000-0000-7000-8000-000000000000")
UNKNOWN_IDS = {
    "action_id": format_id("act", UNKNOWN),
    "approval_id": format_id("apr", UNKNOWN),
    "mapping_id": format_id("map", UNKNOWN),
    "policy_id": format_id("pol", UNKNOWN),
    "lattice_id": format_id("lat", UNKNOWN),
    "other_lattice_id": format_id("lat", UNKNOWN),
    "receipt_id": format_id("rcpt", UNKNOWN),
    "hold_id": format_id("hold", UNKNOWN),
}
HTTP_OF_CODE = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
}
CODES = {code.value[0]: code for code in grpc.StatusCode}


@dataclass(frozen=True)
class Rpc:
    """One rpc and its route."""

    descriptor: MethodDescriptor
    verb: str
    route: str

    @property
    def name(self) -> str:
        return self.descriptor.name

    @property
    def path(self) -> str:
        return f"/{self.descriptor.containing_service.full_name}/{self.name}"

    @property
    def request_class(self) -> type[Message]:
        return GetMessageClass(self.descriptor.input_type)

    @property
    def fields(self) -> frozenset[str]:
        return frozenset(field.name for field in self.descriptor.input_type.fields)


def _rpcs() -> Iterator[Rpc]:
    for file in FILES:
        for service in file.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                rule = method.GetOptions().Extensions[annotations_pb2.http]
                verb = rule.WhichOneof("pattern")
                if verb:
                    yield Rpc(method, verb.upper(), getattr(rule, verb))


RPCS = {rpc.name: rpc for rpc in _rpcs()}


@dataclass(frozen=True)
class Refusal:
    """What a caller learns from a refusal, the same over REST and gRPC."""

    code: grpc.StatusCode
    reason: str
    violations: tuple[tuple[str, str], ...]
    message: str

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(field for field, _ in self.violations)


def seconds_for(rpc: Rpc) -> int:
    """How long a call may take; the one that nothing but its deadline ends lasts so long."""
    return 3 if rpc.name == "WatchApprovals" else 20


def rest_deadline(rpc: Rpc) -> dict[str, str]:
    """The header that says the same over REST, where it is needed."""
    return {"grpc-timeout": f"{seconds_for(rpc)}S"} if rpc.name == "WatchApprovals" else {}


def call_rest(
    client: Client, rpc: Rpc, request: Message, headers: Mapping[str, str] | None = None
) -> httpx.Response:
    """The request on the rpc's route: path, then query or body."""
    rest = json_format.MessageToDict(request, preserving_proto_field_name=True)

    def segment(match: re.Match[str]) -> str:
        rest.pop(match.group(1), None)
        return quote(getattr(request, match.group(1)), safe="")

    path = re.sub(r"\{(\w+)\}", segment, rpc.route)
    if rpc.verb == "GET":
        headers = {**rest_deadline(rpc), **(headers or {})}
        return client.rest.get(path, params=rest or None, headers=headers)
    return client.rest.request(rpc.verb, path, json=rest, headers=headers)


def call_grpc(
    client: Client,
    rpc: Rpc,
    request: Message | bytes,
    metadata: tuple[tuple[str, str], ...] = (),
) -> list[Message]:
    """The messages that come back."""
    raw = request if isinstance(request, bytes) else request.SerializeToString()
    read = GetMessageClass(rpc.descriptor.output_type).FromString
    if rpc.descriptor.server_streaming:
        stream = client.channel.unary_stream(rpc.path, bytes, read)
        return list(stream(raw, timeout=seconds_for(rpc), metadata=metadata))
    unary = client.channel.unary_unary(rpc.path, bytes, read)
    return [unary(raw, timeout=20, metadata=metadata)]


def rest_refusal(answer: httpx.Response) -> Refusal:
    """The refusal in a REST reply; its HTTP status must be the one of its code."""
    body = answer.json()
    details = {
        detail["@type"].rpartition(".")[2]: detail
        for detail in body["details"]
        if detail["@type"].startswith("type.googleapis.com/google.rpc.")
    }
    violations = details.get("BadRequest", {}).get("fieldViolations", [])
    code = CODES[body["code"]]
    assert details["ErrorInfo"]["domain"] == "oars"
    # The sidecar's own refusals use further HTTP statuses (413, 415, 431).
    assert answer.status_code == HTTP_OF_CODE[code] or 410 < answer.status_code < 500, answer.text
    return Refusal(
        code,
        details["ErrorInfo"]["reason"],
        tuple((each["field"], each["description"]) for each in violations),
        body["message"],
    )


def grpc_refusal(error: Any) -> Refusal:
    """The refusal in a gRPC status; the sidecar's own have no details."""
    status = rpc_status.from_call(error)
    if status is None:
        return Refusal(error.code(), "", (), error.details() or "")
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status.details:
        _ = detail.Unpack(info) or detail.Unpack(bad)
    violations = tuple((each.field, each.description) for each in bad.field_violations)
    return Refusal(CODES[status.code], info.reason, violations, status.message)


def refused_by_grpc(
    client: Client,
    rpc: Rpc,
    request: Message | bytes,
    metadata: tuple[tuple[str, str], ...] = (),
) -> Refusal:
    """The refusal of a call that must be refused."""
    with pytest.raises(grpc.RpcError) as caught:
        call_grpc(client, rpc, request, metadata)
    return grpc_refusal(caught.value)


def submission(operation: str = "create_ticket", tenant_id: str = "") -> Any:
    """A complete submission."""
    request = action_pb2.SubmitActionRequest(
        tenant_id=tenant_id,
        agent_id="agent-1",
        delegation_chain=["team:desk"],
        execution=action_pb2.EXECUTION_CALLER,
    )
    request.resource.tool_id, request.resource.operation = "desk", operation
    request.resource.target = "support/é"
    request.context.environment = "staging"
    request.context.data_types.append("none")
    request.context.attributes["ticket"] = "T-1"
    request.input.update({"title": "Größe", "list": [1, 2.5, None, True, {"a": "b"}]})
    if operation == "transfer_funds":
        request.input["case"] = new_id("act")  # as in `action_body`
    return request


def packed(*numbers: float) -> bytes:
    """An embedding as it travels."""
    return struct.pack(f"<{len(numbers)}f", *numbers)


def grounded_submission(operation: str = "create_ticket", tenant_id: str = "") -> Any:
    """A complete submission with evidence."""
    request = submission(operation, tenant_id)
    request.evidence.action_embedding = packed(0.8, 0.6, 0.0)
    request.evidence.items.add(
        id="note:1", text="Größe\nis wrong", embedding=packed(1, 0, 0), trust=0.75, adverse=0.5
    )
    request.evidence.items.add(id="file:2", digest="ab" * 32, embedding=packed(0, 1, -0.0))
    return request


def registration(
    tenant_id: str = TENANT, subject: str = "spiffe://é", seed: bytes = b"", **changes: bytes
) -> approver_pb2.RegisterApproverKeyRequest:
    """A request to register a key that nobody has; `changes` break it."""
    key, public_key = signing_key(seed or os.urandom(32))
    return approver_pb2.RegisterApproverKeyRequest(
        tenant_id=tenant_id,
        subject=subject,
        public_key=changes.get("public_key", public_key),
        proof=changes.get("proof", key.sign(registration_message(tenant_id, subject, public_key))),
    )


def document(name: str = "parity") -> policy_pb2.PolicyDocument:
    """A document that has every state of a submission within reach."""
    rule, match = policy_pb2.Rule, policy_pb2.RuleMatch
    return policy_pb2.PolicyDocument(
        name=name,
        combining_algorithm=policy_pb2.COMBINING_ALGORITHM_FIRST_MATCH,
        rules=[
            rule(
                id="q",
                effect=policy_pb2.EFFECT_QUARANTINE,
                match=match(operations=["export_report"]),
            ),
            rule(
                id="a",
                effect=policy_pb2.EFFECT_APPROVE,
                match=match(operations=["transfer_funds"]),
            ),
            rule(id="d", effect=policy_pb2.EFFECT_DENY, match=match(operations=["delete_all"])),
            rule(id="w", effect=policy_pb2.EFFECT_ALLOW, condition="risk.score < 101"),
        ],
    )


LATTICE_DIMENSION = 4


def numbers(rows: int, columns: int = LATTICE_DIMENSION, seed: int | None = None) -> bytes:
    """Packed rows of a lattice's numbers, others each time."""
    made = np.random.default_rng(seed).normal(size=(rows, columns)).astype("<f4")
    return made.tobytes()


def lattice_request(name: str, **fields: Any) -> Any:
    """A complete request of an rpc about lattices, of 12 anchors."""
    complete: dict[str, dict[str, Any]] = {
        "SettleOnce": {
            "dimension": LATTICE_DIMENSION,
            "anchors": numbers(12),
            "query": numbers(1),
            "gates": np.linspace(0.5, 1.0, 12, dtype="<f4").tobytes(),
            "chain": {"nodes": [0, 1, 2]},
            "parameters": {"neighbors": 3, "anchor_weight": 2.5},
            "detail": lattice_pb2.LATTICE_DETAIL_FULL,
            "top": 3,
            "include_state": True,
        },
        "CreateSmallLattice": {
            "display_name": "Größe",
            "dimension": LATTICE_DIMENSION,
            "anchors": numbers(12),
            "chain": {"nodes": [3, 4, 5]},
        },
        "UpsertAnchors": {"indices": [0, 12], "anchors": numbers(2)},
        "RemoveAnchors": {"indices": [7]},
        "QueryLattice": {"queries": numbers(2), "top": 3, "state_rows": 2},
        "ScoreChain": {"query": numbers(1), "chain": {"nodes": [2, 1, 0]}},
        "ComputeGates": {"query": numbers(1), "screening": 0.5},
        "CompareLattices": {"other_lattice_id": UNKNOWN_IDS["lattice_id"]},
        "VerifyLatticeReceipt": {
            "receipt_id": UNKNOWN_IDS["receipt_id"],
            "query": numbers(1),
            "dimension": LATTICE_DIMENSION,
            "anchors": numbers(12),
            "gates": np.linspace(0.5, 1.0, 12, dtype="<f4").tobytes(),
            "chain": {"nodes": [0, 1, 2]},
            "parameters": {"neighbors": 3},
        },
    }
    return RPCS[name].request_class(**(complete.get(name, {}) | fields))


LATTICE_RPCS = tuple(
    name for name, rpc in RPCS.items() if rpc.descriptor.containing_service.name == "LatticeService"
)
