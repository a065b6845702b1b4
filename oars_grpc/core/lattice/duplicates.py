"""Anchors of exactly the same direction, of which there may be more than neighbours asked for.

With ties by the lower index alone, every copy would list the first few copies and those few only
each other: beyond k + 1 copies the mutual graph would isolate the rest, though nothing is nearer
to them than they are to each other. Copies of one direction are therefore set in a ring by index:
each lists the copies before and after it, alternately and ever farther, and for an odd k the one
opposite. The lists are mutual, every copy keeps k edges (k - 1, where k and the number of copies
are odd, for one of them), and no copy has more than k. Groups of at most k + 1 copies need none of
this: all list all.
"""

from dataclasses import dataclass

import numpy as np

from oars_grpc.core.lattice.arrays import Int32Array, Int64Array
from oars_grpc.core.lattice.directions import Directions


@dataclass(frozen=True, slots=True)
class Groups:
    """Rows by direction: those that stand first of theirs, and the members of larger groups."""

    first: Int64Array  # the lowest row of every direction, ascending; no zero rows
    members: tuple[Int64Array, ...]  # ascending rows of each direction that has several


def groups_of(directions: Directions) -> Groups:
    """The rows grouped by direction."""
    rows = np.flatnonzero(directions.squares > 0)
    # Equal directions have equal exact squares; few others do.
    order = rows[np.argsort(directions.squares[rows], kind="stable")]
    squares = directions.squares[order]
    same = squares[1:] == squares[:-1]
    if not same.any():
        return Groups(first=rows, members=())
    shared = np.zeros(order.size, dtype=np.bool_)
    shared[1:] |= same
    shared[:-1] |= same
    suspects = np.sort(order[shared])
    # Minus zero and zero differ as bytes; a product with zero gives both.
    codes = np.ascontiguousarray(directions.codes[suspects] + np.float32(0))
    keys = codes.view(np.dtype((np.void, codes.shape[1] * codes.itemsize))).ravel()
    _, group, sizes = np.unique(keys, return_inverse=True, return_counts=True)
    by_group = suspects[np.argsort(group, kind="stable")]
    members = tuple(part for part in np.split(by_group, np.cumsum(sizes)[:-1]) if part.size > 1)
    later = np.zeros(len(directions), dtype=np.bool_)
    for part in members:
        later[part[1:]] = True
    return Groups(first=rows[~later[rows]], members=members)


def ring(members: Int64Array, neighbors: int) -> Int32Array:
    """The neighbours of each of more than `neighbors` + 1 copies, as rows."""
    size = members.size
    ordinal = np.arange(size)[:, None]
    steps = np.arange(1, neighbors // 2 + 1)
    offsets = np.stack([steps, -steps], axis=1).ravel()
    if neighbors % 2:
        offsets = np.append(offsets, size // 2)
    places = (ordinal + offsets[None, :]) % size
    if neighbors % 2 and size % 2:
        # No last copy: the others pair up with the one half a round away.
        half = size // 2
        places[half : 2 * half, -1] = np.arange(half)
    return np.asarray(members[places], dtype=np.int32)
