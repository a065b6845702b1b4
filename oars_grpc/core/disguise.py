"""Whether the names of an action could be mistaken for others that a policy speaks of.

Nearly always they cannot: plain names that the policy spells as the action does, or not at all.
Where they could, every rule is asked twice: as the action is, and as it may be read. A rule that
comes out otherwise is in doubt, hence indeterminate: it counts unless it allows (design §2
promise 3). So a lookalike is decided no more weakly than what it looks like.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from oars_grpc.core.compiled_rule import CompiledRule, Criterion, RuleOutcome
from oars_grpc.core.facts import Facts
from oars_grpc.core.lookalikes import ANY, could_be, reading, skeleton

# By fact that match fields compare whole, skeleton by skeleton: the names that rules ask about.
KnownNames = Mapping[str, Mapping[str, frozenset[str]]]

_NAMES = ("folded.operation", "folded.tool_id", "folded.environment")
_TARGET, _DATA_TYPES = "folded.target", "folded.data_types"
# Folded text has no line breaks, so this is in none and equal to none.
_NOWHERE = "\n"


def known_names(rules: Iterable[CompiledRule]) -> KnownNames:
    """The names that rules ask about."""
    found: dict[str, dict[str, set[str]]] = {fact: {} for fact in _NAMES}
    for rule in rules:
        for criterion in rule.criteria:
            for name in criterion.wanted if criterion.fact in found else ():
                # A name without letters and digits looks like nothing.
                if isinstance(name, str) and (shape := skeleton(name)):
                    found[criterion.fact].setdefault(shape, set()).add(name)
    return {
        fact: {shape: frozenset(names) for shape, names in shapes.items()}
        for fact, shapes in found.items()
        if shapes
    }


@dataclass(frozen=True, slots=True)
class Disguise:
    """How else an action may be read.

    `alike` has, by fact, the names of the policy that the action's own reads like; `seen` are the
    facts with their texts read as Latin ones.
    """

    plain: Facts
    seen: Facts
    alike: Mapping[str, frozenset[str]]
    reason: str

    def facts_for(self, rule: CompiledRule) -> Facts:
        """The facts that its condition reads: as they are, where it speaks of other alphabets."""
        as_they_are = rule.condition is not None and not rule.condition.text.isascii()
        return self.plain if as_they_are else self.seen

    def as_read(self, rule: CompiledRule) -> CompiledRule:
        """The rule as it would have to be to ask `facts_for` it what a reader takes it to ask."""
        facts = self.facts_for(rule)
        criteria = tuple(self._criterion(criterion, facts) for criterion in rule.criteria)
        changed = replace(rule, criteria=criteria)
        targets = [self.plain.get(_TARGET), self.seen.get(_TARGET)]
        if rule.target_contains and targets[0] is not None:
            found = any(part in target for part in rule.target_contains for target in targets)
            changed = replace(changed, target_contains=(facts.get(_TARGET) if found else _NOWHERE,))
        if rule.required_data_types and _DATA_TYPES in self.plain.values:
            there = {*self.plain.values[_DATA_TYPES], *self.seen.values[_DATA_TYPES]}
            lacking = rule.required_data_types - there
            required = frozenset({_NOWHERE}) if lacking else frozenset[str]()
            changed = replace(changed, required_data_types=required)
        return changed

    def _criterion(self, criterion: Criterion, facts: Facts) -> Criterion:
        value = self.plain.get(criterion.fact)
        if criterion.fact not in _NAMES or value is None:
            return criterion
        alike = self.alike.get(criterion.fact, frozenset())
        hit = value in criterion.wanted or not alike.isdisjoint(criterion.wanted)
        return replace(
            criterion, wanted=frozenset({facts.get(criterion.fact) if hit else _NOWHERE})
        )

    def doubt(
        self, rule: CompiledRule, plain: RuleOutcome | None, read: RuleOutcome | None
    ) -> RuleOutcome | None:
        """The outcome of a rule that came out so as the action is, and so as it may be read."""
        if plain is None and read is None:
            return None
        sure = read is not None and not read.indeterminate
        if plain is not None and (plain.indeterminate or sure):
            return plain
        missing = read.missing if read else ()
        return RuleOutcome(rule.id, rule.effect, True, missing, self.reason)


def disguise_of(known: KnownNames, facts: Facts) -> Disguise | None:
    """How else the action may be read; None if it is what it looks like.

    A name that the policy spells exactly so is known to its author and stands for no other.
    """
    values = facts.values
    alike: dict[str, frozenset[str]] = {}
    for fact, shapes in known.items():
        value = values.get(fact)
        if isinstance(value, str) and (names := _named(value, shapes)):
            alike[fact] = names
    seen = {}
    for fact in (*_NAMES, _TARGET):
        value = values.get(fact)
        if isinstance(value, str) and not value.isascii() and reading(value) != value:
            seen[fact] = reading(value)
    data_types = values.get(_DATA_TYPES)
    read = None if data_types is None else [reading(name) for name in data_types]
    if not alike and not seen and read == data_types:
        return None
    doubtful = sorted(name.removeprefix("folded.") for name in {*alike, *seen}) or ["data_types"]
    reason = f"{', '.join(doubtful)} may be read as another name"
    changed = {**values, **seen} | ({} if read is None else {_DATA_TYPES: read})
    return Disguise(facts, replace(facts, values=changed), alike, reason)


def _named(value: str, shapes: Mapping[str, frozenset[str]]) -> frozenset[str]:
    """The names of a policy that this one reads like; none where it is one of them itself."""
    shape = skeleton(value)
    names = shapes.get(shape, frozenset())
    if ANY in shape:
        like = [found for other, found in shapes.items() if could_be(shape, other)]
        names = names.union(*like)
    return frozenset() if value in names else names
