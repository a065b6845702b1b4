"""What `oars lattice` reads: sound files, and every kind of file that it must not trust."""

import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.lattice_files import (
    refused,
    run_lattice,
    sample_arrays,
    sample_npz,
    write_npz,
)


def settled_state(file: Path, *options: object) -> Any:
    out = file.with_name("state.npz")
    result = run_lattice("settle", file, *options, "--out", out)
    assert result.exit_code == 0, result.output
    with np.load(out) as found:
        return found["state"]


def npy(array: Any) -> bytes:
    written = io.BytesIO()
    np.save(written, array)
    return written.getvalue()


def header(shape: str, descr: str = "'<f4'") -> bytes:
    """A `.npy` that says so of itself and has 16 bytes."""
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"
    padded = text.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded.encode() + bytes(16)


def zipped(path: Path, compression: int = zipfile.ZIP_DEFLATED, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


def parquet(path: Path, **columns: Any) -> Path:
    """The sample as Parquet, with other columns in place of its own; None leaves one out."""
    arrays = sample_arrays()
    places: list[int | None] = [None] * 60
    for place, node in enumerate((5, 3, 8)):
        places[node] = place * 10
    own: dict[str, Any] = {
        "embedding": arrays["anchors"].tolist(),
        "gate": arrays["gates"].tolist(),
        "id": arrays["ids"].tolist(),
        "chain": places,
        "chain_weight": [2.0 if node == 3 else None for node in range(60)],
    } | columns
    table = pa.table({name: column for name, column in own.items() if column is not None})
    query = {"query": json.dumps(arrays["query"].tolist())}
    pq.write_table(table.replace_schema_metadata(query), path, row_group_size=17)
    return path


@pytest.mark.parametrize(
    "change",
    [
        lambda anchors: anchors.astype(np.float64),
        lambda anchors: anchors.astype(">f4"),
        np.asfortranarray,
    ],
    ids=["float64", "big-endian", "by columns"],
)
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_array_is_the_same_however_it_is_written(change: Any, save: Any, tmp_path: Path) -> None:
    arrays, other = sample_arrays(), tmp_path / "other.npz"
    save(other, **(arrays | {"anchors": change(arrays["anchors"])}))
    plain = settled_state(sample_npz(tmp_path / "in.npz"))
    assert np.array_equal(settled_state(other), plain)


def test_whole_numbers_are_embeddings_too(tmp_path: Path) -> None:
    anchors = np.arange(12, dtype=np.int8).reshape(4, 3)
    whole = write_npz(tmp_path / "whole.npz", anchors=anchors, query=np.array([1, 2, 3]))
    real = write_npz(tmp_path / "real.npz", anchors=anchors * 1.0, query=np.array([1.0, 2, 3]))
    assert np.array_equal(settled_state(whole), settled_state(real))


def test_a_parquet_file_is_the_npz_of_the_same_numbers(tmp_path: Path) -> None:
    table = parquet(tmp_path / "in.parquet")
    chain, weights = np.array([5, 3, 8]), np.array([2.0, 1.0])
    same = sample_npz(tmp_path / "in.npz", chain=chain, chain_weights=weights)
    other = sample_npz(tmp_path / "other.npz", chain=chain[::-1], chain_weights=weights)
    assert np.array_equal(settled_state(table), settled_state(same))
    assert not np.array_equal(settled_state(table), settled_state(other))
    told = [
        json.loads(run_lattice("query", file, "--format", "json").stdout) for file in (table, same)
    ]
    assert told[0].pop("file") != told[1].pop("file")
    assert told[0] == told[1]


@pytest.mark.parametrize(
    "type_", [pa.list_(pa.float64()), pa.large_list(pa.float32()), pa.list_(pa.float32(), 16)]
)
def test_every_kind_of_list_is_read(type_: pa.DataType, tmp_path: Path) -> None:
    embedding = pa.array(sample_arrays()["anchors"].tolist(), type=type_)
    listed = settled_state(parquet(tmp_path / "listed.parquet", embedding=embedding))
    assert np.array_equal(listed, settled_state(parquet(tmp_path / "in.parquet")))


def test_a_query_comes_from_any_kind_of_file(tmp_path: Path) -> None:
    file = sample_npz(tmp_path / "in.npz", query=None)
    query = sample_arrays()["query"]
    np.save(tmp_path / "q.npy", query)
    write_npz(tmp_path / "q.npz", query=query)
    pq.write_table(pa.table({"embedding": [query.tolist()]}), tmp_path / "q.parquet")
    plain = settled_state(sample_npz(tmp_path / "whole.npz"))
    for name in ("q.npy", "q.npz", "q.parquet"):
        assert np.array_equal(settled_state(file, "--query", tmp_path / name), plain)
    assert "query: is missing" in refused("settle", file)


@pytest.mark.parametrize(
    ("instead", "told"),
    [
        ({"anchors": None}, "anchors: is missing"),
        ({"anchors": np.ones(5)}, "anchors: must be rows of numbers"),
        ({"anchors": np.ones((2, 2, 2))}, "anchors: must not have the shape"),
        ({"anchors": np.ones((0, 4))}, "anchors: must not be empty"),
        ({"anchors": np.ones((4, 5000))}, "dimension of at most 4096"),
        ({"anchors": np.array([["a"]])}, "anchors: must be numbers"),
        ({"anchors": np.ones((2, 16), dtype=complex)}, "anchors: must be numbers"),
        ({"anchors": np.array([{}], dtype=object)}, "nothing is unpickled"),
        ({"anchors": np.full((2, 16), 1e20)}, "anchors[0][0]: must be from"),
        ({"query": np.ones(15)}, "query: must be 16 numbers, not 15"),
        ({"query": np.ones((2, 15))}, "query: must have the anchors' dimension"),
        ({"query": np.ones((2, 16))}, "only `oars lattice query` takes many"),
        ({"query": np.full(16, np.nan)}, "query[0]: must be finite"),
        ({"gates": np.ones(59)}, "gates: must be 60 numbers"),
        ({"gates": np.full(60, -0.5)}, "gates[0]: must be at least 0"),
        ({"gates": np.array([{}] * 60, dtype=object)}, "nothing is unpickled"),
        ({"chain": np.array([1, 60]), "chain_weights": None}, "chain.nodes[1]: must be a node"),
        ({"chain": np.array([1.5, 2]), "chain_weights": None}, "chain.nodes: must be a list of"),
        ({"chain": np.array([4, 4]), "chain_weights": None}, "must differ from the node before"),
        ({"chain": np.array([1]), "chain_weights": None}, "chain.nodes: must be 2 to"),
        ({"chain_weights": np.ones(9)}, "chain.weights: must be 4 numbers"),
        ({"chain_weights": np.zeros(4)}, "chain.weights[0]: must be over 0"),
        ({"chain": None}, "chain_weights: are of no chain"),
        ({"ids": np.array(["a"])}, "ids: must be 60 texts"),
        ({"ids": np.array(["a" * 300] * 60)}, "ids: must be texts of at most 256"),
        ({"ids": np.ones(60)}, "ids: must be texts"),
    ],
)
def test_an_array_at_fault_is_named(instead: dict[str, Any], told: str, tmp_path: Path) -> None:
    file = sample_npz(tmp_path / "in.npz", **instead)
    assert told in refused("settle", file)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_named(value: float, tmp_path: Path) -> None:
    anchors = sample_arrays()["anchors"]
    anchors[31, 7] = value
    file = sample_npz(tmp_path / "in.npz", anchors=anchors)
    assert "anchors[31][7]: must be finite" in refused("settle", file)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
def test_a_truncated_file_is_refused(save: Any, share: float, tmp_path: Path) -> None:
    file = tmp_path / "in.npz"
    save(file, **sample_arrays())
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * share)])
    assert "is not a sound .npz" in refused("settle", file)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_damaged_byte_is_found(compression: int, tmp_path: Path) -> None:
    arrays = sample_arrays()
    members = {name: npy(array) for name, array in arrays.items()}
    file = zipped(tmp_path / "in.npz", compression, **members)
    damaged = bytearray(file.read_bytes())
    damaged[2000] ^= 0x40  # amid the anchors
    file.write_bytes(damaged)
    assert "is not a sound .npz" in refused("settle", file)


@pytest.mark.parametrize("content", [b"", b"PK", b"not a lattice at all", b"PAR1", b"PAR1xxxxPAR1"])
def test_a_file_of_something_else_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "in.npz").write_bytes(content)
    assert "is not a sound" in refused("settle", tmp_path / "in.npz")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert "does not exist" in refused("settle", tmp_path / "in.npz")
    assert "directory" in refused("settle", tmp_path)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    trap = tmp_path / "sprung"

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (trap,)

    body = header("(1,)", "'|O'")[:-16] + pickle.dumps(Trap())
    for name in ("anchors", "query", "gates", "chain", "ids"):
        members = {each: npy(array) for each, array in sample_arrays().items()} | {name: body}
        file = zipped(tmp_path / "in.npz", zipfile.ZIP_STORED, **members)
        assert f"{name}: holds Python objects" in refused("settle", file)
    bare = tmp_path / "bare.npz"
    bare.write_bytes(pickle.dumps(Trap()))
    assert "is not a sound .npz" in refused("settle", bare)
    (tmp_path / "q.npy").write_bytes(body)
    good = sample_npz(tmp_path / "good.npz")
    assert "nothing is unpickled" in refused("settle", good, "--query", tmp_path / "q.npy")
    assert not trap.exists()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (header("(1000000, 1000000)"), "dimension of at most 4096"),
        (header("(9999999999, 1)"), "at most 1000000 rows"),
        (header("(1000000, 4096)"), "at most 4294967296 bytes"),
        (header("(1000, 1000)"), "its header tells of 4000000 bytes, and there are 16"),
        (header("(1, 1)"), "its header tells of 4 bytes, and there are 16"),
        (header("(-1, -4)"), "must not have the shape"),
        (header("(2, 2)", "[('a', '<f4')]"), "must be numbers"),
        (header("(2, 2)", "'<f4'; 1"), "no sound header"),
        (header("(2, 2)", "__import__('os')"), "no sound header"),
        (header("((((2, 2"), "no sound header"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\x7f" + bytes(64), "format 1.0"),
        (b"\x93NUMPY\x01\x00\xff\xff" + bytes(65535), "no sound header"),
        (b"", "format 1.0"),
    ],
)
def test_a_header_that_lies_gets_no_room(
    content: bytes, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object, **__: object) -> None:
        raise AssertionError("room was made")

    monkeypatch.setattr("oars_grpc.cli.lattice_npz.np.empty", no_room)
    file = zipped(tmp_path / "in.npz", anchors=content)
    assert told in refused("settle", file)


def test_a_member_that_unpacks_to_a_thousand_times_its_size_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "bomb.npz"
    rows = 1 << 19  # of 64 numbers: 128 MiB of zeros, packed to 128 KiB
    head = header(f"({rows}, 64)")[:-16]
    with (
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("anchors.npy", "w") as member,
    ):
        member.write(head)
        for _ in range(128):
            member.write(bytes(1 << 20))
    assert file.stat().st_size < 1 << 18
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_: pytest.fail("unpacked"))
    assert "are no embeddings" in refused("settle", file)


def test_an_array_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    file = sample_npz(tmp_path / "in.npz")
    with zipfile.ZipFile(file, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("anchors.npy", npy(np.ones((2, 16))))
    assert "anchors: is there twice" in refused("settle", file)


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"embedding": None}, "has no column embedding"),
        ({"embedding": [1.0] * 60}, "embedding: must be lists of numbers"),
        ({"embedding": [["a"]] * 60}, "embedding: must be lists of numbers"),
        ({"embedding": [[1.0] * 16] * 59 + [[1.0]]}, "anchors[59]: must be 16 numbers, not 1"),
        ({"embedding": [[1.0] * 16] * 59 + [None]}, "anchors[59]: is missing"),
        ({"embedding": [[1.0] * 16] * 59 + [[None, *[1.0] * 15]]}, "anchors[59][0]: is missing"),
        ({"embedding": [[1.0] * 16] * 59 + [[np.nan] * 16]}, "anchors[59][0]: must be finite"),
        ({"embedding": pa.array([[]] * 60, pa.list_(pa.float32()))}, "anchors: must not be empty"),
        ({"embedding": [[1.0] * 5000] * 60}, "must be at most 69632 numbers in 17 rows, not 85000"),
        ({"gate": ["a"] * 60}, "gate: must be numbers"),
        ({"gate": [1.0] * 59 + [None]}, "gates[59]: is missing"),
        ({"gate": [1.0] * 59 + [-1.0]}, "gates[59]: must be at least 0"),
        ({"id": [1] * 60}, "id: must be text"),
        ({"id": ["a"] * 59 + [None]}, "ids[59]: must be text"),
        ({"chain": [1.0] * 60}, "chain: must be whole numbers"),
        ({"chain": [7, 7] + [None] * 58}, "another anchor has the place 7, too"),
        ({"chain_weight": [-1.0] * 60}, "chain.weights[0]: must be over 0"),
    ],
)
def test_a_parquet_column_at_fault_is_named(
    columns: dict[str, Any], told: str, tmp_path: Path
) -> None:
    assert told in refused("settle", parquet(tmp_path / "in.parquet", **columns))


@pytest.mark.parametrize("share", [0.3, 0.8, 0.99])
def test_a_truncated_parquet_file_is_refused(share: float, tmp_path: Path) -> None:
    file = parquet(tmp_path / "in.parquet")
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * share)])
    assert "is not a sound Parquet file" in refused("settle", file)


@pytest.mark.parametrize("query", ["1", "[1,", '{"a": 1}', '["a"]', "[[1], [2, 3]]", "[" * 5000])
def test_a_query_in_the_metadata_must_be_one(query: str, tmp_path: Path) -> None:
    file = parquet(tmp_path / "in.parquet")
    pq.write_table(pq.read_table(file).replace_schema_metadata({"query": query}), file)
    assert "query: must be" in refused("settle", file)


def test_a_parquet_file_may_be_damaged_anywhere_without_a_traceback(tmp_path: Path) -> None:
    whole = parquet(tmp_path / "in.parquet").read_bytes()
    chance = np.random.default_rng(4)
    for _ in range(60):
        damaged = bytearray(whole)
        for place in chance.integers(4, len(whole) - 4, 3):
            damaged[place] ^= int(chance.integers(1, 256))
        (tmp_path / "damaged.parquet").write_bytes(damaged)
        result = run_lattice("settle", tmp_path / "damaged.parquet")
        assert result.exit_code in (0, 2), result.output
        assert result.exit_code == 0 or isinstance(result.exception, SystemExit)


@pytest.mark.parametrize(
    ("library", "file", "told"),
    [
        ("pyarrow", "in.parquet", "install oars-grpc[parquet]"),
        ("matplotlib", "in.npz", "install oars-grpc[plots]"),
    ],
)
def test_a_library_that_is_missing_is_named_by_its_extra(
    library: str, file: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet(tmp_path / "in.parquet")
    sample_npz(tmp_path / "in.npz")
    monkeypatch.setitem(__import__("sys").modules, library, None)
    result = run_lattice("plot", tmp_path / file, "--out", tmp_path / "out.png")
    assert told in str(result.exception)
    assert not (tmp_path / "out.png").exists()
