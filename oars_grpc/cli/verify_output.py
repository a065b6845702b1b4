"""What `oars verify` prints: a table and findings for people, or a JSON object a line."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from oars_grpc.cli.verify_log import Finding
from oars_grpc.core.verification import (
    EVIDENCE,
    EVIDENCE_ITEMS,
    GRANT,
    CheckResult,
    Verification,
)

_MARKS = {
    CheckResult.PASSED: "[green]passed[/]",
    CheckResult.FAILED: "[bold red]FAILED[/]",
    CheckResult.NOT_CHECKED: "[dim]not checked[/]",
}
_OPTIONAL = {GRANT: "grant", EVIDENCE: "evidence", EVIDENCE_ITEMS: "its items"}
_VERDICTS = {True: "[bold green]valid[/]", False: "[bold red]NOT VALID[/]"}


def print_json(results: Sequence[tuple[Path, Verification]], findings: Sequence[Finding]) -> None:
    """One object for each receipt, then one for each checkpoint and proof."""
    for path, result in results:
        click.echo(json.dumps(_receipt_json(path, result)))
    for finding in findings:
        click.echo(json.dumps(_finding_json(finding)))


def _receipt_json(path: Path, result: Verification) -> dict[str, Any]:
    return {
        "file": str(path),
        "receiptId": result.receipt.receipt_id if result.receipt else None,
        "valid": result.valid,
        "keyId": result.key_id,
        "leafIndex": result.leaf_index,
        "checks": {
            check.name: {"result": check.result.value, "detail": check.detail}
            for check in result.checks
        },
        "errors": list(result.errors),
    }


def _finding_json(finding: Finding) -> dict[str, Any]:
    return {
        "file": str(finding.path),
        "kind": finding.kind,
        "valid": finding.valid,
        "detail": finding.detail,
        "errors": [] if finding.valid else [finding.error],
    }


def print_table(results: Sequence[tuple[Path, Verification]], findings: Sequence[Finding]) -> None:
    """For people."""
    console = Console()
    if results:
        console.print(_table(results))
    for finding in findings:
        text = f"{finding.kind} {finding.path}: {finding.detail}".rstrip(": ")
        console.print(f"{printable(text)} {_VERDICTS[finding.valid]}")
    for note in _notes(results):
        console.print(printable(note))
    for path, result in results:
        for error in result.errors:
            console.print(printable(f"{path}: {error}"), style="red")
    for finding in findings:
        if not finding.valid:
            console.print(printable(f"{finding.path}: {finding.error}"), style="red")


def _notes(results: Sequence[tuple[Path, Verification]]) -> Iterator[str]:
    """What marks cannot tell: who granted, and why evidence was not checked."""
    for path, result in results:
        if result.grant is not None and not result.grant.problems:
            yield f"{path}: granted {result.grant.detail}"
        if result.evidence is not None and result.evidence.unchecked:
            yield f"{path}: items of the evidence not checked: {result.evidence.unchecked}"


def _table(results: Sequence[tuple[Path, Verification]]) -> Table:
    names = ("signature", "key trust", "schema", "chain", "log")
    # Of what not every receipt has, only where one of them has it.
    found = {check.name for _, result in results for check in result.checks}
    more = {name: title for name, title in _OPTIONAL.items() if name in found}
    table = Table("receipt", *names, *more.values(), "verdict")
    for path, result in results:
        receipt = result.receipt
        name = printable(str(path))
        if receipt:
            name = f"{printable(receipt.type)}\n[dim]{printable(receipt.receipt_id)}[/]"
        own = {check.name: _MARKS[check.result] for check in result.checks}
        marks = [mark for check, mark in own.items() if check not in _OPTIONAL]
        marks += [own.get(check, "") for check in more]
        table.add_row(name, *marks, _VERDICTS[result.valid])
    return table


def printable(text: str) -> str:
    """Text from a file made safe for a terminal: it may be hostile, and pose as a verdict."""
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return escape(shown)
