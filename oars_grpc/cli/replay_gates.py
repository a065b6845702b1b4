"""What a replay may be failed on: `--fail-on` for CI."""

from collections.abc import Sequence

import click

from oars_grpc.core.replay_report import NOT_REPLAYABLE, ReplayReport

ANY = "any"
# By what the option calls them, the counts of the report; any of them suffices.
GATES = {
    "newly-allowed": ("newlyAllowed",),
    "newly-denied": ("newlyDenied",),
    "newly-approval-required": ("newlyApprovalRequired",),
    "newly-quarantined": ("newlyQuarantined",),
    "stricter": ("stricter",),
    "less-strict": ("lessStrict",),
    "not-replayable": (NOT_REPLAYABLE,),
    ANY: ("changed", NOT_REPLAYABLE),
}


def read_gates(_: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    """The gates of an option's text: names separated by commas.

    Raises:
        BadParameter: there is none of that name.
    """
    names = tuple(name.strip() for name in value.split(",")) if value else ()
    for name in names:
        if name not in GATES:
            raise click.BadParameter(f"{name!r} is none of {', '.join(GATES)}", param=parameter)
    return names


def hits(report: ReplayReport, gates: Sequence[str]) -> tuple[str, ...]:
    """Those of the gates that the report runs into."""
    counts = report.counts()
    return tuple(gate for gate in gates if any(counts[name] for name in GATES[gate]))
