"""Arrays of `.npz` and `.npy` files, measured before anything of them is held in memory.

A header tells type and shape, the archive's directory how much there is: both must agree with each
other and with what a lattice may be, so that neither a header that lies nor a member that unpacks
to a thousand times its size is given room. Objects, which only a pickle could hold, are refused.
"""

import zlib
from collections.abc import Collection
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from tokenize import TokenError
from typing import Any, BinaryIO, cast
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

import numpy as np
import numpy.typing as npt

from oars_grpc.core.lattice.limits import DEFAULT_LIMITS
from oars_grpc.core.lattice.progress import Proceed, between

Array = npt.NDArray[Any]

TEXTS = "ids"
MAXIMUM_TEXT = 256
_MAGIC = b"\x93NUMPY\x01\x00"
_MAXIMUM_HEADER = 1024
_MAXIMUM_MEMBERS = 1000
_PIECE = 1 << 22
_ENCRYPTED = 0x1
# Embeddings hardly shrink. What grows more than this when it is unpacked was made to.
_LARGE, _MAXIMUM_GROWTH = 64 << 20, 100
_UNREADABLE = (BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)
# All that NumPy's reading of a header, which is Python's own notation, has been seen to end in.
_UNSOUND = (ValueError, TypeError, SyntaxError, TokenError, RecursionError, MemoryError)


@dataclass(frozen=True, slots=True)
class _Header:
    """What a `.npy` says of itself."""

    shape: tuple[int, ...]
    columns_first: bool
    dtype: np.dtype[Any]

    @property
    def count(self) -> int:
        count = 1
        for length in self.shape:
            count *= length
        return count


def read_npz(path: Path, names: Collection[str], proceed: Proceed) -> dict[str, Array]:
    """Those of the named arrays that a file has.

    Raises:
        ValueError: the file or an array in it cannot be read, or is larger than a lattice may be.
        OSError: the file cannot be read.
    """
    try:
        with ZipFile(path) as archive:
            members = _members(archive, names)
            whole = max(1, sum(info.file_size for info in members.values()))
            arrays, done = {}, 0
            for name, info in members.items():
                _check_member(name, info)
                part = between(proceed, done / whole, (done + info.file_size) / whole)
                # Unpacking may fail at any piece.
                with archive.open(info) as file:
                    arrays[name] = _read(name, cast("BinaryIO", file), info.file_size, part)
                done += info.file_size
            return arrays
    except _UNREADABLE as error:
        raise ValueError(f"is not a sound .npz: {error}") from error


def read_npy(path: Path, name: str, proceed: Proceed) -> Array:
    """The array of a file.

    Raises:
        ValueError: it cannot be read, or is larger than it may be; `name` is what it is for.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return _read(name, file, path.stat().st_size, proceed)


def _members(archive: ZipFile, names: Collection[str]) -> dict[str, ZipInfo]:
    infos = archive.infolist()
    if len(infos) > _MAXIMUM_MEMBERS:
        raise ValueError(f"has {len(infos)} members, more than {_MAXIMUM_MEMBERS}")
    found: dict[str, ZipInfo] = {}
    for info in infos:
        name = info.filename.removesuffix(".npy")
        if name in names:
            if name in found:
                raise ValueError(f"{name}: is there twice")
            found[name] = info
    return found


def _check_member(name: str, info: ZipInfo) -> None:
    if info.flag_bits & _ENCRYPTED or info.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
        raise ValueError(f"{name}: is encrypted or compressed in an unknown way")
    if info.file_size > max(_LARGE, _MAXIMUM_GROWTH * info.compress_size):
        raise ValueError(
            f"{name}: {info.compress_size} bytes that unpack to {info.file_size} are no embeddings"
        )


def _read(name: str, file: BinaryIO, size: int, proceed: Proceed) -> Array:
    """The array that begins here and ends with the file, `size` bytes in all."""
    header, header_bytes = _header(name, file)
    _check_header(name, header)
    told = header.count * header.dtype.itemsize
    if told != size - header_bytes:
        raise ValueError(
            f"{name}: its header tells of {told} bytes, and there are {size - header_bytes}"
        )
    try:
        array = np.empty(header.count, dtype=header.dtype)
    except MemoryError as error:
        raise ValueError(f"{name}: {told} bytes do not fit into memory") from error
    room = array.view(np.uint8)
    filled = 0
    while filled < told:
        proceed(filled / told)
        piece = file.read(min(_PIECE, told - filled))
        if not piece:
            raise ValueError(f"{name}: ends after {filled} of {told} bytes")
        room[filled : filled + len(piece)] = np.frombuffer(piece, dtype=np.uint8)
        filled += len(piece)
    return array.reshape(header.shape, order="F" if header.columns_first else "C")


def _header(name: str, file: BinaryIO) -> tuple[_Header, int]:
    """The header and its length; of version 1.0, for only the later ones have endless headers."""
    if file.read(len(_MAGIC)) != _MAGIC:
        raise ValueError(f"{name}: is not an array in NumPy's format 1.0")
    length = file.read(2)
    size = int.from_bytes(length, "little")
    text = file.read(size) if size <= _MAXIMUM_HEADER else b""
    if not size or len(text) != size:
        raise ValueError(f"{name}: has no sound header")
    try:
        shape, columns_first, dtype = np.lib.format.read_array_header_1_0(
            BytesIO(length + text), max_header_size=_MAXIMUM_HEADER
        )
    except _UNSOUND as error:
        raise ValueError(f"{name}: has no sound header") from error
    return _Header(shape, columns_first, dtype), len(_MAGIC) + 2 + size


def _check_header(name: str, header: _Header) -> None:
    """Refuse what no array of a lattice is, before there is room made for it."""
    limits, dtype = DEFAULT_LIMITS, header.dtype
    if dtype.hasobject:
        raise ValueError(f"{name}: holds Python objects, and nothing is unpickled")
    if name == TEXTS:
        if dtype.kind != "U" or not 0 < dtype.itemsize <= 4 * MAXIMUM_TEXT:
            raise ValueError(f"{name}: must be texts of at most {MAXIMUM_TEXT} characters")
    elif dtype.kind not in "fiu":
        raise ValueError(f"{name}: must be numbers, not {dtype}")
    if len(header.shape) > 2 or min(header.shape, default=0) < 0:
        raise ValueError(f"{name}: must not have the shape {header.shape}")
    rows = header.shape[0] if header.shape else 1
    if rows > limits.max_anchors:
        raise ValueError(f"{name}: must be at most {limits.max_anchors} rows, not {rows}")
    if len(header.shape) == 2 and header.shape[1] > limits.max_dimension:
        raise ValueError(
            f"{name}: must have a dimension of at most {limits.max_dimension},"
            f" not {header.shape[1]}"
        )
    # A text is no longer than a row of numbers may be.
    if dtype.kind != "U" and header.count * 4 > limits.max_bytes:
        raise ValueError(
            f"{name}: must be at most {limits.max_bytes} bytes as float32, not {header.count * 4}"
        )
