"""Nearest neighbours from an index, for lattices too large to compare all with all.

An inverted file sorts anchors into cells and compares each with those of the cells nearest to it.
It only proposes pairs: cosines, ranks, ties and copies are those of the exact search. Which pairs
it proposes may differ with the number of threads, for its cells come from floating-point sums; a
receipt names the edges it stands on, so that nobody has to repeat the search to check it.

Needs the extra `index`.
"""

import importlib
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from oars_grpc.core.lattice.arrays import Float32Array, Int64Array
from oars_grpc.core.lattice.candidates import Candidates, candidate_pairs, pairs_of
from oars_grpc.core.lattice.directions import FINE_SCALE, Directions
from oars_grpc.core.lattice.neighbors import NeighborLists, NeighborSearch, nearest_neighbors
from oars_grpc.core.lattice.progress import Proceed, between, keep_going
from oars_grpc.errors import ConfigurationError

# From here on the index takes less time than all products do.
INDEXED_ANCHORS = 200_000
_BLOCK_ROWS = 16_384
_TRAINING_ROUNDS = 8
_TRAINING_ROWS_PER_CELL = 64
_SEED = 1
# A few more than asked for, since float32 may have the last ones in another order.
_RESERVE = 4


@dataclass(frozen=True, slots=True)
class IndexedSearch:
    """A `NeighborSearch` that compares each anchor with those of its nearest cells.

    More `probes` find more of the true neighbours and take longer. Anchors that form no clusters
    have their neighbours spread over many cells: for those the exact search is the right one.
    """

    probes: int = 12

    def __call__(
        self,
        anchors: Float32Array | Directions,
        neighbors: int,
        proceed: Proceed = keep_going,
        /,
    ) -> NeighborLists:
        """The nearest `neighbors` of every anchor, as far as the index finds them."""
        candidates = partial(_indexed_pairs, probes=self.probes)
        return nearest_neighbors(anchors, neighbors, proceed, candidates=candidates)


def search_for(count: int) -> NeighborSearch:
    """The search to use for as many anchors: exact, or by the index above a size."""
    return IndexedSearch() if count >= INDEXED_ANCHORS else nearest_neighbors


def _indexed_pairs(
    directions: Directions, neighbors: int, proceed: Proceed = keep_going, /, *, probes: int
) -> Candidates:
    """Pairs of which one lies in the cells nearest to the other."""
    count = len(directions)
    cells = int(4 * np.sqrt(count))
    if count < cells * 4:
        return candidate_pairs(directions, neighbors, proceed)
    index = _trained(directions, cells, between(proceed, 0.0, 0.3))
    index.nprobe = probes
    nodes: list[Int64Array] = []
    others: list[Int64Array] = []
    for start in range(0, count, _BLOCK_ROWS):
        proceed(0.3 + 0.7 * start / count)
        units = _units(directions, slice(start, start + _BLOCK_ROWS))
        _, found = index.search(units, neighbors + 1 + _RESERVE)
        row, rank = np.nonzero(found != -1)
        other = found[row, rank].astype(np.int64)
        apart = other != row + start
        nodes.append(row[apart] + start)
        others.append(other[apart])
    nobody = np.empty(0, dtype=np.int64)
    return pairs_of(count, np.concatenate(nodes), np.concatenate(others), nobody)


def _trained(directions: Directions, cells: int, proceed: Proceed) -> Any:
    """An index of all directions."""
    faiss = _library()
    dimension = directions.codes.shape[1]
    index = faiss.IndexIVFFlat(
        faiss.IndexFlatIP(dimension), dimension, cells, faiss.METRIC_INNER_PRODUCT
    )
    index.cp.niter = _TRAINING_ROUNDS
    index.cp.max_points_per_centroid = _TRAINING_ROWS_PER_CELL
    index.cp.min_points_per_centroid = 1
    index.cp.seed = _SEED
    count = len(directions)
    sample = np.arange(0, count, max(1, count // (cells * _TRAINING_ROWS_PER_CELL)))
    proceed(0.0)
    index.train(_units(directions, sample))
    for start in range(0, count, _BLOCK_ROWS):
        proceed(0.5 + 0.5 * start / count)
        index.add(_units(directions, slice(start, start + _BLOCK_ROWS)))
    return index


def _units(directions: Directions, rows: slice | Int64Array) -> Float32Array:
    return np.asarray(directions.codes[rows] * np.float32(1.0 / FINE_SCALE))


def _library() -> Any:
    # Imported when it is used: whoever has no large lattices need not install it.
    try:
        return importlib.import_module("faiss")
    except ImportError as fault:
        raise ConfigurationError(
            "a lattice of this size needs the index library: install oars-grpc[index]"
        ) from fault
