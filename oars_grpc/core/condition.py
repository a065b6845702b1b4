"""Conditions: CEL expressions over the facts, type-checked when the policy is made.

Three values: true, false and indeterminate (None). CEL's own semantics decide: `&&`, `||`, `all`
and `exists` absorb an error or a missing fact on either side when the other side settles the
outcome; otherwise a missing fact, a missing key, a value of the wrong type or any other runtime
error makes the outcome indeterminate. `has(input.x)` asks about presence.

What bounds the time. CEL has no loops but comprehensions, and no clock: native evaluation cannot
be interrupted. So the text is at most 2,000 characters and 32 levels deep (the parser's limit);
the evaluator stops after 10,000 iterations, counted over the whole evaluation; data is bounded by
`facts.py`; patterns are literals, tried here and kept small (RE2 is linear in the text, but each
call compiles anew). What remains, a long operation inside an iteration, an estimate bounds: the
checked expression tells the worst work for an amount of data. A condition over its budget at the
smallest amount is refused; one that meets more data than it can afford is indeterminate, unrun.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from cel_expr_python import cel

from oars_grpc.core.facts import (
    ATTRIBUTE_FACTS,
    FACT_TYPES,
    INPUT,
    MAX_UNITS,
    Facts,
    FactType,
    split_name,
)

MAX_LENGTH = 2_000
MAX_ITERATIONS = 10_000  # of the evaluator, compiled in
MAX_PATTERN_SIZE = 1_000
# One unit of work takes about 0.1 µs; a condition may take 20 ms at worst, a policy 200 ms.
CONDITION_BUDGET = 200_000
POLICY_BUDGET = 2_000_000
DATA_STEPS = tuple(2**power for power in range(7, MAX_UNITS.bit_length()))


class ConditionError(ValueError):
    """A condition that cannot be accepted, with the place (1-based) where it went wrong."""

    def __init__(self, message: str, line: int = 1, column: int = 1) -> None:
        super().__init__(message)
        self.message, self.line, self.column = message, line, column


@dataclass(frozen=True, slots=True)
class ConditionResult:
    """What a condition came to; None is indeterminate, and `reason` and `missing` say why."""

    value: bool | None
    reads: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True)
class BoundFacts:
    """Facts made ready for the evaluator, once for all the conditions of one evaluation."""

    facts: Facts
    activation: Any
    units: int


@dataclass(frozen=True, slots=True)
class _Reference:
    """A fact that the text names: `read` is what is reported, `path` what must be there."""

    root: str
    path: tuple[str, ...]
    read: str


@dataclass(frozen=True, slots=True)
class Condition:
    """A compiled condition; safe to evaluate from many threads at once.

    `work` is the estimated work at each of `DATA_STEPS`.
    """

    text: str
    reads: tuple[str, ...]
    work: tuple[int, ...]
    max_units: int
    _references: tuple[_Reference, ...]
    _expression: Any

    def evaluate(self, facts: Facts | BoundFacts) -> ConditionResult:
        """The condition's value for these facts."""
        try:
            bound = facts if isinstance(facts, BoundFacts) else bind(facts, self.reads)
            if bound.units > self.max_units:
                return ConditionResult(None, self.reads, (), "more data than a condition may read")
            value = self._expression.eval(activation=bound.activation).value()
        except RuntimeError as error:  # how the evaluator reports what is not a value
            value = str(error)
        if isinstance(value, bool):
            return ConditionResult(value, self.reads)
        present = (facts.facts if isinstance(facts, BoundFacts) else facts).lookup
        missing = {
            ".".join((reference.root, *reference.path))
            for reference in self._references
            if not present(reference.root, reference.path)
        }
        return ConditionResult(None, self.reads, tuple(sorted(missing)), _reason(str(value)))


def bind(facts: Facts, names: Iterable[str]) -> BoundFacts:
    """Make the named facts ready; only they cost a conversion."""
    roots = {split_name(name)[0] for name in names}
    values = {name: facts.values[name] for name in roots if name in facts.values}
    units = facts.other_units + (facts.input_units if INPUT in values else 0)
    return BoundFacts(facts, _environment().Activation(data=values), units)


def compile_condition(text: str) -> Condition:
    """Compile and check a condition.

    Raises:
        ConditionError: the text is too long, is not CEL, does not type-check, is not of type bool,
            or may take too long.
    """
    if len(text) > MAX_LENGTH:
        raise ConditionError(f"must be at most {MAX_LENGTH} characters")
    try:
        text.encode()
        expression = _environment().compile(text)
    except UnicodeEncodeError as error:
        raise ConditionError("must be valid Unicode", *_place(text, error.start)) from error
    except RuntimeError as error:
        raise _refusal(str(error)) from error
    if expression.return_type() != cel.Type.BOOL:
        raise ConditionError(f"must be of type bool, not {expression.return_type().name().lower()}")
    root, positions = _parse_checked(expression.serialize())
    try:
        work = tuple(_Estimate(text, positions, data).of(root) for data in DATA_STEPS)
        references = tuple(dict.fromkeys(_references(root, frozenset())))
    except RecursionError as error:
        raise ConditionError("is nested too deeply") from error
    affordable = [
        data for data, units in zip(DATA_STEPS, work, strict=True) if units <= CONDITION_BUDGET
    ]
    if not affordable:
        raise ConditionError("may take too long: iterations and searches multiply")
    reads = tuple(sorted({reference.read for reference in references}))
    return Condition(text, reads, work, max(affordable), references, expression)


_CEL_TYPES = {
    FactType.STRING: "STRING",
    FactType.INT: "INT",
    FactType.DOUBLE: "DOUBLE",
    FactType.TIMESTAMP: "TIMESTAMP",
    FactType.JSON: "DYN",
}


@lru_cache(maxsize=1)
def _environment() -> Any:
    kinds = {kind: getattr(cel.Type, name) for kind, name in _CEL_TYPES.items()}
    kinds[FactType.STRINGS] = cel.Type.List(cel.Type.STRING)
    kinds[FactType.STRING_MAP] = cel.Type.Map(cel.Type.STRING, cel.Type.STRING)
    return cel.NewEnv(variables={name: kinds[kind] for name, kind in FACT_TYPES.items()})


def _refusal(error: str) -> ConditionError:
    """The first error that has a place; the evaluator's texts name the problem well."""
    found = re.search(r"ERROR: <input>:(\d+):(\d+): ([^\n]*)", error)
    if found is None:
        deep = "recursion" in error
        return ConditionError("is nested too deeply" if deep else "is not a valid CEL expression")
    message = found[3].replace(" (in container '')", "").removesuffix(" [INVALID_ARGUMENT]")
    return ConditionError(message, int(found[1]), int(found[2]))


@lru_cache(maxsize=256)
def _pattern_fault(pattern: str) -> str:
    """What RE2 finds wrong with a pattern, empty if nothing; CEL would tell only when it runs."""
    tried = cel.NewEnv(variables={"p": cel.Type.STRING}).compile('"".matches(p)')
    outcome = tried.eval(data={"p": pattern}).value()
    return "" if isinstance(outcome, bool) else str(outcome).removeprefix("INVALID_ARGUMENT: ")


def _reason(error: str) -> str:
    """Say what kind of error it was, never its text, which may quote values of the input."""
    kinds = {
        "No value with name": "a fact is missing",
        "Key not found": "a key is missing",
        "ndex out of bounds": "an index is out of bounds",
        "No matching overload": "a value has an unexpected type",
        "SELECT to non-message": "a value has an unexpected type",
        "divide by zero": "division by zero",
        "modulus by zero": "division by zero",
        "Iteration budget": "too many iterations",
    }
    return next((kind for text, kind in kinds.items() if text in error), "evaluation error")


def _place(text: str, offset: int) -> tuple[int, int]:
    before = text[:offset]
    return before.count("\n") + 1, offset - (before.rfind("\n") + 1) + 1


# The checked expression arrives as protobuf (cel.expr.CheckedExpr); the core imports no protobuf,
# and reading the wire format takes a few lines. Numbers below are the field numbers of cel.expr.
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
class _Node:
    """One node of the expression; `text` is its name, field, function or string."""

    kind: str
    id: int
    text: str = ""
    children: tuple["_Node", ...] = ()
    tested: bool = False  # inside has()
    names: tuple[str, str] = ("", "")  # of a comprehension: element, accumulator


def _parse_checked(serialized: bytes) -> tuple[_Node, Mapping[int, int]]:
    """The root of a checked expression, and the offset in the text of each node by id."""
    checked = _fields(_fields(serialized)[2][0])
    positions = (_fields(entry) for entry in _fields(checked[5][0]).get(4, []))
    return _node(checked[4][0]), {p[1][0]: p.get(2, [0])[0] for p in positions}


def _node(data: bytes) -> _Node:
    expr = _fields(data)
    (kind,) = expr.keys() - {2}
    node_id, body = expr.get(2, [0])[0], _fields(expr[kind][0])

    def text(number: int) -> str:
        return b"".join(part for part in body.get(number, []) if part).decode()

    def nodes(*numbers: int) -> tuple[_Node, ...]:
        return tuple(_node(child) for number in numbers for child in body.get(number, []))

    match kind:
        case 3:
            node = _Node("string" if 6 in body else "constant", node_id, text(6))
        case 4:
            node = _Node("name", node_id, text(1))
        case 5:
            node = _Node("select", node_id, text(2), nodes(1), tested=3 in body)
        case 6:
            node = _Node("call", node_id, text(2), nodes(1, 3))
        case 7:
            node = _Node("list", node_id, "", nodes(1))
        case 8:
            entries = [_fields(entry) for entry in body.get(2, [])]
            parts = tuple(_node(part) for e in entries for n in (3, 4) for part in e.get(n, []))
            node = _Node("map", node_id, text(1), parts)
        case _:
            node = _Node("each", node_id, "", nodes(2, 4, 5, 6, 7), names=(text(1), text(3)))
    return node


def _references(node: _Node, local: frozenset[str]) -> Iterator[_Reference]:
    """Every fact named, with the constant path below it; what has() tests need not be there."""
    path: list[str] = []
    at = node
    while at.children and (
        at.kind == "select"
        or (at.kind == "call" and at.text == "_[_]" and at.children[1].kind == "string")
    ):
        path.insert(0, at.text if at.kind == "select" else at.children[1].text)
        at = at.children[0]
    if at.kind == "name":
        if at.text in FACT_TYPES and at.text not in local:
            read = f"{at.text}.{path[0]}" if path and at.text in ATTRIBUTE_FACTS else at.text
            yield _Reference(at.text, tuple(path[:-1] if node.tested else path), read)
        return
    for index, child in enumerate(node.children):
        # The element and the accumulator are known to the parts after range and initial value.
        inner = local | set(node.names) if node.kind == "each" and index > 1 else local
        yield from _references(child, inner)


class _Estimate:
    """The worst work of an expression over `data` units, after cel-go's cost estimator.

    `visit` adds a node's work, times the iterations it stands in, and returns the size of its
    value. Iterations multiply with nesting until the evaluator's limit stops them all; the
    elements of one pass over a value are together no larger than the value.
    """

    def __init__(self, text: str, positions: Mapping[int, int], data: int) -> None:
        self._text, self._positions, self._data = text, positions, data
        self._total = 40

    def of(self, root: _Node) -> int:
        self._visit(root, {}, 1)
        return self._total

    def _visit(self, node: _Node, local: Mapping[str, int], times: int) -> int:
        if node.kind == "each":
            return self._comprehension(node, local, times)
        sizes = [self._visit(child, local, times) for child in node.children]
        total = sum(sizes)
        work, size = 1, total + 1
        if node.kind == "string":
            size = 1 + len(node.text) // 4
        elif node.kind == "name":
            size = local.get(node.text, self._data if node.text in FACT_TYPES else 1)
        elif node.kind == "map" and node.text:
            raise self._error("messages are not supported", node)
        elif node.kind == "call":
            work, size = self._call(node, sizes)
        self._total += work * min(times, MAX_ITERATIONS)
        return size

    def _call(self, node: _Node, sizes: list[int]) -> tuple[int, int]:
        total = sum(sizes) + 1
        match node.text:
            case "_&&_" | "_||_" | "!_" | "@not_strictly_false":
                cost = 1, 1
            case "_?_:_" | "_[_]":
                cost = 2, total
            case "_==_" | "_!=_" | "_<_" | "_<=_" | "_>_" | "_>=_" | "startsWith" | "endsWith":
                cost = 1 + min(sizes), 1
            case "@in":
                cost = 2 + 2 * sizes[1], 1
            case "contains":
                cost = 2 + sizes[0] * (1 + sizes[1] // 16), 1
            case "matches":
                pattern = self._pattern_size(node)
                cost = 40 + 10 * pattern + sizes[0] * (8 + pattern), 1
            case _:
                cost = 4 + total, total
        return cost

    def _comprehension(self, node: _Node, local: Mapping[str, int], times: int) -> int:
        source, initial, *steps, result = node.children
        size = self._visit(source, local, times)
        self._visit(initial, local, times)
        passes = min(times, MAX_ITERATIONS) * size
        element = -(-times * size // min(passes, MAX_ITERATIONS))
        inner = {**local, node.names[0]: element, node.names[1]: 1}
        grown = [self._visit(step, inner, times * size) for step in steps][-1]
        self._total += 5 * min(passes, MAX_ITERATIONS)
        if initial.kind != "list":
            return self._visit(result, inner, times)
        return size * grown

    def _pattern_size(self, node: _Node) -> int:
        """About the number of instructions of the pattern: its length, multiplied by repeats."""
        pattern = node.children[1]
        if pattern.kind != "string":
            raise self._error("a pattern must be a literal", node)
        text = pattern.text
        size = len(text) + 10 * text.count(".") + 10 * text.count("[^")
        size += 500 * len(re.findall(r"\\[pP]", text))
        for low, high in re.findall(r"\{(\d+)(?:,(\d*))?\}", text):
            size *= max(1, int(low), int(high or 0))
        if size > MAX_PATTERN_SIZE:
            raise self._error("a pattern is too large: long, or repeats multiply", pattern)
        if fault := _pattern_fault(text):
            raise self._error(fault, pattern)
        return size

    def _error(self, message: str, node: _Node) -> ConditionError:
        return ConditionError(message, *_place(self._text, self._positions.get(node.id, 0)))
