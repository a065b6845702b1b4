"""How risky an action is: a score from 0 to 100, its tier, and the signals it is made of.

The operation's name gives a class (`operation_class.py`); its circumstances add to the class's
weight and never subtract. Whatever is unknown or unstated counts as the riskier: an operation of
no known class is never low, and an environment not known to be harmless counts as production. The
circumstances are those of `effective_context.py`; one that the caller misstates adds to the score.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import lru_cache
from typing import Any

from oars_grpc.core.action import ActionRequest
from oars_grpc.core.effective_context import Contradiction, EffectiveContext, effective_context
from oars_grpc.core.operation_class import OperationClass, classify_operation
from oars_grpc.core.words import plain, words

MEDIUM_FROM, HIGH_FROM, CRITICAL_FROM, MAX_SCORE = 40, 70, 90, 100
# Kept among the signals whatever it weighs: the receipt shows what the caller said and what is so.
CONTRADICTION = "context.contradiction"
_SHOWN = 32


class RiskTier(StrEnum):
    """low < 40 ≤ medium < 70 ≤ high < 90 ≤ critical."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


def _words_of(text: str) -> frozenset[str]:
    return frozenset(text.split())


_HARMLESS_ENVIRONMENTS = _words_of("""dev develop development test testing tests staging stage
    sandbox local localhost qa ci demo preview uat playground ephemeral""")
_ENVIRONMENT_FILLERS = _words_of("env environment area region zone cluster eu us ap asia")
_PRODUCTION_WORDS = _words_of("production prod prd live")
_SECRET_DATA = _words_of("""credential credentials secret secrets password passwords token tokens
    key keys apikey""")
_PERSONAL_DATA = _words_of("""pii phi pci hipaa gdpr ssn health medical financial card personal
    sensitive confidential biometric genetic""")
_ROOT_TARGETS = frozenset({"/", "\\", "~", "c:\\", "c:/", ".", "root", "all", "everything"})
_WILDCARD = re.compile(r"[*%?]|\.\.")


@dataclass(frozen=True, slots=True)
class RiskSignal:
    """One reason for the score: what it is called, what it adds, and what was seen."""

    name: str
    weight: int
    detail: str


@dataclass(frozen=True, slots=True)
class RiskAssessment:
    """The score, its tier, the signals that add up to it, and the operation's class."""

    score: int
    tier: RiskTier
    signals: tuple[RiskSignal, ...]
    operation_class: OperationClass


@dataclass(frozen=True, slots=True)
class RiskConfig:
    """A tenant's weights; each is what its signal adds to the score.

    Raises:
        ValueError: a weight is not an integer from 0 to 100.
    """

    read: int = 10
    write: int = 30
    unknown: int = 45
    execute: int = 55
    permission: int = 60
    money: int = 60
    destructive: int = 75
    production: int = 15
    personal_data: int = 10
    secret_data: int = 20
    # As much as personal and secret data together: to leave them out gains nothing.
    unstated_data_types: int = 30
    production_target: int = 10
    wildcard_target: int = 15
    large_input: int = 5
    low_coherence: int = 20
    low_support: int = 15
    high_conflict: int = 20
    high_novelty: int = 10
    bad_outcomes: int = 20
    contradiction: int = 25
    large_input_bytes: int = 65_536

    def __post_init__(self) -> None:
        for name, value in self.to_json().items():
            if isinstance(value, bool) or not isinstance(value, int):
                raise ValueError(f"{name} must be an integer")
            limit = 2**31 if name == "largeInputBytes" else MAX_SCORE
            if not 0 <= value <= limit:
                raise ValueError(f"{name} must be from 0 to {limit}")

    def to_json(self) -> dict[str, Any]:
        """The canonical form: every weight by its lowerCamelCase name."""
        return {_camel_case(f.name): getattr(self, f.name) for f in fields(self)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "RiskConfig":
        """The configuration of a (possibly partial) JSON object.

        Raises:
            ValueError: an unknown name, or a weight that is not an integer from 0 to 100.
        """
        names = {_camel_case(f.name): f.name for f in fields(cls)}
        unknown = sorted(set(value) - set(names))
        if unknown:
            raise ValueError(f"unknown risk weight {unknown[0]!r}")
        return cls(**{names[name]: weight for name, weight in value.items()})


def assess_risk(
    request: ActionRequest,
    config: RiskConfig,
    evidence: Mapping[str, float] | None = None,
    *,
    input_bytes: bytes | None = None,
    context: EffectiveContext | None = None,
) -> RiskAssessment:
    """Assess an action.

    `input_bytes` and `context` spare a caller that has them the work of making them twice.
    """
    resource = request.resource
    context = effective_context(request) if context is None else context
    operation_class, stated = _stated_signals(
        resource.operation,
        context.environment,
        context.data_types,
        context.known_data_types,
        config,
    )
    size = len(request.input_bytes() if input_bytes is None else input_bytes)
    signals = (
        *stated,
        *_target_signals(resource.target, config),
        *_size_signals(size, config),
        *_evidence_signals(evidence or {}, config),
        *_contradiction_signals(context.contradictions, config),
    )
    score = min(MAX_SCORE, sum(signal.weight for signal in signals))
    if operation_class is OperationClass.UNKNOWN and score < MEDIUM_FROM:
        floor = RiskSignal("operation.floor", MEDIUM_FROM - score, "unknown operations are not low")
        signals, score = (*signals, floor), MEDIUM_FROM
    return RiskAssessment(
        score,
        tier_of(score),
        tuple(s for s in signals if s.weight or s.name == CONTRADICTION),
        operation_class,
    )


def tier_of(score: int) -> RiskTier:
    """The tier that a score falls into."""
    if score >= CRITICAL_FROM:
        return RiskTier.CRITICAL
    if score >= HIGH_FROM:
        return RiskTier.HIGH
    return RiskTier.MEDIUM if score >= MEDIUM_FROM else RiskTier.LOW


# What agents do and where are a few names over and over, unlike what they do it to.
@lru_cache(maxsize=4096)
def _stated_signals(
    operation: str,
    environment: str,
    data_types: tuple[str, ...] | None,
    known_data_types: tuple[str, ...],
    config: RiskConfig,
) -> tuple[OperationClass, tuple[RiskSignal, ...]]:
    operation_class, word = classify_operation(operation)
    weight = getattr(config, operation_class.value)
    return operation_class, (
        RiskSignal(f"operation.{operation_class.value}", weight, word),
        *_environment_signals(environment, config),
        *_data_signals(data_types, known_data_types, config),
    )


def _environment_signals(environment: str, config: RiskConfig) -> list[RiskSignal]:
    found = words(environment)
    if not found:
        return [RiskSignal("environment.unstated", config.production, "counts as production")]
    harmless = found & _HARMLESS_ENVIRONMENTS
    if harmless and found <= _HARMLESS_ENVIRONMENTS | _ENVIRONMENT_FILLERS:
        return []
    return [RiskSignal("environment.production", config.production, environment)]


def _data_signals(
    data_types: tuple[str, ...] | None, known: tuple[str, ...], config: RiskConfig
) -> list[RiskSignal]:
    signals = []
    if data_types is None:
        weight = config.unstated_data_types
        signals.append(RiskSignal("data.unstated", weight, "data types not stated"))
    found = frozenset().union(*map(words, known if data_types is None else data_types))
    if personal := sorted(found & _PERSONAL_DATA):
        signals.append(RiskSignal("data.personal", config.personal_data, ", ".join(personal)))
    if secret := sorted(found & _SECRET_DATA):
        signals.append(RiskSignal("data.secret", config.secret_data, ", ".join(secret)))
    return signals


def _target_signals(target: str, config: RiskConfig) -> list[RiskSignal]:
    shown = plain(target).strip().casefold()
    signals = []
    if _WILDCARD.search(shown) or shown in _ROOT_TARGETS:
        signals.append(RiskSignal("target.wide", config.wildcard_target, target))
    if words(target) & _PRODUCTION_WORDS:
        signals.append(RiskSignal("target.production", config.production_target, target))
    return signals


def _size_signals(size: int, config: RiskConfig) -> list[RiskSignal]:
    if size <= config.large_input_bytes:
        return []
    return [RiskSignal("input.large", config.large_input, f"{size} bytes")]


def _evidence_signals(evidence: Mapping[str, float], config: RiskConfig) -> list[RiskSignal]:
    """What the evidence adds: half a weight beyond one half, all of it beyond three quarters.

    Good evidence takes nothing away: it is what the caller chose to send.
    """
    told = (
        ("evidence.incoherent", "coherence", config.low_coherence, True),
        ("evidence.unsupported", "support", config.low_support, True),
        ("evidence.conflicting", "conflict", config.high_conflict, False),
        ("evidence.novel", "novelty", config.high_novelty, False),
        ("evidence.bad_outcomes", "risk", config.bad_outcomes, False),
    )
    signals = []
    for name, score, weight, good in told:
        value = evidence.get(score)
        if value is None:
            continue
        doubt = 1.0 - value if good else value
        if doubt > 0.5:
            added = weight if doubt > 0.75 else weight // 2
            signals.append(RiskSignal(name, added, f"{score} {value:.3f}"))
    return signals


def _contradiction_signals(
    contradictions: tuple[Contradiction, ...], config: RiskConfig
) -> list[RiskSignal]:
    return [
        RiskSignal(
            CONTRADICTION,
            config.contradiction,
            f"{found.fact} is {_shown(found.verified)}, not {_shown(found.asserted)}",
        )
        for found in contradictions
    ]


def _shown(value: str) -> str:
    return value if len(value) <= _SHOWN else f"{value[:_SHOWN]}..."


def _camel_case(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)
