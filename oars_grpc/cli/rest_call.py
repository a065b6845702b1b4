"""Calls over REST, for commands that ask one thing and print the answer."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import httpx

from oars_grpc.cli.connection import Connection, read_connection, tls_context


def opened_connection(path: Path) -> Connection:
    """The connection of a file.

    Raises:
        UsageError: it is none.
    """
    try:
        return read_connection(path)
    except ValueError as error:
        raise click.UsageError(f"{path}: {error}") from error


@contextmanager
def open_rest(
    connection: Connection, role: str, headers: Mapping[str, str] | None = None
) -> Iterator[httpx.Client]:
    """A client that presents the certificate of a role.

    Raises:
        ClickException: the connection has no usable certificate of the role, or no usable URL.
    """
    try:
        context = tls_context(connection, role)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    url = connection["rest_url"]
    try:
        with httpx.Client(base_url=url, verify=context, timeout=30.0, headers=headers) as client:
            yield client
    except httpx.InvalidURL as error:
        raise click.ClickException(f"{url}: {error}") from error


def object_of(path: str, answer: httpx.Response) -> dict[str, Any]:
    """The JSON object of an answer, a refusal's among them.

    Raises:
        ClickException: it is none: not OARS has answered.
    """
    try:
        body = answer.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise click.ClickException(f"{path}: HTTP {answer.status_code} {answer.text[:500]}")
    return body


def call_rest(
    connection: Connection,
    role: str,
    method: str,
    path: str,
    body: Mapping[str, Any] | None = None,
    query: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The JSON that OARS answers to a role.

    Raises:
        ClickException: what kept it from answering, or its refusal.
    """
    url = connection["rest_url"]
    with open_rest(connection, role) as client:
        try:
            answer = client.request(method, path, json=body, params=query)
        except httpx.TransportError as error:
            raise click.ClickException(f"{url}: {error}") from error
    if answer.status_code != httpx.codes.OK:
        raise click.ClickException(f"{url}{path}: HTTP {answer.status_code} {answer.text}")
    found: dict[str, Any] = answer.json()
    return found
