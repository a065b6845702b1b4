"""Reads request fields strictly; collects every violation, so that one answer names them all."""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypeVar

from google.protobuf import struct_pb2, timestamp_pb2

from oars_grpc.core.canonical import canonical_json
from oars_grpc.core.tenant import TENANT_ID
from oars_grpc.errors import FieldViolation, InvalidArgument

NAME = re.compile(r"[A-Za-z0-9._:/@-]+")
KEY = re.compile(r"[A-Za-z0-9._-]+")
MAXIMUM_DEPTH = 32
MAXIMUM_JSON_BYTES = 128 * 1024
MAXIMUM_NUMBER = 2**53 - 1

# Control characters, and those that make text read otherwise than it is stored (Unicode TR 36,
# bidirectional overrides and isolates): an approver must see what is asked.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_LINE_BREAKS = str.maketrans("", "", "\n\r\t")
_KIND = TypeVar("_KIND", bound=StrEnum)


class Reader:
    """Checks fields one after another; `done` refuses the request if any was wrong."""

    def __init__(self) -> None:
        self._violations: list[FieldViolation] = []

    def wrong(self, field: str, description: str) -> None:
        """Note a violation."""
        self._violations.append(FieldViolation(field, description))

    @property
    def sound(self) -> bool:
        """Whether nothing was wrong so far."""
        return not self._violations

    def done(self) -> None:
        """Raise InvalidArgument with all violations, if there were any."""
        if self._violations:
            raise InvalidArgument(self._violations)

    def text(
        self,
        value: str,
        field: str,
        maximum: int,
        *,
        required: bool = False,
        pattern: re.Pattern[str] | None = None,
        lines: bool = False,
    ) -> str:
        """Bounded text; without control characters, but for line breaks where `lines` permits."""
        if not value:
            if required:
                self.wrong(field, "is required")
        elif len(value) > maximum:
            self.wrong(field, f"is {len(value)} characters long; at most {maximum} are accepted")
        elif not (value.isascii() and value.isprintable()) and _CONTROL.search(
            value.translate(_LINE_BREAKS) if lines else value
        ):
            self.wrong(field, "contains a control character")
        elif pattern is not None and not pattern.fullmatch(value):
            self.wrong(field, f"must consist of {pattern.pattern.removesuffix('+')}")
        return value

    def tenant_id(self, value: str, field: str = "tenant_id", *, required: bool = False) -> str:
        """A tenant id, or nothing where it may be left out."""
        if not value:
            if required:
                self.wrong(field, "is required")
        elif not TENANT_ID.fullmatch(value):
            self.wrong(field, "must be 1 to 64 characters of [a-z0-9_-], beginning with a letter")
        return value

    @classmethod
    def checked_tenant_id(cls, value: str, *, required: bool = False) -> str:
        """A tenant id on its own, refused at once if it is wrong."""
        reader = cls()
        reader.tenant_id(value, required=required)
        reader.done()
        return value

    def texts(
        self,
        values: Sequence[str],
        field: str,
        count: int,
        maximum: int,
        pattern: re.Pattern[str] | None = None,
    ) -> tuple[str, ...]:
        """A bounded list of texts, none of them empty."""
        if len(values) > count:
            self.wrong(field, f"has {len(values)} entries; at most {count} are accepted")
            return ()
        return tuple(
            self.text(value, f"{field}[{position}]", maximum, required=True, pattern=pattern)
            for position, value in enumerate(values)
        )

    def text_map(
        self, values: Mapping[str, str], field: str, count: int, maximum: int
    ) -> dict[str, str]:
        """A bounded map of short keys to texts."""
        if len(values) > count:
            self.wrong(field, f"has {len(values)} entries; at most {count} are accepted")
            return {}
        found = {}
        for key, value in sorted(values.items()):
            if not KEY.fullmatch(key) or len(key) > 64:
                self.wrong(field, f"key {key[:64]!a} must be 1 to 64 characters of {KEY.pattern}")
                continue
            found[key] = self.text(value, f"{field}[{key}]", maximum)
        return found

    def one_of(
        self, number: int, field: str, values: Mapping[int, _KIND], default: _KIND | None = None
    ) -> _KIND | None:
        """The core value of an enum number; 0 is the default, or required to be something else."""
        if number in values:
            return values[number]
        if number != 0:
            self.wrong(field, f"{number} is not a value that this server knows")
        elif default is None:
            self.wrong(field, "is required")
        return default

    def json_object(self, value: struct_pb2.Struct, field: str) -> dict[str, Any]:
        """A JSON object within the limits on depth, numbers and size."""
        found = self._object(value, field, 1)
        try:
            size = len(canonical_json(found))
        except ValueError as error:
            self.wrong(field, str(error))
            return {}
        if size > MAXIMUM_JSON_BYTES:
            self.wrong(field, f"is {size} bytes long; at most {MAXIMUM_JSON_BYTES} are accepted")
        return found

    def _object(self, value: struct_pb2.Struct, field: str, depth: int) -> dict[str, Any]:
        if depth > MAXIMUM_DEPTH:
            self.wrong(field[:200], f"is nested more than {MAXIMUM_DEPTH} levels deep")
            return {}
        found = {}
        for key, item in value.fields.items():
            if "\x00" in key:
                self.wrong(field[:200], "has a member name with a NUL character")
                continue
            # Clipped as it grows: the names are the caller's, and every value below repeats them.
            found[key] = self._value(item, f"{field}.{ascii(key[:64])[1:-1]}"[:200], depth)
        return found

    def _value(self, value: struct_pb2.Value, field: str, depth: int) -> Any:
        match value.WhichOneof("kind"):
            case "string_value":
                if "\x00" in value.string_value:
                    self.wrong(field[:200], "contains a NUL character")
                return value.string_value
            case "number_value":
                return self._number(value.number_value, field)
            case "bool_value":
                return value.bool_value
            case "null_value":
                return None
            case "struct_value":
                return self._object(value.struct_value, field, depth + 1)
            case "list_value":
                if depth >= MAXIMUM_DEPTH:
                    self.wrong(field[:200], f"is nested more than {MAXIMUM_DEPTH} levels deep")
                    return []
                return [
                    self._value(item, f"{field}[{position}]", depth + 1)
                    for position, item in enumerate(value.list_value.values)
                ]
        self.wrong(field[:200], "has no value")
        return None

    def _number(self, number: float, field: str) -> float | int:
        # NaN fails every comparison, so it lands here along with the infinities.
        if not -MAXIMUM_NUMBER <= number <= MAXIMUM_NUMBER:
            self.wrong(field, "is beyond 2^53 - 1 or no number; send exact large numbers as text")
            return 0
        return int(number) if number.is_integer() else number

    def moment(self, value: timestamp_pb2.Timestamp, field: str) -> datetime:
        """A time in UTC, to the microsecond."""
        try:
            return value.ToDatetime(UTC)
        except (ValueError, OverflowError):
            self.wrong(field, "is not a time between the years 1 and 9999")
            return datetime.min.replace(tzinfo=UTC)


def inverse(table: Mapping[int, _KIND]) -> Mapping[_KIND, Any]:
    """A table from core values to enum numbers (whose type differs from enum to enum)."""
    return {kind: number for number, kind in table.items()}
