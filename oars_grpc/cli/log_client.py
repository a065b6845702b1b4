"""Asks a server for its log over REST, with a client certificate."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from oars_grpc.cli.connection import read_connection, tls_context
from oars_grpc.core.canonical import decode_base64


class LogUnreachable(Exception):
    """The server did not answer, or not now; later it may."""


class LogRefused(Exception):
    """The server answered that it will not."""


@dataclass(frozen=True, slots=True)
class LogClient:
    """The log of one tenant."""

    http: httpx.Client
    tenant_id: str

    def checkpoint(self) -> str:
        """The signed checkpoint of now."""
        return _text(self._get(f"/v1/log/{self.tenant_id}/checkpoint"), "checkpoint", "note")

    def consistency(self, from_size: int, to_size: int) -> list[bytes]:
        """The hashes of the proof between two sizes."""
        answer = self._get(
            f"/v1/log/{self.tenant_id}/consistency",
            {"from_size": from_size, "to_size": to_size},
        )
        try:
            return [decode_base64(each) for each in answer.get("hashes", [])]
        except (TypeError, ValueError) as error:
            raise LogRefused("the server answers something else than hashes") from error

    def proof(self, receipt_id: str) -> str:
        """The C2SP tlog-proof of a receipt."""
        answer = self._get(f"/v1/receipts/{receipt_id}/proof", {"tenant_id": self.tenant_id})
        return _text(answer, "proof")

    def _get(self, path: str, query: Mapping[str, str | int] | None = None) -> dict[str, Any]:
        try:
            answer = self.http.get(path, params=query)
        except httpx.TransportError as error:
            raise LogUnreachable(f"{self.http.base_url}: {error}") from error
        if answer.status_code >= httpx.codes.INTERNAL_SERVER_ERROR or answer.status_code in {
            httpx.codes.REQUEST_TIMEOUT,
            httpx.codes.TOO_MANY_REQUESTS,
        }:
            raise LogUnreachable(f"{path}: HTTP {answer.status_code} {answer.text[:500]}")
        if answer.status_code != httpx.codes.OK:
            raise LogRefused(f"{path}: HTTP {answer.status_code} {answer.text[:500]}")
        try:
            found = answer.json()
        except ValueError as error:
            raise LogUnreachable(f"{path}: the answer is not JSON") from error
        if not isinstance(found, dict):
            raise LogRefused(f"{path}: the answer is no JSON object")
        return found


@contextmanager
def log_client(connection_file: Path, tenant_id: str, role: str = "auditor") -> Iterator[LogClient]:
    """A client by a connection.json; an empty tenant is that of the connection.

    Raises:
        ValueError: it is none, or has no usable certificate of the role.
    """
    connection = read_connection(connection_file)
    context = tls_context(connection, role)
    url, tenant = connection["rest_url"], tenant_id or connection["tenant"]
    with httpx.Client(base_url=url, verify=context, timeout=30.0) as http:
        yield LogClient(http, tenant)


def _text(answer: Mapping[str, Any], *names: str) -> str:
    value: Any = answer
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    if not isinstance(value, str):
        raise LogRefused(f"the server answers without {'.'.join(names)}")
    return value
