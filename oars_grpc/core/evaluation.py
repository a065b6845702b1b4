"""Deciding an action: the rules of a policy asked about its facts, and their effects combined.

Every rule comes to one of three values. It does not match as soon as one thing it asks about is
definitely otherwise, whatever else is missing. It matches when all it asks is so. Between them it
is indeterminate: a fact is missing, its condition has no value, or asking it failed in a way
nobody foresaw. Indeterminate counts as a match for deny, quarantine and approve, and as no match
for allow; nothing that counts is a deny by default (design §2 promise 3, §5).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from oars_grpc.core.absorbing_list import DEFINITELY_FALSE, DEFINITELY_TRUE, WITHOUT_VALUE
from oars_grpc.core.compiled_rule import CompiledRule, RuleOutcome
from oars_grpc.core.condition import BoundFacts, Condition, ConditionResult, bind
from oars_grpc.core.condition_batch import ConditionBatch
from oars_grpc.core.disguise import Disguise, disguise_of
from oars_grpc.core.facts import INPUT, Facts
from oars_grpc.core.policy import CombiningAlgorithm, Effect
from oars_grpc.core.policy_document import CompiledPolicy
from oars_grpc.core.rule_index import members


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A decision with all that it rests on.

    Attributes:
        effect: the decision.
        matched: every rule that counted, strictest first, then by id; under FIRST_MATCH the first
            that matches, and the indeterminate ones before it that might have been the first.
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
    first_only = policy.combining is CombiningAlgorithm.FIRST_MATCH
    matched: dict[int, RuleOutcome] = {}
    skipped: dict[int, RuleOutcome] = {}
    last_asked = len(policy.rules)
    disguise = disguise_of(policy.known_names, facts)
    outcomes = (
        _Questions(policy, facts).outcomes()
        if disguise is None
        else _outcomes_in_doubt(policy, disguise)
    )
    for position, outcome in outcomes:
        if outcome.indeterminate and outcome.effect is Effect.ALLOW:
            skipped[position] = outcome
            continue
        matched[position] = outcome
        # Behind an indeterminate rule the first that really matches may be stricter.
        if first_only and (not outcome.indeterminate or outcome.effect is Effect.DENY):
            last_asked = position
            break
    return _combined(
        _strictest_first(policy, matched),
        _strictest_first(policy, skipped),
        _read(policy, facts, last_asked),
    )


def _outcomes_in_doubt(
    policy: CompiledPolicy, disguise: Disguise
) -> Iterator[tuple[int, RuleOutcome]]:
    """As `_Questions.outcomes`, of an action that may be taken for another."""
    plain, seen = _Questions(policy, disguise.plain), _Questions(policy, disguise.seen)
    for position, rule in enumerate(policy.rules):
        reader = plain if disguise.facts_for(rule) is disguise.plain else seen
        outcome = disguise.doubt(rule, plain.ask(rule), reader.ask(disguise.as_read(rule)))
        if outcome is not None:
            yield position, outcome


def _combined(
    matched: Sequence[RuleOutcome],
    skipped: Sequence[RuleOutcome],
    facts_read: Sequence[tuple[str, str]],
) -> Evaluation:
    effect = matched[0].effect if matched else Effect.DENY
    deciding = tuple([outcome.rule_id for outcome in matched if outcome.effect is effect])
    unsure = [outcome for outcome in matched if outcome.indeterminate]
    in_doubt = [*unsure, *skipped]
    missing = sorted({name for each in in_doubt for name in each.missing}) if in_doubt else ()
    return Evaluation(
        effect=effect,
        matched=tuple(matched),
        skipped=tuple(skipped),
        deciding=deciding,
        missing_facts=tuple(missing),
        facts_read=tuple(facts_read),
        default_deny=not matched,
        explanation=_explain(effect, unsure, skipped, deciding),
    )


def _strictest_first(policy: CompiledPolicy, outcomes: dict[int, RuleOutcome]) -> list[RuleOutcome]:
    if len(outcomes) < 2:
        return list(outcomes.values())
    return [outcomes[position] for position in sorted(outcomes, key=policy.plan.ranks.__getitem__)]


def _read(policy: CompiledPolicy, facts: Facts, last_asked: int) -> list[tuple[str, str]]:
    """Name and text of the present facts that the asked rules ask about."""
    return [
        (name, facts.text(name))
        for name, first in policy.plan.asks
        if first <= last_asked and facts.has(name)
    ]


class _Questions:
    """The facts of one evaluation, each looked up and made ready once for all rules.

    `ask` is what a rule means. `outcomes` spares it for the rules of which the plan's index and
    batches can tell as much with less work; a property test holds the two together.
    """

    __slots__ = (
        "_answers",
        "_bound",
        "_data_types",
        "_facts",
        "_policy",
        "_results",
        "_target",
        "_values",
    )

    def __init__(self, policy: CompiledPolicy, facts: Facts) -> None:
        self._policy, self._facts = policy, facts
        self._values = facts.values
        self._target = facts.get("folded.target")
        data_types = facts.get("folded.data_types")
        self._data_types = None if data_types is None else frozenset(data_types)
        self._bound: BoundFacts | None = None
        self._results: dict[str, ConditionResult] = {}
        # By slot; not known before a batch tells. A rule without a condition has the last one.
        self._answers = [WITHOUT_VALUE] * policy.plan.conditions + [DEFINITELY_TRUE]

    def outcomes(self) -> Iterator[tuple[int, RuleOutcome]]:
        """The position and outcome of each rule that does not definitely fail to match."""
        plan, rules = self._policy.plan, self._policy.rules
        answers, slots = self._answers, plan.slots
        try:
            possible, unsure = plan.index.narrow(self._facts)
        except TypeError:  # a fact of a wrong type: it fails the rules that ask about it, below
            for position, rule in enumerate(rules):
                outcome = self.ask(rule)
                if outcome is not None:
                    yield position, outcome
            return
        missing_some = frozenset(members(unsure, 0, len(rules)))
        for segment in plan.segments:
            for batch, asking in segment.batches:
                self._answer(batch, (possible & asking).bit_count())
            for position in members(possible, segment.start, segment.end):
                answer = answers[slots[position]]
                if answer == DEFINITELY_FALSE:
                    continue
                if answer == DEFINITELY_TRUE and position not in missing_some:
                    yield position, plan.outcomes[position]
                    continue
                outcome = self.ask(rules[position])
                if outcome is not None:
                    yield position, outcome

    def _answer(self, batch: ConditionBatch, asked: int) -> None:
        """Find out about the conditions of a batch, if enough rules ask for any of them."""
        if not batch.worth_asking(asked):
            return
        try:
            bound = self._bind()
        except Exception:  # noqa: BLE001 - `ask` meets it again, and each rule that does counts
            return
        if bound.units > self._policy.max_units:
            return
        answers = batch.answers(bound)
        if answers is not None:
            self._answers[batch.first : batch.end] = answers

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
        reasons = [f"{name} is missing" for name in missing] if missing else []
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
        required = rule.required_data_types
        if required and self._data_types is not None:
            return missing if required <= self._data_types else None
        if required and not required <= self._facts.known_data_types:
            missing.append("context.data_types")
        return missing

    def _value_of(self, condition: Condition) -> ConditionResult:
        known = self._results.get(condition.text)
        if known is not None:
            return known
        bound = self._bind()
        if bound.units > self._policy.max_units:
            return ConditionResult(None, reason="more data than the policy's conditions may read")
        result = self._results[condition.text] = condition.evaluate(bound)
        return result

    def _bind(self) -> BoundFacts:
        if self._bound is None:
            self._bound = bind(self._facts, self._policy.condition_facts)
        return self._bound


_VERBS = {
    Effect.DENY: "Forbidden",
    Effect.QUARANTINE: "Quarantined",
    Effect.APPROVE: "Approval required",
    Effect.ALLOW: "Allowed",
}


def _explain(
    effect: Effect,
    unsure: Sequence[RuleOutcome],
    skipped: Sequence[RuleOutcome],
    deciding: tuple[str, ...],
) -> str:
    if deciding:
        sentence = f"{_VERBS[effect]} by {', '.join(deciding)}"
        if not unsure:
            return f"{sentence}."
        told, verb = [o for o in unsure if o.effect is effect], "counts although"
    else:
        sentence, told, verb = "Nothing permits this", list(skipped), "would allow but"
    notes = [f"{outcome.rule_id} {verb} {outcome.reason}" for outcome in told]
    return f"{sentence} ({'; '.join(notes)})." if notes else f"{sentence}."
