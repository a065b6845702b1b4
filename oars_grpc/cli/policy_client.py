"""Asks a server for policies over REST, with a client certificate."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import httpx
from google.protobuf import json_format

from oars_grpc.cli.rest_call import object_of, open_rest, opened_connection
from oars_grpc.core.policy import PolicyDocument
from oars_grpc.errors import FieldViolation, OarsError
from oars_grpc.generated.oars.v1 import policy_pb2
from oars_grpc.transport.policy_messages import read_document, write_document

_PAGE = 200


class PolicyRefused(Exception):
    """The server answered that it will not, and why."""

    def __init__(self, message: str, reason: str, violations: tuple[FieldViolation, ...]) -> None:
        super().__init__(message)
        self.message, self.reason, self.violations = message, reason, violations


@dataclass(frozen=True, slots=True)
class ServedPolicy:
    """A policy as the server tells of it; `document` None if it did not send that."""

    policy_id: str
    version: int
    digest: str
    state: str
    document: PolicyDocument | None = None

    @property
    def is_published(self) -> bool:
        """Whether it decides the tenant's actions."""
        return self.state == "POLICY_STATE_PUBLISHED"


@dataclass(frozen=True, slots=True)
class PolicyClient:
    """The policies of one tenant."""

    http: httpx.Client
    tenant_id: str

    def published(self) -> ServedPolicy:
        """The policy that decides now.

        Raises:
            PolicyRefused: the server will not say.
        """
        token = ""
        while True:
            query = {"tenant_id": self.tenant_id, "page_size": _PAGE, "page_token": token}
            page = self._ask("GET", "/v1/policies", params=query)
            for entry in page.get("policies", []):
                found = _served(entry)
                if found.is_published:
                    return found
            token = page.get("nextPageToken", "")
            if not token:
                raise PolicyRefused(f"{self.tenant_id} has no published policy", "", ())

    def get(self, policy_id: str) -> ServedPolicy:
        """A policy with its document.

        Raises:
            PolicyRefused: the server will not say.
        """
        query = {"tenant_id": self.tenant_id}
        answer = self._ask("GET", f"/v1/policies/{policy_id}", params=query)
        return _served(answer.get("policy", {}))

    def create(self, document: PolicyDocument, key: str) -> ServedPolicy:
        """Make a draft of a document.

        Raises:
            PolicyRefused: the server will not.
        """
        message = policy_pb2.CreatePolicyRequest(
            tenant_id=self.tenant_id, document=write_document(document)
        )
        body = json_format.MessageToDict(message)
        headers = {"idempotency-key": key}
        answer = self._ask("POST", "/v1/policies", json=body, headers=headers)
        return _served(answer.get("policy", {}))

    def publish(self, policy_id: str, key: str) -> ServedPolicy:
        """Make a policy the one that decides.

        Raises:
            PolicyRefused: the server will not.
        """
        body, headers = {"tenantId": self.tenant_id}, {"idempotency-key": key}
        path = f"/v1/policies/{policy_id}/publish"
        return _served(self._ask("POST", path, json=body, headers=headers).get("policy", {}))

    def _ask(self, method: str, path: str, **given: Any) -> dict[str, Any]:
        try:
            answer = self.http.request(method, path, **given)
        except httpx.TransportError as error:
            raise click.ClickException(f"{self.http.base_url}: {error}") from error
        body = object_of(path, answer)
        if answer.status_code != httpx.codes.OK:
            raise _refusal(body, f"{path}: HTTP {answer.status_code}")
        return body


@contextmanager
def policy_client(connection_file: Path, tenant_id: str, role: str) -> Iterator[PolicyClient]:
    """A client by a connection.json; an empty tenant is that of the connection."""
    connection = opened_connection(connection_file)
    with open_rest(connection, role) as http:
        yield PolicyClient(http, tenant_id or connection["tenant"])


def _refusal(body: Mapping[str, Any], otherwise: str) -> PolicyRefused:
    """The status of an error as Envoy transcodes it (google.rpc.Status)."""
    details = [detail for detail in body.get("details", []) if isinstance(detail, dict)]
    violations = tuple(
        FieldViolation(str(found.get("field", "")), str(found.get("description", "")))
        for detail in details
        for found in detail.get("fieldViolations", [])
        if isinstance(found, dict)
    )
    reason = next((str(detail["reason"]) for detail in details if "reason" in detail), "")
    return PolicyRefused(str(body.get("message") or otherwise), reason, violations)


def _served(entry: Mapping[str, Any]) -> ServedPolicy:
    message = policy_pb2.Policy()
    try:
        # A newer server may tell more than this knows.
        json_format.ParseDict(dict(entry), message, ignore_unknown_fields=True)
        document = read_document(message.document) if message.HasField("document") else None
    except (json_format.ParseError, OarsError) as error:
        raise click.ClickException(f"the server answers something else: {error}") from error
    return ServedPolicy(
        policy_id=message.policy_id,
        version=message.version,
        digest=message.digest,
        state=policy_pb2.PolicyState.Name(message.state),
        document=document,
    )
