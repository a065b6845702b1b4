"""Parts of a condition that compare facts with constants, answered for values that one chooses.

This is CEL's own logic over a small part of its language, so that a condition can be reasoned
about without an action: a missing fact makes a comparison unknown (None), `&&` and `||` settle
what they can in spite of it.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from oars_grpc.core.checked_expression import Node
from oars_grpc.core.facts import ATTRIBUTE_FACTS, FACT_TYPES, INPUT, FactType

# A fact, and the path below it: ("risk.score",), ("input", "order", "amount").
Variable = tuple[str, ...]
# A value for each of a few facts; one that is not named is missing.
Point = Mapping[Variable, Any]


class _Mark:
    """A value that no constant equals."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


ABSENT = _Mark("ABSENT")  # the object is there, its member is not
OTHER = _Mark("OTHER")  # a list or an object
_MISSING = _Mark("MISSING")

_COMPARABLE = {FactType.STRING, FactType.INT, FactType.DOUBLE}
_ORDERINGS = {"_<_", "_<=_", "_>_", "_>=_"}
_COMPARISONS = {"_==_", "_!=_", *_ORDERINGS}
_JUNCTIONS = {"_&&_", "_||_", "!_", "_?_:_"}


def parts_of(node: Node) -> Iterator[Node]:
    """What stands between the outermost `&&`."""
    if node.kind == "call" and node.text == "_&&_":
        for child in node.children:
            yield from parts_of(child)
    else:
        yield node


def shape_of(node: Node) -> tuple[Any, ...]:
    """The expression without what tells only where it stands."""
    children = tuple(map(shape_of, node.children))
    return node.kind, node.text, node.tested, node.names, repr(node.literal), children


def variable_of(node: Node) -> Variable | None:
    """The fact, or the member of one, that an expression names; None if it names none."""
    path: list[str] = []
    while node.children:
        if node.kind == "select":
            path.insert(0, node.text)
        elif node.text == "_[_]" and node.children[1].kind == "string":
            # A group is named by its path: a name with a dot in it would pass for two.
            if "." in node.children[1].text:
                return None
            path.insert(0, node.children[1].text)
        else:
            return None
        node = node.children[0]
    if node.kind != "name" or node.text not in FACT_TYPES:
        return None
    if node.text == INPUT:
        fits = bool(path)
    elif node.text in ATTRIBUTE_FACTS:
        fits = len(path) == 1
    else:
        fits = not path and FACT_TYPES[node.text] in _COMPARABLE
    return (node.text, *path) if fits else None


def reads_of(node: Node) -> frozenset[Variable] | None:
    """The facts that a truth depends on; None if it is not made of comparisons with constants."""
    if node.kind == "call" and node.text in _JUNCTIONS:
        return _union(reads_of(child) for child in node.children)
    if node.kind == "call" and node.text in _COMPARISONS:
        # Two facts compared with each other would need to have values in common.
        if not any(child.literal for child in node.children):
            return None
        return _union(_operand(child, ordered=node.text in _ORDERINGS) for child in node.children)
    if node.kind == "call" and node.text == "@in" and node.children[1].kind == "list":
        if not all(child.literal for child in node.children[1].children):
            return None
        return _operand(node.children[0], ordered=False)
    if node.literal:
        return frozenset() if isinstance(node.literal[0], bool) else None
    variable = variable_of(node)
    if variable is None or (variable[0] != INPUT and not node.tested):
        return None
    return frozenset({variable})


def _operand(node: Node, *, ordered: bool) -> frozenset[Variable] | None:
    if node.literal:
        (value,) = node.literal
        return frozenset() if not ordered or _is_number(value) else None
    variable = None if node.tested else variable_of(node)
    return None if variable is None else frozenset({variable})


def _union(found: Iterable[frozenset[Variable] | None]) -> frozenset[Variable] | None:
    sets = list(found)
    known = [each for each in sets if each is not None]
    return frozenset().union(*known) if len(known) == len(sets) else None


def constants_of(node: Node) -> Iterator[tuple[Variable, Any]]:
    """Facts that a truth depends on, each with a number or text that it is compared with.

    None stands for whatever else: truth values, and null, are too few to be told apart here.
    """
    variable = variable_of(node)
    if variable is not None:
        yield variable, None
    elif node.kind == "call" and node.text in _JUNCTIONS:
        for child in node.children:
            yield from constants_of(child)
    elif node.kind == "call":
        left, right = node.children
        operands = (left, *(right.children if right.kind == "list" else (right,)))
        literals = [operand.literal[0] for operand in operands if operand.literal]
        # In a set, true would pass for 1.
        literals = [None if isinstance(value, bool) else value for value in literals] or [None]
        for found in filter(None, map(variable_of, operands)):
            yield from ((found, value) for value in literals)


def truth_of(node: Node, point: Point) -> bool | None:
    """Whether it holds at a point; None where a fact is missing or of another type."""
    if node.literal:
        return node.literal[0] is True
    if node.kind != "call" or node.text == "_[_]":
        return _member(node, point)
    match node.text:
        case "_&&_" | "_||_":
            settles = node.text == "_||_"
            answers = {truth_of(child, point) for child in node.children}
            return settles if settles in answers else None if None in answers else not settles
        case "!_":
            inner = truth_of(node.children[0], point)
            return None if inner is None else not inner
        case "_?_:_":
            choice = truth_of(node.children[0], point)
            return None if choice is None else truth_of(node.children[1 if choice else 2], point)
        case "@in":
            value = _value(node.children[0], point)
            if value is _MISSING:
                return None
            return any(_same(value, child.literal[0]) for child in node.children[1].children)
        case _:
            return _compared(node.text, *(_value(child, point) for child in node.children))


def _member(node: Node, point: Point) -> bool | None:
    value = point.get(variable_of(node) or (), _MISSING)
    if node.tested:
        return None if value is _MISSING else value is not ABSENT
    return value if isinstance(value, bool) else None


def _value(node: Node, point: Point) -> Any:
    if node.literal:
        return node.literal[0]
    value = point.get(variable_of(node) or (), _MISSING)
    return _MISSING if value is ABSENT else value


def _compared(operator: str, left: Any, right: Any) -> bool | None:
    if left is _MISSING or right is _MISSING:
        return None
    if operator in {"_==_", "_!=_"}:
        return _same(left, right) is (operator == "_==_")
    if not (_is_number(left) and _is_number(right)):
        return None
    smaller: bool = left < right
    equal: bool = left == right
    return {
        "_<_": smaller,
        "_<=_": smaller or equal,
        "_>_": not (smaller or equal),
        "_>=_": not smaller,
    }[operator]


def _same(left: Any, right: Any) -> bool:
    if _is_number(left) and _is_number(right):
        return bool(left == right)
    return type(left) is type(right) and bool(left == right)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
