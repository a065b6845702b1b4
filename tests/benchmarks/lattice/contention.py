"""Warm queries of many callers at once, alone and while a large lattice is built."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import quantiles
from threading import Event
from time import perf_counter, sleep
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.benchmarks.lattice.ours import StoredLattice
from tests.benchmarks.lattice.synthetic import clustered, queries
from tests.benchmarks.lattice.threads import computing_in

CALLERS = 64
QUERIED = 5_000
BUILT = 20_000
DIMENSION = 128
TARGET_RATIO = 5.0

Floats = NDArray[np.float32]


# Who is refused asks again after so long.
_AGAIN_SECONDS = 0.05


class Refused(Exception):
    """A query that was not answered, for too many others wait."""


@dataclass(frozen=True, slots=True)
class Load:
    """Latencies of all callers' answers over one stretch of time, and the answers refused.

    A latency runs from the first time that a query is asked to its answer, refusals included.
    """

    latencies_ms: list[float]
    refused: int
    seconds: float

    def figures(self) -> dict[str, float]:
        """Median, 99th percentile and rate."""
        cuts = quantiles(self.latencies_ms, n=100)
        return {
            "queries": len(self.latencies_ms),
            "refused": self.refused,
            "queries_per_second": round(len(self.latencies_ms) / self.seconds, 1),
            "p50_ms": round(cuts[49], 2),
            "p99_ms": round(cuts[98], 2),
        }


def loaded(
    ask: Callable[[Floats], Any], asked: Sequence[Floats], callers: int, stop: Callable[[], bool]
) -> Load:
    """All callers ask, each again as soon as it is answered, until it is time to stop."""

    def calls(own: int) -> tuple[list[float], int]:
        taken, refused, turn = [], 0, own
        while not stop():
            started = perf_counter()
            while True:
                try:
                    ask(asked[turn % len(asked)])
                    break
                except Refused:
                    refused += 1
                    sleep(_AGAIN_SECONDS)
            taken.append((perf_counter() - started) * 1e3)
            turn += callers
        return taken, refused

    started = perf_counter()
    with ThreadPoolExecutor(callers) as pool:
        parts = list(pool.map(calls, range(callers)))
    latencies = [each for part, _ in parts for each in part]
    return Load(latencies, sum(refused for _, refused in parts), perf_counter() - started)


def contention(
    ask: Callable[[Floats], Any],
    build: Callable[[], Any],
    asked: Sequence[Floats],
    idle_seconds: float,
    callers: int = CALLERS,
) -> dict[str, Any]:
    """The callers' latencies alone, and for as long as a build takes beside them."""
    ask(asked[0])
    end = perf_counter() + idle_seconds
    idle = loaded(ask, asked, callers, lambda: perf_counter() > end)
    started = perf_counter()
    build()
    alone = perf_counter() - started
    done = Event()

    def building() -> float:
        try:
            # The callers are all under way before the build begins.
            done.wait(0.2)
            begun = perf_counter()
            build()
            return perf_counter() - begun
        finally:
            done.set()

    with ThreadPoolExecutor(1) as builder:
        under_way = builder.submit(building)
        busy = loaded(ask, asked, callers, done.is_set)
        beside = under_way.result()
    figures = {"idle": idle.figures(), "during_a_build": busy.figures()}
    return {
        "callers": callers,
        **figures,
        "build_alone_s": round(alone, 2),
        "build_beside_queries_s": round(beside, 2),
        "p99_ratio": round(figures["during_a_build"]["p99_ms"] / figures["idle"]["p99_ms"], 2),
        "target_ratio": TARGET_RATIO,
    }


def core_contention(idle_seconds: float, built: int = BUILT) -> dict[str, Any]:
    """In threads over the core, with one thread in each computation, as in a server."""
    with computing_in(1):
        stored = StoredLattice.of(clustered(QUERIED, DIMENSION))
        large = clustered(built, DIMENSION)
        report = contention(
            stored.answer,
            lambda: StoredLattice.of(large),
            list(queries(256, DIMENSION)),
            idle_seconds,
        )
    return {"level": "core", "queried": QUERIED, "built": built, "dimension": DIMENSION, **report}
