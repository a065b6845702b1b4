"""What the lattice takes, how well it ranks, and what its scores of evidence can tell.

`python -m tests.benchmarks.lattice [--peer CHECKOUT] [--quick] [--million] [--json FILE]`; see
the README of the benchmarks.
"""

import argparse
import importlib.util
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from os import getloadavg
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_info

from tests.benchmarks.figures import machine
from tests.benchmarks.lattice.contention import core_contention
from tests.benchmarks.lattice.embedding import missing_for_text
from tests.benchmarks.lattice.evidence import grounding
from tests.benchmarks.lattice.index import index_search
from tests.benchmarks.lattice.million import ROWS, measured_in_a_process
from tests.benchmarks.lattice.outcomes import outcome_risks
from tests.benchmarks.lattice.peer import Peer
from tests.benchmarks.lattice.quality import compared
from tests.benchmarks.lattice.retrieval import RetrievalSet, digits, text_sets
from tests.benchmarks.lattice.scale import growth, large
from tests.benchmarks.lattice.service import service_contention
from tests.benchmarks.lattice.speed import speed
from tests.benchmarks.lattice.tables import tables
from tests.benchmarks.lattice.threads import Threads, computing_in

PARTS = ("speed", "scale", "ranking", "grounding", "outcomes", "contention")


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is measured."""

    rounds: dict[int, int]  # of the contest, by anchors
    kinds: tuple[str, ...]
    large: int
    growth: tuple[int, ...]
    texts: int | None  # of each collection: all if None, no collection if 0
    digits: int | None
    peer_queries: int  # of each fold: over a whole corpus one takes seconds
    actions: int
    idle_seconds: float
    built: int
    service: bool  # contention at a running server too
    tune: bool


FULL = Extent(
    rounds={1_200: 9, 5_000: 5},
    kinds=("clustered", "gaussian"),
    large=100_000,
    growth=(12_500, 25_000, 50_000, 100_000, 200_000),
    texts=None,
    digits=None,
    peer_queries=40,
    actions=600,
    idle_seconds=20.0,
    built=20_000,
    service=True,
    tune=True,
)
QUICK = Extent(
    rounds={1_200: 1, 5_000: 1},
    kinds=("clustered",),
    large=5_000,
    growth=(3_000, 6_000, 12_000),
    texts=200,
    digits=900,
    peer_queries=8,
    actions=30,
    idle_seconds=1.5,
    built=2_000,
    service=False,
    tune=False,
)
# For the tests: that everything runs, on numbers that say nothing.
SMOKE = Extent(
    rounds={1_200: 1},
    kinds=("clustered",),
    large=1_000,
    growth=(500, 1_000),
    texts=120,
    digits=300,
    peer_queries=4,
    actions=8,
    idle_seconds=0.3,
    built=1_000,
    service=False,
    tune=False,
)


def run(
    extent: Extent,
    peer: Peer | None,
    cache: Path,
    parts: Sequence[str],
    threads: Threads,
    *,
    million: bool,
) -> dict[str, Any]:
    """All parts that were asked for and that this machine has what it takes for."""
    left_out = [] if peer else ["Oscillink: no --peer"]
    if extent.texts == 0:
        left_out.append("texts: --no-texts")
    elif missing := missing_for_text():
        left_out.append(f"texts: {missing}")
    if index_search() is None:
        left_out.append("the index: pip install -e '.[index]'")
    measures: dict[str, Callable[[], Any]] = {
        "speed": lambda: speed(peer, extent.rounds, extent.kinds, threads),
        "scale": lambda: {
            "large": large(extent.large, index_search()),
            "growth": growth(extent.growth),
        },
        "ranking": lambda: compared(
            _labelled_sets(cache, extent, left_out), peer, extent.peer_queries, tune=extent.tune
        ),
        "grounding": lambda: grounding(cache, extent.texts, extent.actions),
        "outcomes": lambda: outcome_risks(cache, extent.texts, extent.actions),
        "contention": lambda: [
            core_contention(extent.idle_seconds, extent.built),
            *([service_contention(extent.idle_seconds, extent.built)] if extent.service else []),
        ],
    }
    report: dict[str, Any] = {"machine": _machine(peer, threads), "left_out": left_out}
    for name in parts:
        sys.stderr.write(f"{name} …\n")
        report[name] = measures[name]()
    if million:
        sys.stderr.write("million …\n")
        report["million"] = measured_in_a_process(ROWS)
    report["machine"]["load_after"] = round(getloadavg()[0], 2)
    return report


def _labelled_sets(cache: Path, extent: Extent, left_out: list[str]) -> list[RetrievalSet]:
    sets = []
    if importlib.util.find_spec("sklearn"):
        sets.append(digits(extent.digits))
    else:
        left_out.append("digits: scikit-learn is not installed: pip install -e '.[benchmark]'")
    return [*sets, *text_sets(cache, extent.texts)]


def _machine(peer: Peer | None, threads: Threads) -> dict[str, Any]:
    libraries: list[dict[str, Any]] = threadpool_info()
    blas = next((each for each in libraries if each["user_api"] == "blas"), {})
    return {
        **machine(Path.cwd()),
        "numpy": version("numpy"),
        "scipy": version("scipy"),
        "blas": f"{blas.get('internal_api')} {blas.get('version')} {blas.get('architecture')}",
        "blas_threads": threads.count,
        "oscillink": peer.version if peer else None,
        # Above the number of cores, other work took part of them.
        "load_before": round(getloadavg()[0], 2),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument("--quick", action="store_true", help="less of everything: a minute")
    extent.add_argument("--smoke", action="store_true", help="only that it runs: seconds")
    parser.add_argument("--million", action="store_true", help=f"{ROWS:,} anchors by the index too")
    parser.add_argument("--peer", type=Path, help="a checkout of Oscillink to measure beside")
    parser.add_argument("--no-texts", action="store_true", help="only what needs no embedding")
    parser.add_argument("--only", choices=PARTS, action="append", help="this part; repeatable")
    parser.add_argument(
        "--blas-threads", type=int, help="of their matrix products, and of our computations"
    )
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path(tempfile.gettempdir()) / "oars-benchmark-embeddings",
        help="where embeddings of texts are kept",
    )
    parser.add_argument("--json", type=Path, help="write the figures here, and plots beside it")
    options = parser.parse_args(arguments)
    peer = Peer(options.peer) if options.peer else None
    chosen = QUICK if options.quick else SMOKE if options.smoke else FULL
    if options.no_texts:
        chosen = replace(chosen, texts=0)
    with computing_in(options.blas_threads) as threads:
        report = run(
            chosen, peer, options.cache, options.only or PARTS, threads, million=options.million
        )
    sys.stdout.write(tables(report))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
        if importlib.util.find_spec("matplotlib"):
            from tests.benchmarks.lattice.plots import plot

            plot(report, options.json)


if __name__ == "__main__":
    main()
