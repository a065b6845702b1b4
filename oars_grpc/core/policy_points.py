"""Points that stand for all the values that facts of one group can take together.

However the rules compare these facts with their constants, an action gives the same answers as
some point here, or (of what a target contains) fewer than one does that asks no more. So whatever
holds of every point holds of every action. There may be points that no action has: what is then
not seen to be so is not reported.

The actions are those that the server accepts: agent, tool, operation, risk and time are always
there, all else may be missing.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any

from oars_grpc.core.condition_parts import ABSENT, OTHER, Point, Variable
from oars_grpc.core.facts import ATTRIBUTE_FACTS, INPUT
from oars_grpc.core.folding import fold
from oars_grpc.core.identity import Role
from oars_grpc.core.operation_class import OperationClass
from oars_grpc.core.policy_terms import DATA_TYPES, KNOWN_DATA_TYPES, TRUTH, Part
from oars_grpc.core.risk import (
    CRITICAL_FROM,
    HIGH_FROM,
    MAX_SCORE,
    MEDIUM_FROM,
    tier_of,
)

Constants = Mapping[Variable, frozenset[Any]]

_FOLDED: Mapping[str, str] = {
    "resource.tool_id": "folded.tool_id",
    "resource.operation": "folded.operation",
    "resource.target": "folded.target",
    "context.environment": "folded.environment",
}
_MAY_BE_MISSING = {
    "resource.target",
    "context.environment",
    "user.id",
    "caller.service_account_id",
    "input_size_bytes",
}
_NEVER_INVISIBLE = {"resource.tool_id"}  # its characters are letters, digits and signs
_FIRST_PRIVATE, _LAST_PRIVATE = 0xE000, 0xF8FF


def points_of(group: str, constants: Constants) -> list[Point]:
    """The points of a group of facts, given what the rules compare them with."""
    if group.startswith("opaque"):
        return [{TRUTH: truth} for truth in (True, False, None)]
    if not group:  # nothing but constants
        return [{}]
    root = next(iter(constants))[0]
    if group in _FOLDED:
        return list(_names(group, constants))
    if group in _GROUPS:
        return list(_GROUPS[group](constants))
    if root == INPUT:
        return list(_input_members(constants))
    if root in ATTRIBUTE_FACTS:
        (variable,) = constants
        return [{variable: value} for value in (*_texts(constants[variable]), ABSENT)]
    return list(_plain((group,), constants[group,]))


def _plain(variable: Variable, constants: frozenset[Any]) -> Iterator[Point]:
    """One fact that nothing else depends on."""
    (name,) = variable
    if name.startswith("evidence."):
        values: Iterable[Any] = _reals(constants, 0.0, 1.0)
    elif name in {"delegation.depth", "input_size_bytes"}:
        values = _integers(constants, 0, None)
    elif name == "caller.role":
        values = [role.value for role in Role]
    else:
        values = _texts(constants)
    yield from ({variable: value} for value in values)
    if name in _MAY_BE_MISSING or name.startswith("evidence."):
        yield {}


def _texts(constants: Iterable[Any]) -> list[str]:
    known = {value for value in constants if isinstance(value, str) and value}
    return [*sorted(known), _fresh(known)]


def _fresh(texts: Iterable[str]) -> str:
    """A character that none of the texts has, and that folds to itself."""
    used = set().union(*texts)
    return next(
        chr(code) for code in range(_FIRST_PRIVATE, _LAST_PRIVATE + 1) if chr(code) not in used
    )


def _names(group: str, constants: Constants) -> Iterator[Point]:
    """A name as sent and folded; what is sent in another spelling is some other text."""
    sent_as, folded_as = (group,), (_FOLDED[group],)
    sent = {value for value in constants.get(sent_as, ()) if isinstance(value, str) and value}
    compared = constants.get(folded_as, frozenset())
    parts = {part.text for part in compared if isinstance(part, Part)}
    folded = {text for text in compared if isinstance(text, str) and text and fold(text) == text}
    fresh = _fresh(sent | folded | parts)
    spelled = {text: fold(text) for text in sent}
    for text in sorted(sent):
        point: dict[tuple[str, ...], Any] = {sent_as: text}
        yield point | ({folded_as: spelled[text]} if spelled[text] else {})
    longer = {f"{part}{fresh}" for part in parts}
    for text in sorted((folded | set(spelled.values()) | parts | longer | {fresh}) - {""}):
        yield {sent_as: fresh, folded_as: text}
    if group not in _NEVER_INVISIBLE:
        yield {sent_as: fresh}
    if group in _MAY_BE_MISSING:
        yield {}


def _data_types(constants: Constants) -> Iterator[Point]:
    """All that a rule requires, and nothing more: having more never makes it match less."""
    required = {*constants.get(DATA_TYPES, ()), frozenset[str]()}
    for names in sorted(required, key=sorted):
        yield {DATA_TYPES: names}
        yield {KNOWN_DATA_TYPES: names}


def _times(_constants: Constants) -> Iterator[Point]:
    for hour in range(24):
        for weekday in range(1, 8):
            yield {("time.hour_utc",): hour, ("time.weekday",): weekday}


def _risks(constants: Constants) -> Iterator[Point]:
    tiers = {MEDIUM_FROM, HIGH_FROM, CRITICAL_FROM}
    for score in _integers(tiers | constants.get(("risk.score",), frozenset()), 0, MAX_SCORE):
        for operation_class in OperationClass:
            if operation_class is OperationClass.UNKNOWN and score < MEDIUM_FROM:
                continue
            yield {
                ("risk.score",): score,
                ("risk.tier",): tier_of(score).value,
                ("risk.operation_class",): operation_class.value,
            }


_GROUPS: Mapping[str, Callable[[Constants], Iterator[Point]]] = {
    "context.data_types": _data_types,
    "risk": _risks,
    "time": _times,
}


def _input_members(constants: Constants) -> Iterator[Point]:
    (variable,) = constants
    compared = constants[variable]
    numbers = _reals(compared, -math.inf, math.inf)
    for value in (*numbers, *_texts(compared), True, False, None, OTHER, ABSENT):
        yield {variable: value}
    yield {}


def _integers(constants: Iterable[Any], low: int, high: int | None) -> list[int]:
    """Each constant and its neighbours, and the bounds."""
    known = {value for value in constants if type(value) is int}
    near = {value + step for value in known for step in (-1, 0, 1)} | {low}
    near.add(max(known | {low}) + 1 if high is None else high)
    return sorted(value for value in near if low <= value and (high is None or value <= high))


def _reals(constants: Iterable[Any], low: float, high: float) -> list[float]:
    """Each constant, something between each two, and the bounds."""
    numbers = {value for value in constants if type(value) in {int, float}}
    inside = sorted({low, high, *(value for value in numbers if low <= value <= high)})
    return [*inside, *(_between(one, other) for one, other in pairwise(inside))]


def _between(low: float, high: float) -> float:
    if math.isinf(low):
        return 0.0 if math.isinf(high) else math.nextafter(high, low)
    return math.nextafter(low, high) if math.isinf(high) else (low + high) / 2
