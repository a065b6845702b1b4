"""Calls over REST, for commands that ask one thing and print the answer."""

from collections.abc import Mapping
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
    try:
        context = tls_context(connection, role)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    url = connection["rest_url"]
    try:
        with httpx.Client(base_url=url, verify=context, timeout=30.0) as client:
            answer = client.request(method, path, json=body, params=query)
    except (httpx.TransportError, httpx.InvalidURL) as error:
        raise click.ClickException(f"{url}: {error}") from error
    if answer.status_code != httpx.codes.OK:
        raise click.ClickException(f"{url}{path}: HTTP {answer.status_code} {answer.text}")
    found: dict[str, Any] = answer.json()
    return found
