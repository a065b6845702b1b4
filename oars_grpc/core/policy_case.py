"""A case of a policy: an action that nobody took, and what the policy must say of it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from oars_grpc.core.action import ActionRequest
from oars_grpc.core.decision import Decision, PolicyReference, decide
from oars_grpc.core.policy import Effect
from oars_grpc.core.policy_document import CompiledPolicy
from oars_grpc.core.risk import RiskConfig, RiskTier


@dataclass(frozen=True, slots=True)
class PolicyCase:
    """What is asked, and what is expected; of what is None, nothing.

    `rules` are exactly the rules that decide, `indeterminate` exactly those that lacked a fact,
    `missing_facts` exactly the facts that they lacked.
    """

    name: str
    request: ActionRequest
    at: datetime
    expect: Effect
    rules: tuple[str, ...] | None = None
    indeterminate: tuple[str, ...] | None = None
    risk_tier: RiskTier | None = None
    missing_facts: tuple[str, ...] | None = None
    evidence: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CaseResult:
    """The decision of a case, and in which ways it is not the expected one."""

    case: PolicyCase
    decision: Decision
    differences: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether all is as expected."""
        return not self.differences


def run_case(case: PolicyCase, policy: CompiledPolicy, risk: RiskConfig) -> CaseResult:
    """Decide a case as the server would, and compare."""
    reference = PolicyReference("", 0, policy.digest)
    decision = decide(case.request, reference, policy, risk, case.at, evidence=case.evidence)
    evaluation = decision.evaluation
    unsure = [
        outcome.rule_id
        for outcome in (*evaluation.matched, *evaluation.skipped)
        if outcome.indeterminate
    ]
    differences = []
    if case.expect is not decision.effect:
        expected, found = case.expect.value.upper(), decision.effect.value.upper()
        differences.append(f"expected {expected}, is {found}")
    if case.risk_tier not in {None, decision.risk.tier}:
        differences.append(
            f"expected risk tier {case.risk_tier}, is {decision.risk.tier} ({decision.risk.score})"
        )
    for what, expected_names, names in (
        ("rules", case.rules, evaluation.deciding),
        ("indeterminate", case.indeterminate, unsure),
        ("missing_facts", case.missing_facts, evaluation.missing_facts),
    ):
        if expected_names is not None and set(expected_names) != set(names):
            differences.append(f"expected {what} {_named(expected_names)}, are {_named(names)}")
    return CaseResult(case, decision, tuple(differences))


def uncovered_rules(policy: CompiledPolicy, results: Iterable[CaseResult]) -> list[str]:
    """The rules of a document that counted in no case, in document order."""
    counted = {
        outcome.rule_id for result in results for outcome in result.decision.evaluation.matched
    }
    return [rule.id for rule in policy.document.rules if rule.id not in counted]


def _named(names: Sequence[str]) -> str:
    return f"[{', '.join(sorted(names))}]"
