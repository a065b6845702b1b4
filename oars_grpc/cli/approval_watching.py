"""`oars approvals watch`: what waits for people, as it comes and goes."""

import json
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.live import Live
from rich.text import Text

from oars_grpc.cli.approval_client import ApprovalClient, StreamLost, approval_client
from oars_grpc.cli.approval_options import asking_options
from oars_grpc.cli.approval_table import ApprovalRow, row_of, table_of
from oars_grpc.cli.approval_text import state_of

_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 0.5, 30.0
# The server ends a watch half a second before its deadline: less than that is no time.
_LEAST_SECONDS = 0.6


@click.command()
@asking_options
@click.option(
    "--mine", is_flag=True, help="Only those that you may decide, and what becomes of them."
)
@click.option(
    "--cursor", default="", help="Go on after this event, from the JSON of an earlier watch."
)
@click.option("--seconds", type=click.FloatRange(min=1), help="End after so long  [default: never]")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json"]),
    help="json: one object a line, with its cursor.  [default: table on a terminal, else json]",
)
def watch(
    connection_file: Path,
    tenant_id: str,
    role: str,
    token_file: Path | None,
    cursor: str,
    seconds: float | None,
    form: str | None,
    *,
    mine: bool,
) -> None:
    """Follow approvals: those that are pending, then every change.

    Where the connection is lost, it goes on where it was: nothing is missed.
    """
    ends = None if seconds is None else time.monotonic() + seconds
    console = Console()
    with approval_client(connection_file, tenant_id, role, token_file) as client:
        events = _events(client, cursor, mine=mine, ends=ends)
        if form == "table" or (form is None and console.is_terminal):
            _live(client, events, console)
            return
        for event in events:
            click.echo(json.dumps(event, sort_keys=True))
            sys.stdout.flush()


def _events(
    client: ApprovalClient, cursor: str, *, mine: bool, ends: float | None
) -> Iterator[dict[str, Any]]:
    """Events of as many watches as it takes, until the time is over."""
    wait = _FIRST_WAIT_SECONDS
    while (left := _left(ends)) is None or left > _LEAST_SECONDS:
        try:
            for event in client.watched(cursor, mine=mine, seconds=left):
                cursor, wait = event["cursor"], _FIRST_WAIT_SECONDS
                if not event.get("final"):
                    yield event
        except StreamLost as error:
            left = _left(ends)
            if left is not None and left <= wait:
                return
            click.echo(f"the connection is lost ({error}); trying again", err=True)
            time.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT_SECONDS)


def _left(ends: float | None) -> float | None:
    return None if ends is None else ends - time.monotonic()


def _live(client: ApprovalClient, events: Iterator[Mapping[str, Any]], console: Console) -> None:
    """A table of what is pending that follows the events; what is closed scrolls away above it."""
    rows: dict[str, ApprovalRow] = {}
    with Live(console=console, auto_refresh=False) as live:
        for event in events:
            approval = event["approval"]
            approval_id, state = approval["approvalId"], state_of(approval)
            if state == "pending":
                rows[approval_id] = row_of(client.get(approval_id))
            else:
                known = rows.pop(approval_id, None)
                console.print(Text(f"{approval_id} {state} {known.what if known else ''}".rstrip()))
            live.update(table_of(rows.values(), console), refresh=True)
