"""Identifiers: a prefix, an underscore and a UUIDv7 in 26 characters of Crockford base 32.

    act_ 01j9z3k8v5 m0q2r4t6w8 y0abcd      sortable by creation time, lower case, parsed strictly

128 bits fill 26 characters of 5 bits but for the top two, so the first character is at most `7`.
"""

import re
from uuid import UUID

from oars_grpc.errors import InvalidArgument

ACTION = "act"
APPROVAL = "apr"
CONTROL_MAPPING = "map"
HOLD = "hold"
LATTICE = "lat"
OPERATION = "op"
POLICY = "pol"
RECEIPT = "rcpt"

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]  # of 10 bits each
_VALUE = {character: value for value, character in enumerate(_ALPHABET)}
_SHIFTS = range(120, -1, -10)
_BODY = re.compile(rf"[0-7][{_ALPHABET}]{{25}}")


def format_id(prefix: str, uuid: UUID) -> str:
    """The id of a UUIDv7."""
    return format_number(prefix, uuid.int)


def format_number(prefix: str, value: int) -> str:
    """The id of a UUIDv7 that is given as its 128-bit number."""
    digits = [_PAIRS[(value >> shift) & 1023] for shift in _SHIFTS]
    return f"{prefix}_{''.join(digits)}"


def is_id(prefix: str, text: str) -> bool:
    """Whether `format_id` could have written the text."""
    head, _, body = text.partition("_")
    if head != prefix or not _BODY.fullmatch(body):
        return False
    value = 0
    for character in body:
        value = value << 5 | _VALUE[character]
    return UUID(int=value).version == 7  # implies the RFC 9562 variant


def parse_id(prefix: str, text: str, field: str) -> str:
    """Return `text` if it is an id.

    Raises:
        InvalidArgument: naming `field`.
    """
    if is_id(prefix, text):
        return text
    problem = "is required" if not text else f"must be {prefix}_ and 26 characters of a UUIDv7"
    raise InvalidArgument.of(field, problem)
