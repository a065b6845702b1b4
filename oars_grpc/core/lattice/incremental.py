"""Anchors put in, replaced and taken out without a new search: the lists a rebuild would make.

Products are exact, so that a list that is brought up to date has the bits of one made anew. Only
the rows that changed, and those that had listed them, are ranked among all others again.
"""

from dataclasses import dataclass

import numpy as np

from oars_grpc.core.lattice.arrays import BoolArray, Float64Array, Int32Array, Int64Array, frozen
from oars_grpc.core.lattice.directions import Directions
from oars_grpc.core.lattice.duplicates import groups_of, ring
from oars_grpc.core.lattice.neighbors import (
    NOBODY,
    NeighborLists,
    cosine_rows,
    empty_lists,
    rank_into,
    ranked_rows,
)
from oars_grpc.core.lattice.progress import Proceed, between, keep_going
from oars_grpc.errors import InvalidArgument

_BLOCK_VALUES = 1 << 21


@dataclass(frozen=True, slots=True)
class Neighborhood:
    """The directions of all anchors and the lists of their neighbours."""

    directions: Directions
    lists: NeighborLists


def upsert(
    old: Neighborhood, rows: Int64Array, changed: Directions, proceed: Proceed = keep_going
) -> Neighborhood:
    """The neighbourhood after `rows` have taken on new directions.

    Rows from the old number of anchors on are new; they must follow it without a gap.
    """
    before = len(old.directions)
    rows = _distinct_rows(rows)
    order = np.argsort(rows, kind="stable")
    rows, count = rows[order], max(before, int(rows.max(initial=-1)) + 1)
    if rows.size != len(changed) or count - before != np.count_nonzero(rows >= before):
        raise InvalidArgument.of("rows", "must be rows there are or that follow them directly")
    codes = np.concatenate(
        [old.directions.codes, np.zeros((count - before, changed.codes.shape[1]), np.float32)]
    )
    squares = np.concatenate([old.directions.squares, np.zeros(count - before)])
    codes[rows], squares[rows] = changed.codes[order], changed.squares[order]
    directions = Directions(frozen(codes), frozen(squares))
    indices, values = empty_lists(count, old.lists.indices.shape[1])
    indices[:before], values[:before] = old.lists.indices, old.lists.cosines
    touched = np.zeros(count, dtype=np.bool_)
    touched[rows] = True
    stale = touched | (touched[indices] & (indices != NOBODY)).any(axis=1)
    stale[_crowded(old.directions, indices.shape[1])] = True
    _insert(directions, rows, ~stale, (indices, values), between(proceed, 0.0, 0.5))
    return _refreshed(directions, stale, (indices, values), between(proceed, 0.5, 1.0))


def remove(old: Neighborhood, rows: Int64Array, proceed: Proceed = keep_going) -> Neighborhood:
    """The neighbourhood without some rows; those after them move up."""
    before = len(old.directions)
    rows = _distinct_rows(rows)
    if rows.size and rows.max() >= before:
        raise InvalidArgument.of("rows", f"must be below {before}")
    if rows.size == before:
        raise InvalidArgument.of("rows", "must leave an anchor")
    gone = np.zeros(before, dtype=np.bool_)
    gone[rows] = True
    listed = old.lists.indices
    stale = (gone[listed] & (listed != NOBODY)).any(axis=1)
    stale[_crowded(old.directions, listed.shape[1])] = True
    kept = np.flatnonzero(~gone)
    place = np.full(before, NOBODY, dtype=np.int32)
    place[kept] = np.arange(kept.size)
    indices = np.where(listed[kept] == NOBODY, np.int32(NOBODY), place[listed[kept]])
    directions = Directions(
        frozen(old.directions.codes[kept]), frozen(old.directions.squares[kept])
    )
    return _refreshed(directions, stale[kept], (indices, old.lists.cosines[kept]), proceed)


def _distinct_rows(rows: Int64Array) -> Int64Array:
    given = np.asarray(rows, dtype=np.int64)
    if given.ndim != 1 or (given < 0).any() or np.unique(given).size != given.size:
        raise InvalidArgument.of("rows", "must be different rows, each at least 0")
    return given


def _crowded(directions: Directions, neighbors: int) -> Int64Array:
    """The rows whose lists are rings of copies rather than ranked."""
    large = [part for part in groups_of(directions).members if part.size > neighbors + 1]
    return np.concatenate([np.empty(0, dtype=np.int64), *large])


def _insert(
    directions: Directions,
    rows: Int64Array,
    ranked: BoolArray,
    lists: tuple[Int32Array, Float64Array],
    proceed: Proceed,
) -> None:
    """Let changed rows into the lists in which they stand high enough."""
    indices, values = lists
    count, width = indices.shape
    last = indices[:, -1]
    # What a newcomer must beat: the last of a full list, by a higher cosine or a lower index.
    floor = np.where(last == NOBODY, -np.inf, values[:, -1])
    bar = np.where(last == NOBODY, count, last)
    ranked = ranked & (directions.squares > 0)
    nodes, others, scores = [], [], []
    step = max(1, _BLOCK_VALUES // count)
    for start in range(0, rows.size, step):
        proceed(start / rows.size)
        part = rows[start : start + step]
        part = part[directions.squares[part] > 0]
        found = cosine_rows(directions, part)
        better = (found > floor) | ((found == floor) & (part[:, None] < bar))
        newcomer, node = np.nonzero(better & ranked)
        nodes.append(node)
        others.append(part[newcomer])
        scores.append(found[newcomer, node])
    if not nodes:
        return
    entered, slot = np.unique(np.concatenate(nodes), return_inverse=True)
    stay, rank = np.nonzero(indices[entered] != NOBODY)
    node = np.concatenate([stay, slot])
    other = np.concatenate([indices[entered][stay, rank].astype(np.int64), *others])
    score = np.concatenate([values[entered][stay, rank], *scores])
    order = np.lexsort((other, node))
    merged = empty_lists(entered.size, width)
    rank_into(node[order], other[order], score[order], merged)
    indices[entered], values[entered] = merged


def _refreshed(
    directions: Directions,
    stale: BoolArray,
    lists: tuple[Int32Array, Float64Array],
    proceed: Proceed,
) -> Neighborhood:
    """Rank stale rows among all, and set crowds of copies in their rings."""
    indices, values = lists
    width = indices.shape[1]
    rings = [part for part in groups_of(directions).members if part.size > width + 1]
    for part in rings:
        stale[part] = False
        indices[part], values[part] = ring(part, width), 1.0
    again = np.flatnonzero(stale)
    fresh = ranked_rows(directions, again, width, proceed)
    indices[again], values[again] = fresh.indices, fresh.cosines
    return Neighborhood(directions, NeighborLists(frozen(indices), frozen(values)))
