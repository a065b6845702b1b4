"""Reads an evidence bundle from a ZIP that may have been made to deceive.

What different readers of one ZIP would see differently is refused: names twice, data between or
under the files, other names in the files' own headers, links and folders, encryption, comments.
"""

import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from oars_grpc.core.bundle_findings import MAXIMUM_FILES, BundleEntry

_PIECE = 64 * 1024
_LOCAL_HEADER = 30  # before the name
_LOCAL_SIGNATURE = b"PK\x03\x04"
# Names of the format: no path that leads out, no drive, nothing absolute, no folder.
_NAME = re.compile(r"([a-z0-9]+/)?[a-z0-9][a-z0-9.]*")
_ENCRYPTED = 0x1
_UNREADABLE = (BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError)


def is_zip(path: Path) -> bool:
    """Whether a file begins as a ZIP does."""
    try:
        if not path.is_file():  # what is read of a pipe is gone for whoever reads it next
            return False
        with path.open("rb") as file:
            return file.read(len(_LOCAL_SIGNATURE)) == _LOCAL_SIGNATURE
    except OSError:
        return False


class ZipBundle:
    """The bundle in a ZIP file; a context manager."""

    def __init__(self, path: Path) -> None:
        """Open it.

        Raises:
            ValueError: it is no ZIP, or one that readers understand differently.
        """
        try:
            self._zip = ZipFile(path)
        except (*_UNREADABLE, ValueError) as error:
            raise ValueError(f"is not a readable ZIP: {error}") from error
        try:
            _check_layout(self._zip)
        except ValueError:
            self._zip.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    def entries(self) -> Sequence[BundleEntry]:
        """All files, each as often as it is there."""
        return [
            BundleEntry(info.filename, info.file_size, info.compress_size)
            for info in self._zip.infolist()
        ]

    def stream(self, name: str) -> Iterator[bytes]:
        """The content of a file in pieces of a bounded size.

        Raises:
            ValueError: it is missing or cannot be read.
        """
        try:
            with self._zip.open(name) as file:
                while piece := file.read(_PIECE):
                    yield piece
        except KeyError as error:
            raise ValueError("is missing") from error
        except _UNREADABLE as error:
            raise ValueError(f"cannot be read: {error}") from error


def _check_layout(archive: ZipFile) -> None:
    infos = archive.infolist()
    if len(infos) > MAXIMUM_FILES:
        raise ValueError(f"has {len(infos)} files, more than a bundle can have")
    if archive.comment:
        raise ValueError("has a comment")
    end = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        _check_info(info)
        if info.header_offset < end or (end == 0 and info.header_offset):
            raise ValueError(f"{info.filename!r} does not lie after the file before it")
        end = info.header_offset + _LOCAL_HEADER + len(info.filename) + info.compress_size
    if archive.start_dir < end:
        raise ValueError("its directory lies among its files")


def _check_info(info: ZipInfo) -> None:
    if not _NAME.fullmatch(info.orig_filename):
        raise ValueError(f"{info.orig_filename[:200]!r} is not a name of a bundle's file")
    if info.flag_bits & _ENCRYPTED or info.compress_type not in (ZIP_DEFLATED, ZIP_STORED):
        raise ValueError(f"{info.filename!r} is encrypted or compressed in an unknown way")
    kind = info.external_attr >> 28  # the type of the Unix mode; 0 says nothing, 8 is a file
    if info.create_system == 3 and kind not in (0, 8):
        raise ValueError(f"{info.filename!r} is a link or something else that is no file")
