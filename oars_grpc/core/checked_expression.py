"""Reads the expression that CEL has parsed and type-checked, to know what it names and costs.

It arrives as protobuf (cel.expr.CheckedExpr); the core imports no protobuf, and reading the wire
format takes a few lines. Numbers below are the field numbers of cel.expr.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_Fields = dict[int, list[Any]]


def _fields(data: bytes) -> _Fields:
    found: _Fields = {}
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        number, wire_type = divmod(varint(), 8)
        value: Any = varint() if wire_type in {0, 2} else None
        if wire_type != 0:
            length = {1: 8, 2: value, 5: 4}[wire_type]
            value, at = data[at : at + length], at + length
        found.setdefault(number, []).append(value)
    return found


@dataclass(frozen=True, slots=True)
class Node:
    """One node of the expression; `text` is its name, field, function or string."""

    kind: str
    id: int
    text: str = ""
    children: tuple["Node", ...] = ()
    tested: bool = False  # inside has()
    names: tuple[str, str] = ("", "")  # of a comprehension: element, accumulator


def parse_checked(serialized: bytes) -> tuple[Node, Mapping[int, int]]:
    """The root of a checked expression, and the offset in the text of each node by id."""
    checked = _fields(_fields(serialized)[2][0])
    positions = (_fields(entry) for entry in _fields(checked[5][0]).get(4, []))
    return _node(checked[4][0]), {p[1][0]: p.get(2, [0])[0] for p in positions}


def _node(data: bytes) -> Node:
    expr = _fields(data)
    (kind,) = expr.keys() - {2}
    node_id, body = expr.get(2, [0])[0], _fields(expr[kind][0])

    def text(number: int) -> str:
        return b"".join(part for part in body.get(number, []) if part).decode()

    def nodes(*numbers: int) -> tuple[Node, ...]:
        return tuple(_node(child) for number in numbers for child in body.get(number, []))

    match kind:
        case 3:
            node = Node("string" if 6 in body else "constant", node_id, text(6))
        case 4:
            node = Node("name", node_id, text(1))
        case 5:
            node = Node("select", node_id, text(2), nodes(1), tested=3 in body)
        case 6:
            node = Node("call", node_id, text(2), nodes(1, 3))
        case 7:
            node = Node("list", node_id, "", nodes(1))
        case 8:
            entries = [_fields(entry) for entry in body.get(2, [])]
            parts = tuple(_node(part) for e in entries for n in (3, 4) for part in e.get(n, []))
            node = Node("map", node_id, text(1), parts)
        case _:
            node = Node("each", node_id, "", nodes(2, 4, 5, 6, 7), names=(text(1), text(3)))
    return node
