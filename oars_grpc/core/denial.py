"""Why an action is denied, and what would change it: the smallest set of rules that deny it.

Were exactly these rules not in the document, the decision would be `otherwise`; were any of them
left in it, the action would still be denied. With STRICTEST_WINS these are all deny rules that
counted. With FIRST_MATCH they are the rule that decided and the deny rules that would have decided
next, one after the other, up to the first rule that matches and says something else. A deny by
default has none: no rule denies, and what might change it are the facts that allow rules missed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from oars_grpc.core.compiled_rule import RuleOutcome
from oars_grpc.core.evaluation import Evaluation, evaluate
from oars_grpc.core.facts import Facts
from oars_grpc.core.policy import CombiningAlgorithm, Effect
from oars_grpc.core.policy_document import CompiledPolicy


@dataclass(frozen=True, slots=True)
class Denial:
    """The rules that deny and the decision without them.

    Attributes:
        rule_ids: the smallest set that must not count for the action not to be denied by a rule.
        otherwise: what the other rules come to; DENY if none of them permits the action.
        missing_facts: the facts whose absence made any of these rules count, or kept the allow
            rules from counting where nothing else permits the action.
    """

    rule_ids: tuple[str, ...]
    otherwise: Effect
    missing_facts: tuple[str, ...]


def denial_of(policy: CompiledPolicy, facts: Facts, evaluation: Evaluation) -> Denial | None:
    """The denial of an evaluation of these facts by this policy; None where it does not deny."""
    if evaluation.effect is not Effect.DENY:
        return None
    if policy.combining is CombiningAlgorithm.FIRST_MATCH and evaluation.matched:
        return _first_match(policy, facts)
    denying = [outcome for outcome in evaluation.matched if outcome.effect is Effect.DENY]
    others = [outcome for outcome in evaluation.matched if outcome.effect is not Effect.DENY]
    # The strictest comes first.
    otherwise = others[0].effect if others else Effect.DENY
    return _denial(denying, otherwise, evaluation.skipped)


def _first_match(policy: CompiledPolicy, facts: Facts) -> Denial:
    # All rules asked once, in whatever order: the same outcomes, of which the order is known.
    every = evaluate(replace(policy, combining=CombiningAlgorithm.STRICTEST_WINS), facts)
    counted = {outcome.rule_id: outcome for outcome in every.matched}
    denying: list[RuleOutcome] = []
    otherwise: Effect | None = None
    for rule in policy.rules:
        outcome = counted.get(rule.id)
        if outcome is None:
            continue
        if outcome.effect is Effect.DENY:
            denying.append(outcome)
            continue
        if otherwise is None or outcome.effect.strictness > otherwise.strictness:
            otherwise = outcome.effect
        if not outcome.indeterminate:
            break
    return _denial(denying, otherwise or Effect.DENY, every.skipped)


def _denial(
    denying: Sequence[RuleOutcome], otherwise: Effect, skipped: Sequence[RuleOutcome]
) -> Denial:
    unmet = skipped if otherwise is Effect.DENY else ()
    return Denial(
        rule_ids=tuple(sorted(outcome.rule_id for outcome in denying)),
        otherwise=otherwise,
        missing_facts=tuple(sorted({name for o in (*denying, *unmet) for name in o.missing})),
    )
