"""`oars log export` of a real database: what a stranger reads from the files alone."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Engine

from oars_grpc.cli.tile_export import Exported, TileExport
from oars_grpc.core.checkpoint import Checkpoint, log_origin, parse_checkpoint, sign_checkpoint
from oars_grpc.core.envelope import PAYLOAD_TYPE, Envelope
from oars_grpc.core.merkle import (
    TILE_HEIGHT,
    Frontier,
    Subtree,
    fold,
    leaf_hash,
    plan_inclusion,
    verify_inclusion,
)
from oars_grpc.core.note import parse_note
from oars_grpc.core.receipt import parse_receipt
from oars_grpc.core.tiles import (
    frontier_from,
    full_root,
    read_entries,
    split_hashes,
    tile_at,
    tiles_between,
)
from oars_grpc.storage.ledger import PostgresLedger
from oars_grpc.storage.log_scan import LogSnapshot, scan_log
from tests.support.factories import make_change, make_signing_key
from tests.support.tampering import tamper, truncate

ACME = "tenant_id = 'acme'"


def submit(engine: Engine, receipts: int) -> None:
    PostgresLedger(engine).commit([make_change() for _ in range(receipts // 2)])


def export(engine: Engine, directory: Path) -> Exported:
    def write(snapshot: LogSnapshot) -> Exported:
        head = snapshot.head()
        assert head is not None
        root = Frontier.from_bytes(head.size, head.frontier).root()
        checkpoint = Checkpoint(log_origin("oars", "acme"), head.size, root)
        task = TileExport(directory, sign_checkpoint(checkpoint, make_signing_key()))
        return task.run(snapshot.entries(task.first_entry, task.size))

    return scan_log(engine, "acme", write)


def published(directory: Path) -> Checkpoint:
    return parse_checkpoint(parse_note((directory / "checkpoint").read_text()))


def reader(directory: Path, size: int) -> Callable[[int, int], Sequence[bytes]]:
    return lambda level, index: split_hashes(
        (directory / tile_at(level, index, size).path()).read_bytes()
    )


def files(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def check_files(directory: Path) -> None:
    """What a client of tlog-tiles does: root, entries, and proofs out of tiles."""
    checkpoint = published(directory)
    size, read = checkpoint.size, reader(directory, checkpoint.size)
    assert frontier_from(size, read).root() == checkpoint.root
    entries = []
    for index in range(-(-size // 256)):
        tile = tile_at(0, index, size)
        bundle = (directory / tile.entries_path()).read_bytes()
        entries += read_entries(bundle)
    assert len(entries) == size

    def root_of(subtree: Subtree) -> bytes:
        level, above = divmod(subtree.height, TILE_HEIGHT)
        index, first = divmod(subtree.index << above, 256)
        return full_root(read(level, index)[first : first + (1 << above)])

    for number in {0, 1, 255, 256, size // 2, size - 1} & set(range(size)):
        assert read(0, number // 256)[number % 256] == leaf_hash(entries[number])
        plan = plan_inclusion(number, size)
        wanted = {subtree for group in plan for subtree in group}
        proof = fold(plan, {subtree: root_of(subtree) for subtree in wanted})
        leaf = leaf_hash(entries[number])
        assert verify_inclusion(leaf, number, size, proof, checkpoint.root)
    expected = {tile.path() for tile in tiles_between(0, size)}
    assert expected <= set(files(directory))
    # An entry is what was signed: the receipt is in it.
    payload = entries[-1].split(b" ", 4)[4]
    assert parse_receipt(Envelope(PAYLOAD_TYPE, payload, ())).tenant_id == "acme"


def test_an_export_grows_with_the_log_and_changes_nothing_that_is_full(
    engine: Engine, tmp_path: Path
) -> None:
    before: dict[str, bytes] = {}
    for receipts, size in ((2, 2), (252, 254), (2, 256), (2, 258), (0, 258), (510, 768), (4, 772)):
        submit(engine, receipts)
        done = export(engine, tmp_path)
        assert (done.old_size, done.size) == (size - receipts, size)
        check_files(tmp_path)
        now = files(tmp_path)
        kept = [name for name in before if name in now and name != "checkpoint"]
        assert all(now[name] == before[name] for name in kept)
        gone = {name for name in before if name not in now}
        # Partial tiles stay until the full one is there.
        assert all((tmp_path / name.partition(".p/")[0]).is_file() for name in gone)
        before = now
    assert not list(tmp_path.rglob("*.unfinished"))


def test_an_export_that_died_before_its_checkpoint_goes_on(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit(engine, 300)
    export(engine, tmp_path)
    before = files(tmp_path)
    submit(engine, 300)

    def die(path: Path, data: bytes) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("oars_grpc.cli.tile_export.write_atomically", die)
        with pytest.raises(KeyboardInterrupt):
            export(engine, tmp_path)
    # A reader still has everything of the old checkpoint.
    assert before.items() <= files(tmp_path).items()
    check_files(tmp_path)
    submit(engine, 300)
    assert export(engine, tmp_path).old_size == 300
    check_files(tmp_path)


def test_a_tile_that_is_gone_is_not_guessed(engine: Engine, tmp_path: Path) -> None:
    submit(engine, 300)
    export(engine, tmp_path)
    shutil.rmtree(tmp_path / "tile" / "1")
    submit(engine, 300)
    with pytest.raises(ValueError, match="missing: export into a new directory"):
        export(engine, tmp_path)


def test_an_erased_entry_is_empty(engine: Engine, database_url: str, tmp_path: Path) -> None:
    submit(engine, 10)
    tamper(
        database_url,
        "INSERT INTO erasure SELECT tenant_id, leaf_index, recorded_at, receipt_id FROM receipt"
        f" WHERE {ACME} AND leaf_index = 4",
        f"DELETE FROM receipt_body WHERE {ACME} AND leaf_index = 4",
    )
    assert export(engine, tmp_path).erased == 1
    entries = read_entries((tmp_path / "tile/entries/000.p/10").read_bytes())
    assert [number for number, entry in enumerate(entries) if not entry] == [4]
    assert frontier_from(10, reader(tmp_path, 10)).root() == published(tmp_path).root


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        (
            "UPDATE receipt_body SET payload = set_byte(payload, 9, 33)",
            "is not the hash of its payload",
        ),
        ("DELETE FROM receipt", "leaf 299 is not in the log"),
        (
            "UPDATE receipt SET leaf_hash = set_byte(leaf_hash, 9, 255 - get_byte(leaf_hash, 9))",
            "is not the hash of its payload",
        ),
    ],
)
def test_a_log_that_contradicts_itself_is_not_published(
    engine: Engine, database_url: str, tmp_path: Path, statement: str, message: str
) -> None:
    submit(engine, 290)
    export(engine, tmp_path)
    before = (tmp_path / "checkpoint").read_bytes()
    submit(engine, 20)
    tamper(database_url, f"{statement} WHERE {ACME} AND leaf_index = 299")
    with pytest.raises(ValueError, match=message):
        export(engine, tmp_path)
    assert (tmp_path / "checkpoint").read_bytes() == before


def test_a_log_that_was_written_anew_is_not_published_over_the_old_one(
    engine: Engine, database_url: str, tmp_path: Path
) -> None:
    submit(engine, 290)
    export(engine, tmp_path)
    before = files(tmp_path)
    truncate(database_url, "acme", 280, actions=True)
    with pytest.raises(ValueError, match="it was cut off"):
        export(engine, tmp_path)
    submit(engine, 40)
    with pytest.raises(ValueError, match="does not continue the published one"):
        export(engine, tmp_path)
    assert (tmp_path / "checkpoint").read_bytes() == before["checkpoint"]


def test_a_directory_of_another_log_is_refused(engine: Engine, tmp_path: Path) -> None:
    submit(engine, 2)
    export(engine, tmp_path)
    other = replace(published(tmp_path), origin="oars/globex")
    with pytest.raises(ValueError, match="holds the log oars/acme"):
        TileExport(tmp_path, sign_checkpoint(other, make_signing_key()))


def test_a_full_tile_that_was_changed_is_noticed_and_not_overwritten(
    engine: Engine, tmp_path: Path
) -> None:
    submit(engine, 300)
    export(engine, tmp_path)
    tile = tmp_path / "tile/1/000.p/1"
    tile.write_bytes(bytes(32))
    submit(engine, 300)
    with pytest.raises(ValueError, match=r"does not lead|do not lead"):
        export(engine, tmp_path)
