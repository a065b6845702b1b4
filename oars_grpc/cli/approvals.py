"""`oars approvals`: see what waits for people, exactly what is asked, and answer."""

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from oars_grpc.cli.approval_answer import approve, reject
from oars_grpc.cli.approval_check import check_shown
from oars_grpc.cli.approval_client import approval_client
from oars_grpc.cli.approval_options import approval_argument, asking_options
from oars_grpc.cli.approval_table import row_of, table_of
from oars_grpc.cli.approval_text import full_text
from oars_grpc.cli.approval_watching import watch


@click.group()
def approvals() -> None:
    """What waits for people: list it, see exactly what is asked, approve or reject, watch.

    Whoever has a token of a trusted issuer names it by --token-file; the certificate then is that
    of the service that carries it.
    """


@approvals.command("list")
@asking_options
@click.option("--mine", is_flag=True, help="Only those that you may decide now.")
@click.option("--pending", is_flag=True, help="Only those that wait for a decision.")
@click.option("--overdue", is_flag=True, help="Only those whose stage is past its time.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=50, show_default=True, help="At most so many."
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="json: one object a line, as the API has it.",
)
def list_approvals(
    connection_file: Path,
    tenant_id: str,
    role: str,
    token_file: Path | None,
    limit: int,
    form: str,
    *,
    mine: bool,
    pending: bool,
    overdue: bool,
) -> None:
    """List approvals, newest first."""
    query: dict[str, Any] = {"mine": str(mine).lower(), "overdue": str(overdue).lower()}
    if pending:
        query["state"] = "APPROVAL_STATE_PENDING"
    with approval_client(connection_file, tenant_id, role, token_file) as client:
        found = client.listed(query, limit)
        if form == "json":
            for approval in found:
                click.echo(json.dumps(approval, sort_keys=True))
            return
        rows = [row_of(client.get(approval["approvalId"])) for approval in found]
    console = Console()
    if rows:
        console.print(table_of(rows, console))
    else:
        click.echo("nothing waits", err=True)


@approvals.command()
@approval_argument
@asking_options
def show(
    approval_id: str, connection_file: Path, tenant_id: str, role: str, token_file: Path | None
) -> None:
    """Show exactly what the approval APPROVAL_ID is about, and what an answer takes.

    Nothing is shown that does not have the digests by which a decision names it: they are
    computed here, from what is shown.
    """
    with approval_client(connection_file, tenant_id, role, token_file) as client:
        answer = client.get(approval_id)
    try:
        text = full_text(answer["approval"], check_shown(answer["approval"], answer["display"]))
    except ValueError as error:
        raise click.ClickException(f"{approval_id}: {error}") from error
    click.echo(text)


approvals.add_command(approve)
approvals.add_command(reject)
approvals.add_command(watch)
