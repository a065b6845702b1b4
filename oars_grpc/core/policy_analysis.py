"""Finds rules that do nothing, or everything: what a document says by mistake, if by mistake.

Every rule is asked at the points of each group of facts (`policy_points.py`). Groups are
independent, so a rule counts for some action exactly if it counts at some point of every group,
and counts only where another does exactly if that is so in every group that the other asks about.
Whatever cannot be told is not reported. Two doubts that no rule is written for are disregarded:
names that only look like others (`disguise.py`), and more data than conditions may read.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from oars_grpc.core.condition import check_condition
from oars_grpc.core.facts import INPUT
from oars_grpc.core.policy import CombiningAlgorithm, Effect, Rule
from oars_grpc.core.policy_document import CompiledPolicy
from oars_grpc.core.policy_points import points_of
from oars_grpc.core.policy_terms import CONDITION, Question, Term, opaque, terms_of

# Every rule is asked at every point of the groups that it asks about.
MAX_POINTS = 4_096


class FindingKind(StrEnum):
    """What was found; the values are stable names."""

    NEVER_MATCHES = "never_matches"
    MATCHES_ONLY_MISSING = "matches_only_missing"
    SHADOWED = "shadowed"
    DUPLICATE = "duplicate"
    REDUNDANT = "redundant"
    ALLOWS_EVERYTHING = "allows_everything"
    UNKNOWN_TOOL = "unknown_tool"
    UNKNOWN_OPERATION = "unknown_operation"
    UNKNOWN_WORKFLOW = "unknown_workflow"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found; `field` is the proto path that it is about.

    A note is no reason to change anything: the rule is true and says what another one says, too.
    """

    kind: FindingKind
    rule_id: str
    field: str
    message: str
    is_note: bool = False


@dataclass(frozen=True, slots=True)
class _Reach:
    """Where in one group of facts a rule is true, and where it counts: a bit for each point."""

    true: int
    counts: int
    every: int
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Asked:
    """A rule and its reach in each group that it asks about."""

    rule: Rule
    index: int
    reaches: Mapping[str, _Reach]

    @property
    def never_counts(self) -> bool:
        return any(not reach.counts for reach in self.reaches.values())

    @property
    def is_always_true(self) -> bool:
        return all(reach.true == reach.every for reach in self.reaches.values())

    def covers(self, other: "_Asked") -> bool:
        """Whether this rule counts wherever the other one does."""
        return all(
            not other.counts_in(group, reach) & ~reach.counts
            for group, reach in self.reaches.items()
        )

    def stops(self, other: "_Asked") -> bool:
        """Whether, asked before it, this rule leaves the other one unasked wherever it counts.

        One that is indeterminate does so only if it denies: behind it may be a stricter one.
        """
        if self.rule.effect is Effect.DENY:
            return self.covers(other)
        return all(
            not other.counts_in(group, reach) & ~reach.true for group, reach in self.reaches.items()
        )

    def equals(self, other: "_Asked") -> bool:
        """Whether both rules say the same of every action."""
        if (self.rule.effect, self.rule.workflow_id) != (
            other.rule.effect,
            other.rule.workflow_id,
        ):
            return False
        groups = {**other.reaches, **self.reaches}
        return all(
            self.answers_in(group, reach.every) == other.answers_in(group, reach.every)
            for group, reach in groups.items()
        )

    def counts_in(self, group: str, of: _Reach) -> int:
        """The points of a group where this rule counts; all, if it does not ask about them."""
        mine = self.reaches.get(group)
        return of.every if mine is None else mine.counts

    def answers_in(self, group: str, every: int) -> tuple[int, int]:
        """The points of a group where this rule is true, and where it counts."""
        mine = self.reaches.get(group)
        return (every, every) if mine is None else (mine.true, mine.counts)


def analyse(policy: CompiledPolicy) -> list[Finding]:
    """What is conspicuous about the rules of a valid document, in document order."""
    asked = _asked(policy)
    findings = [finding for each in asked for finding in _alone(each, policy.combining)]
    counting = [each for each in asked if not each.never_counts]
    if policy.combining is CombiningAlgorithm.FIRST_MATCH:
        findings += _shadowed_by_earlier(counting)
    else:
        findings += _shadowed_by_stricter(counting)
    order = {rule.id: index for index, rule in enumerate(policy.document.rules)}
    return sorted(findings, key=lambda finding: order[finding.rule_id])


def rule_terms(policy: CompiledPolicy) -> list[list[Term]]:
    """What each rule of the document asks, in document order."""
    compiled = {rule.id: rule for rule in policy.rules}
    return [
        terms_of(
            compiled[rule.id], check_condition(rule.condition).root if rule.condition else None
        )
        for rule in policy.document.rules
    ]


def _asked(policy: CompiledPolicy) -> list[_Asked]:
    """All rules, in the order in which they are asked."""
    terms = rule_terms(policy)
    constants: dict[str, dict[tuple[str, ...], set[object]]] = {}
    for term in (term for of_rule in terms for term in of_rule):
        group = constants.setdefault(term.group, {})
        for variable, value in term.question.constants():
            group.setdefault(variable, set()).add(value)
    points = {
        name: points_of(name, {variable: frozenset(found) for variable, found in group.items()})
        for name, group in constants.items()
    }
    space = _Space(points)
    asked = [
        _Asked(rule, index, space.reaches(rule.effect, of_rule))
        for index, (rule, of_rule) in enumerate(zip(policy.document.rules, terms, strict=True))
    ]
    if policy.combining is CombiningAlgorithm.FIRST_MATCH:
        asked.sort(key=lambda each: each.rule.priority)  # stable: document order
    return asked


class _Space:
    """The points of every group, and where the questions asked so far are true or unknown."""

    def __init__(self, points: Mapping[str, Sequence[Mapping[tuple[str, ...], object]]]) -> None:
        self._points = dict(points)
        self._answers: dict[tuple[str, Question], tuple[int, int]] = {}

    def reaches(self, effect: Effect, terms: Sequence[Term]) -> dict[str, _Reach]:
        """What a rule of these terms reaches in each group."""
        found: dict[str, _Reach] = {}
        for given in terms:
            # Too many points to ask at: nothing is known of the question then.
            known = len(self._points[given.group]) <= MAX_POINTS
            term = given if known else opaque(given)
            if term.group not in self._points:
                self._points[term.group] = points_of(term.group, {})
            points = self._points[term.group]
            every = (1 << len(points)) - 1
            before = found.get(term.group, _Reach(every, every, every, ()))
            true, possible = self._answer(term)
            counts = true if effect is Effect.ALLOW else possible
            found[term.group] = _Reach(
                before.true & true,
                before.counts & counts,
                every,
                tuple(dict.fromkeys((*before.sources, term.source))),
            )
        return found

    def _answer(self, term: Term) -> tuple[int, int]:
        """The points where the answer is true, and those where it is not false."""
        key = term.group, term.question
        if key not in self._answers:
            true = possible = 0
            for position, point in enumerate(self._points[term.group]):
                answer = term.question.answer(point)
                true |= (answer is True) << position
                possible |= (answer is not False) << position
            self._answers[key] = true, possible
        return self._answers[key]


def _alone(asked: _Asked, combining: CombiningAlgorithm) -> Iterator[Finding]:
    """What can be told of a rule without any other."""
    path = f"document.rules[{asked.index}]"
    # One that never counts says more than one that counts only where something is missing.
    untrue = [(reach.counts, group) for group, reach in asked.reaches.items() if not reach.true]
    if untrue:
        _, group = min(untrue)
        reach = asked.reaches[group]
        kind, message = _impossible(group, reach)
        field = f"{path}.{reach.sources[0]}" if len(reach.sources) == 1 else path
        yield Finding(kind, asked.rule.id, field, message)
        return
    if asked.rule.effect is Effect.ALLOW and asked.is_always_true:
        others = "earlier" if combining is CombiningAlgorithm.FIRST_MATCH else "stricter"
        message = f"allows everything: whatever no {others} rule decides"
        yield Finding(FindingKind.ALLOWS_EVERYTHING, asked.rule.id, path, message)


def _impossible(group: str, reach: _Reach) -> tuple[FindingKind, str]:
    *fields, last = ("its condition" if name == CONDITION else name for name in reach.sources)
    about = f" of {group}" if group and not group.startswith("opaque") else ""
    asked = f"both {', '.join(fields)} and {last} ask" if fields else f"{last} asks"
    if reach.counts:
        lacking = "missing or of another type" if group.startswith(INPUT) else "missing"
        return (
            FindingKind.MATCHES_ONLY_MISSING,
            f"matches only where {group} is {lacking}: no value is what {asked}",
        )
    if not group:
        return FindingKind.NEVER_MATCHES, "can never match: its condition is false"
    return FindingKind.NEVER_MATCHES, f"can never match: no action is what {asked}{about}"


def _shadowed_by_earlier(asked: Sequence[_Asked]) -> Iterator[Finding]:
    for position, each in enumerate(asked):
        for other in asked[:position]:
            is_duplicate = other.equals(each)
            if is_duplicate or other.stops(each):
                yield _covered(each, other, "asked first and ", is_duplicate=is_duplicate)
                break


def _shadowed_by_stricter(asked: Sequence[_Asked]) -> Iterator[Finding]:
    by_strictness = sorted(asked, key=lambda each: -each.rule.effect.strictness)
    for each in asked:
        for other in by_strictness:
            if other.rule.effect.strictness < each.rule.effect.strictness:
                break
            if other is each or not other.covers(each):
                continue
            if other.rule.effect is not each.rule.effect:
                yield _covered(each, other, f"stricter ({other.rule.effect.value}) and ")
                break
            # Where another one's approval is asked, both decide.
            is_duplicate = other.equals(each)
            says_more = other.rule.workflow_id != each.rule.workflow_id
            if says_more or (each.covers(other) and other.index > each.index):
                continue
            yield _covered(each, other, is_duplicate=is_duplicate, is_note=not is_duplicate)
            break


def _covered(
    each: _Asked,
    other: _Asked,
    why: str = "",
    *,
    is_duplicate: bool = False,
    is_note: bool = False,
) -> Finding:
    by, effect = other.rule.id, each.rule.effect.value
    if is_duplicate:
        kind, message = FindingKind.DUPLICATE, f"says the same as rule {by}"
    elif is_note:
        kind, message = FindingKind.REDUNDANT, f"changes nothing: rule {by} says {effect} there too"
    else:
        kind = FindingKind.SHADOWED
        message = f"never decides: rule {by} is {why}matches whatever it matches"
    return Finding(kind, each.rule.id, f"document.rules[{each.index}]", message, is_note)
