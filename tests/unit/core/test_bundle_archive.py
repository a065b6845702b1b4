"""A ZIP goes out while it is made, and is one that every reader reads."""

import hashlib
import io
import random
import zipfile
from collections.abc import Iterator

import pytest

from oars_grpc.core.bundle_archive import BundleArchive

PART = bytes(range(256)) * 256  # 64 KiB


def test_what_is_written_is_read_back_and_told_of() -> None:
    archive = BundleArchive()
    out = b"".join(archive.add("a/b.txt", [b"one ", b"two"]))
    out += b"".join(archive.add("empty", []))
    out += archive.finish()
    with zipfile.ZipFile(io.BytesIO(out)) as read:
        assert read.testzip() is None
        assert read.namelist() == ["a/b.txt", "empty"]
        assert read.read("a/b.txt") == b"one two"
    told = archive.files[0]
    assert (told.name, told.size) == ("a/b.txt", 7)
    assert told.sha256 == hashlib.sha256(b"one two").hexdigest()


def test_equal_content_makes_equal_bytes() -> None:
    def written() -> bytes:
        archive = BundleArchive()
        return b"".join(archive.add("a", [b"x" * 1000])) + archive.finish()

    assert written() == written()


def test_bytes_come_out_while_parts_go_in() -> None:
    """The most that waits between two parts is far less than the whole."""
    asked = 0

    def parts() -> Iterator[bytes]:
        nonlocal asked
        for number in range(200):
            asked += 1
            yield random.Random(number).randbytes(64 * 1024)

    archive, largest, came = BundleArchive(), 0, 0
    for out in archive.add("large", parts()):
        largest = max(largest, len(out))
        came += 1
    assert asked == 200
    assert came > 20
    assert largest < 256 * 1024


def test_a_reader_that_stops_leaves_nothing_open() -> None:
    archive = BundleArchive()
    stream = archive.add("a", (PART for _ in range(1000)))
    next(stream)
    assert isinstance(stream, Iterator)
    stream.close()  # type: ignore[attr-defined]  # a generator
    with pytest.raises(StopIteration):
        next(stream)
