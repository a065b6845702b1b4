"""Shows that the server's memory stays flat over 100,000 actions.

    python -m tests.benchmarks.memory --json memory.json

Sixteen streams submit; after every 5,000 actions the resident memory of the server is read. The
slope is that of the line through the samples after the warm-up, by least squares.
"""

import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import linear_regression
from typing import Any

import click
from rich.console import Console

from tests.benchmarks.contestants import bench, end_in_order
from tests.benchmarks.figures import machine
from tests.benchmarks.load import Load
from tests.benchmarks.processes import resident_bytes
from tests.benchmarks.workloads import Samples

EVERY = 5_000
STREAMS = 16
# What allocators, caches, threads and statements take at first is not growth.
WARM_UP = 0.25
_LONGEST_SECONDS = 600.0
_MIB = 2**20


@click.command(context_settings={"show_default": True})
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write figures here.")
@click.option("--actions", default=100_000, help="Actions in all.")
@click.option("--quick", is_flag=True, help="20,000 actions, sampled every 1,000.")
@click.option(
    "--directory",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Where to put the database.",
)
def main(json_file: Path | None, actions: int, directory: Path | None, *, quick: bool) -> None:
    """Watch the memory of the server over 100,000 submits. Takes some minutes."""
    end_in_order()
    console = Console(width=None if sys.stdout.isatty() else 120)
    every = EVERY
    if quick:
        actions, every = 20_000, 1_000
    report = run(console, actions=actions, every=every, directory=directory)
    if json_file is not None:
        json_file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def run(console: Console, *, actions: int, every: int, directory: Path | None) -> dict[str, Any]:
    """Submit, sample, print; what `--json` writes."""
    samples: list[tuple[int, int]] = []
    with ExitStack() as stack:
        running = stack.enter_context(bench(directory))
        server = stack.enter_context(running.oars({}))
        who = stack.enter_context(server.contestant())
        for done in range(every, actions + 1, every):
            load = Load("allow", STREAMS, 0, _LONGEST_SECONDS, Samples(), actions=every)
            measured = who.generator.run(load, who.cpu)
            samples.append((done, resident_bytes(who.pid)))
            console.print(
                f"{done:>9,} actions  {samples[-1][1] / _MIB:8.1f} MiB"
                f"  {measured.actions / measured.seconds:6,.0f} actions/s",
                highlight=False,
            )
        conditions = machine(running.directory)
    settled = samples[int(len(samples) * WARM_UP) :]
    slope = _slope(settled)
    grown = (settled[-1][1] - settled[0][1]) / settled[0][1]
    console.print(
        f"after the warm-up of {settled[0][0]:,} actions: {slope:+.1f} bytes for each action,"
        f" {grown:+.2%} over the last {settled[-1][0] - settled[0][0]:,}",
        highlight=False,
    )
    return {
        "machine": conditions,
        "streams": STREAMS,
        "samples": [{"actions": done, "resident_bytes": size} for done, size in samples],
        "warm_up_actions": settled[0][0],
        "slope_bytes_per_action": round(slope, 2),
        "growth_after_warm_up": round(grown, 5),
    }


def _slope(samples: Sequence[tuple[int, int]]) -> float:
    """Bytes for each action, by least squares."""
    done, sizes = zip(*samples, strict=True)
    return linear_regression(done, sizes).slope


if __name__ == "__main__":
    main()
