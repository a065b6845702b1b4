"""Writes a log as C2SP tlog-tiles into a directory, and adds to what is there already.

The order is what a reader at any moment, and a run after a crash, rely on: first the tiles and
entries of the new size, none of which changes a file that is there; then they are read back and
must lead to the new checkpoint, and continue the old one; then the checkpoint is replaced; and only
then the partial tiles go that full ones have taken the place of (tlog-tiles, Partial Tiles).
"""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from oars_grpc.cli.durable_files import write_atomically, write_once
from oars_grpc.core.checkpoint import Checkpoint, parse_checkpoint
from oars_grpc.core.envelope import PAYLOAD_TYPE, Envelope
from oars_grpc.core.merkle import TILE_HEIGHT, TILE_WIDTH, leaf_hash
from oars_grpc.core.note import Note, parse_note
from oars_grpc.core.tiles import (
    Tile,
    frontier_from,
    full_root,
    split_hashes,
    tile_at,
    tiles_between,
    write_entry,
)
from oars_grpc.storage.log_scan import LoggedEntry

CHECKPOINT = "checkpoint"


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export came to."""

    old_size: int
    size: int
    tiles: int
    erased: int


class TileExport:
    """An export into a directory; everything that it refuses is a ValueError."""

    def __init__(self, directory: Path, note: Note) -> None:
        self._directory = directory
        self._note = note
        self._new = parse_checkpoint(note)
        self._old = self._published()
        self._tiles = self._erased = 0

    @property
    def size(self) -> int:
        """The size of the log to export."""
        return self._new.size

    @property
    def first_entry(self) -> int:
        """The first entry that `run` needs: that of the tile that the old tree ends with."""
        return self._old_size // TILE_WIDTH * TILE_WIDTH

    @property
    def _old_size(self) -> int:
        return self._old.size if self._old else 0

    def run(self, entries: Iterable[LoggedEntry]) -> Exported:
        """Write what is new, of the entries from the first one needed up to the new size."""
        if self._new.size > self._old_size:
            self._write(entries)
        self._verify()
        write_atomically(self._directory / CHECKPOINT, self._note.format().encode())
        self._remove_outgrown()
        return Exported(self._old_size, self._new.size, self._tiles, self._erased)

    def _published(self) -> Checkpoint | None:
        path = self._directory / CHECKPOINT
        if not path.exists():
            return None
        old = parse_checkpoint(parse_note(path.read_text(encoding="utf-8")))
        if old.origin != self._new.origin:
            raise ValueError(f"{self._directory} holds the log {old.origin}")
        if old.size > self._new.size:
            raise ValueError(
                f"the log has {self._new.size} leaves, and {old.size} are published: it was cut off"
            )
        return old

    def _write(self, entries: Iterable[LoggedEntry]) -> None:
        # The hashes of the tile that each level of the old tree ends with; level 0 is read anew.
        waiting = [[], *self._unfinished_levels()]
        for page, bundle in _bundles(entries, self.first_entry, self._new.size):
            self._erased += sum(entry.payload is None for entry in page)
            index = page[0].leaf_index // TILE_WIDTH
            tile = tile_at(0, index, self._new.size)
            write_once(self._directory / tile.entries_path(), bundle)
            hashes = [entry.leaf_hash for entry in page]
            self._put(tile, hashes)
            self._carry(tile, hashes, waiting)
        for level, hashes in enumerate(waiting):
            if level and hashes:
                count = self._new.size >> (TILE_HEIGHT * level)
                self._put(tile_at(level, count // TILE_WIDTH, self._new.size), hashes)

    def _unfinished_levels(self) -> Iterator[list[bytes]]:
        level = 1
        while count := self._old_size >> (TILE_HEIGHT * level):
            index, width = divmod(count, TILE_WIDTH)
            yield list(self._read(Tile(level, index, width))) if width else []
            level += 1

    def _carry(self, tile: Tile, hashes: Sequence[bytes], waiting: list[list[bytes]]) -> None:
        """Let full tiles become hashes of the level above, as far up as they fill tiles there."""
        while tile.is_full:
            level = tile.level + 1
            if level == len(waiting):
                waiting.append([])
            row = waiting[level]
            row.append(full_root(hashes))
            if len(row) < TILE_WIDTH:
                return
            tile, hashes, waiting[level] = Tile(level, tile.index // TILE_WIDTH), row, []
            self._put(tile, hashes)

    def _put(self, tile: Tile, hashes: Sequence[bytes]) -> None:
        write_once(self._directory / tile.path(), b"".join(hashes))
        self._tiles += 1

    def _read(self, tile: Tile) -> Sequence[bytes]:
        path = self._directory / tile.path()
        try:
            hashes = split_hashes(path.read_bytes())
        except FileNotFoundError as error:
            raise ValueError(f"{path} is missing: export into a new directory") from error
        if len(hashes) != tile.width:
            raise ValueError(f"{path} has {len(hashes)} hashes: export into a new directory")
        return hashes

    def _verify(self) -> None:
        """Check that the files lead to the new checkpoint, and continue the old one."""
        size = self._new.size

        @lru_cache(maxsize=64)
        def read(level: int, index: int) -> Sequence[bytes]:
            return self._read(tile_at(level, index, size))

        for tile in tiles_between(self._old_size, size):
            if tile.is_full:
                above, place = divmod(tile.index, TILE_WIDTH)
                if read(tile.level + 1, above)[place] != full_root(read(tile.level, tile.index)):
                    raise ValueError(f"{tile.path()} does not lead to the tile above it")
        if frontier_from(size, read).root() != self._new.root:
            raise ValueError("the tiles do not lead to the root of the checkpoint")
        if self._old and frontier_from(self._old.size, read).root() != self._old.root:
            raise ValueError("the log does not continue the published one: it was written anew")

    def _remove_outgrown(self) -> None:
        for tile in tiles_between(self._old_size, self._new.size):
            if tile.is_full:
                paths = [tile.path()] if tile.level else [tile.path(), tile.entries_path()]
                for path in paths:
                    shutil.rmtree(self._directory / f"{path}.p", ignore_errors=True)


def _bundles(
    entries: Iterable[LoggedEntry], start: int, end: int
) -> Iterator[tuple[list[LoggedEntry], bytes]]:
    """The entries [start, end) by tiles, with what each tile's bundle holds."""
    page: list[LoggedEntry] = []
    expected = start
    for entry in entries:
        if entry.leaf_index != expected:
            raise ValueError(f"leaf {expected} is not in the log")
        expected += 1
        page.append(entry)
        if expected % TILE_WIDTH == 0 or expected == end:
            yield page, b"".join(write_entry(_signed_bytes(entry)) for entry in page)
            page = []
    if expected != end:
        raise ValueError(f"leaf {expected} is not in the log")


def _signed_bytes(entry: LoggedEntry) -> bytes:
    """What the leaf hash is over; nothing where retention has erased it."""
    if entry.payload is None:
        return b""
    signed = Envelope(PAYLOAD_TYPE, entry.payload, ()).signed_bytes()
    if leaf_hash(signed) != entry.leaf_hash:
        raise ValueError(f"leaf {entry.leaf_index} is not the hash of its payload")
    return signed
