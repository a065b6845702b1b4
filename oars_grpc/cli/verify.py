"""`oars verify`: receipts checked offline, with no server and no database."""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from oars_grpc.cli.key_files import envelopes, read_json, trusted_keys
from oars_grpc.core.envelope import Envelope
from oars_grpc.core.keys import TrustedKey
from oars_grpc.core.receipt import Receipt, parse_receipt
from oars_grpc.core.verification import (
    CHAIN,
    KEY_TRUST,
    SIGNATURE,
    Check,
    CheckResult,
    Verification,
    verify_receipt,
)

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
    receipts. Receipts of one action that are given together are also checked as a chain: one that
    is missing between them, or a second one at the same place, makes the verdict invalid.

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
    given = Given([envelope for _, envelope in found], keys)
    results = [(path, given.verify(envelope)) for path, envelope in found]
    for path, result in results:
        if as_json:
            click.echo(json.dumps(_to_json(path, result)))
    if not as_json:
        _print(results)
    sys.exit(0 if all(result.valid for _, result in results) else 1)


class Given:
    """The receipts given together, as chains: what stands before each, and where one is missing.

    Only what a trusted key signed counts: a forged receipt beside good ones convicts itself alone.
    """

    def __init__(self, envelopes: Sequence[Envelope], keys: Sequence[TrustedKey]) -> None:
        self._keys = keys
        self._chains: dict[tuple[str, str], dict[int, list[Envelope]]] = {}
        for envelope in envelopes:
            receipt = _readable(envelope)
            if receipt is not None and _is_signed(envelope, keys):
                chain = self._chains.setdefault((receipt.tenant_id, receipt.action_id), {})
                chain.setdefault(receipt.sequence, []).append(envelope)

    def verify(self, envelope: Envelope) -> Verification:
        """Verify one of the receipts along with its chain as far as it was given.

        Where an earlier receipt of the action was given, the one before must have been given too.
        Two different receipts at one place are a fork: a signer that says two things.
        """
        receipt = _readable(envelope)
        if receipt is None:
            return verify_receipt(envelope, self._keys)
        chain = self._chains.get((receipt.tenant_id, receipt.action_id), {})
        before = chain.get(receipt.sequence - 1, [])
        named = [e for e in before if e.digest() == receipt.previous_receipt_digest]
        previous = next(iter(named or before), None)
        has_chain = any(sequence < receipt.sequence for sequence in chain)
        result = verify_receipt(envelope, self._keys, previous, has_chain=has_chain)
        if len({other.payload for other in chain.get(receipt.sequence, [])}) > 1:
            detail = f"another receipt claims place {receipt.sequence} of the chain"
            fork = Check(CHAIN, CheckResult.FAILED, detail)
            checks = tuple(fork if check.name == CHAIN else check for check in result.checks)
            result = replace(result, checks=checks)
        return result


def _is_signed(envelope: Envelope, keys: Sequence[TrustedKey]) -> bool:
    checks = {check.name: check.result for check in verify_receipt(envelope, keys).checks}
    return checks[SIGNATURE] is checks[KEY_TRUST] is CheckResult.PASSED


def _readable(envelope: Envelope) -> Receipt | None:
    try:
        return parse_receipt(envelope)
    except ValueError:
        return None


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
