"""`oars keys`: make a key-encryption key, fetch a tenant's public keys, rotate and revoke them."""

import base64
import json
import os
import re
from datetime import datetime
from pathlib import Path

import click

from oars_grpc.cli.connection import connection_option, tenant_option
from oars_grpc.cli.rest_call import call_rest, opened_connection
from oars_grpc.core.keys import KeyPurpose
from oars_grpc.core.receipt import format_time
from oars_grpc.settings import KEY_BYTES

_KEY_ID = re.compile(r"[0-9a-f]{16}", re.ASCII)


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
@connection_option
@tenant_option
def list_keys(connection_file: Path, tenant_id: str) -> None:
    """Print a tenant's public keys as JSON: the file that `oars verify --keys` takes."""
    connection = opened_connection(connection_file)
    tenant = tenant_id or connection["tenant"]
    listed = call_rest(connection, "auditor", "GET", f"/v1/trust/tenants/{tenant}/keys")
    click.echo(json.dumps(listed, indent=2))


@keys.command()
@connection_option
@tenant_option
@click.option(
    "--purpose",
    type=click.Choice([purpose.value for purpose in KeyPurpose]),
    default=KeyPurpose.RECEIPT.value,
    show_default=True,
    help="What the key signs.",
)
def rotate(connection_file: Path, tenant_id: str, purpose: str) -> None:
    """Retire a tenant's signing key and make a new one active."""
    connection = opened_connection(connection_file)
    tenant = tenant_id or connection["tenant"]
    body = {"purpose": f"KEY_PURPOSE_{purpose.upper()}"}
    answer = call_rest(connection, "admin", "POST", f"/v1/tenants/{tenant}/keys:rotate", body)
    click.echo(f"{tenant} signs {purpose}s with key {answer['key']['keyId']} from now on")


@keys.command()
@click.argument("key_id")
@connection_option
@tenant_option
@click.option("--reason", required=True, help="Why, for whoever verifies later.")
@click.option(
    "--compromised-at",
    "compromised_at",
    callback=lambda _context, _option, value: _moment(value),
    metavar="TIME",
    help="Since when others may have had it: RFC 3339, such as 2026-03-01T12:00:00Z."
    "  [default: since now]",
)
def revoke(
    key_id: str, connection_file: Path, tenant_id: str, reason: str, compromised_at: str | None
) -> None:
    """Revoke the key KEY_ID; one that is active is replaced. There is no way back.

    What it signed is believed from now on only where the log is proven to have held it before.
    """
    if not _KEY_ID.fullmatch(key_id):
        raise click.BadParameter("is not 16 hexadecimal digits in lower case", param_hint="KEY_ID")
    connection = opened_connection(connection_file)
    tenant = tenant_id or connection["tenant"]
    body = {"reason": reason} | ({"compromisedAt": compromised_at} if compromised_at else {})
    path = f"/v1/tenants/{tenant}/keys/{key_id}:revoke"
    answer = call_rest(connection, "admin", "POST", path, body)
    click.echo(f"key {key_id} is revoked")
    if "trustedLogSize" in answer["key"]:
        size = answer["key"]["trustedLogSize"]
        click.echo(f"what it signed is believed below index {size} of the log, given a proof")
    if answer.get("replacement"):
        click.echo(f"{tenant} signs with key {answer['replacement']['keyId']} from now on")


def _moment(text: str | None) -> str | None:
    """A time of the command line as the API takes it."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise click.BadParameter("is not a time in RFC 3339") from error
    if moment.tzinfo is None:
        raise click.BadParameter("has no time zone")
    return format_time(moment)
