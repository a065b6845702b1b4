"""Reads the files of an evidence bundle, each held against what the manifest says of it."""

import hashlib
from collections.abc import Iterator

from oars_grpc.core.bundle_findings import FILES, BundleReader, Findings
from oars_grpc.core.evidence import BundleFile, Manifest
from oars_grpc.core.evidence_lines import MAXIMUM_LINE_BYTES

# Of the files that are read whole.
MAXIMUM_WHOLE_BYTES = 64 * 1024 * 1024


def read_whole(reader: BundleReader, name: str, limit: int = MAXIMUM_WHOLE_BYTES) -> bytes:
    """The content of a file that the manifest does not list.

    Raises:
        ValueError: it is missing, unreadable or too large.
    """
    return b"".join(_bounded(reader.stream(name), limit))


class BundleFiles:
    """The files of a manifest; what is wrong with them becomes known as they are read."""

    def __init__(self, reader: BundleReader, manifest: Manifest, findings: Findings) -> None:
        self._reader = reader
        self._findings = findings
        self._files = {file.name: file for file in manifest.files}
        self._unread = dict.fromkeys(self._files)
        self._whole: dict[str, bytes] = {}
        self._present = {entry.name for entry in reader.entries()}

    def content(self, name: str) -> bytes:
        """A file as a whole.

        Raises:
            ValueError: it cannot be read; that is told of once more where it is read.
        """
        if name not in self._whole:
            self._whole[name] = b"".join(_bounded(self._pieces(name), MAXIMUM_WHOLE_BYTES))
        return self._whole[name]

    def lines(self, name: str) -> Iterator[bytes]:
        """The lines of a file with their newlines; it ends early where it cannot be read.

        A missing file has none: that it is missing shows from the names.
        """
        if name not in self._present:
            return
        with self._findings.telling(FILES, name):
            yield from _lines(self._pieces(name))

    def check_unread(self) -> None:
        """Check the files that nothing else has read."""
        for name in self._present & self._unread.keys():
            with self._findings.telling(FILES, name):
                for _ in self._pieces(name):
                    pass

    def _pieces(self, name: str) -> Iterator[bytes]:
        """The content, and at its end whether it is the manifest's.

        Raises:
            ValueError: it cannot be read, or is longer than the manifest says.
        """
        file = self._files.get(name)
        if file is None:
            raise ValueError("is not in the manifest")
        self._unread.pop(name, None)
        digest, size = hashlib.sha256(), 0
        for piece in self._reader.stream(name):
            digest.update(piece)
            size += len(piece)
            if size > file.size:
                raise ValueError(f"is longer than the {file.size} bytes of the manifest")
            yield piece
        self._compare(file, size, digest.hexdigest())

    def _compare(self, file: BundleFile, size: int, digest: str) -> None:
        if size != file.size:
            detail = f"{file.name}: has {size} bytes, the manifest says {file.size}"
            self._findings.wrong(FILES, detail)
        elif digest != file.sha256:
            self._findings.wrong(FILES, f"{file.name}: its SHA-256 is not that of the manifest")


def _bounded(pieces: Iterator[bytes], limit: int) -> Iterator[bytes]:
    size = 0
    for piece in pieces:
        size += len(piece)
        if size > limit:
            raise ValueError(f"is larger than {limit} bytes")
        yield piece


def _lines(pieces: Iterator[bytes]) -> Iterator[bytes]:
    waiting = b""
    for piece in pieces:
        *whole, waiting = (waiting + piece).split(b"\n")
        for line in whole:
            yield line + b"\n"
        if len(waiting) > MAXIMUM_LINE_BYTES:
            raise ValueError(f"a line is longer than {MAXIMUM_LINE_BYTES} bytes")
    if waiting:
        yield waiting
