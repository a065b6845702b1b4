"""Approvals as rows of a table."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from oars_grpc.cli.approval_check import check_shown
from oars_grpc.cli.approval_text import risk_of, stage_of, state_of, what_of, who_of
from oars_grpc.cli.visible_text import visible

_COLOURS = {"pending": "yellow", "approved": "green", "consumed": "green", "rejected": "red"}
# Where no terminal wraps the lines, nothing is left out of them.
_FILE_WIDTH = 240


@dataclass(frozen=True, slots=True)
class ApprovalRow:
    """What one line says."""

    approval_id: str
    state: str
    what: str
    who: str
    risk: str
    stage: str
    waits_until: str


def row_of(answer: Mapping[str, Any]) -> ApprovalRow:
    """The row of an answer of GetApproval; what is not what it claims to be is not shown."""
    approval = answer["approval"]
    try:
        shown = check_shown(approval, answer["display"])
    except ValueError as error:
        what, who, risk = f"(!) {error}", "", ""
    else:
        what, who, risk = what_of(shown), who_of(shown), risk_of(shown)
    return ApprovalRow(
        visible(approval["approvalId"]),
        state_of(approval),
        what,
        who,
        risk,
        stage_of(approval),
        visible(approval["expiresAt"]).partition(".")[0].removesuffix("Z") + "Z",
    )


def table_of(rows: Iterable[ApprovalRow], console: Console) -> Table:
    """A table of rows for the console."""
    table = Table(box=None, header_style="bold")
    if not console.is_terminal:
        console.width = max(console.width, _FILE_WIDTH)
    table.add_column("approval", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for name in ("what", "who", "risk", "stage", "waits until"):
        table.add_column(name, overflow="fold")
    for row in rows:
        # Text, not markup: what others have chosen must not format anything.
        cells = (row.what, row.who, row.risk, row.stage, row.waits_until)
        state = Text(row.state, style=_COLOURS.get(row.state, "dim"))
        table.add_row(Text(row.approval_id), state, *map(Text, cells))
    return table
