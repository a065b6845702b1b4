"""Counts what a replay comes upon, decision by decision, in constant memory."""

from collections import Counter

from oars_grpc.core.evaluation import Evaluation
from oars_grpc.core.policy import Effect
from oars_grpc.core.policy_document import CompiledPolicy
from oars_grpc.core.replay import Replayed, Unreplayable
from oars_grpc.core.replay_report import (
    EXAMPLE_RULES,
    NEWLY,
    NOT_REPLAYABLE,
    Example,
    ReplayedDraft,
    ReplayedRange,
    ReplayReport,
    RuleTally,
)


class ReplayTally:
    """What has been counted so far."""

    def __init__(self, draft: CompiledPolicy, example_limit: int) -> None:
        self._draft = draft
        self._example_limit = example_limit
        self._transitions: Counter[tuple[Effect, Effect]] = Counter()
        self._unreplayable: Counter[Unreplayable] = Counter()
        self._counted: Counter[str] = Counter()
        self._indeterminate: Counter[str] = Counter()
        self._deciding: Counter[str] = Counter()
        self._examples: dict[str, list[Example]] = {}
        self.decisions = 0
        self.changed = 0

    def add(self, replayed: Replayed) -> None:
        """Count one decision; they come in the order of the log."""
        self.decisions += 1
        evaluation, recorded = replayed.evaluation, replayed.recorded
        if evaluation is None or recorded is None:
            # A decision without an evaluation has a reason.
            reason = replayed.reason or Unreplayable.UNKNOWN_FORMAT
            self._unreplayable[reason] += 1
            self._keep(NOT_REPLAYABLE, replayed, None, reason)
            return
        self._transitions[recorded, evaluation.effect] += 1
        for outcome in evaluation.matched:
            self._counted[outcome.rule_id] += 1
            if outcome.indeterminate:
                self._indeterminate[outcome.rule_id] += 1
        for rule_id in evaluation.deciding:
            self._deciding[rule_id] += 1
        if evaluation.effect is not recorded:
            self.changed += 1
            self._keep(NEWLY[evaluation.effect], replayed, evaluation, None)

    def _keep(
        self,
        kind: str,
        replayed: Replayed,
        evaluation: Evaluation | None,
        reason: Unreplayable | None,
    ) -> None:
        kept = self._examples.setdefault(kind, [])
        if len(kept) >= self._example_limit:
            return
        rules = () if evaluation is None else evaluation.deciding
        kept.append(
            Example(
                leaf_index=replayed.leaf_index,
                receipt_id=replayed.receipt_id,
                action_id=replayed.action_id,
                recorded=replayed.recorded,
                draft=None if evaluation is None else evaluation.effect,
                rules=rules[:EXAMPLE_RULES],
                more_rules=len(rules[EXAMPLE_RULES:]),
                reason=reason,
            )
        )

    def report(
        self, tenant_id: str, policy_id: str, range_: ReplayedRange, erased_leaves: int
    ) -> ReplayReport:
        """What it all came to."""
        return ReplayReport(
            tenant_id=tenant_id,
            range=range_,
            erased_leaves=erased_leaves,
            draft=ReplayedDraft(policy_id, self._draft.digest, self._draft.asks),
            transitions=dict(self._transitions),
            unreplayable=dict(self._unreplayable),
            rules=tuple(
                RuleTally(
                    rule.id,
                    rule.effect,
                    self._counted[rule.id],
                    self._indeterminate[rule.id],
                    self._deciding[rule.id],
                )
                for rule in self._draft.document.rules
            ),
            example_limit=self._example_limit,
            examples={kind: tuple(kept) for kind, kept in self._examples.items()},
        )
