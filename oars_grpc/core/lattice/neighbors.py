"""The nearest neighbours of every anchor by cosine, exactly, with the same bits everywhere."""

from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

from oars_grpc.core.lattice.arrays import (
    Float32Array,
    Float64Array,
    Int32Array,
    Int64Array,
    frozen,
)
from oars_grpc.core.lattice.candidates import Candidates, candidate_pairs
from oars_grpc.core.lattice.directions import (
    Directions,
    cosines,
    directions_of,
    pair_cosines,
)
from oars_grpc.core.lattice.duplicates import Groups, groups_of, ring
from oars_grpc.core.lattice.progress import Proceed, between, keep_going
from oars_grpc.core.lattice.rows import table_of
from oars_grpc.core.lattice.threads import side_by_side

NOBODY = -1
_BLOCK_VALUES = 1 << 21
_TABLE_ROWS = 2048
_PARTS = 8  # at most, that several threads may rank
_PART_ROWS = 600


@dataclass(frozen=True, slots=True)
class NeighborLists:
    """Each anchor's nearest others, nearest first; `NOBODY` with cosine 0 fills short lists."""

    indices: Int32Array  # N x k
    cosines: Float64Array  # N x k


class NeighborSearch(Protocol):
    """A way to find nearest neighbours: the exact one, or an index that may miss some."""

    def __call__(
        self,
        anchors: Float32Array | Directions,
        neighbors: int,
        proceed: Proceed = keep_going,
        /,
    ) -> NeighborLists:
        """The nearest `neighbors` of every anchor."""


class CandidateSearch(Protocol):
    """A way to find the pairs among distinct directions that are worth an exact cosine."""

    def __call__(
        self, directions: Directions, neighbors: int, proceed: Proceed = keep_going, /
    ) -> Candidates:
        """Pairs that hold the nearest `neighbors` of every row."""


def nearest_neighbors(
    anchors: Float32Array | Directions,
    neighbors: int,
    proceed: Proceed = keep_going,
    /,
    candidates: CandidateSearch = candidate_pairs,
) -> NeighborLists:
    """Every anchor's nearest others by cosine, ties by the lower index.

    Copies of one direction beyond `neighbors` + 1 list each other in a ring (see `duplicates`).
    With `candidates` that miss pairs the lists miss them too; what they hold is exact.
    """
    directions = (
        anchors
        if isinstance(anchors, Directions)
        else directions_of(anchors, between(proceed, 0.0, 0.05))
    )
    groups = groups_of(directions)
    if groups.first.size == len(directions):
        return _distinct(directions, neighbors, candidates, between(proceed, 0.05, 1.0))
    distinct = Directions(directions.codes[groups.first], directions.squares[groups.first])
    lists = _distinct(distinct, neighbors, candidates, between(proceed, 0.05, 1.0))
    return _expanded(lists, groups, len(directions))


def _distinct(
    directions: Directions, neighbors: int, candidates: CandidateSearch, proceed: Proceed
) -> NeighborLists:
    """The neighbours among distinct directions."""
    count = len(directions)
    indices, values = empty_lists(count, neighbors)
    kept = min(neighbors, count - 1)
    if kept < 1:
        return NeighborLists(frozen(indices), frozen(values))
    found = candidates(directions, kept, between(proceed, 0.0, 0.8))

    def ranked(part: slice, within: Proceed) -> None:
        within(0.0)
        first, last = np.searchsorted(found.nodes, (part.start, part.stop))
        nodes, others = found.nodes[first:last], found.others[first:last]
        scores = pair_cosines(directions, nodes, others)
        rank_into(nodes - part.start, others, scores, (indices[part], values[part]))

    step = max(_PART_ROWS, -(-count // _PARTS))
    parts = [partial(ranked, slice(at, min(at + step, count))) for at in range(0, count, step)]
    side_by_side(parts, directions.codes.size, between(proceed, 0.8, 0.9))
    if found.crowded.size:
        crowded = ranked_rows(directions, found.crowded, neighbors, between(proceed, 0.9, 1.0))
        indices[found.crowded] = crowded.indices
        values[found.crowded] = crowded.cosines
    return NeighborLists(frozen(indices), frozen(values))


def ranked_rows(
    directions: Directions, rows: Int64Array, neighbors: int, proceed: Proceed = keep_going
) -> NeighborLists:
    """The neighbours of some rows among all, ties by the lower index, from full exact products.

    Copies get no ring here.
    """
    count = len(directions)
    indices, values = empty_lists(rows.size, neighbors)
    kept = min(neighbors, count - 1)
    if kept < 1:
        return NeighborLists(frozen(indices), frozen(values))
    step = max(1, _BLOCK_VALUES // count)
    for start in range(0, rows.size, step):
        proceed(start / rows.size)
        part = rows[start : start + step]
        found = cosine_rows(directions, part)
        found[:, directions.squares == 0] = -np.inf
        found[directions.squares[part] == 0] = -np.inf
        found[np.arange(part.size), part] = -np.inf
        floor = np.partition(found, count - kept, axis=1)[:, count - kept]
        place = np.flatnonzero((found >= floor[:, None]) & (found > -np.inf))
        row, other = np.divmod(place, count)
        rank_into(
            row,
            other,
            found.ravel()[place],
            (indices[start : start + step], values[start : start + step]),
        )
    return NeighborLists(frozen(indices), frozen(values))


def cosine_rows(directions: Directions, part: Int64Array) -> Float64Array:
    """The cosines of some rows with all."""
    dots = np.empty((part.size, len(directions)))
    asked = directions.codes[part].astype(np.float64)
    step = max(1, _BLOCK_VALUES // asked.shape[1])
    for start in range(0, len(directions), step):
        others = directions.codes[start : start + step].astype(np.float64)
        # Whole numbers under 2^53: exact in any order of adding.
        np.matmul(asked, others.T, out=dots[:, start : start + step])
    return cosines(dots, directions.squares[part, None], directions.squares[None, :])


def rank_into(
    nodes: Int64Array,
    others: Int64Array,
    scores: Float64Array,
    into: tuple[Int32Array, Float64Array],
) -> None:
    """Write each node's best others into its row: the highest first, ties by the lower index.

    What is told must ascend by node, then by other.
    """
    indices, values = into
    rows, width = indices.shape
    starts = np.searchsorted(nodes, np.arange(rows + 1))
    # Some rows at a time: one that is long makes the table wide for these alone.
    for top in range(0, rows, _TABLE_ROWS):
        part = slice(top, min(top + _TABLE_ROWS, rows))
        told = slice(starts[part.start], starts[part.stop])
        table = table_of(nodes[told] - top, -scores[told], part.stop - top, np.inf)
        # A stable sort leaves equals in the order in which they came.
        place = np.argsort(table, axis=1, kind="stable")[:, :width]
        entry = starts[part, None] + place
        listed = entry < starts[part.start + 1 : part.stop + 1, None]
        columns = slice(0, place.shape[1])
        np.copyto(indices[part, columns], others.take(entry, mode="clip"), "same_kind", listed)
        np.copyto(values[part, columns], scores.take(entry, mode="clip"), where=listed)


def _expanded(lists: NeighborLists, groups: Groups, count: int) -> NeighborLists:
    """The lists of all rows from those of their distinct directions.

    A direction's copies stand beside it in every list, lowest first, and first of all in their
    own. The k nearest directions hold the k nearest rows: each has at least one.
    """
    neighbors = lists.indices.shape[1]
    indices, values = empty_lists(count, neighbors)
    indices[groups.first] = np.where(lists.indices == NOBODY, NOBODY, groups.first[lists.indices])
    values[groups.first] = lists.cosines
    copies = {int(part[0]): part for part in groups.members}
    leaders = np.zeros(count, dtype=np.bool_)
    leaders[list(copies)] = True
    beside = groups.first[(leaders[indices[groups.first]] & (lists.indices != NOBODY)).any(axis=1)]
    for row in np.union1d(beside, np.flatnonzero(leaders)):
        part = copies.get(int(row), np.array([row]))
        if part.size > neighbors + 1:
            indices[part] = ring(part, neighbors)
            values[part] = 1.0
            continue
        candidates = [part]
        scores = [np.ones(part.size)]
        for other, score in zip(indices[row].copy(), values[row].copy(), strict=True):
            if other != NOBODY:
                near = copies.get(int(other), np.array([other]))[:neighbors]
                candidates.append(near)
                scores.append(np.full(near.size, score))
        others, score = np.concatenate(candidates), np.concatenate(scores)
        order = np.lexsort((others, -score))
        for member in part:
            chosen = order[others[order] != member][:neighbors]
            indices[member, : chosen.size] = others[chosen]
            indices[member, chosen.size :] = NOBODY
            values[member, : chosen.size] = score[chosen]
            values[member, chosen.size :] = 0.0
    return NeighborLists(frozen(indices), frozen(values))


def empty_lists(rows: int, neighbors: int) -> tuple[Int32Array, Float64Array]:
    """Lists without anybody in them."""
    return np.full((rows, neighbors), NOBODY, dtype=np.int32), np.zeros((rows, neighbors))
