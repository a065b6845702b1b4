"""`oars keys`: make a key-encryption key, fetch a tenant's public keys, rotate its signing key."""

import base64
import json
import os
import ssl
from pathlib import Path
from typing import Any

import click
import httpx

from oars_grpc.cli.key_files import read_json
from oars_grpc.settings import KEY_BYTES

_connection = click.option(
    "--connection",
    "connection_file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    default=Path(".oars/connection.json"),
    show_default=True,
    help="connection.json of `oars dev`, or one of the same form.",
)
_tenant = click.option("--tenant", default="", help="Tenant; default: that of the connection.")


@click.group()
def keys() -> None:
    """Keys: the one that encrypts, and those that sign."""


@keys.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def generate(file: Path) -> None:
    """Write a new key-encryption key to FILE (for OARS_KEY_ENCRYPTION_KEY_FILE).

    Never overwrites: signing keys that were encrypted under a lost key are lost.
    """
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise click.UsageError(f"{file}: {error.strerror}") from error
    with os.fdopen(descriptor, "wb") as opened:
        opened.write(base64.b64encode(os.urandom(KEY_BYTES)) + b"\n")
    click.echo(f"wrote {file}; keep a copy apart from the database")


@keys.command(name="list")
@_connection
@_tenant
def list_keys(connection_file: Path, tenant: str) -> None:
    """Print a tenant's public keys as JSON: the file that `oars verify --keys` takes."""
    connection = _read(connection_file)
    tenant = tenant or connection["tenant"]
    listed = _call(connection, "auditor", "GET", f"/v1/trust/tenants/{tenant}/keys")
    click.echo(json.dumps(listed, indent=2))


@keys.command()
@_connection
@_tenant
def rotate(connection_file: Path, tenant: str) -> None:
    """Retire a tenant's signing key and make a new one active."""
    connection = _read(connection_file)
    tenant = tenant or connection["tenant"]
    answer = _call(connection, "admin", "POST", f"/v1/tenants/{tenant}/keys:rotate")
    click.echo(f"{tenant} signs with key {answer['key']['keyId']} from now on")


def _read(path: Path) -> dict[str, Any]:
    try:
        connection: dict[str, Any] = read_json(path)
        connection["rest_url"], connection["ca_certificate"], connection["tenant"]
    except (ValueError, KeyError, TypeError) as error:
        raise click.UsageError(f"{path}: is no connection.json: {error}") from error
    return connection


def _call(connection: dict[str, Any], role: str, method: str, path: str) -> dict[str, Any]:
    """The JSON that OARS answers to a role."""
    body: dict[str, Any] | None = {} if method == "POST" else None
    try:
        identity = connection["identities"][role]
        context = ssl.create_default_context(cafile=connection["ca_certificate"])
        context.load_cert_chain(identity["certificate"], identity["private_key"])
    except (KeyError, TypeError, OSError) as error:
        raise click.ClickException(f"no usable certificate of the {role}: {error}") from error
    url = connection["rest_url"]
    try:
        with httpx.Client(base_url=url, verify=context, timeout=30.0) as client:
            answer = client.request(method, path, json=body)
    except (httpx.TransportError, httpx.InvalidURL) as error:
        raise click.ClickException(f"{url}: {error}") from error
    if answer.status_code != httpx.codes.OK:
        raise click.ClickException(f"{url}{path}: HTTP {answer.status_code} {answer.text}")
    found: dict[str, Any] = answer.json()
    return found
