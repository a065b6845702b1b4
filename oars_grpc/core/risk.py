"""How risky an action is: a score from 0 to 100, its tier, and the signals it is made of.

The operation's name gives a class by whole words (design §5); its circumstances add to the class's
weight and never subtract. Whatever is unknown or unstated counts as the riskier: an operation of
no known class is never low, and an environment not known to be harmless counts as production.
"""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

from oars_grpc.core.action import ActionRequest

MEDIUM_FROM, HIGH_FROM, CRITICAL_FROM, MAX_SCORE = 40, 70, 90, 100


class RiskTier(StrEnum):
    """low < 40 ≤ medium < 70 ≤ high < 90 ≤ critical."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


class OperationClass(StrEnum):
    """What an operation does, mildest first: of several, the last one wins.

    UNKNOWN stands above WRITE, since a name that cannot be read may hide anything.
    """

    READ = "read"
    WRITE = "write"
    UNKNOWN = "unknown"
    EXECUTE = "execute"
    PERMISSION = "permission"
    MONEY = "money"
    DESTRUCTIVE = "destructive"


def _words_of(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SEVERITY = {operation_class: rank for rank, operation_class in enumerate(OperationClass)}

_CLASS_WORDS: Mapping[OperationClass, str] = {
    OperationClass.DESTRUCTIVE: """
        delete del destroy drop purge truncate wipe erase remove rm rmdir unlink shred nuke kill
        terminate obliterate expunge uninstall deprovision decommission overwrite""",
    OperationClass.MONEY: """
        transfer transfers pay payment payments payout payouts refund refunds charge charges
        withdraw withdrawal withdrawals deposit wire wires purchase purchases buy sell trade invest
        donate remit remittance disburse disbursement reimburse settle checkout chargeback""",
    OperationClass.PERMISSION: """
        grant grants permission permissions permit role roles privilege privileges admin admins
        administrator sudo su chmod chown chgrp acl iam impersonate impersonation assume elevate
        escalate authorize authorise revoke invite owner ownership policy policies token tokens
        credential credentials secret secrets password passwords passwd apikey key keys mfa
        share unshare""",
    OperationClass.EXECUTE: """
        execute exec eval run deploy shell bash sh cmd command powershell script invoke launch
        spawn install restart reboot shutdown stop start rollback migrate trigger apply ssh merge
        reset clear flush format discard""",
    OperationClass.WRITE: """
        create update write send post comment edit set upload publish put patch add insert append
        modify change replace rename move copy save store submit reply email mail message notify
        assign unassign close open reopen archive unarchive restore undelete tag untag label
        subscribe unsubscribe import sync enable disable draft annotate push upsert register
        resolve book reserve schedule""",
    OperationClass.READ: """
        get list read search fetch view describe query count show find lookup inspect check
        download export head options status preview summarize summarise select scan browse watch
        ping help explain validate verify compare diff stat exists peek retrieve load""",
}
_WORD_CLASS = {
    word: operation_class for operation_class, text in _CLASS_WORDS.items() for word in text.split()
}

# Blank-separated, like the words above.
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
# A word is a run of letters; aBc and ABCd start words of their own.
_RUN = re.compile(r"[^\W\d_]+")
_CAMEL = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


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
    unstated_data_types: int = 5
    production_target: int = 10
    wildcard_target: int = 15
    large_input: int = 5
    low_coherence: int = 20
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
) -> RiskAssessment:
    """Assess an action.

    `input_bytes` spares a second canonical encoding to a caller that has made one.
    """
    operation_class, word = classify_operation(request.resource.operation)
    size = len(request.input_bytes() if input_bytes is None else input_bytes)
    signals = (
        RiskSignal(
            f"operation.{operation_class.value}", getattr(config, operation_class.value), word
        ),
        *_environment_signals(request.context.environment, config),
        *_data_signals(request.context.data_types, config),
        *_target_signals(request.resource.target, config),
        *_size_signals(size, config),
        *_coherence_signals((evidence or {}).get("coherence"), config),
    )
    score = min(MAX_SCORE, sum(signal.weight for signal in signals))
    if operation_class is OperationClass.UNKNOWN and score < MEDIUM_FROM:
        floor = RiskSignal("operation.floor", MEDIUM_FROM - score, "unknown operations are not low")
        signals, score = (*signals, floor), MEDIUM_FROM
    return RiskAssessment(
        score, tier_of(score), tuple(s for s in signals if s.weight), operation_class
    )


def tier_of(score: int) -> RiskTier:
    """The tier that a score falls into."""
    if score >= CRITICAL_FROM:
        return RiskTier.CRITICAL
    if score >= HIGH_FROM:
        return RiskTier.HIGH
    return RiskTier.MEDIUM if score >= MEDIUM_FROM else RiskTier.LOW


def classify_operation(operation: str) -> tuple[OperationClass, str]:
    """The most severe class among the words of a name, and the word that gave it.

    Letters that are still not ASCII after folding may be lookalikes, so such a name is at least
    UNKNOWN, whatever words stand beside them.
    """
    candidates = [
        (_WORD_CLASS[word], word) for word in sorted(words(operation)) if word in _WORD_CLASS
    ]
    if not candidates or not _plain(operation).isascii():
        candidates.append((OperationClass.UNKNOWN, "no known word, or letters beyond ASCII"))
    return max(candidates, key=lambda candidate: _SEVERITY[candidate[0]])


def words(text: str) -> frozenset[str]:
    """The whole words of a name, in lower case.

    Runs of letters count both whole and split at camelCase: `dropTable` says drop, and `dElEtE`
    says delete. An invisible character counts both as nothing and as a space.
    """
    found: set[str] = set()
    plain, spaced = _plain(text), _plain(text, instead=" ")
    for run in _RUN.findall(plain if plain == spaced else f"{plain} {spaced}"):
        found.add(run.casefold())
        found.update(part.casefold() for part in _CAMEL.findall(run))
    return frozenset(found)


def _plain(text: str, instead: str = "") -> str:
    """Compatibility forms resolved; accents, control and invisible characters replaced."""
    if text.isascii() and text.isprintable():
        return text
    # Marks (M*) include the accents and variation selectors, C* the format characters.
    return "".join(
        instead if unicodedata.category(character)[0] in {"C", "M"} else character
        for character in unicodedata.normalize("NFKD", text)
    )


def _environment_signals(environment: str, config: RiskConfig) -> list[RiskSignal]:
    found = words(environment)
    if not found:
        return [RiskSignal("environment.unstated", config.production, "counts as production")]
    harmless = found & _HARMLESS_ENVIRONMENTS
    if harmless and found <= _HARMLESS_ENVIRONMENTS | _ENVIRONMENT_FILLERS:
        return []
    return [RiskSignal("environment.production", config.production, environment)]


def _data_signals(data_types: tuple[str, ...] | None, config: RiskConfig) -> list[RiskSignal]:
    if data_types is None:
        return [RiskSignal("data.unstated", config.unstated_data_types, "data types not stated")]
    found = frozenset().union(*map(words, data_types))
    signals = []
    if personal := sorted(found & _PERSONAL_DATA):
        signals.append(RiskSignal("data.personal", config.personal_data, ", ".join(personal)))
    if secret := sorted(found & _SECRET_DATA):
        signals.append(RiskSignal("data.secret", config.secret_data, ", ".join(secret)))
    return signals


def _target_signals(target: str, config: RiskConfig) -> list[RiskSignal]:
    plain = _plain(target).strip().casefold()
    signals = []
    if _WILDCARD.search(plain) or plain in _ROOT_TARGETS:
        signals.append(RiskSignal("target.wide", config.wildcard_target, target))
    if words(target) & _PRODUCTION_WORDS:
        signals.append(RiskSignal("target.production", config.production_target, target))
    return signals


def _size_signals(size: int, config: RiskConfig) -> list[RiskSignal]:
    if size <= config.large_input_bytes:
        return []
    return [RiskSignal("input.large", config.large_input, f"{size} bytes")]


def _coherence_signals(coherence: float | None, config: RiskConfig) -> list[RiskSignal]:
    if coherence is None or coherence >= 0.5:
        return []
    # Half the weight below one half, all of it below one quarter.
    weight = config.low_coherence // 2 if coherence >= 0.25 else config.low_coherence
    return [RiskSignal("evidence.incoherent", weight, f"coherence {coherence:.3f}")]


def _camel_case(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)
