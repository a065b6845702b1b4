"""What a check of a statement found wrong, and strict reading of the statement's members."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from oars_grpc.core.lattice.certificate import BoundNumber, bound_value

_LARGEST = 2**53
_LARGEST_EXPONENT = 1023


@dataclass(frozen=True, slots=True)
class Finding:
    """One check that failed."""

    check: str  # the statement's member, as a path
    description: str


class Malformed(ValueError):
    """A member is missing or not of its type; the message tells which."""


def member(value: Any, name: str) -> Any:
    """A member of an object."""
    if not isinstance(value, Mapping) or name not in value:
        raise Malformed(f"has no member {name}")
    return value[name]


def whole(value: Any, name: str) -> int:
    """A whole number within 2^53."""
    number = member(value, name)
    if not isinstance(number, int) or isinstance(number, bool) or not -_LARGEST < number < _LARGEST:
        raise Malformed(f"{name} is not a whole number within 2^53")
    return number


def exponent(value: Any, name: str = "exponent") -> int:
    """The exponent of a quantum that binary64 has."""
    number = whole(value, name)
    if not -_LARGEST_EXPONENT <= number <= _LARGEST_EXPONENT:
        raise Malformed(f"{name} is not an exponent of binary64")
    return number


def bound(value: Any, name: str) -> BoundNumber:
    """A bound {number, exponent}, not negative."""
    given = member(value, name)
    number: BoundNumber = {"number": whole(given, "number"), "exponent": exponent(given)}
    if number["number"] < 0:
        raise Malformed(f"{name} is below 0")
    try:
        bound_value(number)
    except OverflowError as fault:
        raise Malformed(f"{name} is beyond binary64") from fault
    return number


def objects(value: Any, name: str) -> list[Mapping[str, Any]]:
    """A list of objects."""
    listed = member(value, name)
    if not isinstance(listed, list | tuple) or not all(isinstance(i, Mapping) for i in listed):
        raise Malformed(f"{name} is not a list of objects")
    return list(listed)


def decimal(value: Any, name: str) -> float:
    """A finite real in the shortest decimal text that reads back as it."""
    text = member(value, name)
    try:
        number = float(text) if isinstance(text, str) else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or repr(number) != text:
        raise Malformed(f"{name} is not a real number in decimal text")
    return number
