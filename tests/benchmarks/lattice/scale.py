"""Large lattices: the search for neighbours, everything else, a new query, and how time grows."""

from collections.abc import Sequence
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oars_grpc.core.lattice.arrays import checked_anchors
from oars_grpc.core.lattice.neighbors import NeighborLists, NeighborSearch, nearest_neighbors
from tests.benchmarks.lattice.ours import PARAMETERS, StoredLattice
from tests.benchmarks.lattice.speed import light_us
from tests.benchmarks.lattice.synthetic import clustered, queries

DIMENSION = 128
WARM_QUERIES = 15
RECALL_ROWS = 2_000
TARGETS = {
    "exact_search_s": 60.0,
    "index_search_s": 20.0,
    "index_recall": 0.99,
    "everything_else_s": 3.0,
    "warm_ms": 30.0,
}

Floats = NDArray[np.float32]


def recall_of(found: NeighborLists, exact: NeighborLists) -> float:
    """The share of the exact neighbours that were found."""
    hits = (found.indices[:, :, None] == exact.indices[:, None, :]) & (exact.indices >= 0)[:, None]
    return float(hits.any(axis=1).sum() / (exact.indices >= 0).sum())


def timed_search(search: NeighborSearch, anchors: Floats) -> tuple[NeighborLists, dict[str, float]]:
    """The neighbours of every anchor, and the seconds that took."""
    given = checked_anchors(anchors)
    started = perf_counter()
    lists = search(given, PARAMETERS.neighbors)
    return lists, {"search_s": round(perf_counter() - started, 3)}


def after_search(anchors: Floats, lists: NeighborLists) -> tuple[StoredLattice, dict[str, Any]]:
    """Graph, settling and first answer; then new queries, one after another."""
    started = perf_counter()
    stored = StoredLattice.of(anchors, lists)
    asked = queries(WARM_QUERIES + 1, anchors.shape[1])
    stored.answer(asked[0])
    everything_else = perf_counter() - started
    return stored, {
        "edges": len(stored.settled.inputs.graph.edges),
        "iterations": stored.settled.state.outcome.iterations,
        "everything_else_s": round(everything_else, 3),
        "warm_ms": round(_warm_ms(stored, asked[1:]), 2),
        **light_us(stored, asked[0]),
    }


def _warm_ms(stored: StoredLattice, asked: Floats) -> float:
    taken = []
    for query in asked:
        started = perf_counter()
        stored.answer(query)
        taken.append((perf_counter() - started) * 1e3)
    return median(taken)


def large(rows: int, index: NeighborSearch | None) -> dict[str, Any]:
    """One large lattice by the exact search, and by the index if there is one."""
    anchors = clustered(rows, DIMENSION)
    exact, taken = timed_search(nearest_neighbors, anchors)
    report: dict[str, Any] = {
        "anchors": rows,
        "dimension": DIMENSION,
        "exact": {**taken, **after_search(anchors, exact)[1]},
        "targets": TARGETS,
    }
    if index:
        found, taken = timed_search(index, anchors)
        report["index"] = {
            **taken,
            "recall": round(recall_of(found, exact), 4),
            **after_search(anchors, found)[1],
        }
    return report


def growth(sizes: Sequence[int]) -> dict[str, Any]:
    """How time outside the search grows with N at fixed k: the slope of its logarithm.

    The graph is made up, so that every size has the same degrees and none needs a search; each
    node has all its `neighbors`, about twice as many as are mutual in real data.
    """
    rows = []
    for size in sizes:
        anchors = clustered(size, DIMENSION)
        lists = made_up_lists(size, PARAMETERS.neighbors)
        best = min(
            (after_search(anchors, lists)[1] for _ in range(2)),
            key=lambda each: float(each["everything_else_s"]),
        )
        rows.append({"anchors": size, **best})
    logs = np.log([each["anchors"] for each in rows])
    return {
        "rows": rows,
        "exponent_everything_else": _slope(logs, [each["everything_else_s"] for each in rows]),
        "exponent_warm": _slope(logs, [each["warm_ms"] for each in rows]),
    }


def _slope(logs: NDArray[np.float64], values: Sequence[float]) -> float:
    return round(float(np.polyfit(logs, np.log(values), 1)[0]), 3)


def made_up_lists(size: int, neighbors: int) -> NeighborLists:
    """Symmetric lists without a search: a circle through all nodes in an order of chance.

    Each node is beside the nearest on either side of the circle, wherever they lie in memory.
    """
    circle = np.random.default_rng(size).permutation(size)
    indices = np.empty((size, neighbors), np.int32)
    steps = [sign * step for step in range(1, neighbors // 2 + 1) for sign in (1, -1)]
    for column, step in enumerate(steps):
        indices[circle, column] = np.roll(circle, -step)
    return NeighborLists(indices, np.full(indices.shape, 0.7))
