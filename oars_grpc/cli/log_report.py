"""What `oars log check` found, for people and as JSON."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.markup import escape

from oars_grpc.core.log_check import Tally
from oars_grpc.core.stored_log import Problem

_SHOWN = 20


@dataclass(slots=True)
class Report:
    """What came of one tenant's log."""

    tenant_id: str
    tally: Tally = field(default_factory=Tally)
    problems: list[Problem] = field(default_factory=list)
    complete: bool = True
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """As `--json` prints it."""
        tree = self.tally.tree
        return {
            "tenantId": self.tenant_id,
            "leaves": self.tally.leaves,
            "erased": self.tally.erased,
            "unvouched": self.tally.unvouched,
            "rootHash": tree.root().hex() if tree is not None and self.complete else None,
            "seconds": round(self.seconds, 3),
            "complete": self.complete,
            "problems": [_problem_json(problem) for problem in self.problems],
        }

    def lines(self) -> Iterator[str]:
        """As it is printed."""
        counts = f"{self.tally.leaves} receipts"
        if self.tally.erased:
            counts += f", {self.tally.erased} of them erased"
        rate = self.tally.leaves / self.seconds if self.seconds else 0
        took = f"{self.seconds:.1f} s, {rate:,.0f} receipts/s"
        verdict = (
            f"[bold red]{len(self.problems)} problems[/]" if self.problems else "[green]whole[/]"
        )
        yield f"{escape(self.tenant_id)}: {verdict}, {counts} ({took})"
        if self.tally.unvouched:
            yield f"  {self.tally.unvouched} were signed by a revoked key that nothing vouches for"
        if self.problems:
            yield f"  [bold]first: {escape(str(self.problems[0]))}[/]"
        for problem in self.problems[1:_SHOWN]:
            yield f"  {escape(str(problem))}"
        if len(self.problems) > _SHOWN:
            yield f"  … and {len(self.problems) - _SHOWN} more (--json tells all)"
        if not self.complete:
            yield "  stopped there: --limit"


def to_json(reports: Sequence[Report], *, complete: bool) -> dict[str, Any]:
    """All of it as one object; `first` is the first thing that is wrong."""
    found = [problem for report in reports for problem in report.problems]
    return {
        "clean": not found and complete,
        "complete": complete,
        "first": _problem_json(found[0]) if found else None,
        "problemCount": len(found),
        "tenants": [report.to_json() for report in reports],
    }


def print_reports(console: Console, reports: Sequence[Report]) -> None:
    """Print them, the first problem of each in bold."""
    for report in reports:
        for line in report.lines():
            console.print(line, soft_wrap=True, highlight=False)


def _problem_json(problem: Problem) -> dict[str, Any]:
    return {
        "kind": problem.kind.value,
        "tenantId": problem.tenant_id,
        "leafIndex": problem.leaf_index,
        "receiptId": problem.receipt_id,
        "detail": problem.detail,
    }
