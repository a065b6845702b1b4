"""Reads the expression that CEL has parsed and type-checked, to know what it names and costs.

It arrives as protobuf (cel.expr.CheckedExpr); the core imports no protobuf, and reading the wire
format takes a few lines. Numbers below are the field numbers of cel.expr.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_Fields = dict[int, list[Any]]


def fields(data: bytes) -> _Fields:
    """The fields of a message by number; those of one number stand in their order."""
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
    """One node of the expression; `text` is its name, field, function or string.

    `literal` holds the value of a constant of JSON's types, and is empty for all else.
    """

    kind: str
    id: int
    text: str = ""
    children: tuple["Node", ...] = ()
    tested: bool = False  # inside has()
    names: tuple[str, str] = ("", "")  # of a comprehension: element, accumulator
    literal: tuple[bool | int | float | str | None, ...] = ()


def parse_checked(serialized: bytes) -> tuple[Node, Mapping[int, int]]:
    """The root of a checked expression, and the offset in the text of each node by id."""
    checked = fields(fields(serialized)[2][0])
    positions = (fields(entry) for entry in fields(checked[5][0]).get(4, []))
    return _node(checked[4][0]), {p[1][0]: p.get(2, [0])[0] for p in positions}


def _node(data: bytes) -> Node:
    expr = fields(data)
    (kind,) = expr.keys() - {2}
    node_id, body = expr.get(2, [0])[0], fields(expr[kind][0])

    def text(number: int) -> str:
        return b"".join(part for part in body.get(number, []) if part).decode()

    def nodes(*numbers: int) -> tuple[Node, ...]:
        return tuple(_node(child) for number in numbers for child in body.get(number, []))

    match kind:
        case 3:
            kind_of = "string" if 6 in body else "constant"
            node = Node(kind_of, node_id, text(6), literal=_literal(body, text(6)))
        case 4:
            node = Node("name", node_id, text(1))
        case 5:
            node = Node("select", node_id, text(2), nodes(1), tested=3 in body)
        case 6:
            node = Node("call", node_id, text(2), nodes(1, 3))
        case 7:
            node = Node("list", node_id, "", nodes(1))
        case 8:
            entries = [fields(entry) for entry in body.get(2, [])]
            parts = tuple(_node(part) for e in entries for n in (3, 4) for part in e.get(n, []))
            node = Node("map", node_id, text(1), parts)
        case _:
            node = Node("each", node_id, "", nodes(2, 4, 5, 6, 7), names=(text(1), text(3)))
    return node


def _literal(constant: _Fields, text: str) -> tuple[bool | int | float | str | None, ...]:
    (number,) = constant or (0,)
    value: Any = constant[number][-1] if constant else None
    match number:
        case 1:
            return (None,)
        case 2:
            return (bool(value),)
        case 3:
            return (value - (1 << 64) if value >> 63 else value,)
        case 5:
            return (struct.unpack("<d", value)[0],)
        case 6:
            return (text,)
        case _:
            return ()
