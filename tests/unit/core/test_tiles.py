"""Which files the static form of a log has, and what is in them."""

from collections.abc import Sequence

import pytest

from oars_grpc.core.merkle import EMPTY, TILE_WIDTH, append, leaf_hash
from oars_grpc.core.tiles import (
    MAXIMUM_ENTRY_BYTES,
    Tile,
    frontier_from,
    full_root,
    read_entries,
    split_hashes,
    tile_at,
    tile_index_path,
    tiles_between,
    write_entry,
)


@pytest.mark.parametrize(
    ("index", "path"),
    [
        (0, "000"),
        (7, "007"),
        (999, "999"),
        (1000, "x001/000"),
        (1234067, "x001/x234/067"),
        (10**9, "x001/x000/x000/000"),
    ],
)
def test_an_index_is_written_in_groups_of_three_digits(index: int, path: str) -> None:
    assert tile_index_path(index) == path


def test_a_log_of_70000_leaves_has_the_tiles_of_the_specification() -> None:
    """The example of tlog-tiles, Partial Tiles."""
    tiles = list(tiles_between(0, 70_000))
    full = [tile for tile in tiles if tile.is_full]
    partial = [tile for tile in tiles if not tile.is_full]
    assert [sum(tile.level == level for tile in full) for level in range(3)] == [273, 1, 0]
    assert partial == [Tile(0, 273, 112), Tile(1, 1, 17), Tile(2, 0, 1)]
    assert [tile.path() for tile in partial] == [
        "tile/0/273.p/112",
        "tile/1/001.p/17",
        "tile/2/000.p/1",
    ]
    assert partial[0].entries_path() == "tile/entries/273.p/112"
    assert Tile(0, 1234067).path() == "tile/0/x001/x234/067"


def test_a_log_of_one_full_tile_has_a_partial_one_above() -> None:
    assert list(tiles_between(0, 256)) == [Tile(0, 0), Tile(1, 0, 1)]


def test_a_longer_log_adds_only_what_the_shorter_one_has_not() -> None:
    assert list(tiles_between(300, 300)) == []
    assert list(tiles_between(300, 301)) == [Tile(0, 1, 45)]
    assert list(tiles_between(511, 513)) == [Tile(0, 1), Tile(0, 2, 1), Tile(1, 0, 2)]
    every = {size: set(tiles_between(0, size)) for size in (0, 1, 255, 256, 300, 512, 66_000)}
    for old, new in [(0, 1), (1, 255), (255, 256), (256, 300), (300, 512), (512, 66_000)]:
        assert set(tiles_between(old, new)) == every[new] - every[old]


def test_only_tiles_of_leaves_have_entries() -> None:
    with pytest.raises(ValueError, match="level 0"):
        Tile(1, 0).entries_path()


@pytest.mark.parametrize(("level", "index"), [(0, 2), (1, 1), (2, 0), (0, -1)])
def test_a_tile_that_the_tree_has_not_is_refused(level: int, index: int) -> None:
    with pytest.raises(ValueError, match="has no tile"):
        tile_at(level, index, 512)


@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 511, 512, 66_000])
def test_the_root_follows_from_the_tiles(size: int) -> None:
    leaves = [leaf_hash(number.to_bytes(4, "big")) for number in range(size)]
    levels = [leaves]
    while len(levels[-1]) >= TILE_WIDTH:
        row = levels[-1]
        ends = range(TILE_WIDTH, len(row) + 1, TILE_WIDTH)
        levels.append([full_root(row[end - TILE_WIDTH : end]) for end in ends])

    def read(level: int, index: int) -> Sequence[bytes]:
        tile = tile_at(level, index, size)
        return levels[level][index * TILE_WIDTH :][: tile.width]

    assert frontier_from(size, read) == append(EMPTY, leaves)[0]


def test_a_tile_that_is_too_short_is_refused() -> None:
    with pytest.raises(ValueError, match="too few"):
        frontier_from(3, lambda _level, _index: [bytes(32)] * 2)
    with pytest.raises(ValueError, match="whole"):
        split_hashes(bytes(33))


def test_entries_read_back_and_an_erased_one_is_empty() -> None:
    entries = [b"one", b"", b"x" * MAXIMUM_ENTRY_BYTES]
    bundle = b"".join(map(write_entry, entries))
    assert bundle.startswith(b"\x00\x03one\x00\x00\xff\xff")
    assert read_entries(bundle) == entries
    for end in (1, 4, len(bundle) - 1):
        with pytest.raises(ValueError, match="within"):
            read_entries(bundle[:end])
    with pytest.raises(ValueError, match="too long"):
        write_entry(bytes(MAXIMUM_ENTRY_BYTES + 1))
