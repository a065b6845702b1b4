"""A client of the stack with one certificate: REST by httpx, gRPC by the generated stubs."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx

from oars_grpc.generated.oars.v1.action_pb2_grpc import ActionServiceStub
from oars_grpc.generated.oars.v1.approval_pb2_grpc import ApprovalServiceStub
from oars_grpc.generated.oars.v1.control_pb2_grpc import ControlServiceStub
from oars_grpc.generated.oars.v1.evidence_pb2_grpc import EvidenceServiceStub
from oars_grpc.generated.oars.v1.lattice_pb2_grpc import LatticeServiceStub
from oars_grpc.generated.oars.v1.policy_pb2_grpc import PolicyServiceStub
from oars_grpc.generated.oars.v1.receipt_pb2_grpc import ReceiptServiceStub
from oars_grpc.generated.oars.v1.tenant_pb2_grpc import TenantServiceStub
from oars_grpc.local.stack import LocalStack
from tests.support.factories import new_id


@dataclass(frozen=True)
class Client:
    """Both ways in, for one identity."""

    rest: httpx.Client
    channel: grpc.Channel

    @property
    def actions(self) -> ActionServiceStub:
        return ActionServiceStub(self.channel)

    @property
    def approvals(self) -> ApprovalServiceStub:
        return ApprovalServiceStub(self.channel)

    @property
    def evidence(self) -> EvidenceServiceStub:
        return EvidenceServiceStub(self.channel)

    @property
    def controls(self) -> ControlServiceStub:
        return ControlServiceStub(self.channel)

    @property
    def lattices(self) -> LatticeServiceStub:
        return LatticeServiceStub(self.channel)

    @property
    def policies(self) -> PolicyServiceStub:
        return PolicyServiceStub(self.channel)

    @property
    def receipts(self) -> ReceiptServiceStub:
        return ReceiptServiceStub(self.channel)

    @property
    def tenants(self) -> TenantServiceStub:
        return TenantServiceStub(self.channel)


def credentials(certificates: Path, name: str) -> grpc.ChannelCredentials:
    """Channel credentials of a certificate in a directory made by the generator."""
    return grpc.ssl_channel_credentials(
        (certificates / "ca.pem").read_bytes(),
        (certificates / f"{name}.key").read_bytes(),
        (certificates / f"{name}.pem").read_bytes(),
    )


@contextmanager
def client_for(stack: LocalStack, name: str) -> Iterator[Client]:
    """A client with the certificate of a role or of an identity added by a test."""
    channel = grpc.secure_channel(stack.grpc_target, credentials(stack.certificates, name))
    with stack.client(name) as rest, channel:
        yield Client(rest, channel)


# Of high risk with an operation that moves money: people decide, and no second factor is needed.
RISKY = {"environment": "production", "dataTypes": ["none"]}


def action_body(operation: str = "create_ticket", **changes: Any) -> dict[str, Any]:
    """A JSON body of SubmitAction that the built-in policy allows; replace what a test is about."""
    body: dict[str, Any] = {
        "agentId": "agent-1",
        "resource": {"toolId": "desk", "operation": operation, "target": "support/1"},
        "context": {"environment": "staging", "dataTypes": ["none"]},
        "input": {"title": "Login fails"},
    }
    if operation == "transfer_funds":
        # Each asks for something else: what asks the same joins what waits already, perhaps since
        # another test.
        body["input"]["case"] = new_id("act")
    return body | changes


def submit(client: Client, body: Mapping[str, Any], **headers: str) -> dict[str, Any]:
    """Submit over REST and expect success."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = client.rest.post("/v1/actions", json=body, headers=named)
    assert answer.status_code == httpx.codes.OK, answer.text
    found: dict[str, Any] = answer.json()
    return found
