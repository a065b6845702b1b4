"""What policy said about an action, and why: the record that receipts and answers are made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from oars_grpc.core.action import ActionRequest
from oars_grpc.core.canonical import sha256_hex, statement_json
from oars_grpc.core.compiled_rule import RuleOutcome
from oars_grpc.core.denial import Denial, denial_of
from oars_grpc.core.effective_context import effective_context
from oars_grpc.core.evaluation import Evaluation, evaluate
from oars_grpc.core.facts import action_facts
from oars_grpc.core.operation_class import OperationClass
from oars_grpc.core.policy import Effect
from oars_grpc.core.policy_document import CompiledPolicy
from oars_grpc.core.risk import (
    RiskAssessment,
    RiskConfig,
    RiskSignal,
    RiskTier,
    assess_risk,
)


@dataclass(frozen=True, slots=True)
class PolicyReference:
    """Which document decided."""

    policy_id: str
    version: int
    digest: str

    def to_json(self) -> dict[str, Any]:
        """Restricted canonical JSON."""
        return {"policyId": self.policy_id, "version": self.version, "digest": self.digest}


@dataclass(frozen=True, slots=True)
class Decision:
    """A policy decision with everything that went into it.

    `denial` is there where the action is denied, but for decisions of before it was recorded.
    """

    policy: PolicyReference
    evaluation: Evaluation
    risk: RiskAssessment
    denial: Denial | None = None

    @property
    def effect(self) -> Effect:
        """What policy said."""
        return self.evaluation.effect


def decide(
    request: ActionRequest,
    reference: PolicyReference,
    policy: CompiledPolicy,
    risk_config: RiskConfig,
    now: datetime,
    *,
    input_bytes: bytes | None = None,
    evidence: Mapping[str, float] | None = None,
) -> Decision:
    """Assess the risk, evaluate the policy. Pure; never raises for what a request may hold.

    `input_bytes` spares a second canonical encoding to a caller that has made one. `evidence` gives
    the facts `evidence.*`, each from 0 to 1, in place of those of the request.
    """
    if evidence is None and request.evidence is not None:
        evidence = request.evidence.facts()
    encoded = request.input_bytes() if input_bytes is None else input_bytes
    context = effective_context(request)
    risk = assess_risk(request, risk_config, evidence, input_bytes=encoded, context=context)
    facts = action_facts(request, risk, now, evidence, input_bytes=encoded, context=context)
    evaluation = evaluate(policy, facts)
    return Decision(reference, evaluation, risk, denial_of(policy, facts, evaluation))


# Receipts are leaves of a log whose entries hold at most 65,535 bytes (C2SP tlog-tiles), and a
# policy may have a thousand rules that match. Bytes of each list that a receipt repeats:
_RULES_BYTES, _FACTS_BYTES, _SIGNALS_BYTES, _NAMES_BYTES = 4_096, 4_096, 4_096, 1_024
# A record of no more is carried whole: whatever its lists are, they take less together.
_WHOLE_BYTES = 2_048
_MAXIMUM_TEXT, _EXPLANATION = 256, 1024


def decision_for_receipt(decision: Decision) -> dict[str, Any]:
    """The decision as receipts carry it: lists cut to their bounds, and the digest of the whole.

    `decisionDigest` is SHA-256 over the canonical form of the whole record, which storage keeps;
    `omitted` counts the entries that were cut, and is empty in any ordinary decision.
    """
    whole = decision_to_json(decision)
    encoded = statement_json(whole)
    digest = sha256_hex(encoded)
    if len(encoded) <= _WHOLE_BYTES and all(
        len(value) <= _MAXIMUM_TEXT for _, value in decision.evaluation.facts_read
    ):
        whole["omitted"] = {}
        whole["explanation"] = whole["explanation"][:_EXPLANATION]
        whole["decisionDigest"] = digest
        return whole
    facts = [{"name": fact["name"], "value": _short(fact["value"])} for fact in whole["facts"]]
    bounds = {
        "rules": (whole["rules"], _RULES_BYTES),
        "skippedRules": (whole["skippedRules"], _NAMES_BYTES),
        "decidingRules": (whole["decidingRules"], _NAMES_BYTES),
        "missingFacts": (whole["missingFacts"], _NAMES_BYTES),
        "facts": (facts, _FACTS_BYTES),
        "signals": (whole["risk"]["signals"], _SIGNALS_BYTES),
    }
    kept: dict[str, Any] = {
        name: first_within(entries, limit) for name, (entries, limit) in bounds.items()
    }
    omitted = {
        name: len(entries) - len(kept[name])
        for name, (entries, _) in bounds.items()
        if len(entries) > len(kept[name])
    }
    kept["risk"] = {**whole["risk"], "signals": kept.pop("signals")}
    denial = whole.get("denial")
    if denial is not None:
        kept["denial"], cut = _short_denial(denial)
        omitted |= cut
    return {
        **whole,
        **kept,
        "explanation": whole["explanation"][:_EXPLANATION],
        "omitted": omitted,
        "decisionDigest": digest,
    }


def _short_denial(denial: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, int]]:
    """A denial within its bounds, and how many entries of it were cut."""
    kept, cut = dict(denial), {}
    for name, counted in (("ruleIds", "denialRules"), ("missingFacts", "denialMissingFacts")):
        kept[name] = first_within(denial[name], _NAMES_BYTES)
        if len(kept[name]) < len(denial[name]):
            cut[counted] = len(denial[name]) - len(kept[name])
    return kept, cut


def first_within(entries: Sequence[Any], limit: int) -> list[Any]:
    """The first entries that together take at most `limit` bytes."""
    kept, size = [], 0
    for entry in entries:
        size += len(statement_json(entry)) + 1
        if size > limit:
            break
        kept.append(entry)
    return kept


def _short(value: str) -> str:
    """A fact's text, or the digest of a long one: the receipt has it elsewhere, or no business."""
    if len(value) <= _MAXIMUM_TEXT:
        return value
    return f"sha256:{sha256_hex(value.encode())}"


def decision_to_json(decision: Decision) -> dict[str, Any]:
    """Restricted canonical JSON of the whole: what storage keeps."""
    evaluation, risk, denial = decision.evaluation, decision.risk, decision.denial
    record: dict[str, Any] = {
        "policy": decision.policy.to_json(),
        "effect": evaluation.effect.value,
        "rules": [_rule_to_json(rule) for rule in evaluation.matched],
        "skippedRules": [_rule_to_json(rule) for rule in evaluation.skipped],
        "decidingRules": list(evaluation.deciding),
        "missingFacts": list(evaluation.missing_facts),
        "facts": [{"name": name, "value": value} for name, value in evaluation.facts_read],
        "defaultDeny": evaluation.default_deny,
        "explanation": evaluation.explanation,
        "risk": {
            "score": risk.score,
            "tier": risk.tier.value,
            "operationClass": risk.operation_class.value,
            "signals": [
                {"name": signal.name, "weight": signal.weight, "detail": signal.detail}
                for signal in risk.signals
            ],
        },
    }
    if denial is not None:
        record["denial"] = {
            "ruleIds": list(denial.rule_ids),
            "otherwise": denial.otherwise.value,
            "missingFacts": list(denial.missing_facts),
        }
    return record


def decision_from_json(value: Mapping[str, Any]) -> Decision:
    """The inverse of `decision_to_json`."""
    policy, risk, denial = value["policy"], value["risk"], value.get("denial")
    return Decision(
        policy=PolicyReference(policy["policyId"], policy["version"], policy["digest"]),
        evaluation=Evaluation(
            effect=Effect(value["effect"]),
            matched=tuple(_rule_from_json(rule) for rule in value["rules"]),
            skipped=tuple(_rule_from_json(rule) for rule in value["skippedRules"]),
            deciding=tuple(value["decidingRules"]),
            missing_facts=tuple(value["missingFacts"]),
            facts_read=tuple((fact["name"], fact["value"]) for fact in value["facts"]),
            default_deny=value["defaultDeny"],
            explanation=value["explanation"],
        ),
        risk=RiskAssessment(
            score=risk["score"],
            tier=RiskTier(risk["tier"]),
            operation_class=OperationClass(risk["operationClass"]),
            signals=tuple(
                RiskSignal(signal["name"], signal["weight"], signal["detail"])
                for signal in risk["signals"]
            ),
        ),
        denial=None
        if denial is None
        else Denial(
            rule_ids=tuple(denial["ruleIds"]),
            otherwise=Effect(denial["otherwise"]),
            missing_facts=tuple(denial["missingFacts"]),
        ),
    )


def _rule_to_json(rule: RuleOutcome) -> dict[str, Any]:
    return {
        "ruleId": rule.rule_id,
        "effect": rule.effect.value,
        "indeterminate": rule.indeterminate,
        "missingFacts": list(rule.missing),
        "reason": rule.reason,
    }


def _rule_from_json(value: Mapping[str, Any]) -> RuleOutcome:
    return RuleOutcome(
        rule_id=value["ruleId"],
        effect=Effect(value["effect"]),
        indeterminate=value["indeterminate"],
        missing=tuple(value["missingFacts"]),
        reason=value["reason"],
    )
