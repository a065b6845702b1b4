"""Shows that a submit costs the same however many actions are stored.

    python -m tests.benchmarks.growth --json growth.json

Two servers on databases of their own, one with 10,000 stored actions and one with 1,000,000 in the
same tenant, are loaded in turn; what a submit takes and costs on the one is set in relation to the
other. Stored actions are allowed and completed: an action, its input, three receipts with their
payloads, two idempotency outcomes, in the tenant's Merkle log.
"""

import json
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from tests.benchmarks.contestants import TENANT, Contestant, bench, end_in_order
from tests.benchmarks.figures import Figures, machine
from tests.benchmarks.filling import fill, stored_actions
from tests.benchmarks.load import Load, Measured
from tests.benchmarks.workloads import Samples

SMALL = 10_000
STREAMS = (1, 16)
WORKLOAD = "allow"


@click.command(context_settings={"show_default": True})
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write figures here.")
@click.option("--large", default=1_000_000, help="Stored actions of the larger database.")
@click.option("--rounds", default=5, help="Measurements of each, of which the median counts.")
@click.option("--seconds", default=4.0, help="Length of a measurement.")
@click.option("--quick", is_flag=True, help="100,000 instead of 1,000,000, and shorter.")
@click.option(
    "--directory",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Where to put the databases: about 20 GB for a million actions.",
)
def main(
    json_file: Path | None,
    large: int,
    rounds: int,
    seconds: float,
    directory: Path | None,
    *,
    quick: bool,
) -> None:
    """Measure submits at 10,000 and at 1,000,000 stored actions. Takes about ten minutes."""
    end_in_order()
    console = Console(width=None if sys.stdout.isatty() else 120)
    if quick:
        large, rounds, seconds = 100_000, 3, 2.0
    report = run(console, large=large, rounds=rounds, seconds=seconds, directory=directory)
    if json_file is not None:
        json_file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def run(
    console: Console, *, large: int, rounds: int, seconds: float, directory: Path | None
) -> dict[str, Any]:
    """Fill two databases, measure, print; what `--json` writes."""
    with ExitStack() as stack:
        running = stack.enter_context(bench(directory))
        contestants: dict[int, Contestant] = {}
        for actions in (SMALL, large):
            began = time.monotonic()
            server = stack.enter_context(running.oars({}, f"oars_{actions}"))
            recorded, _ = server.record("allow_complete")
            with console.status(f"storing {actions:,} actions …"):
                fill(server.database_url, TENANT, recorded, actions)
            stored = stored_actions(server.database_url)
            took = time.monotonic() - began
            console.print(f"{stored:,} actions stored, in {took:.0f} s", highlight=False)
            contestants[actions] = stack.enter_context(server.contestant())
        with console.status("measuring …"):
            measured = _measure(contestants, rounds, seconds)
        conditions = machine(running.directory) | {"postgres": running.postgres_version()}
        report: dict[str, Any] = {
            "machine": conditions,
            "durability": dict(running.durability()),
            "stored_actions": {
                str(actions): {str(streams): each.to_json() for streams, each in figures.items()}
                for actions, figures in measured.items()
            },
            "ratio": {
                str(streams): _ratios(measured[SMALL][streams], measured[large][streams])
                for streams in STREAMS
            },
        }
    _print(console, measured, report["ratio"])
    return report


def _measure(
    contestants: Mapping[int, Contestant], rounds: int, seconds: float
) -> dict[int, dict[int, Figures]]:
    measured: dict[tuple[int, int], list[Measured]] = {}
    for number in range(rounds):
        for streams in STREAMS:
            # The first finds caches cold, of Postgres and of the disk.
            load = Load(WORKLOAD, streams, 1.0 if number else 3.0, seconds, Samples())
            order = list(contestants.items())
            for actions, who in order if number % 2 == 0 else reversed(order):
                found = who.generator.run(load, who.cpu)
                measured.setdefault((actions, streams), []).append(found)
    return {
        actions: {streams: Figures.of(measured[actions, streams]) for streams in STREAMS}
        for actions in contestants
    }


def _ratios(small: Figures, large: Figures) -> dict[str, float]:
    return {
        "p50": round(large.p50_ms / small.p50_ms, 3),
        "cpu": round(large.cpu_ms / small.cpu_ms, 3),
        "actions_per_second": round(large.actions_per_second / small.actions_per_second, 3),
    }


def _print(
    console: Console,
    measured: Mapping[int, Mapping[int, Figures]],
    ratio: Mapping[str, Mapping[str, float]],
) -> None:
    table = Table(title="allowed submits; processor time in ms for each")
    for heading in ("stored", "streams", "actions/s", "p50 ms", "p99 ms", "server", "Postgres"):
        table.add_column(heading, justify="right")
    for actions, by_streams in measured.items():
        for streams, each in by_streams.items():
            table.add_row(
                f"{actions:,}",
                str(streams),
                f"{each.actions_per_second:,.0f}",
                f"{each.p50_ms:.2f}",
                f"{each.p99_ms:.2f}",
                f"{each.server_cpu_ms:.3f}",
                f"{each.postgres_cpu_ms:.3f}",
            )
        table.add_section()
    console.print(table)
    for streams_, found in ratio.items():
        said = ", ".join(f"{name} {value:.2f}" for name, value in found.items())
        console.print(f"larger to smaller at {streams_} streams: {said}", highlight=False)


if __name__ == "__main__":
    main()
