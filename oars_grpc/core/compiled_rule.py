"""A rule ready to be asked, and how it came out."""

from dataclasses import dataclass

from oars_grpc.core.condition import Condition
from oars_grpc.core.policy import Effect


@dataclass(frozen=True, slots=True)
class Criterion:
    """One question to one fact.

    `fact` is what compares, `asks` what a user reads of: the fact as sent.
    """

    fact: str
    asks: str
    wanted: frozenset[str | int]


@dataclass(frozen=True, slots=True)
class CompiledRule:
    """A rule ready to be asked; `asks` names every fact that it may read."""

    id: str
    effect: Effect
    criteria: tuple[Criterion, ...]
    target_contains: tuple[str, ...]
    required_data_types: frozenset[str]
    condition: Condition | None
    asks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RuleOutcome:
    """How one rule came out; `missing` and `reason` say why it is indeterminate."""

    rule_id: str
    effect: Effect
    indeterminate: bool = False
    missing: tuple[str, ...] = ()
    reason: str = ""
