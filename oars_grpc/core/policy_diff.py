"""What changes from one policy document to another, rule by rule and field by field."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from oars_grpc.core.policy import (
    CombiningAlgorithm,
    PolicyDocument,
    Rule,
    RuleMatch,
    TimeWindowUtc,
)

# Lists in which the order means something are none of a rule's: `match` fields are sets.
_MATCH_FIELDS = tuple(field.name for field in fields(RuleMatch))


@dataclass(frozen=True, slots=True)
class FieldChange:
    """A field with another value than before, as text; of a list, what came and went."""

    field: str
    before: str
    after: str
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RuleChange:
    """A rule that both documents have, and its changes."""

    rule_id: str
    fields: tuple[FieldChange, ...]


@dataclass(frozen=True, slots=True)
class DocumentDiff:
    """All that changes; `reordered` are rules that a FIRST_MATCH document asks in another order."""

    head: tuple[FieldChange, ...]
    added: tuple[Rule, ...]
    removed: tuple[Rule, ...]
    changed: tuple[RuleChange, ...]
    reordered: bool

    def __bool__(self) -> bool:
        return bool(
            self.head or self.added or self.removed or self.changed or self.reordered,
        )


def diff_documents(before: PolicyDocument, after: PolicyDocument) -> DocumentDiff:
    """What changes from a document to another; rules are the same where their ids are."""
    head = tuple(
        FieldChange(name, one, other)
        for name, one, other in (
            ("name", before.name, after.name),
            ("description", before.description, after.description),
            ("combining", before.combining.value, after.combining.value),
        )
        if one != other
    )
    old = {rule.id: rule for rule in before.rules}
    new = {rule.id: rule for rule in after.rules}
    changed = []
    for rule_id in (name for name in old if name in new):
        found = tuple(_changes(old[rule_id], new[rule_id]))
        if found:
            changed.append(RuleChange(rule_id, found))
    return DocumentDiff(
        head=head,
        added=tuple(rule for name, rule in new.items() if name not in old),
        removed=tuple(rule for name, rule in old.items() if name not in new),
        changed=tuple(changed),
        reordered=_is_reordered(before, after),
    )


def _is_reordered(before: PolicyDocument, after: PolicyDocument) -> bool:
    """Whether rules of both documents are asked in another order, where that matters."""
    if after.combining is not CombiningAlgorithm.FIRST_MATCH:
        return False
    common = {rule.id for rule in before.rules} & {rule.id for rule in after.rules}
    one, other = (
        [rule.id for rule in sorted(each.rules, key=_priority) if rule.id in common]
        for each in (before, after)
    )
    return one != other


def _priority(rule: Rule) -> int:
    return rule.priority


def _changes(before: Rule, after: Rule) -> Iterator[FieldChange]:
    for name, attribute in (
        ("decision", "effect"),
        ("condition", "condition"),
        ("workflow_id", "workflow_id"),
        ("priority", "priority"),
        ("description", "description"),
    ):
        one, other = getattr(before, attribute), getattr(after, attribute)
        if one != other:
            yield FieldChange(name, str(one), str(other))
    for name in _MATCH_FIELDS:
        one, other = _texts(getattr(before.match, name)), _texts(getattr(after.match, name))
        if set(one) != set(other):
            yield FieldChange(
                f"match.{name}",
                ", ".join(one),
                ", ".join(other),
                tuple(value for value in other if value not in one),
                tuple(value for value in one if value not in other),
            )


def _texts(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, TimeWindowUtc):
        return (f"{value.start_hour}-{value.end_hour}",)
    return tuple(map(str, value))
