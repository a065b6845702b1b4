"""`oars approvers`: second factors, and the keys that approvers sign with."""

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from oars_grpc.cli.approver_key_file import make_approver_key, read_approver_key
from oars_grpc.cli.connection import Connection, connection_option, tenant_option
from oars_grpc.cli.key_files import read_json
from oars_grpc.cli.rest_call import call_rest, opened_connection
from oars_grpc.core.approver_key import registration_message
from oars_grpc.core.canonical import encode_base64
from oars_grpc.core.keys import key_id_of
from oars_grpc.core.tenant import TENANT_ID

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
_KEY_ID = re.compile(r"[0-9a-f]{16}", re.ASCII)
_PAGE = "200"


@click.group()
def approvers() -> None:
    """Approvers: one-time codes, and keys of their own.

    An admin enrols, never for himself. An approver makes his key and his proof; an admin registers
    them.
    """


@approvers.command()
@click.argument("subject")
@connection_option
@tenant_option
def enroll(subject: str, connection_file: Path, tenant_id: str) -> None:
    """Make the one-time code secret of SUBJECT and print it, once.

    For an authenticator app: the URI as a QR code, or the secret typed in. One that SUBJECT had
    before counts no more.
    """
    connection, base = _tenant(connection_file, tenant_id)
    path = f"{base}/approvers:enrollSecondFactor"
    answer = call_rest(connection, "admin", "POST", path, {"subject": subject})
    click.echo(answer["otpauthUri"])
    click.echo(f"secret {answer['secret']}")


@approvers.command()
@click.argument("subject")
@connection_option
@tenant_option
def unenroll(subject: str, connection_file: Path, tenant_id: str) -> None:
    """Remove the second factor of SUBJECT."""
    connection, base = _tenant(connection_file, tenant_id)
    path = f"{base}/approvers:removeSecondFactor"
    call_rest(connection, "admin", "POST", path, {"subject": subject})
    click.echo(f"{subject} has no second factor any more")


@approvers.command()
@click.argument("subject")
@connection_option
@tenant_option
def factor(subject: str, connection_file: Path, tenant_id: str) -> None:
    """Print the state of the second factor of SUBJECT as JSON; never its secret."""
    connection, base = _tenant(connection_file, tenant_id)
    path = f"{base}/second-factor"
    answer = call_rest(connection, "auditor", "GET", path, query={"subject": subject})
    click.echo(json.dumps(answer["secondFactor"], indent=2))


@approvers.command(name="key-new")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def key_new(file: Path) -> None:
    """Write a new Ed25519 key to FILE (PEM, PKCS #8), for an approver to keep.

    Never overwrites, and only its owner may read it.
    """
    try:
        public_key = make_approver_key(file)
    except OSError as error:
        raise click.UsageError(f"{file}: {error.strerror}") from error
    click.echo(f"wrote {file}; key {key_id_of(public_key)}")


@approvers.command(name="key-proof")
@click.argument("file", type=_FILE)
@click.option("--subject", required=True, help="The identity that will sign with the key.")
@click.option("--tenant", "tenant_id", required=True, help="The tenant to register it in.")
def key_proof(file: Path, subject: str, tenant_id: str) -> None:
    """Print what an admin needs to register the key in FILE, as JSON. It holds no secret."""
    if not TENANT_ID.fullmatch(tenant_id):
        raise click.BadParameter("is not the id of a tenant", param_hint="--tenant")
    try:
        key, public_key = read_approver_key(file)
    except ValueError as error:
        raise click.UsageError(f"{file}: {error}") from error
    proof = {
        "tenantId": tenant_id,
        "subject": subject,
        "publicKey": encode_base64(public_key),
        "proof": encode_base64(key.sign(registration_message(tenant_id, subject, public_key))),
    }
    click.echo(json.dumps(proof, indent=2))


@approvers.command(name="register-key")
@click.argument("proof", type=_FILE)
@connection_option
def register_key(proof: Path, connection_file: Path) -> None:
    """Register the key of PROOF, the output of `oars approvers key-proof`."""
    body = _proof(proof)
    connection, base = _tenant(connection_file, body.pop("tenantId"))
    answer = call_rest(connection, "admin", "POST", f"{base}/approver-keys", body)
    click.echo(f"key {answer['key']['keyId']} is registered for {answer['key']['subject']}")


@approvers.command(name="revoke-key")
@click.argument("key_id")
@connection_option
@tenant_option
@click.option("--reason", required=True, help="Why, for whoever verifies later.")
def revoke_key(key_id: str, connection_file: Path, tenant_id: str, reason: str) -> None:
    """Revoke the approver key KEY_ID. There is no way back."""
    if not _KEY_ID.fullmatch(key_id):
        raise click.BadParameter("is not 16 hexadecimal digits in lower case", param_hint="KEY_ID")
    connection, base = _tenant(connection_file, tenant_id)
    path = f"{base}/approver-keys/{key_id}:revoke"
    call_rest(connection, "admin", "POST", path, {"reason": reason})
    click.echo(f"key {key_id} is revoked")


@approvers.command(name="keys")
@connection_option
@tenant_option
@click.option("--subject", default="", help="Only keys of this identity.")
def list_keys(connection_file: Path, tenant_id: str, subject: str) -> None:
    """Print the registered keys as JSON, those revoked among them."""
    connection, base = _tenant(connection_file, tenant_id)
    found: list[Any] = []
    token = ""
    while True:
        wanted = {"pageSize": _PAGE, "pageToken": token, "subject": subject}
        query = {name: value for name, value in wanted.items() if value}
        page = call_rest(connection, "auditor", "GET", f"{base}/approver-keys", query=query)
        found += page["keys"]
        token = page["nextPageToken"]
        if not token:
            break
    click.echo(json.dumps({"keys": found}, indent=2))


def _tenant(connection_file: Path, tenant_id: str) -> tuple[Connection, str]:
    """The connection, and where the tenant's routes begin."""
    connection = opened_connection(connection_file)
    return connection, f"/v1/tenants/{quote(tenant_id or connection['tenant'], safe='')}"


def _proof(path: Path) -> dict[str, str]:
    """The members of a proof, all of them texts."""
    try:
        value = read_json(path)
        body = {name: value[name] for name in ("tenantId", "subject", "publicKey", "proof")}
    except (ValueError, KeyError, TypeError) as error:
        raise click.UsageError(f"{path}: is no proof of a key: {error!r}") from error
    if not all(isinstance(text, str) for text in body.values()):
        raise click.UsageError(f"{path}: is no proof of a key")
    return body
