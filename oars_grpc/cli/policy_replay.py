"""`oars policy replay`: what a draft would have decided, from the log, for people and for CI."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import click
from rich.console import Console

from oars_grpc.cli.connection import (
    auditor_option,
    optional_connection_option,
    tenant_option,
)
from oars_grpc.cli.key_files import read_json, trusted_keys
from oars_grpc.cli.policy_file import read_policy_file
from oars_grpc.cli.replay_client import Asked, NoReport, replay_client
from oars_grpc.cli.replay_files import read_report, write_report
from oars_grpc.cli.replay_gates import GATES, hits, read_gates
from oars_grpc.cli.replay_output import print_report, report_json
from oars_grpc.cli.verify_log import read_checkpoint
from oars_grpc.core.checkpoint import parse_checkpoint
from oars_grpc.core.keys import TrustedKey
from oars_grpc.core.note import Note
from oars_grpc.core.policy import PolicyDocument
from oars_grpc.core.policy_document import validate_document
from oars_grpc.core.replay_report import DEFAULT_EXAMPLES, MAXIMUM_EXAMPLES
from oars_grpc.core.replay_verification import GivenReport, verify_report
from oars_grpc.errors import InvalidArgument

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command()
@click.argument("file", type=_FILE, required=False)
@click.option("--policy-id", default="", help="Replay a stored policy instead of a file.")
@click.option(
    "--check",
    "report_file",
    type=_FILE,
    help="Verify a report that was kept, offline, and that it is about what else is given; takes"
    " --keys.",
)
@click.option("--from-size", type=click.IntRange(0), help="Begin at this size; default: 0.")
@click.option("--from-checkpoint", "first_file", type=_FILE, help="Begin with this checkpoint.")
@click.option("--to-size", type=click.IntRange(1), help="End at this size; default: now.")
@click.option("--to-checkpoint", "last_file", type=_FILE, help="End with this checkpoint.")
@click.option(
    "--fail-on",
    "gates",
    metavar="GATES",
    default="",
    callback=read_gates,
    help=f"Leave with 1 if there is any of these: {', '.join(GATES)}. Separated by commas.",
)
@click.option(
    "--examples",
    type=click.IntRange(0, MAXIMUM_EXAMPLES),
    default=DEFAULT_EXAMPLES,
    show_default=True,
    help="Examples of each kind in the report.",
)
@click.option(
    "--output", type=click.Path(path_type=Path, dir_okay=False), help="Keep the signed report."
)
@click.option(
    "--keys",
    "keys_file",
    type=_FILE,
    help="Trusted keys, fetched by yourself; without them those that the server names are taken.",
)
@optional_connection_option
@auditor_option
@tenant_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def replay(
    file: Path | None,
    policy_id: str,
    report_file: Path | None,
    from_size: int | None,
    first_file: Path | None,
    to_size: int | None,
    last_file: Path | None,
    gates: tuple[str, ...],
    examples: int,
    output: Path | None,
    keys_file: Path | None,
    connection_file: Path,
    role: str,
    tenant_id: str,
    *,
    as_json: bool,
) -> None:
    """Evaluate a draft over every decision that the log has recorded in a range.

    FILE is a policy file, YAML or JSON. Nothing is published. Signature, range and numbers of the
    report are verified before anything is printed; what people decided about an action is no
    decision of policy and plays no part.

    Leaves with 0, with 1 when --fail-on hits, with 2 when there is no report to be relied on.
    """
    if (file and policy_id) or not (file or policy_id or report_file):
        raise click.UsageError("takes FILE or --policy-id, or --check")
    document = None if file is None else _document(file)
    asked = Asked(
        tenant_id=tenant_id,
        policy_id=policy_id,
        digest="" if document is None else document.digest,
        from_size=from_size,
        to_size=to_size,
        first=_note(first_file),
        last=_note(last_file),
    )
    keys = None if keys_file is None else _keys(keys_file)
    if report_file is not None:
        if keys is None:
            raise click.UsageError("--check takes --keys")
        given = _kept(report_file)
    else:
        with replay_client(connection_file, role, tenant_id) as client:
            # What was left out was asked for, too: a report from later on would say less.
            whole = from_size is None and first_file is None
            start = 0 if whole else from_size
            asked = replace(asked, tenant_id=client.tenant_id, from_size=start)
            given = client.replay(asked, document, examples)
            keys = client.keys() if keys is None else keys
    try:
        report = verify_report(given, keys)
        asked.check(report)
    except ValueError as error:
        raise NoReport(f"the report does not verify: {error}") from error
    if output is not None:
        write_report(output, given)
    failed = hits(report, gates)
    if as_json:
        click.echo(json.dumps(report_json(report, failed)))
    else:
        print_report(Console(), report)
        if failed:
            click.echo(f"failed on: {', '.join(failed)}")
    sys.exit(1 if failed else 0)


def _document(path: Path) -> PolicyDocument:
    """The document of a policy file, valid.

    Raises:
        UsageError: naming every fault and its place.
    """
    try:
        read = read_policy_file(path)
    except OSError as error:
        raise click.UsageError(f"{path}: {error.strerror}") from error
    if not read.is_readable:
        raise click.UsageError("\n".join(str(fault) for fault in read.faults))
    try:
        validate_document(read.document)
    except InvalidArgument as error:
        faults = []
        for violation in error.violations:
            located = read.fields.located(violation.field)
            at = f":{located.place.line}:{located.place.column}" if located else ""
            faults.append(f"{path}{at}: {violation.field}: {violation.description}")
        raise click.UsageError("\n".join(faults)) from error
    return read.document


def _note(path: Path | None) -> Note | None:
    if path is None:
        return None
    try:
        note = read_checkpoint(path)
        parse_checkpoint(note)
    except (ValueError, AttributeError) as error:
        raise click.UsageError(f"{path}: {error}") from error
    return note


def _keys(path: Path) -> tuple[TrustedKey, ...]:
    try:
        return trusted_keys(read_json(path))
    except ValueError as error:
        raise click.UsageError(f"{path}: {error}") from error


def _kept(path: Path) -> GivenReport:
    try:
        return read_report(path)
    except ValueError as error:
        raise click.UsageError(f"{path}: {error}") from error
