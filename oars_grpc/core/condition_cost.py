"""What a condition may cost at worst, estimated from its checked expression."""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from cel_expr_python import cel

from oars_grpc.core.checked_expression import Node
from oars_grpc.core.facts import FACT_TYPES

MAX_ITERATIONS = 10_000  # of the evaluator, compiled in
MAX_PATTERN_SIZE = 1_000


class CostError(ValueError):
    """A part of an expression whose work cannot be bounded, and its offset in the text."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.message, self.offset = message, offset


class Estimate:
    """The worst work of an expression over `data` units, after cel-go's cost estimator.

    `visit` adds a node's work, times the iterations it stands in, and returns the size of its
    value. Iterations multiply with nesting until the evaluator's limit stops them all; the
    elements of one pass over a value are together no larger than the value.
    """

    def __init__(self, positions: Mapping[int, int], data: int) -> None:
        self._positions, self._data = positions, data
        self._total = 40

    def of(self, root: Node) -> int:
        """The work of the whole expression.

        Raises:
            CostError: the expression has a part whose work cannot be bounded.
        """
        self._visit(root, {}, 1)
        return self._total

    def _visit(self, node: Node, local: Mapping[str, int], times: int) -> int:
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

    def _call(self, node: Node, sizes: list[int]) -> tuple[int, int]:
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

    def _comprehension(self, node: Node, local: Mapping[str, int], times: int) -> int:
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

    def _pattern_size(self, node: Node) -> int:
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
        return size

    def _error(self, message: str, node: Node) -> CostError:
        return CostError(message, self._positions.get(node.id, 0))


def check_patterns(root: Node, positions: Mapping[int, int]) -> None:
    """Try the patterns of an expression whose work is known to be bounded.

    A class of Unicode takes three milliseconds to compile: first the estimate, then this.

    Raises:
        CostError: a pattern is not one.
    """
    nodes = [root]
    while nodes:
        node = nodes.pop()
        nodes += node.children
        if node.kind == "call" and node.text == "matches":
            pattern = node.children[1]
            if fault := _pattern_fault(pattern.text):
                raise CostError(fault, positions.get(pattern.id, 0))


@lru_cache(maxsize=256)
def _pattern_fault(pattern: str) -> str:
    """What RE2 finds wrong with a pattern, empty if nothing; CEL would tell only when it runs."""
    outcome = _pattern_trial().eval(data={"p": pattern}).value()
    return "" if isinstance(outcome, bool) else str(outcome).removeprefix("INVALID_ARGUMENT: ")


@lru_cache(maxsize=1)
def _pattern_trial() -> Any:
    """Made once: a new environment takes twenty times as long as the trial itself."""
    return cel.NewEnv(variables={"p": cel.Type.STRING}).compile('"".matches(p)')
