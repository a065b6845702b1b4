"""`oars approvals approve` and `reject`."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import click
from cryptography.x509 import (
    ExtensionNotFound,
    SubjectAlternativeName,
    UniformResourceIdentifier,
    load_pem_x509_certificate,
)

from oars_grpc.cli.approval_check import check_shown, grant_to_sign
from oars_grpc.cli.approval_client import approval_client
from oars_grpc.cli.approval_options import approval_argument, asking_options
from oars_grpc.cli.approval_text import full_text, stage_of, state_of
from oars_grpc.cli.approver_key_file import read_approver_key
from oars_grpc.cli.connection import certificate_of, read_connection
from oars_grpc.cli.visible_text import visible
from oars_grpc.core.grant import sign_grant
from oars_grpc.core.keys import SigningKey

Command = TypeVar("Command", bound=Callable[..., object])
_CODE = re.compile(r"[0-9]{6}", re.ASCII)


def _answer_options(command: Command) -> Command:
    for option in (
        click.option("--yes", is_flag=True, help="Do not ask whether you have read it."),
        click.option(
            "--key",
            "key_file",
            type=click.Path(path_type=Path, exists=True, dir_okay=False),
            help="Sign what is decided with this private key, registered for you.",
        ),
        click.option(
            "--code-stdin",
            is_flag=True,
            help="Read the one-time code from standard input  [default: from a hidden prompt]",
        ),
        click.option("--reason", default="", help="Why; the receipt keeps it."),
        asking_options,
        approval_argument,
    ):
        command = option(command)
    return command


@click.command()
@_answer_options
def approve(approval_id: str, **given: Any) -> None:
    """Show what APPROVAL_ID asks, ask whether you mean it, and approve it.

    The decision names the digests of what was shown, computed here; it counts for nothing else. A
    one-time code is asked for where one is needed, and never taken from the command line.
    """
    _answer(approval_id, "approve", **given)


@click.command()
@_answer_options
def reject(approval_id: str, **given: Any) -> None:
    """Show what APPROVAL_ID asks, ask whether you mean it, and reject it: nobody may do it then."""
    _answer(approval_id, "reject", **given)


def _answer(
    approval_id: str,
    verdict: str,
    connection_file: Path,
    tenant_id: str,
    role: str,
    token_file: Path | None,
    reason: str,
    key_file: Path | None,
    *,
    code_stdin: bool,
    yes: bool,
) -> None:
    if not yes and not sys.stdin.isatty():
        raise click.UsageError("there is no terminal to ask on; --yes says that you have read it")
    key = None if key_file is None else _read_key(key_file)
    with approval_client(connection_file, tenant_id, role, token_file) as client:
        answer = client.get(approval_id)
        approval = answer["approval"]
        try:
            shown = check_shown(approval, answer["display"])
            text = full_text(approval, shown)
            payload, approver = grant_to_sign(approval, shown, verdict, answer["grantPayload"])
        except ValueError as error:
            raise click.ClickException(f"{approval_id}: {error}") from error
        if approval["approvalId"] != approval_id:
            raise click.ClickException(f"{approval_id}: the server answers of another approval")
        if token_file is None:
            _check_own_name(approver, connection_file, role)
        click.echo(text)
        if verdict == "approve" and approval["signatureRequired"] and key is None:
            raise click.UsageError("the workflow asks for a signature: --key names your key")
        click.echo(f"You are {visible(approver)}.")
        if not yes:
            click.confirm(f"Do you {verdict} exactly this?", abort=True)
        body = {
            "verdict": f"VERDICT_{verdict.upper()}",
            "reason": reason,
            "actionDigest": shown.action_digest,
            "displayDigest": shown.display_digest,
        }
        if verdict == "approve" and approval["stepUpRequired"]:
            body["oneTimeCode"] = _code(code_stdin=code_stdin)
        if key is not None:
            body["signedGrant"] = json.dumps(sign_grant(payload, key).to_json())
        decided = client.decide(approval_id, body, f"oars-cli-{uuid4()}")["approval"]
    click.echo(f"{approval_id} is {state_of(decided)}, stage {stage_of(decided)}")


def _read_key(path: Path) -> SigningKey:
    try:
        return read_approver_key(path)[0]
    except ValueError as error:
        raise click.UsageError(f"{path}: {error}") from error


def _code(*, code_stdin: bool) -> str:
    if code_stdin:
        code = sys.stdin.readline()
    elif sys.stdin.isatty():
        code = click.prompt("One-time code", hide_input=True)
    else:
        raise click.UsageError("a one-time code is needed; --code-stdin reads it")
    code = code.strip()
    if not _CODE.fullmatch(code):
        raise click.ClickException("a one-time code is six digits")
    return code


def _check_own_name(approver: str, connection_file: Path, role: str) -> None:
    """A server must not have somebody sign under another name."""
    certificate, _ = certificate_of(read_connection(connection_file), role)
    named = load_pem_x509_certificate(certificate.read_bytes()).extensions
    try:
        alternatives = named.get_extension_for_class(SubjectAlternativeName).value
    except ExtensionNotFound:
        return  # then its subject is its name, which is written in many ways
    own = alternatives.get_values_for_type(UniformResourceIdentifier)
    if own and approver not in own:
        raise click.ClickException(
            f"the server takes you for {visible(approver)}; the certificate names {own[0]}"
        )
