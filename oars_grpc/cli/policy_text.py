"""Reads YAML and JSON into values that know where in the file they stand.

Of YAML this is the part that means what it shows: mappings, lists and the scalars of JSON (YAML
1.2's core schema, so that `no`, `on` and `1:30` are text). Anchors, aliases, tags, merge keys,
several documents, keys that repeat or are no text: refused. The size is bounded before anything is
read, the depth while it is.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

MAX_BYTES = 1024 * 1024
MAX_DEPTH = 40

_INTEGER = re.compile(r"[-+]?[0-9]+")
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: Mapping[str, bool | None] = {
    "": None,
    "~": None,
    **dict.fromkeys(("null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


@dataclass(frozen=True, slots=True)
class Place:
    """Line and column in a file, from 1."""

    line: int = 1
    column: int = 1


class TextFault(ValueError):
    """A text that cannot be read, and where it goes wrong."""

    def __init__(self, message: str, place: Place) -> None:
        super().__init__(message)
        self.message, self.place = message, place


@dataclass(frozen=True, slots=True)
class Entry:
    """A member of a mapping: where its name stands, and its value."""

    name_at: Place
    value: "Located"


@dataclass(frozen=True, slots=True)
class Source:
    """How a text is written in the file: from where, in which style of YAML."""

    written: str
    style: str
    place: Place


@dataclass(frozen=True, slots=True)
class Located:
    """A value and its place; `content` of a mapping is entries by name, of a list are values."""

    content: dict[str, Entry] | list["Located"] | str | float | int | bool | None
    place: Place
    source: Source | None = None

    def plain(self) -> Any:
        """The value alone."""
        if isinstance(self.content, dict):
            return {name: entry.value.plain() for name, entry in self.content.items()}
        if isinstance(self.content, list):
            return [value.plain() for value in self.content]
        return self.content


def check_size(text: str) -> None:
    """Refuse a text beyond `MAX_BYTES`.

    Raises:
        TextFault: it is.
    """
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_BYTES:
        raise TextFault(f"is {size} bytes long; at most {MAX_BYTES} are accepted", Place())


def read_yaml(text: str) -> Located:
    """The one document of a YAML text.

    Raises:
        TextFault: it is not YAML, or not of the part that is read here.
    """
    check_size(text)
    try:
        return _Yaml(text).document()
    except yaml.reader.ReaderError as error:
        before = text[: error.position] if isinstance(error.position, int) else ""
        raise TextFault("has a character that YAML does not permit", _end(before)) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place() if mark is None else Place(mark.line + 1, mark.column + 1)
        raise TextFault(error.problem or "is not YAML", place) from error


def _end(text: str) -> Place:
    return Place(text.count("\n") + 1, len(text) - (text.rfind("\n") + 1) + 1)


class _Yaml:
    """Walks through the events of the parser, which knows nothing of tags and aliases yet."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._events: Iterator[Any] = yaml.parse(text, Loader=yaml.SafeLoader)

    def document(self) -> Located:
        """The only document."""
        found = Located(None, Place())
        documents = 0
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise TextFault("has more than one document", _place(event))
                found = self._value(next(self._events), 1)
        return found

    def _value(self, event: Any, depth: int) -> Located:
        place = _place(event)
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise TextFault("anchors and aliases are not accepted", place)
        if event.tag is not None:
            raise TextFault("tags are not accepted", place)
        if depth > MAX_DEPTH:
            raise TextFault(f"is nested more than {MAX_DEPTH} levels deep", place)
        if isinstance(event, yaml.MappingStartEvent):
            return Located(self._entries(depth), place)
        if isinstance(event, yaml.SequenceStartEvent):
            return Located(self._items(depth), place)
        written = self._text[event.start_mark.index : event.end_mark.index]
        content = _scalar(event.value, place) if event.implicit[0] else event.value
        return Located(content, place, Source(written, event.style or "", place))

    def _items(self, depth: int) -> list[Located]:
        items: list[Located] = []
        for event in self._events:
            if isinstance(event, yaml.SequenceEndEvent):
                break
            items.append(self._value(event, depth + 1))
        return items

    def _entries(self, depth: int) -> dict[str, Entry]:
        entries: dict[str, Entry] = {}
        for event in self._events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            name = self._value(event, depth + 1)
            if not isinstance(name.content, str):
                raise TextFault("a name must be text", name.place)
            if name.content in entries:
                first = entries[name.content].name_at.line
                raise TextFault(f"repeats {name.content!r} of line {first}", name.place)
            entries[name.content] = Entry(name.place, self._value(next(self._events), depth + 1))
        return entries


def _place(event: Any) -> Place:
    return Place(event.start_mark.line + 1, event.start_mark.column + 1)


def _scalar(text: str, place: Place) -> str | float | int | bool | None:
    """The value of a plain scalar."""
    if text in _WORDS:
        return _WORDS[text]
    if text == "<<":
        raise TextFault("merge keys are not accepted", place)
    if len(text) <= 40 and _INTEGER.fullmatch(text):
        return int(text)
    if len(text) <= 40 and _NUMBER.fullmatch(text):
        return float(text)
    return text


_TOKENS: Mapping[str, re.Pattern[str]] = {
    '"': re.compile(r"\\(?:x..|u....|U........|\n[ \t]*|.)|.", re.DOTALL),
    "'": re.compile(r"''|.", re.DOTALL),
}
_ANY = re.compile(r".", re.DOTALL)
_SPACES = frozenset({"\\n", "\\t", "\\r", "\\ ", "\\_", "\\N", "\\v", "\\f"})


def place_within(located: Located, line: int, column: int) -> Place:
    """Where in the file a line and column of a text's value stand.

    Whatever the style, the characters that are no white space follow each other in the file as in
    the value, so that counting them finds the place.
    """
    text, source = located.content, located.source
    if not isinstance(text, str) or source is None:
        return located.place
    lines = text.split("\n")[: line - 1]
    offset = sum(len(each) + 1 for each in lines) + column - 1
    skipped = sum(not character.isspace() for character in text[:offset])
    begin = 0
    if source.style in {"|", ">"}:
        begin = source.written.find("\n") + 1
    elif source.style:
        begin = 1
    tokens = _TOKENS.get(source.style, _ANY)
    at = begin
    for token in tokens.finditer(source.written, begin):
        if token[0].isspace() or token[0] in _SPACES or token[0].startswith("\\\n"):
            continue
        at = token.start()
        if skipped == 0:
            break
        at = token.end()
        skipped -= 1
    within = _end(source.written[:at])
    first = source.place.column - 1 if within.line == 1 else 0
    return Place(source.place.line + within.line - 1, within.column + first)
