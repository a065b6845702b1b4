"""`oars policy publish`: makes the document of a file the one that decides."""

import sys
import uuid
from pathlib import Path

import click

from oars_grpc.cli.connection import connection_option, tenant_option
from oars_grpc.cli.policy_checks import (
    CheckedFile,
    checked_file,
    file_argument,
    names_options,
    print_faults,
    strict_option,
)
from oars_grpc.cli.policy_client import PolicyClient, PolicyRefused, ServedPolicy, policy_client
from oars_grpc.cli.policy_faults import fault_of
from oars_grpc.cli.policy_test import print_run, run_cases
from oars_grpc.core.policy_document import CompiledPolicy

_ROLE = "admin"
_ARCHIVED = "POLICY_ARCHIVED"


@click.command()
@file_argument
@connection_option
@tenant_option
@names_options
@strict_option
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
def publish(
    file: Path,
    connection_file: Path,
    tenant_id: str,
    tools_file: Path | None,
    workflows_file: Path | None,
    *,
    strict: bool,
    dry_run: bool,
) -> None:
    """Publish the document of FILE, once it is checked and its cases have passed.

    What decides already is left as it is. Nothing but the document is sent.

    Leaves with 0 if the document of FILE decides now (with --dry-run: could), 1 if it is not valid,
    a case failed or the server refused, 2 if FILE or the connection cannot be used.
    """
    checked = checked_file(file, tools_file, workflows_file)
    print_faults(checked.faults)
    if checked.policy is None or checked.fails(strict=strict):
        click.echo(f"{checked.summary()}; not published", err=True)
        sys.exit(1)
    run = run_cases(checked, checked.policy)
    if run.failed:
        print_run(run)
        click.echo(f"{file}: {run.failed} cases failed; not published", err=True)
        sys.exit(1)
    with policy_client(connection_file, tenant_id, _ROLE) as client:
        try:
            _publish(client, checked.policy, dry_run=dry_run)
        except PolicyRefused as refused:
            _print_refusal(checked, refused)
            sys.exit(1)


def _publish(client: PolicyClient, policy: CompiledPolicy, *, dry_run: bool) -> None:
    now = client.published()
    if now.digest == policy.digest:
        click.echo(f"{_named(now)} is published already")
        return
    if dry_run:
        click.echo(f"would publish a new policy of digest {policy.digest}")
        click.echo(f"in place of {_named(now)}")
        return
    draft = _created(client, policy, f"policy-{policy.digest}")
    try:
        done = _published(client, draft)
    except PolicyRefused as refused:
        # The same document was a draft within a day, and has been put away since.
        if refused.reason != _ARCHIVED:
            raise
        done = _published(client, _created(client, policy, f"policy-{uuid.uuid4()}"))
    click.echo(f"{_named(done)} is published")
    click.echo(f"in place of {_named(now)}")


def _created(client: PolicyClient, policy: CompiledPolicy, key: str) -> ServedPolicy:
    """A draft of the document; the same key gives the same draft, so that none is left over."""
    draft = client.create(policy.document, key)
    if draft.digest != policy.digest:
        raise PolicyRefused(
            f"the server read another document: its digest is {draft.digest}, not {policy.digest};"
            " nothing is published",
            "",
            (),
        )
    return draft


def _published(client: PolicyClient, draft: ServedPolicy) -> ServedPolicy:
    # A key of its own each time: the outcome of an earlier publication would be answered again,
    # although another policy has been published since.
    done = client.publish(draft.policy_id, f"publish-{uuid.uuid4()}")
    if not done.is_published or done.digest != draft.digest:
        raise PolicyRefused(f"the server answers that {draft.policy_id} is {done.state}", "", ())
    return done


def _named(policy: ServedPolicy) -> str:
    return f"policy {policy.policy_id}, version {policy.version}, digest {policy.digest}"


def _print_refusal(checked: CheckedFile, refused: PolicyRefused) -> None:
    if refused.violations:
        print_faults([fault_of(checked.file, violation) for violation in refused.violations])
        click.echo(f"{checked.file.path}: the server refused it", err=True)
    else:
        click.echo(f"the server refused: {refused.message}", err=True)
