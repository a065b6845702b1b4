"""Time from embeddings to receipt and ranking, beside Oscillink in the same process."""

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.benchmarks.lattice.ours import StoredLattice
from tests.benchmarks.lattice.peer import Peer, PeerLattice
from tests.benchmarks.lattice.synthetic import clustered, gaussian, queries
from tests.benchmarks.lattice.threads import Threads

TOP = 8
# Anchors, dimension, and the ratios aimed at, cold and warm.
SIZES = ((1_200, 128, 40.0, 500.0), (5_000, 128, 15.0, 300.0))
LIGHT_TARGET_US = 50.0
_LIGHT_CALLS = 2_000

Floats = NDArray[np.float32]


@dataclass(slots=True)
class Timings:
    """Milliseconds of every step, round after round."""

    taken: dict[str, list[float]] = field(default_factory=dict)

    def time(self, name: str, work: Callable[[], Any]) -> Any:
        """Do the work and note how long it took."""
        started = perf_counter()
        result = work()
        self.taken.setdefault(name, []).append((perf_counter() - started) * 1e3)
        return result

    def figures(self) -> dict[str, dict[str, float]]:
        """Median and least of each step."""
        return {
            name: {"median_ms": round(median(times), 4), "least_ms": round(min(times), 4)}
            for name, times in self.taken.items()
        }


def speed(
    peer: Peer | None, rounds: Mapping[int, int], kinds: Sequence[str], threads: Threads
) -> list[dict[str, Any]]:
    """All rows: every kind of data at every size for which there are rounds."""
    make = {"clustered": clustered, "gaussian": gaussian}
    rows = []
    for kind in kinds:
        for anchors, columns, cold, warm in SIZES:
            if not rounds.get(anchors):
                continue
            data = make[kind](anchors, columns)
            row = _contest(data, peer, rounds[anchors], threads)
            targets = {"cold": cold, "warm": warm, "light_us": LIGHT_TARGET_US}
            rows.append({"data": kind, "anchors": anchors, "dimension": columns, **row})
            rows[-1]["targets"] = targets
    return rows


def _contest(data: Floats, peer: Peer | None, rounds: int, threads: Threads) -> dict[str, Any]:
    timings = Timings()
    asked = queries(2 * rounds + 2, data.shape[1])
    StoredLattice.of(data).answer(asked[0], TOP)  # once for what is imported at first use
    same = []
    gc.disable()
    for turn in range(rounds):
        # Garbage of one contestant is not collected at the cost of the other.
        gc.collect()
        cold, warm = asked[2 * turn], asked[2 * turn + 1]
        stored: StoredLattice = timings.time("ours_cold", partial(_cold, data, cold))
        for query in (warm, *queries(4, data.shape[1], seed=turn)):
            timings.time("ours_warm", partial(stored.answer, query, TOP))
        if peer:
            with threads.of_products():
                other: PeerLattice = timings.time(
                    "peer_cold", partial(_peer_cold, peer, data, cold)
                )
                timings.time("peer_warm", partial(other.answer, warm, TOP))
            same.append(other.full)
    gc.enable()
    figures = timings.figures()
    report: dict[str, Any] = {"rounds": rounds, **figures, **light_us(stored, asked[-1])}
    if peer:
        report["peer_receipt"] = "full" if all(same) else "light"
        for step in ("cold", "warm"):
            ours, theirs = figures[f"ours_{step}"], figures[f"peer_{step}"]
            report[f"{step}_ratio"] = round(theirs["median_ms"] / ours["median_ms"], 1)
            report[f"{step}_ratio_of_least"] = round(theirs["least_ms"] / ours["least_ms"], 1)
    return report


def _cold(data: Floats, query: Floats) -> StoredLattice:
    stored = StoredLattice.of(data)
    stored.answer(query, TOP)
    return stored


def _peer_cold(peer: Peer, data: Floats, query: Floats) -> PeerLattice:
    lattice = peer.lattice(data)
    lattice.answer(query, TOP)
    return lattice


def light_us(stored: StoredLattice, query: Floats) -> dict[str, float]:
    """Microseconds of the light receipt's sums, and of its whole statement."""
    return {
        "light_sums_us": _each_us(lambda: stored.energies(query)),
        "light_statement_us": _each_us(lambda: stored.light(query)),
    }


def _each_us(work: Callable[[], Any]) -> float:
    """The median over rounds of the time of one call."""
    rounds = []
    for _ in range(9):
        started = perf_counter()
        for _ in range(_LIGHT_CALLS // 9):
            work()
        rounds.append((perf_counter() - started) / (_LIGHT_CALLS // 9) * 1e6)
    return round(median(rounds), 2)
