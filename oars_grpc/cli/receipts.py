"""`oars receipts list`: search the receipts of a tenant."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click
import httpx

from oars_grpc.cli.connection import connection_option, tenant_option
from oars_grpc.cli.log_client import log_client
from oars_grpc.core.policy import Effect
from oars_grpc.core.risk import RiskTier

Command = TypeVar("Command", bound=Callable[..., object])

PAGE = 200
# Each is the field of ListReceipts of the same name.
_TEXTS = {
    "action_id": "Of this action.",
    "type": "Of this type, such as action.denied.",
    "agent_id": "Of this agent.",
    "user_id": "On behalf of this user.",
    "caller_subject": "Submitted by this identity.",
    "tool_id": "About this tool.",
    "operation": "About this operation.",
    "policy_id": "Naming this policy.",
    "policy_version": "Naming this version of --policy-id.",
    "rule_id": "Of decisions in which this rule counted.",
    "recorded_from": "Written then or later: RFC 3339, such as 2026-03-01T00:00:00Z.",
    "recorded_until": "Written before then.",
    "control": "Picked by this control, such as soc2:CC6.1.",
}
_CHOICES = {
    "decision": ([effect.value for effect in Effect], "EFFECT_"),
    "risk_tier": ([tier.value for tier in RiskTier], "RISK_TIER_"),
}


def _filters(command: Command) -> Command:
    for name, help_ in reversed(_TEXTS.items()):
        command = click.option(f"--{name.replace('_', '-')}", name, default="", help=help_)(command)
    for name, (values, _) in _CHOICES.items():
        option = f"--{name.replace('_', '-')}"
        command = click.option(option, name, type=click.Choice(values), default=None)(command)
    return command


@click.group()
def receipts() -> None:
    """The receipts of a tenant."""


@receipts.command("list")
@connection_option
@tenant_option
@_filters
@click.option(
    "--limit", type=click.IntRange(min=1), default=50, show_default=True, help="At most so many."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, with envelopes.")
def list_receipts(
    connection_file: Path, tenant_id: str, limit: int, *, as_json: bool, **asked: str | None
) -> None:
    """List receipts in the order of the log; all options given must match.

    A line has its place in the log, its time, type, action and id.
    """
    query = {name: value for name, value in asked.items() if value}
    for name, (_, prefix) in _CHOICES.items():
        if name in query:
            query[name] = f"{prefix}{str(query[name]).upper()}"
    try:
        with log_client(connection_file, tenant_id) as client:
            wanted = query | {"tenant_id": client.tenant_id}
            for receipt in _search(client.http, wanted, limit):
                click.echo(json.dumps(receipt, sort_keys=True) if as_json else _line(receipt))
    except ValueError as error:
        raise click.UsageError(f"{connection_file}: {error}") from error


def _search(
    http: httpx.Client, query: Mapping[str, Any], limit: int
) -> Iterator[Mapping[str, Any]]:
    """Receipts of as many pages as it takes: a page may be empty and not the last."""
    token = ""
    while limit:
        page = {**query, "page_size": min(PAGE, limit), "page_token": token}
        try:
            answer = http.get("/v1/receipts", params=page)
        except httpx.TransportError as error:
            raise click.ClickException(f"{http.base_url}: {error}") from error
        if answer.status_code != httpx.codes.OK:
            raise click.ClickException(f"HTTP {answer.status_code} {answer.text[:500]}")
        body = answer.json()
        yield from body["receipts"]
        limit -= len(body["receipts"])
        token = body["nextPageToken"]
        if not token:
            return


def _line(receipt: Mapping[str, Any]) -> str:
    columns = {"leafIndex": 9, "recordedAt": 27, "type": 26, "actionId": 30, "receiptId": 31}
    cells = (str(receipt.get(name, "")).ljust(width) for name, width in columns.items())
    return " ".join(cells).rstrip()
