"""Which rules the match fields leave possible, told for all rules at once.

A set of rules is an integer with bit i for the i-th rule. For each fact that match fields compare,
every value that a rule names has the set of rules that it leaves possible, and one intersection
for each fact takes the place of asking every rule. The index only rules out what is definitely
otherwise; about a missing fact it says which rules asked for it, and what that means is the
evaluation's business.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any

from oars_grpc.core.compiled_rule import CompiledRule
from oars_grpc.core.facts import Facts

_TRUTHS = bytes.maketrans(b"01", b"\0\1")


@dataclass(frozen=True, slots=True)
class _FactIndex:
    """The rules that ask about a fact, and those that each named value leaves possible."""

    fact: str
    asking: int
    silent: int
    left_by: Mapping[str | int, int]


@dataclass(frozen=True, slots=True)
class RuleIndex:
    """The match fields of all rules of a policy, turned round."""

    every: int
    _facts: tuple[_FactIndex, ...]
    _targets: tuple[tuple[str, int], ...]
    _asking_target: int
    _data_types: tuple[tuple[str, int], ...]
    _asking_data_types: int

    def narrow(self, facts: Facts) -> tuple[int, int]:
        """The rules that no match field rules out, and those of them that miss a fact."""
        possible, unsure = self.every, 0
        for index in self._facts:
            value = facts.values.get(index.fact)
            if value is None:
                unsure |= index.asking
            else:
                possible &= index.left_by.get(value, index.silent)
        left, missed = self._narrow_by_target(facts.get("folded.target"))
        possible, unsure = possible & left, unsure | missed
        left, missed = self._narrow_by_data_types(facts.get("folded.data_types"))
        possible, unsure = possible & left, unsure | missed
        return possible, possible & unsure

    def _narrow_by_target(self, target: Any) -> tuple[int, int]:
        if not self._asking_target:
            return self.every, 0
        if target is None:
            return self.every, self._asking_target
        left = self.every & ~self._asking_target
        for part, rules in self._targets:
            if part in target:
                left |= rules
        return left, 0

    def _narrow_by_data_types(self, stated: Any) -> tuple[int, int]:
        if not self._asking_data_types:
            return self.every, 0
        if stated is None:
            return self.every, self._asking_data_types
        present, left = frozenset(stated), self.every
        for name, rules in self._data_types:
            if name not in present:
                left &= ~rules
        return left, 0


def index_rules(rules: Sequence[CompiledRule]) -> RuleIndex:
    """Turn the match fields of rules round."""
    every = (1 << len(rules)) - 1
    named: dict[str, dict[str | int, int]] = {}
    for bit, rule in _bits(rules):
        for criterion in rule.criteria:
            values = named.setdefault(criterion.fact, {})
            for value in criterion.wanted:
                values[value] = values.get(value, 0) | bit
    targets = _sets((part, bit) for bit, rule in _bits(rules) for part in rule.target_contains)
    data_types = _sets(
        (name, bit) for bit, rule in _bits(rules) for name in rule.required_data_types
    )
    return RuleIndex(
        every,
        tuple(_fact_index(fact, values, every) for fact, values in named.items()),
        tuple(targets.items()),
        _union(targets.values()),
        tuple(data_types.items()),
        _union(data_types.values()),
    )


def members(rules: int, start: int, end: int) -> list[int]:
    """The numbers in a set of rules from `start` to before `end`, in order."""
    if not rules:
        return []
    bits = rules >> start & (1 << end - start) - 1
    truths = bin(bits)[:1:-1].encode().translate(_TRUTHS)
    return list(compress(range(start, end), truths))


def _fact_index(fact: str, values: Mapping[str | int, int], every: int) -> _FactIndex:
    asking = _union(values.values())
    silent = every & ~asking
    return _FactIndex(fact, asking, silent, {v: silent | rules for v, rules in values.items()})


def _bits(rules: Sequence[CompiledRule]) -> Iterable[tuple[int, CompiledRule]]:
    return ((1 << position, rule) for position, rule in enumerate(rules))


def _sets(entries: Iterable[tuple[str, int]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, bit in entries:
        found[name] = found.get(name, 0) | bit
    return found


def _union(sets: Iterable[int]) -> int:
    union = 0
    for each in sets:
        union |= each
    return union
