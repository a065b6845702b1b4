"""The static form of a log, C2SP tlog-tiles: which files there are, and what is in them.

    tile/<L>/<N>              256 hashes of level L: of leaves, of full tiles of leaves, …
    tile/<L>/<N>.p/<W>        the last one of a level, with W hashes
    tile/entries/<N>[.p/<W>]  the entries whose hashes are in tile/0/<N>, each after its length

N is written in groups of three digits, of which all but the last begin with an x: x001/x234/067.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from oars_grpc.core.merkle import (
    EMPTY,
    HASH_BYTES,
    TILE_HEIGHT,
    TILE_WIDTH,
    Frontier,
    append,
    parts,
)

MAXIMUM_ENTRY_BYTES = 0xFFFF  # Log entries: the length is a big-endian uint16
_LENGTH_BYTES = 2


@dataclass(frozen=True, slots=True, order=True)
class Tile:
    """A run of up to 256 hashes of a level."""

    level: int
    index: int
    width: int = TILE_WIDTH

    @property
    def is_full(self) -> bool:
        """Whether it will never change again."""
        return self.width == TILE_WIDTH

    def path(self) -> str:
        """Where its hashes are, relative to the prefix of the log."""
        return f"tile/{self.level}/{self._name()}"

    def entries_path(self) -> str:
        """Where the entries are whose hashes it holds.

        Raises:
            ValueError: it holds hashes of tiles.
        """
        if self.level:
            raise ValueError("only tiles of level 0 are of entries")
        return f"tile/entries/{self._name()}"

    def _name(self) -> str:
        suffix = "" if self.is_full else f".p/{self.width}"
        return f"{tile_index_path(self.index)}{suffix}"


def tile_index_path(index: int) -> str:
    """The index of a tile as path elements of three digits each."""
    groups = [f"{index % 1000:03}"]
    while index := index // 1000:
        groups.append(f"x{index % 1000:03}")
    return "/".join(reversed(groups))


def tile_at(level: int, index: int, size: int) -> Tile:
    """A tile as it is in the tree of a size.

    Raises:
        ValueError: the tree has no such tile.
    """
    width = min((size >> (TILE_HEIGHT * level)) - index * TILE_WIDTH, TILE_WIDTH)
    if width < 1 or index < 0:
        raise ValueError(f"a tree of {size} leaves has no tile {index} of level {level}")
    return Tile(level, index, width)


def tiles_between(old: int, new: int) -> Iterator[Tile]:
    """The tiles of the tree of the new size that the one of the old size has not, by level."""
    level = 0
    while count := new >> (TILE_HEIGHT * level):
        before = old >> (TILE_HEIGHT * level)
        if before < count:
            for index in range(before // TILE_WIDTH, -(-count // TILE_WIDTH)):
                yield tile_at(level, index, new)
        level += 1


def split_hashes(data: bytes) -> list[bytes]:
    """The hashes of a tile.

    Raises:
        ValueError: it is not made of whole hashes.
    """
    if len(data) % HASH_BYTES:
        raise ValueError("a tile is made of whole hashes")
    return [data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES)]


def full_root(hashes: Sequence[bytes]) -> bytes:
    """The root over the hashes of a full tile, or of a full part of one."""
    return append(EMPTY, hashes)[0].root()


def frontier_from(size: int, read: Callable[[int, int], Sequence[bytes]]) -> Frontier:
    """The frontier of the tree of a size; `read` gives the hashes of a tile by level and index.

    Raises:
        ValueError: a tile has too few hashes.
    """
    hashes = []
    for subtree in parts(0, size):
        level, above = divmod(subtree.height, TILE_HEIGHT)
        index, first = divmod(subtree.index << above, TILE_WIDTH)
        run = read(level, index)[first : first + (1 << above)]
        if len(run) != 1 << above:
            raise ValueError(f"tile {index} of level {level} has too few hashes")
        hashes.append(full_root(run))
    return Frontier(size, tuple(hashes))


def write_entry(entry: bytes) -> bytes:
    """An entry as it stands in a bundle; an empty one stands for one that was erased.

    Raises:
        ValueError: it is too long.
    """
    if len(entry) > MAXIMUM_ENTRY_BYTES:
        raise ValueError(f"an entry of {len(entry)} bytes is too long for a bundle")
    return len(entry).to_bytes(_LENGTH_BYTES, "big") + entry


def read_entries(bundle: bytes) -> list[bytes]:
    """The entries of a bundle.

    Raises:
        ValueError: it ends within one.
    """
    entries, at = [], 0
    while at < len(bundle):
        start = at + _LENGTH_BYTES
        at = start + int.from_bytes(bundle[at:start], "big")
        if at > len(bundle):
            raise ValueError("the bundle ends within an entry")
        entries.append(bundle[start:at])
    return entries
