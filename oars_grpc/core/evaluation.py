"""Deciding an action: the rules of a policy asked about its facts, and their effects combined.

Every rule comes to one of three values. It does not match as soon as one thing it asks about is
definitely otherwise, whatever else is missing. It matches when all it asks is so. Between them it
is indeterminate: a fact is missing, its condition has no value, or asking it failed in a way
nobody foresaw. Indeterminate counts as a match for deny, quarantine and approve, and as no match
for allow; nothing that counts is a deny by default (design §2 promise 3, §5).
"""

from collections.abc import Iterable
from dataclasses import dataclass

from oars_grpc.core.condition import BoundFacts, Condition, ConditionResult, bind
from oars_grpc.core.facts import INPUT, Facts
from oars_grpc.core.policy import CombiningAlgorithm, Effect
from oars_grpc.core.policy_document import CompiledPolicy, CompiledRule


@dataclass(frozen=True, slots=True)
class RuleOutcome:
    """How one rule came out; `missing` and `reason` say why it is indeterminate."""

    rule_id: str
    effect: Effect
    indeterminate: bool = False
    missing: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A decision with all that it rests on.

    Attributes:
        effect: the decision.
        matched: every rule that counted, strictest first, then by id; under FIRST_MATCH the one.
        skipped: every allow rule that is indeterminate and so did not count.
        deciding: the ids among `matched` that carry the decision; empty for a deny by default.
        missing_facts: what any of these rules asked about and did not find.
        facts_read: name and text of the present facts that the asked rules ask about.
        default_deny: nothing permits this, as opposed to a rule forbidding it.
        explanation: all this in one sentence.
    """

    effect: Effect
    matched: tuple[RuleOutcome, ...]
    skipped: tuple[RuleOutcome, ...]
    deciding: tuple[str, ...]
    missing_facts: tuple[str, ...]
    facts_read: tuple[tuple[str, str], ...]
    default_deny: bool
    explanation: str


def evaluate(policy: CompiledPolicy, facts: Facts) -> Evaluation:
    """Decide; the same policy and facts always give the same evaluation."""
    questions = _Questions(policy, facts)
    first_only = policy.combining is CombiningAlgorithm.FIRST_MATCH
    matched: list[RuleOutcome] = []
    skipped: list[RuleOutcome] = []
    asked = policy.asks
    for index, rule in enumerate(policy.rules):
        outcome = questions.ask(rule)
        if outcome is None:
            continue
        if outcome.indeterminate and outcome.effect is Effect.ALLOW:
            skipped.append(outcome)
            continue
        matched.append(outcome)
        if first_only:
            asked = tuple({name: None for r in policy.rules[: index + 1] for name in r.asks})
            break
    matched.sort(key=_strictest_first)
    skipped.sort(key=_strictest_first)
    effect = matched[0].effect if matched else Effect.DENY
    deciding = tuple(outcome.rule_id for outcome in matched if outcome.effect is effect)
    return Evaluation(
        effect=effect,
        matched=tuple(matched),
        skipped=tuple(skipped),
        deciding=deciding,
        missing_facts=tuple(sorted({name for o in (*matched, *skipped) for name in o.missing})),
        facts_read=tuple(_texts(facts, asked)),
        default_deny=not matched,
        explanation=_explain(effect, matched, skipped, deciding),
    )


class _Questions:
    """The facts of one evaluation, each looked up and made ready once for all rules."""

    __slots__ = ("_bound", "_data_types", "_facts", "_policy", "_target", "_values")

    def __init__(self, policy: CompiledPolicy, facts: Facts) -> None:
        self._policy, self._facts = policy, facts
        self._values = facts.values
        self._target = facts.get("folded.target")
        data_types = facts.get("folded.data_types")
        self._data_types = None if data_types is None else frozenset(data_types)
        self._bound: BoundFacts | None = None

    def ask(self, rule: CompiledRule) -> RuleOutcome | None:
        """The rule's outcome, or None when it does not match."""
        try:
            return self._ask(rule)
        # Whatever goes wrong must not let the action through; the receipt names what it was.
        except Exception as error:  # noqa: BLE001 - promise 3: an evaluation error never allows
            reason = f"the rule could not be evaluated ({type(error).__name__})"
            return RuleOutcome(rule.id, rule.effect, indeterminate=True, reason=reason)

    def _ask(self, rule: CompiledRule) -> RuleOutcome | None:
        missing = self._missing_unless_otherwise(rule)
        if missing is None:
            return None
        reasons = [f"{name} is missing" for name in missing]
        if rule.condition is not None:
            result = self._value_of(rule.condition)
            if result.value is False:
                return None
            if result.value is None:
                missing += result.missing
                reasons.append(f"its condition has no value: {result.reason}")
        if not reasons:
            return RuleOutcome(rule.id, rule.effect)
        if self._facts.withheld and any(name.split(".")[0] == INPUT for name in missing):
            reasons.append(self._facts.withheld)
        return RuleOutcome(
            rule.id,
            rule.effect,
            indeterminate=True,
            missing=tuple(sorted(set(missing))),
            reason="; ".join(reasons),
        )

    def _missing_unless_otherwise(self, rule: CompiledRule) -> list[str] | None:
        """What the match asks about and the action lacks; None if anything is definitely otherwise.

        Every field is asked, since a definite no decides whatever else is missing.
        """
        missing: list[str] = []
        for criterion in rule.criteria:
            value = self._values.get(criterion.fact)
            if value is None:
                missing.append(criterion.asks)
            elif value not in criterion.wanted:
                return None
        if rule.target_contains:
            if self._target is None:
                missing.append("resource.target")
            elif not any(part in self._target for part in rule.target_contains):
                return None
        if rule.required_data_types:
            if self._data_types is None:
                missing.append("context.data_types")
            elif not rule.required_data_types <= self._data_types:
                return None
        return missing

    def _value_of(self, condition: Condition) -> ConditionResult:
        if self._bound is None:
            self._bound = bind(self._facts, self._policy.condition_facts)
        if self._bound.units > self._policy.max_units:
            return ConditionResult(None, reason="more data than the policy's conditions may read")
        return condition.evaluate(self._bound)


def _strictest_first(outcome: RuleOutcome) -> tuple[int, str]:
    return -outcome.effect.strictness, outcome.rule_id


def _texts(facts: Facts, names: Iterable[str]) -> Iterable[tuple[str, str]]:
    return ((name, facts.text(name)) for name in sorted(names) if facts.has(name))


_VERBS = {
    Effect.DENY: "Forbidden",
    Effect.QUARANTINE: "Quarantined",
    Effect.APPROVE: "Approval required",
    Effect.ALLOW: "Allowed",
}


def _explain(
    effect: Effect,
    matched: list[RuleOutcome],
    skipped: list[RuleOutcome],
    deciding: tuple[str, ...],
) -> str:
    if matched:
        sentence = f"{_VERBS[effect]} by {', '.join(deciding)}"
        unsure = [o for o in matched if o.effect is effect and o.indeterminate]
        verb = "counts although"
    else:
        sentence, unsure, verb = "Nothing permits this", skipped, "would allow but"
    notes = [f"{outcome.rule_id} {verb} {outcome.reason}" for outcome in unsure]
    return f"{sentence} ({'; '.join(notes)})." if notes else f"{sentence}."
