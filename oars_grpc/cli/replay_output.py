"""A verified replay report, printed."""

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from oars_grpc.core.policy import Effect
from oars_grpc.core.replay_report import NEWLY, NOT_REPLAYABLE, Example, ReplayReport

_COUNTS = {
    "unchanged": "unchanged",
    "newlyAllowed": "newly allowed",
    "newlyApprovalRequired": "newly asks for approval",
    "newlyQuarantined": "newly quarantined",
    "newlyDenied": "newly denied",
    "stricter": "stricter, in all",
    "lessStrict": "less strict, in all",
    NOT_REPLAYABLE: "not replayable",
}
_STYLES = {"newlyAllowed": "bold red", "lessStrict": "red", NOT_REPLAYABLE: "yellow"}


def print_report(console: Console, report: ReplayReport) -> None:
    """What a replay came to, for people."""
    replayed, counts = report.range, report.counts()
    named = report.draft.policy_id or "document"
    console.print(
        _printable(
            f"{named} {report.draft.digest[:16]} over {replayed.last.origin}, receipts"
            f" {replayed.first.size} to {replayed.last.size}: {counts['decisions']} decisions"
        ),
        soft_wrap=True,
    )
    table = Table("", "decisions")
    for name, shown in _COUNTS.items():
        style = _STYLES.get(name, "") if counts[name] else "dim"
        table.add_row(shown, f"{counts[name]:,}", style=style)
    console.print(table)
    console.print(_transitions(report))
    rules = Table("rule of the draft", "says", "counted", "decided", "indeterminate")
    for rule in report.rules:
        rules.add_row(
            _printable(rule.rule_id),
            rule.effect.value,
            f"{rule.counted:,}",
            f"{rule.deciding:,}",
            f"{rule.indeterminate:,}",
            style="" if rule.counted else "dim",
        )
    console.print(rules)
    for reason, count in report.unreplayable.items():
        if count:
            console.print(f"not replayable: {reason.value.replace('_', ' ')}: {count:,}")
    for kind in (*NEWLY.values(), NOT_REPLAYABLE):
        for example in report.examples.get(kind, ()):
            console.print(_printable(f"{_COUNTS[kind]}: {_told(example)}"), soft_wrap=True)


def report_json(report: ReplayReport, hits: tuple[str, ...]) -> dict[str, Any]:
    """What `--json` prints: the verified predicate, and what of --fail-on it hits."""
    return {"verified": True, "failedOn": list(hits), **report.predicate()}


def _transitions(report: ReplayReport) -> Table:
    table = Table("recorded", *(f"→ {effect.value}" for effect in Effect))
    for recorded in Effect:
        row = [report.transitions.get((recorded, draft), 0) for draft in Effect]
        table.add_row(recorded.value, *(f"{count:,}" if count else "·" for count in row))
    return table


def _told(example: Example) -> str:
    where = f"leaf {example.leaf_index}, {example.action_id}"
    if example.draft is None:
        return f"{where} ({'' if example.reason is None else example.reason.value})"
    rules = ", ".join(example.rules) or "no rule permits it"
    more = f" and {example.more_rules} more" if example.more_rules else ""
    recorded = "" if example.recorded is None else example.recorded.value
    return f"{where} ({recorded} → {example.draft.value}: {rules}{more})"


def _printable(text: str) -> str:
    """Text from elsewhere made safe for a terminal."""
    return escape("".join(c if c.isprintable() else ascii(c)[1:-1] for c in text))
