"""Measures submits, completions, reads and verification of a real server against a floor.

    python -m tests.benchmarks.submit --json submit.json

Postgres runs with fsync, `oars serve` with mutual TLS, the load comes from a process of its own.
The README beside this file says what the floor is and what the figures mean.
"""

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from tests.benchmarks.contestants import (
    SERVER_SETTINGS,
    Contestant,
    Oars,
    bench,
    end_in_order,
    fdatasync_us,
    read_settings,
)
from tests.benchmarks.figures import Figures, cpu_ratios, machine, ratios
from tests.benchmarks.load import Load, Measured
from tests.benchmarks.workloads import WORKLOADS, Samples

STREAMS = (1, 16, 64)
FLOOR = "floor"
# The same floor, held on one processor as the server is.
HELD_FLOOR = "floor_on_one_processor"
# The workload that the floor does the writing of.
COMPARED = "allow"


_TITLES = {
    **WORKLOADS,
    FLOOR: "the floor: sign, INSERT, answer",
    HELD_FLOOR: "the floor on one processor",
}


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how often."""

    rounds: int
    seconds: float
    warm_up_seconds: float
    # Of the workloads that are not compared with the floor.
    other_rounds: int
    other_seconds: float
    streams: Sequence[int] = STREAMS


FULL = Plan(rounds=3, seconds=5, warm_up_seconds=1, other_rounds=2, other_seconds=3)
QUICK = Plan(rounds=2, seconds=1, warm_up_seconds=0.4, other_rounds=1, other_seconds=1)
SMOKE = Plan(
    rounds=1, seconds=1, warm_up_seconds=0.05, other_rounds=1, other_seconds=1, streams=(1, 4)
)


@click.command(context_settings={"show_default": True})
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write figures here.")
@click.option(
    "--plot",
    "plot_file",
    type=click.Path(path_type=Path),
    help="Write a plot (PNG) here; beside the figures unless said otherwise.",
)
@click.option("--quick", is_flag=True, help="Shorter and fewer rounds: within a minute in all.")
@click.option("--smoke", is_flag=True, help="Only show that everything works; figures mean little.")
@click.option("--floor-threads", default=32, help="Threads, each with a connection, of the floor.")
@click.option(
    "--floor-one-statement",
    is_flag=True,
    help="Let the floor write its transaction as one WITH statement: one round trip.",
)
@click.option(
    "--processor",
    type=click.IntRange(0),
    default=lambda: min(os.sched_getaffinity(0)),
    show_default="the first one",
    help="The processor that the server stays on (OARS_PROCESSOR), and a second floor with it.",
)
@click.option("--no-processor", is_flag=True, help="Let the server, too, run wherever it likes.")
@click.option(
    "--server-setting",
    "server_settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="A setting of the server, such as WORKER_THREADS=32. May be repeated.",
)
@click.option(
    "--directory",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Where to put the database; the disk is a part of what is measured.",
)
@click.option(
    "--only-compared", is_flag=True, help="Only allowed submits against the floor, nothing else."
)
def main(
    json_file: Path | None,
    plot_file: Path | None,
    *,
    quick: bool,
    smoke: bool,
    floor_threads: int,
    floor_one_statement: bool,
    processor: int,
    no_processor: bool,
    server_settings: Sequence[str],
    directory: Path | None,
    only_compared: bool,
) -> None:
    """Measure allowed submits, completions, reads and verification, and the floor beside them.

    Starts a Postgres of its own with fsync on, a real server with mutual TLS and a load generator,
    and stops them at the end. Takes about five minutes.
    """
    end_in_order()
    console = Console(width=None if sys.stdout.isatty() else 120)
    plan = SMOKE if smoke else QUICK if quick else FULL
    try:
        settings = read_settings(server_settings)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--server-setting") from error
    report = run(
        console,
        plan,
        floor_threads=floor_threads,
        floor_one_statement=floor_one_statement,
        processor=None if no_processor else processor,
        server_settings=settings,
        directory=directory,
        workloads=(COMPARED,) if only_compared else tuple(WORKLOADS),
    )
    if json_file is not None:
        json_file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        console.print(f"figures: {json_file}")
    if plot_file is None and json_file is not None:
        plot_file = json_file.with_suffix(".png")
    if plot_file is not None:
        _plot(console, report, plot_file)


def run(
    console: Console,
    plan: Plan,
    *,
    floor_threads: int,
    floor_one_statement: bool,
    processor: int | None,
    server_settings: Mapping[str, str],
    directory: Path | None,
    workloads: Sequence[str],
) -> dict[str, Any]:
    """Start everything, measure, print the tables; what `--json` writes."""
    began = time.monotonic()
    with ExitStack() as stack:
        with console.status("starting Postgres, the server and the floor …"):
            running = stack.enter_context(bench(directory))
            placed = {} if processor is None else {"processor": str(processor)}
            server = stack.enter_context(running.oars({**placed, **server_settings}))
            contestants = {COMPARED: stack.enter_context(server.contestant())}
            for name, where in ((FLOOR, None), (HELD_FLOOR, processor)):
                if name == FLOOR or where is not None:
                    contestants[name] = stack.enter_context(
                        running.floor(
                            server,
                            floor_threads,
                            one_statement=floor_one_statement,
                            processor=where,
                        )
                    )
        report: dict[str, Any] = {
            "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine(running.directory) | {"postgres": running.postgres_version()},
            "durability": dict(running.durability())
            | {"fdatasync_us": round(fdatasync_us(running.directory), 1)},
            "plan": {
                "rounds": plan.rounds,
                "seconds": plan.seconds,
                "warm_up_seconds": plan.warm_up_seconds,
                "other_rounds": plan.other_rounds,
                "other_seconds": plan.other_seconds,
                "floor_threads": floor_threads,
                "floor_one_statement": floor_one_statement,
                "processor": processor,
                "server_settings": SERVER_SETTINGS | dict(server_settings),
            },
        }
        _print_conditions(console, report)
        with console.status("measuring …"):
            measured = _measure(server, contestants, plan, workloads)
    ours, floors = measured[COMPARED], measured[FLOOR]
    report["workloads"] = {
        name: {str(streams): each.to_json() for streams, each in figures.items()}
        for name, figures in measured.items()
        if name not in (FLOOR, HELD_FLOOR)
    }
    report["ratio_to_floor"] = ratios(ours, floors)
    report["cpu_ratio_to_floor"] = cpu_ratios(ours, floors)
    for name in contestants.keys() - {COMPARED}:
        report[name] = {str(streams): each.to_json() for streams, each in measured[name].items()}
    if HELD_FLOOR in measured:
        report["ratio_to_floor_on_one_processor"] = ratios(ours, measured[HELD_FLOOR])
    report["took_seconds"] = round(time.monotonic() - began, 1)
    _print_figures(console, measured, report)
    return report


def _measure(
    server: Oars,
    contestants: Mapping[str, Contestant],
    plan: Plan,
    workloads: Sequence[str],
) -> dict[str, dict[int, Figures]]:
    """Figures by workload (or the floor) and streams.

    Rounds of those that are compared alternate, so that whatever else the machine does falls on all
    alike.
    """
    rounds: dict[tuple[str, int], list[Measured]] = {}

    def measure(name: str, who: Contestant, load: Load) -> None:
        rounds.setdefault((name, load.streams), []).append(who.generator.run(load, who.cpu))

    for number in range(plan.rounds):
        for streams in plan.streams:
            load = Load(COMPARED, streams, plan.warm_up_seconds, plan.seconds, Samples())
            order = list(contestants.items())
            for name, who in order if number % 2 == 0 else reversed(order):
                measure(name, who, load)
    others = [name for name in workloads if name != COMPARED]
    samples = server.samples() if others else Samples()
    for _ in range(plan.other_rounds):
        for name in others:
            for streams in plan.streams:
                load = Load(name, streams, plan.warm_up_seconds, plan.other_seconds, samples)
                measure(name, contestants[COMPARED], load)
    return {
        name: {streams: Figures.of(rounds[name, streams]) for streams in plan.streams}
        for name in (*workloads, *(contestants.keys() - {COMPARED}))
    }


def _print_conditions(console: Console, report: Mapping[str, Any]) -> None:
    for part in ("machine", "durability", "plan"):
        said = ", ".join(f"{name} {value}" for name, value in report[part].items())
        console.print(f"[bold]{part}[/]: {said}", highlight=False)


def _print_figures(
    console: Console,
    measured: Mapping[str, Mapping[int, Figures]],
    report: Mapping[str, Any],
) -> None:
    table = Table(title="closed loop; processor time in ms for each action")
    for heading in ("workload", "streams", "actions/s", "p50 ms", "p99 ms"):
        table.add_column(heading, justify="left" if heading == "workload" else "right")
    for heading in ("server", "Postgres", "client"):
        table.add_column(f"{heading} CPU", justify="right")
    for name, by_streams in measured.items():
        for streams, each in by_streams.items():
            table.add_row(
                _TITLES[name],
                str(streams),
                f"{each.actions_per_second:,.0f}",
                f"{each.p50_ms:.2f}",
                f"{each.p99_ms:.2f}",
                f"{each.server_cpu_ms:.3f}",
                f"{each.postgres_cpu_ms:.3f}",
                f"{each.client_cpu_ms:.3f}",
            )
        table.add_section()
    console.print(table)
    for title, key in (
        ("allowed submits, ratio to the floor", "ratio_to_floor"),
        ("allowed submits, ratio to the floor on one processor", "ratio_to_floor_on_one_processor"),
        ("processor time of server and Postgres, ratio to the floor", "cpu_ratio_to_floor"),
    ):
        if key not in report:
            continue
        said = ", ".join(f"{value:.2f} at {streams}" for streams, value in report[key].items())
        console.print(f"[bold]{title}[/]: {said}", highlight=False)
    console.print(f"took {report['took_seconds']:.0f} s", highlight=False)


def _plot(console: Console, report: Mapping[str, Any], file: Path) -> None:
    try:
        from tests.benchmarks.plot import plot_throughput
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        console.print("no plot: it takes `pip install 'oars-grpc[benchmark]'`")
        return
    plot_throughput(report, file)
    console.print(f"plot: {file}")


if __name__ == "__main__":
    sys.exit(main())
