"""`oars verify BUNDLE.zip`: an evidence bundle checked offline."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from oars_grpc.cli.approver_key_file import approver_key_option, read_approver_keys
from oars_grpc.cli.bundle_zip import ZipBundle, is_zip
from oars_grpc.cli.key_files import read_json, trusted_keys
from oars_grpc.core.bundle_findings import BundleVerdict
from oars_grpc.core.bundle_verification import OF_THE_BUNDLE, BundleTrust, verify_bundle
from oars_grpc.core.inclusion import LogTrust
from oars_grpc.core.note import Note, parse_note
from oars_grpc.core.verification import CheckResult
from oars_grpc.core.witness_policy import parse_witness_policy

Content = TypeVar("Content")
_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
_MARKS = {
    CheckResult.PASSED: "[green]passed[/]",
    CheckResult.FAILED: "[bold red]FAILED[/]",
    CheckResult.NOT_CHECKED: "[dim]not checked[/]",
}
_SHOWN_PROBLEMS = 20


class BundleAware(click.Command):
    """A command that leaves ZIPs to `oars verify` of bundles, with its own options."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """The context of the command that the arguments are for."""
        if any(is_zip(Path(argument)) for argument in args):
            return verify_evidence.make_context(info_name, args, parent, **extra)
        return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run that command."""
        return super().invoke(ctx) if ctx.command is self else ctx.command.invoke(ctx)


@click.command()
@click.argument("bundle", type=_FILE)
@click.option(
    "--keys",
    "keys_file",
    type=_FILE,
    help="Trusted keys, fetched by yourself; without them those of the bundle are taken.",
)
@click.option(
    "--from-checkpoint", "first_file", type=_FILE, help="The bundle must begin with this one."
)
@click.option("--to-checkpoint", "last_file", type=_FILE, help="It must end with this one.")
@click.option(
    "--witnesses",
    "witnesses_file",
    type=_FILE,
    help="Who must have cosigned the checkpoints (those given, or else the bundle's own).",
)
@click.option("--origin", default="", help="Believe only a log named PREFIX/TENANT.")
@approver_key_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def verify_evidence(
    bundle: Path,
    keys_file: Path | None,
    first_file: Path | None,
    last_file: Path | None,
    witnesses_file: Path | None,
    origin: str,
    approver_key_files: tuple[Path, ...],
    *,
    as_json: bool,
) -> None:
    """Verify an evidence bundle offline.

    Shows that every receipt between its two checkpoints is there, unchanged and signed by a trusted
    key. Leaves with 0 when everything is valid, 1 when anything is not, 2 when a file cannot be
    read.
    """
    keys = _read(keys_file, lambda path: trusted_keys(read_json(path)))
    policy = _read(witnesses_file, lambda path: parse_witness_policy(read_json(path)))
    trust = BundleTrust(
        keys,
        _read(first_file, _note),
        _read(last_file, _note),
        LogTrust(origin, policy),
        read_approver_keys(approver_key_files),
    )
    verdict = _verify(bundle, trust)
    if as_json:
        click.echo(json.dumps(_to_json(bundle, verdict)))
    else:
        _print(bundle, verdict)
    sys.exit(0 if verdict.valid else 1)


def _read(path: Path | None, parse: Callable[[Path], Content]) -> Content | None:
    if path is None:
        return None
    try:
        return parse(path)
    except ValueError as error:
        raise click.UsageError(f"{path}: {error}") from error


def _note(path: Path) -> Note:
    return parse_note(path.read_bytes().decode())


def _verify(path: Path, trust: BundleTrust) -> BundleVerdict:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True
    ) as progress:
        task = progress.add_task("verifying", total=None)
        try:
            with ZipBundle(path) as bundle:
                return verify_bundle(
                    bundle,
                    trust,
                    advance=lambda count: progress.advance(task, count),
                    begin=lambda total: progress.update(task, total=total),
                )
        except ValueError as error:
            raise click.UsageError(f"{path}: {error}") from error


def _to_json(path: Path, verdict: BundleVerdict) -> dict[str, Any]:
    manifest = verdict.manifest
    return {
        "file": str(path),
        "valid": verdict.valid,
        "trustSource": verdict.trust_source,
        "tenantId": manifest.tenant_id if manifest else None,
        "origin": manifest.last.origin if manifest else None,
        "fromSize": manifest.first.size if manifest else None,
        "toSize": manifest.last.size if manifest else None,
        "receipts": verdict.receipts,
        "erased": [list(pair) for pair in verdict.erased],
        "firstBadLeaf": verdict.first_bad_leaf,
        "checks": {
            check.name: {
                "result": check.result.value,
                "detail": check.detail,
                "problems": check.count,
                "errors": [
                    {"leafIndex": problem.leaf_index, "detail": problem.detail}
                    for problem in check.problems
                ],
            }
            for check in verdict.checks
        },
    }


def _print(path: Path, verdict: BundleVerdict) -> None:
    console = Console()
    table = Table("check", "result", "detail")
    for check in verdict.checks:
        detail = check.detail or (f"{check.count} problems" if check.count else "")
        table.add_row(check.name, _MARKS[check.result], _printable(detail))
    console.print(table)
    for check in verdict.checks:
        for problem in check.problems[:_SHOWN_PROBLEMS]:
            console.print(_printable(f"{check.name}: {problem}"), style="red", soft_wrap=True)
        if check.count > _SHOWN_PROBLEMS:
            more = f"{check.name}: and {check.count - _SHOWN_PROBLEMS} more (--json tells them)"
            console.print(more, style="red")
    _print_verdict(console, path, verdict)


def _print_verdict(console: Console, path: Path, verdict: BundleVerdict) -> None:
    manifest = verdict.manifest
    if manifest:
        count = sum(last - first + 1 for first, last in verdict.erased)
        console.print(
            _printable(
                f"{manifest.last.origin}: leaves {manifest.first.size} to {manifest.last.size},"
                f" {verdict.receipts} receipts, {count} erased"
            )
        )
    for first, last in verdict.erased[:_SHOWN_PROBLEMS]:
        console.print(f"erased: leaf {first}" + (f" to {last}" if last > first else ""))
    if len(verdict.erased) > _SHOWN_PROBLEMS:
        console.print(f"erased: and {len(verdict.erased) - _SHOWN_PROBLEMS} more ranges")
    if verdict.first_bad_leaf is not None:
        console.print(f"the first bad leaf is {verdict.first_bad_leaf}", style="red")
    if verdict.trust_source == OF_THE_BUNDLE:
        console.print(
            "the keys are the bundle's own: this shows that it is whole and consistent, not whose"
            " it is; give --keys",
            style="yellow",
        )
    word = "[bold green]valid[/]" if verdict.valid else "[bold red]NOT VALID[/]"
    console.print(f"{_printable(str(path))}: {word}", soft_wrap=True)


def _printable(text: str) -> str:
    """Text from a file made safe for a terminal: it may be hostile, and pose as a verdict."""
    return escape("".join(c if c.isprintable() else ascii(c)[1:-1] for c in text))
