"""Reads JSON (RFC 8259) into values that know where in the file they stand.

Python's own reader tells no places; YAML's is no substitute, for JSON's tabs and pairs of
surrogates are not YAML's.
"""

import json
import re
from bisect import bisect_right
from typing import Any

from oars_grpc.cli.policy_text import (
    MAX_DEPTH,
    Entry,
    Located,
    Place,
    Source,
    TextFault,
    check_size,
)

_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\n\r]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_WORDS: dict[str, bool | None] = {"true": True, "false": False, "null": None}


def read_json_text(text: str) -> Located:
    """The value of a JSON text.

    Raises:
        TextFault: it is not JSON, or a name repeats.
    """
    check_size(text)
    return _Json(text).document()


class _Json:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._lines = [0, *(found.end() for found in re.finditer("\n", text))]

    def document(self) -> Located:
        found = self._value(1)
        if self._next():
            raise self._fault("there is more after the end")
        return found

    def _value(self, depth: int) -> Located:
        character, start = self._next(), self._at
        place = self._place(start)
        if depth > MAX_DEPTH:
            raise TextFault(f"is nested more than {MAX_DEPTH} levels deep", place)
        if character == "{":
            return Located(self._entries(depth), place)
        if character == "[":
            return Located(self._items(depth), place)
        if character == '"':
            content: Any = self._string()
            written = self._text[start : self._at]
            return Located(content, place, Source(written, '"', place))
        for word, value in _WORDS.items():
            if self._text.startswith(word, start):
                self._at += len(word)
                return Located(value, place)
        found = _NUMBER.match(self._text, start)
        if found is None or len(found[0]) > 40:
            raise self._fault("a value is expected" if found is None else "a number is too long")
        self._at = found.end()
        whole = found[1] is None and found[2] is None
        return Located(int(found[0]) if whole else float(found[0]), place)

    def _entries(self, depth: int) -> dict[str, Entry]:
        entries: dict[str, Entry] = {}
        self._at += 1
        while self._next() != "}":
            if entries:
                self._expect(",")
                self._next()
            place = self._place(self._at)
            if self._text[self._at : self._at + 1] != '"':
                raise self._fault("a name in quotes is expected")
            name = self._string()
            if name in entries:
                raise TextFault(f"repeats {name!r} of line {entries[name].name_at.line}", place)
            self._expect(":")
            entries[name] = Entry(place, self._value(depth + 1))
        self._at += 1
        return entries

    def _items(self, depth: int) -> list[Located]:
        items: list[Located] = []
        self._at += 1
        while self._next() != "]":
            if items:
                self._expect(",")
            items.append(self._value(depth + 1))
        self._at += 1
        return items

    def _string(self) -> str:
        try:
            found, self._at = _DECODER.raw_decode(self._text, self._at)
        except json.JSONDecodeError as error:
            raise TextFault(error.msg, Place(error.lineno, error.colno)) from error
        return str(found)

    def _next(self) -> str:
        """The next character that is no space, empty at the end."""
        found = _SPACE.match(self._text, self._at)
        self._at = found.end() if found else self._at
        return self._text[self._at : self._at + 1]

    def _expect(self, character: str) -> None:
        if self._next() != character:
            raise self._fault(f"{character!r} is expected")
        self._at += 1

    def _place(self, at: int) -> Place:
        line = bisect_right(self._lines, at)
        return Place(line, at - self._lines[line - 1] + 1)

    def _fault(self, message: str) -> TextFault:
        return TextFault(message, self._place(self._at))
