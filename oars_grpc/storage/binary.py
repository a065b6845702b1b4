"""Postgres's binary form of values: one-dimensional arrays to send, values of rows to read.

The driver adapts any value of any type, and asks each one what it is. The write path sends columns
whose types are known from the metadata, tens of thousands of values a second: it writes them
itself, in loops that the interpreter runs in C.
https://www.postgresql.org/docs/current/protocol-overview.html (formats), `array_send` for arrays.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from struct import Struct, pack, unpack
from typing import Any

from sqlalchemy import BigInteger, Column, DateTime, Integer, LargeBinary, Text

_BYTEA, _INT8, _INT4, _TEXT, _TIMESTAMPTZ = 17, 20, 23, 25, 1184  # pg_type.oid
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_NULL = b"\xff\xff\xff\xff"
_HEADER = Struct(">iiiii")  # dimensions, whether there are NULLs, type, length, lower bound
_LENGTH = Struct(">i")

Encode = Callable[[Sequence[Any]], bytes]


def texts(values: Sequence[str]) -> bytes:
    """An array of texts."""
    return _elements(list(map(str.encode, values)), _TEXT)


def blobs(values: Sequence[bytes]) -> bytes:
    """An array of byte strings."""
    return _elements(values, _BYTEA)


def _elements(values: Sequence[bytes], kind: int) -> bytes:
    parts = [b""] * (2 * len(values))
    parts[::2] = map(_LENGTH.pack, map(len, values))
    parts[1::2] = values
    return _HEADER.pack(1, 0, kind, len(values), 1) + b"".join(parts)


def int8s(values: Sequence[int]) -> bytes:
    """An array of bigints."""
    return _numbers(values, _INT8, "iq", 8)


def int4s(values: Sequence[int]) -> bytes:
    """An array of integers."""
    return _numbers(values, _INT4, "ii", 4)


def _numbers(values: Sequence[int], kind: int, form: str, size: int) -> bytes:
    numbers = [size] * (2 * len(values))
    numbers[1::2] = values
    return _HEADER.pack(1, 0, kind, len(values), 1) + pack(f">{form * len(values)}", *numbers)


def moments(values: Sequence[datetime | None]) -> bytes:
    """An array of times, None for NULL."""
    distinct = set(values)  # few: what happens at once has one time
    written = {value: _moment(value) for value in distinct}
    header = _HEADER.pack(1, int(None in distinct), _TIMESTAMPTZ, len(values), 1)
    return header + b"".join(map(written.__getitem__, values))


def _moment(value: datetime | None) -> bytes:
    return _NULL if value is None else pack(">iq", 8, (value - _EPOCH) // _MICROSECOND)


# By the types that columns have (`columns`): the name of the array's type, and its form.
ARRAYS: Mapping[type, tuple[str, Encode]] = {
    Text: ("text[]", texts),
    BigInteger: ("bigint[]", int8s),
    Integer: ("integer[]", int4s),
    LargeBinary: ("bytea[]", blobs),
    DateTime: ("timestamptz[]", moments),
}


def array_of(column: Column[Any]) -> tuple[str, Encode]:
    """The name of the type of arrays of a column's values, and what writes them."""
    return ARRAYS[type(column.type)]


_DECODERS: Mapping[int, Callable[[bytes], Any]] = {
    _TEXT: bytes.decode,
    _BYTEA: bytes,
    _INT8: lambda data: unpack(">q", data)[0],
    _INT4: lambda data: unpack(">i", data)[0],
    _TIMESTAMPTZ: lambda data: _EPOCH + timedelta(microseconds=unpack(">q", data)[0]),
}


def decoder(kind: int) -> Callable[[bytes], Any]:
    """What reads values of a type, given by its `pg_type.oid`."""
    return _DECODERS[kind]
