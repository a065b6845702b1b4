"""Reads the members of an object of a file strictly, and notes every fault with its place.

Names are taken as in the protos (`tool_ids`) and as in JSON (`toolIds`); values of enumerations in
any case, with the prefix that they have in the protos or without.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from oars_grpc.cli.policy_text import Located, Place

_KIND = TypeVar("_KIND", bound=StrEnum)
_CAPITAL = re.compile(r"(?<=[a-z0-9])[A-Z]")


@dataclass(frozen=True, slots=True)
class FileFault:
    """Something wrong, or conspicuous, at a place of a file.

    `level` is `error`, `warning` or `note`; `kind` a stable name; `rule_id` empty where it is about
    no rule.
    """

    file: Path
    place: Place
    message: str
    rule_id: str = ""
    level: str = "error"
    kind: str = "invalid"
    field: str = ""

    def __str__(self) -> str:
        level = "" if self.level == "error" else f"{self.level}: "
        rule = f"rule {self.rule_id}: " if self.rule_id else ""
        where = f"{self.file}:{self.place.line}:{self.place.column}"
        return f"{where}: {level}{rule}{self.message}"

    def to_json(self) -> dict[str, Any]:
        """For `--format json`."""
        return {
            "file": str(self.file),
            "line": self.place.line,
            "column": self.place.column,
            "level": self.level,
            "kind": self.kind,
            "ruleId": self.rule_id,
            "field": self.field,
            "message": self.message,
        }


class Faults:
    """The faults of one file, and where its fields stand, by proto path."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.found: list[FileFault] = []
        self.fields: dict[str, Located] = {}
        self.rule_id = ""

    def add(self, place: Place, message: str, *, field: str = "", **more: str) -> None:
        """Note one."""
        fault = FileFault(self.file, place, message, self.rule_id, field=field, **more)
        self.found.append(fault)

    def located(self, path: str) -> Located | None:
        """What stands at a proto path, or at the nearest one around it."""
        while path:
            if path in self.fields:
                return self.fields[path]
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return None


class Members:
    """The members of one object; those that are not asked for by `names` are faults."""

    def __init__(
        self,
        faults: Faults,
        located: Located,
        path: str,
        names: Mapping[str, str] | set[str],
    ) -> None:
        """`names` are the proto names, or further spellings with the proto name of each."""
        self._faults, self.path, self.place = faults, path, located.place
        self._members: dict[str, Located] = {}
        faults.fields[path] = located
        if not isinstance(located.content, dict):
            faults.add(located.place, f"{_last(path)} must be a mapping", field=path)
            return
        spellings = {name: name for name in names} if isinstance(names, set) else dict(names)
        for given, entry in located.content.items():
            name = spellings.get(given, spellings.get(_snake(given), ""))
            if not name:
                faults.add(entry.name_at, f"unknown field {given!r}", field=f"{path}.{given}")
            elif name in self._members:
                faults.add(entry.name_at, f"says {name!r} twice", field=f"{path}.{name}")
            else:
                self._members[name] = entry.value
                faults.fields[f"{path}.{name}"] = entry.value

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def get(self, name: str) -> Located | None:
        """A member, or None if it is not there."""
        return self._members.get(name)

    def require(self, *names: str) -> None:
        """Note a fault for each of the members that is not there."""
        for name in names:
            if name not in self._members:
                field = f"{self.path}.{name}"
                self._faults.add(self.place, f"{name} is required", field=field)

    def wrong(self, name: str, message: str) -> None:
        """Note a fault of a member."""
        located = self._members.get(name)
        place = self.place if located is None else located.place
        self._faults.add(place, f"{name} {message}", field=f"{self.path}.{name}")

    def text(self, name: str, default: str = "") -> str:
        """A member that is text."""
        located = self._members.get(name)
        if located is None:
            return default
        if not isinstance(located.content, str):
            self.wrong(name, "must be text, in quotes if it reads as something else")
            return default
        return located.content

    def integer(self, name: str, default: int = 0) -> int:
        """A member that is a 32-bit integer."""
        located = self._members.get(name)
        if located is None:
            return default
        value = located.content
        if type(value) is not int or not -(2**31) <= value < 2**31:
            self.wrong(name, "must be a 32-bit integer")
            return default
        return value

    def items(self, name: str) -> list[Located]:
        """A member that is a list."""
        located = self._members.get(name)
        if located is None:
            return []
        if not isinstance(located.content, list):
            self.wrong(name, "must be a list")
            return []
        for index, item in enumerate(located.content):
            self._faults.fields[f"{self.path}.{name}[{index}]"] = item
        return located.content

    def texts(self, name: str) -> tuple[str, ...]:
        """A member that is a list of texts."""
        found = []
        for index, item in enumerate(self.items(name)):
            if isinstance(item.content, str):
                found.append(item.content)
            else:
                message = f"{name} must be text, in quotes if it reads as something else"
                self._faults.add(item.place, message, field=f"{self.path}.{name}[{index}]")
        return tuple(found)

    def text_map(self, name: str) -> dict[str, str]:
        """A member that is a mapping of texts."""
        located = self._members.get(name)
        if located is None:
            return {}
        if not isinstance(located.content, dict):
            self.wrong(name, "must be a mapping")
            return {}
        found = {}
        for key, entry in located.content.items():
            if isinstance(entry.value.content, str):
                found[key] = entry.value.content
            else:
                message = f"{name}.{key} must be text, in quotes if it reads as something else"
                self._faults.add(entry.value.place, message, field=f"{self.path}.{name}")
        return found

    def one_of(self, name: str, kinds: type[_KIND], prefix: str, default: _KIND) -> _KIND:
        """A member that names a value of an enumeration."""
        located = self._members.get(name)
        return default if located is None else self._kind(name, located, kinds, prefix, default)

    def all_of(self, name: str, kinds: type[_KIND], prefix: str) -> tuple[_KIND, ...]:
        """A member that is a list of values of an enumeration."""
        default = next(iter(kinds))
        return tuple(
            self._kind(f"{name}[{index}]", item, kinds, prefix, default)
            for index, item in enumerate(self.items(name))
        )

    def _kind(
        self, name: str, located: Located, kinds: type[_KIND], prefix: str, default: _KIND
    ) -> _KIND:
        said = located.content
        plain = said.lower().replace("-", "_").removeprefix(prefix) if isinstance(said, str) else ""
        for kind in kinds:
            if kind.value == plain:
                return kind
        known = ", ".join(kind.value for kind in kinds)
        message = f"{name} must be one of {known}"
        self._faults.add(located.place, message, field=f"{self.path}.{name}")
        return default


def _snake(name: str) -> str:
    return _CAPITAL.sub(lambda found: f"_{found[0].lower()}", name)


def _last(path: str) -> str:
    return path.rsplit(".", 1)[-1] or "the file"
