"""Packed bytes to arrays and back, whole or in the chunks that storage keeps."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from oars_grpc.core.lattice.arrays import Float32Array
from oars_grpc.errors import InvalidArgument

CHUNK_BYTES = 1 << 20
_FLOAT = np.dtype("<f4")


def unpacked(data: bytes, field: str) -> Float32Array:
    """A vector of little-endian single precision.

    Raises:
        InvalidArgument: not a whole number of them, naming the field.
    """
    return unpacked_rows(data, field, 1).reshape(-1)


def unpacked_rows(data: bytes, field: str, columns: int) -> Float32Array:
    """Rows of so many numbers; refused as those of `unpacked` are."""
    row_bytes = columns * _FLOAT.itemsize
    if len(data) % row_bytes:
        raise InvalidArgument.of(
            field, f"is {len(data)} bytes long, no multiple of {row_bytes}: rows must be whole"
        )
    return np.frombuffer(data, _FLOAT).reshape(-1, columns)


def packed(values: npt.NDArray[Any]) -> bytes:
    """The inverse: little-endian single precision, row after row."""
    return np.ascontiguousarray(values, dtype=_FLOAT).tobytes()


def rows_of_chunk(row_bytes: int) -> int:
    """How many rows a chunk has."""
    return max(1, CHUNK_BYTES // row_bytes)


def chunks_of(array: npt.NDArray[Any]) -> Iterator[bytes]:
    """The rows of an array in chunks, little-endian."""
    layout = array.dtype.newbyteorder("<")
    row_bytes = int(np.prod(array.shape[1:], dtype=np.int64)) * layout.itemsize
    step = rows_of_chunk(row_bytes)
    for start in range(0, len(array), step):
        yield np.ascontiguousarray(array[start : start + step], dtype=layout).tobytes()


def array_of_chunks(
    chunks: Iterable[bytes], shape: tuple[int, ...], layout: str
) -> npt.NDArray[Any]:
    """The array of chunks, one after the other, never twice in memory.

    Raises:
        ValueError: they make no array of that shape.
    """
    result = np.empty(shape, dtype=np.dtype(layout))
    flat = result.reshape(-1).view(np.uint8)
    at = 0
    for chunk in chunks:
        if at + len(chunk) > flat.size:
            raise ValueError(f"a lattice's chunks are longer than {flat.size} bytes")
        flat[at : at + len(chunk)] = np.frombuffer(chunk, np.uint8)
        at += len(chunk)
    if at != flat.size:
        raise ValueError(f"a lattice's chunks are {at} bytes long, not {flat.size}")
    result.flags.writeable = False
    return result
