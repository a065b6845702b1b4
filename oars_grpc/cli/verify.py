"""`oars verify`: receipts checked offline, with no server and no database."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from oars_grpc.cli.key_files import envelopes, read_json, trusted_keys
from oars_grpc.core.envelope import Envelope
from oars_grpc.core.receipt import parse_receipt
from oars_grpc.core.verification import CheckResult, Verification, verify_receipt

_MARKS = {
    CheckResult.PASSED: "[green]passed[/]",
    CheckResult.FAILED: "[bold red]FAILED[/]",
    CheckResult.NOT_CHECKED: "[dim]not checked[/]",
}


@click.command()
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False)
)
@click.option(
    "--keys",
    "keys_file",
    required=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Trusted keys: the JSON that GET /v1/trust/tenants/TENANT/keys answers.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a receipt.")
def verify(files: tuple[Path, ...], keys_file: Path, *, as_json: bool) -> None:
    """Verify receipts offline.

    Each FILE holds a receipt, an envelope, a list of them, or an answer of the API that contains
    receipts. Receipts of one action are also checked as a chain when they are given together.

    Leaves with 0 when every receipt is valid, 1 when any is not, 2 when a file cannot be read.
    """
    try:
        keys = trusted_keys(read_json(keys_file))
    except ValueError as error:
        raise click.UsageError(f"{keys_file}: {error}") from error
    found: list[tuple[Path, Envelope]] = []
    for path in files:
        try:
            found.extend((path, envelope) for envelope in envelopes(read_json(path)))
        except ValueError as error:
            raise click.UsageError(f"{path}: {error}") from error
    if not found:
        raise click.UsageError("the files hold no receipts")
    predecessors = _by_place([envelope for _, envelope in found])
    results = [
        (path, verify_receipt(envelope, keys, _before(envelope, predecessors)))
        for path, envelope in found
    ]
    for path, result in results:
        if as_json:
            click.echo(json.dumps(_to_json(path, result)))
    if not as_json:
        _print(results)
    sys.exit(0 if all(result.valid for _, result in results) else 1)


def _by_place(given: Sequence[Envelope]) -> dict[tuple[str, str, int], Envelope]:
    """The readable receipts by tenant, action and sequence."""
    places = {}
    for envelope in given:
        try:
            receipt = parse_receipt(envelope)
        except ValueError:
            continue  # its own verification says what is wrong with it
        places[receipt.tenant_id, receipt.action_id, receipt.sequence] = envelope
    return places


def _before(envelope: Envelope, places: dict[tuple[str, str, int], Envelope]) -> Envelope | None:
    try:
        receipt = parse_receipt(envelope)
    except ValueError:
        return None
    return places.get((receipt.tenant_id, receipt.action_id, receipt.sequence - 1))


def _to_json(path: Path, result: Verification) -> dict[str, Any]:
    return {
        "file": str(path),
        "receiptId": result.receipt.receipt_id if result.receipt else None,
        "valid": result.valid,
        "keyId": result.key_id,
        "checks": {
            check.name: {"result": check.result.value, "detail": check.detail}
            for check in result.checks
        },
        "errors": list(result.errors),
    }


def _print(results: Sequence[tuple[Path, Verification]]) -> None:
    table = Table("receipt", "signature", "key trust", "schema", "chain", "verdict")
    for path, result in results:
        receipt = result.receipt
        name = _printable(str(path))
        if receipt:
            name = f"{_printable(receipt.type)}\n[dim]{_printable(receipt.receipt_id)}[/]"
        verdict = "[bold green]valid[/]" if result.valid else "[bold red]NOT VALID[/]"
        table.add_row(name, *(_MARKS[check.result] for check in result.checks), verdict)
    console = Console()
    console.print(table)
    for path, result in results:
        for error in result.errors:
            console.print(_printable(f"{path}: {error}"), style="red")


def _printable(text: str) -> str:
    """Text from a file made safe for a terminal: it may be hostile, and pose as a verdict."""
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return escape(shown)
