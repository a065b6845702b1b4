"""Asks a server for approvals over REST: with a client certificate, and a person's token."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import httpx
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from oars_grpc.cli.private_file import read_private
from oars_grpc.cli.rest_call import object_of, open_rest, opened_connection

PAGE = 200
ATTEMPTS = 4
_FIRST_WAIT_SECONDS = 0.5
# What a repetition under the same idempotency key may cure.
_PASSING = frozenset({502, 503, 504})
_TOO_MANY = 429
# The server ends a watch by its final event; what is silent for longer than Envoy allows is lost.
_SILENCE_SECONDS = 660.0


class _AnswerLost(Exception):
    """Nobody knows what became of a request."""


class StreamLost(Exception):
    """A watch broke off, or could not be begun; later it may."""


@dataclass(frozen=True, slots=True)
class ApprovalClient:
    """The approvals of one tenant."""

    http: httpx.Client
    tenant_id: str

    def listed(self, query: Mapping[str, Any], limit: int) -> Iterator[dict[str, Any]]:
        """Approvals, newest first, of as many pages as it takes: a short one need not be the last.

        Raises:
            ClickException: the server does not answer, or refuses.
        """
        token = ""
        while True:
            page = {"tenant_id": self.tenant_id, "page_size": min(PAGE, limit), "page_token": token}
            answer = self._ask("GET", "/v1/approvals", params={**query, **page})
            yield from answer["approvals"]
            limit -= len(answer["approvals"])
            token = answer["nextPageToken"]
            if not token or limit <= 0:
                return

    def get(self, approval_id: str) -> dict[str, Any]:
        """An approval with what its approvers are shown, and what the caller would sign.

        Raises:
            ClickException: the server does not answer, or refuses.
        """
        query = {"tenant_id": self.tenant_id}
        return self._ask("GET", f"/v1/approvals/{approval_id}", params=query)

    def decide(self, approval_id: str, body: Mapping[str, Any], key: str) -> dict[str, Any]:
        """Send a decision; again under the same key where nobody knows what became of it.

        Raises:
            ClickException: the server does not answer, or refuses.
        """
        path = f"/v1/approvals/{approval_id}/decision"
        sent, headers = {**body, "tenantId": self.tenant_id}, {"idempotency-key": key}

        def send() -> dict[str, Any]:
            try:
                answer = self.http.post(path, json=sent, headers=headers)
            except httpx.TransportError as error:
                raise _AnswerLost(f"{self.http.base_url}: {error}") from error
            try:
                return _read(path, answer)
            except click.ClickException as error:
                if answer.status_code in _PASSING:
                    raise _AnswerLost(error.message) from error
                raise

        again = Retrying(
            retry=retry_if_exception_type(_AnswerLost),
            stop=stop_after_attempt(ATTEMPTS),
            wait=wait_exponential(_FIRST_WAIT_SECONDS),
            reraise=True,
        )
        try:
            return again(send)
        except _AnswerLost as error:
            message = f"{error}\n`oars approvals show {approval_id}` tells whether it counts"
            raise click.ClickException(message) from error

    def watched(
        self, cursor: str, *, mine: bool, seconds: float | None
    ) -> Iterator[dict[str, Any]]:
        """Events of one watch, which lasts `seconds` or for as long as the server likes.

        Raises:
            StreamLost: it ended without its final event.
            ClickException: the server refuses.
        """
        query = {"tenant_id": self.tenant_id, "mine": str(mine).lower(), "cursor": cursor}
        timeout = httpx.Timeout(30.0, read=_SILENCE_SECONDS)
        # The server ends a watch by its final event before the deadline.
        deadline = {} if seconds is None else {"grpc-timeout": f"{int(seconds * 1000)}m"}
        path = "/v1/approvals:watch"
        try:
            with self.http.stream(
                "GET", path, params=query, timeout=timeout, headers=deadline
            ) as answer:
                if answer.status_code in {*_PASSING, _TOO_MANY}:
                    raise StreamLost(f"HTTP {answer.status_code}")
                if answer.status_code != httpx.codes.OK:
                    answer.read()
                    _read(path, answer)
                for event in _elements(answer.iter_text()):
                    yield event
                    if event.get("final"):
                        return
        except httpx.TransportError as error:
            raise StreamLost(str(error)) from error
        raise StreamLost("the stream ended without a final event")

    def _ask(self, method: str, path: str, **given: Any) -> dict[str, Any]:
        try:
            answer = self.http.request(method, path, **given)
        except httpx.TransportError as error:
            raise click.ClickException(f"{self.http.base_url}: {error}") from error
        return _read(path, answer)


@contextmanager
def approval_client(
    connection_file: Path, tenant_id: str, role: str, token_file: Path | None
) -> Iterator[ApprovalClient]:
    """A client by a connection.json; an empty tenant is that of the connection.

    Raises:
        UsageError: a file is not what it should be.
        ClickException: the connection has no usable certificate of the role.
    """
    connection = opened_connection(connection_file)
    headers = {}
    if token_file is not None:
        try:
            token = read_private(token_file).decode("ascii").strip()
        except ValueError as error:
            raise click.UsageError(f"{token_file}: {error}") from error
        headers["authorization"] = f"Bearer {token}"
    with open_rest(connection, role, headers) as http:
        yield ApprovalClient(http, tenant_id or connection["tenant"])


def _read(path: str, answer: httpx.Response) -> dict[str, Any]:
    """The object of an answer; of a refusal its message and reason (google.rpc.Status)."""
    body = object_of(path, answer)
    if answer.status_code != httpx.codes.OK:
        details = [detail for detail in body.get("details", []) if isinstance(detail, dict)]
        reasons = [str(detail["reason"]) for detail in details if "reason" in detail]
        reason = f" ({reasons[0]})" if reasons else ""
        raise click.ClickException(f"{body.get('message')}{reason}")
    return body


def _elements(texts: Iterator[str]) -> Iterator[dict[str, Any]]:
    """The elements of a JSON array that arrives in pieces, each as soon as it is whole."""
    decoder, pending = json.JSONDecoder(), ""
    for text in texts:
        pending += text
        while pending := pending.lstrip("[, \r\n\t]"):
            try:
                element, end = decoder.raw_decode(pending)
            except json.JSONDecodeError:
                break  # the rest is still on its way
            yield element
            pending = pending[end:]
