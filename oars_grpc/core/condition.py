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
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from cel_expr_python import cel

from oars_grpc.core.checked_expression import Node, parse_checked
from oars_grpc.core.condition_cost import CostError, Estimate, check_patterns
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
# One unit of work takes about 0.1 µs; a condition may take 20 ms at worst, a policy 200 ms.
CONDITION_BUDGET = 200_000
POLICY_BUDGET = 2_000_000
# What compiling may spend on trying a condition on nothing.
_QUICK = 1_000
DATA_STEPS: tuple[int, ...] = tuple(2**power for power in range(7, MAX_UNITS.bit_length()))


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
    """A fact that the text names: `read` is what is reported, `path` what must be there.

    `name` is the path with its root, as one text.
    """

    root: str
    path: tuple[str, ...]
    read: str
    name: str


@dataclass(frozen=True, slots=True)
class Condition:
    """A compiled condition; safe to evaluate from many threads at once.

    `max_units` is the most data that it may read. `_of_nothing` is its value where no fact that it
    names is there, which depends on nothing; None if that has not been found out.
    """

    text: str
    reads: tuple[str, ...]
    max_units: int
    _references: tuple[_Reference, ...]
    _roots: tuple[str, ...]
    _expression: Any
    _of_nothing: ConditionResult | None = None

    def evaluate(self, facts: Facts | BoundFacts) -> ConditionResult:
        """The condition's value for these facts."""
        try:
            bound = facts if isinstance(facts, BoundFacts) else bind(facts, self.reads)
            if bound.units > self.max_units:
                return ConditionResult(None, self.reads, (), "more data than a condition may read")
            if self._of_nothing and bound.facts.values.keys().isdisjoint(self._roots):
                return self._of_nothing
            value = self._expression.eval(activation=bound.activation).value()
        except RuntimeError as error:  # how the evaluator reports what is not a value
            value = str(error)
        if isinstance(value, bool):
            return ConditionResult(value, self.reads)
        present = (facts.facts if isinstance(facts, BoundFacts) else facts).lookup
        missing = {
            reference.name
            for reference in self._references
            if not present(reference.root, reference.path)
        }
        return ConditionResult(None, self.reads, tuple(sorted(missing)), _reason(str(value)))


def bind(facts: Facts, names: Iterable[str]) -> BoundFacts:
    """Make the named facts ready; only they cost a conversion."""
    roots = {split_name(name)[0] for name in names}
    values = {name: facts.values[name] for name in roots if name in facts.values}
    units = facts.other_units + (facts.input_units if INPUT in values else 0)
    return BoundFacts(facts, environment().Activation(data=values), units)


class CheckedCondition:
    """A condition with what tells its work; not worth keeping once budgets are settled."""

    def __init__(self, text: str, expression: Any) -> None:
        self._root, self._positions = parse_checked(expression.serialize())
        self._work: dict[int, int] = {}
        references = tuple(dict.fromkeys(_references(self._root, frozenset())))
        reads = tuple(sorted({reference.read for reference in references}))
        max_units = affordable_units(self.work, CONDITION_BUDGET)
        if max_units is None:
            raise ConditionError("may take too long: iterations and searches multiply")
        if "matches" in text:
            check_patterns(self._root, self._positions)
        roots = tuple({reference.root: None for reference in references})
        condition = Condition(text, reads, max_units, references, roots, expression)
        if roots and self.work(DATA_STEPS[-1]) <= _QUICK:
            condition = replace(condition, _of_nothing=condition.evaluate(Facts({})))
        self.condition = condition

    @property
    def root(self) -> Node:
        """The checked expression, for whoever reasons about what it says."""
        return self._root

    def work(self, data: int) -> int:
        """The worst work over that many units of data; estimated where first asked for."""
        if data not in self._work:
            self._work[data] = Estimate(self._positions, data).of(self._root)
        return self._work[data]


def affordable_units(work: Callable[[int], int], budget: int) -> int | None:
    """The largest of `DATA_STEPS` whose work is within a budget; None if not even the smallest is.

    Work never falls as data grows, and most conditions can afford any amount: one estimate each.
    """
    if work(DATA_STEPS[-1]) <= budget:
        return DATA_STEPS[-1]
    steps: int = bisect_right(DATA_STEPS, budget, key=work)
    return DATA_STEPS[steps - 1] if steps else None


def compile_condition(text: str) -> Condition:
    """Compile and check a condition; raises as `check_condition` does."""
    return check_condition(text).condition


def check_condition(text: str) -> CheckedCondition:
    """Compile and check a condition, and keep what tells its work.

    Raises:
        ConditionError: the text is too long, is not CEL, does not type-check, is not of type bool,
            or may take too long.
    """
    if len(text) > MAX_LENGTH:
        raise ConditionError(f"must be at most {MAX_LENGTH} characters")
    try:
        text.encode()
        expression = environment().compile(text)
    except UnicodeEncodeError as error:
        raise ConditionError("must be valid Unicode", *_place(text, error.start)) from error
    except RuntimeError as error:
        raise _refusal(str(error)) from error
    if expression.return_type() != cel.Type.BOOL:
        raise ConditionError(f"must be of type bool, not {expression.return_type().name().lower()}")
    try:
        return CheckedCondition(text, expression)
    except CostError as error:
        raise ConditionError(error.message, *_place(text, error.offset)) from error
    except RecursionError as error:
        raise ConditionError("is nested too deeply") from error


_CEL_TYPES = {
    FactType.STRING: "STRING",
    FactType.INT: "INT",
    FactType.DOUBLE: "DOUBLE",
    FactType.TIMESTAMP: "TIMESTAMP",
    FactType.JSON: "DYN",
}


@lru_cache(maxsize=1)
def environment() -> Any:
    """The declared facts: what every condition is compiled in, and every value bound in."""
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


def _references(node: Node, local: frozenset[str]) -> Iterator[_Reference]:
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
            needed = tuple(path[:-1] if node.tested else path)
            yield _Reference(at.text, needed, read, ".".join((at.text, *needed)))
        return
    for index, child in enumerate(node.children):
        # The element and the accumulator are known to the parts after range and initial value.
        inner = local | set(node.names) if node.kind == "each" and index > 1 else local
        yield from _references(child, inner)
