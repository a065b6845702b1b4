"""Policies and decisions: messages ↔ core values."""

from collections.abc import Mapping, Sequence

from oars_grpc.core.compiled_rule import RuleOutcome
from oars_grpc.core.condition import MAX_LENGTH
from oars_grpc.core.decision import Decision
from oars_grpc.core.policy import (
    CombiningAlgorithm,
    Effect,
    PolicyDocument,
    Rule,
    RuleMatch,
    TimeWindowUtc,
)
from oars_grpc.core.policy_document import (
    MAX_DESCRIPTION_LENGTH,
    MAX_NAME_LENGTH,
    MAX_RULE_ID_LENGTH,
    MAX_RULES,
    MAX_VALUE_LENGTH,
    MAX_VALUES,
)
from oars_grpc.core.risk import RiskTier
from oars_grpc.core.stored import PolicyState, StoredPolicy
from oars_grpc.generated.oars.v1 import policy_pb2
from oars_grpc.transport.reading import Reader, inverse
from oars_grpc.transport.writing import timestamp

EFFECTS: Mapping[int, Effect] = {
    policy_pb2.EFFECT_ALLOW: Effect.ALLOW,
    policy_pb2.EFFECT_DENY: Effect.DENY,
    policy_pb2.EFFECT_APPROVE: Effect.APPROVE,
    policy_pb2.EFFECT_QUARANTINE: Effect.QUARANTINE,
}
COMBINING: Mapping[int, CombiningAlgorithm] = {
    policy_pb2.COMBINING_ALGORITHM_STRICTEST_WINS: CombiningAlgorithm.STRICTEST_WINS,
    policy_pb2.COMBINING_ALGORITHM_FIRST_MATCH: CombiningAlgorithm.FIRST_MATCH,
}
TIERS: Mapping[int, RiskTier] = {
    policy_pb2.RISK_TIER_LOW: RiskTier.LOW,
    policy_pb2.RISK_TIER_MEDIUM: RiskTier.MEDIUM,
    policy_pb2.RISK_TIER_HIGH: RiskTier.HIGH,
    policy_pb2.RISK_TIER_CRITICAL: RiskTier.CRITICAL,
}
STATES: Mapping[int, PolicyState] = {
    policy_pb2.POLICY_STATE_DRAFT: PolicyState.DRAFT,
    policy_pb2.POLICY_STATE_PUBLISHED: PolicyState.PUBLISHED,
    policy_pb2.POLICY_STATE_SUPERSEDED: PolicyState.SUPERSEDED,
    policy_pb2.POLICY_STATE_ARCHIVED: PolicyState.ARCHIVED,
}
_EFFECT_NUMBERS = inverse(EFFECTS)
_COMBINING_NUMBERS = inverse(COMBINING)
_TIER_NUMBERS = inverse(TIERS)
_STATE_NUMBERS = inverse(STATES)


def read_document(message: policy_pb2.PolicyDocument) -> PolicyDocument:
    """The document of a message; what it means is checked by `validate_document`.

    Raises:
        InvalidArgument: naming every field of an unknown value or over its length.
    """
    reader = Reader()
    if len(message.rules) > MAX_RULES:
        reader.wrong("document.rules", f"has more than {MAX_RULES} entries")
        reader.done()
    document = PolicyDocument(
        name=reader.text(message.name, "document.name", MAX_NAME_LENGTH, required=True),
        description=reader.text(
            message.description, "document.description", MAX_DESCRIPTION_LENGTH, lines=True
        ),
        combining=reader.one_of(
            message.combining_algorithm,
            "document.combining_algorithm",
            COMBINING,
            CombiningAlgorithm.STRICTEST_WINS,
        )
        or CombiningAlgorithm.STRICTEST_WINS,
        rules=tuple(
            _read_rule(reader, rule, f"document.rules[{position}]")
            for position, rule in enumerate(message.rules)
        ),
    )
    reader.done()
    return document


def _read_rule(reader: Reader, message: policy_pb2.Rule, field: str) -> Rule:
    return Rule(
        id=reader.text(message.id, f"{field}.id", MAX_RULE_ID_LENGTH, required=True),
        # A missing effect is a violation; DENY stands in until `done` refuses the request.
        effect=reader.one_of(message.effect, f"{field}.effect", EFFECTS) or Effect.DENY,
        match=_read_match(reader, message.match, f"{field}.match"),
        condition=reader.text(message.condition, f"{field}.condition", MAX_LENGTH, lines=True),
        workflow_id=message.workflow_id,
        priority=message.priority,
        description=reader.text(
            message.description, f"{field}.description", MAX_DESCRIPTION_LENGTH, lines=True
        ),
    )


def _read_match(reader: Reader, message: policy_pb2.RuleMatch, field: str) -> RuleMatch:
    def texts(values: Sequence[str], name: str) -> tuple[str, ...]:
        return reader.texts(values, f"{field}.{name}", MAX_VALUES, MAX_VALUE_LENGTH)

    window = message.time_window_utc if message.HasField("time_window_utc") else None
    tiers = [
        reader.one_of(tier, f"{field}.risk_tiers[{position}]", TIERS)
        for position, tier in enumerate(message.risk_tiers)
    ]
    return RuleMatch(
        tool_ids=texts(message.tool_ids, "tool_ids"),
        operations=texts(message.operations, "operations"),
        target_contains=texts(message.target_contains, "target_contains"),
        risk_tiers=tuple(tier for tier in tiers if tier is not None),
        environments=texts(message.environments, "environments"),
        required_data_types=texts(message.required_data_types, "required_data_types"),
        time_window_utc=TimeWindowUtc(window.start_hour, window.end_hour) if window else None,
        agent_ids=texts(message.agent_ids, "agent_ids"),
        user_ids=texts(message.user_ids, "user_ids"),
    )


def write_document(document: PolicyDocument) -> policy_pb2.PolicyDocument:
    """The message of a document."""
    return policy_pb2.PolicyDocument(
        name=document.name,
        description=document.description,
        combining_algorithm=_COMBINING_NUMBERS[document.combining],
        rules=[_write_rule(rule) for rule in document.rules],
    )


def _write_rule(rule: Rule) -> policy_pb2.Rule:
    match = rule.match
    window = match.time_window_utc
    return policy_pb2.Rule(
        id=rule.id,
        description=rule.description,
        priority=rule.priority,
        effect=_EFFECT_NUMBERS[rule.effect],
        condition=rule.condition,
        workflow_id=rule.workflow_id,
        match=policy_pb2.RuleMatch(
            tool_ids=match.tool_ids,
            operations=match.operations,
            target_contains=match.target_contains,
            risk_tiers=[_TIER_NUMBERS[tier] for tier in match.risk_tiers],
            environments=match.environments,
            required_data_types=match.required_data_types,
            time_window_utc=policy_pb2.TimeWindowUtc(
                start_hour=window.start_hour, end_hour=window.end_hour
            )
            if window
            else None,
            agent_ids=match.agent_ids,
            user_ids=match.user_ids,
        ),
    )


def write_policy(policy: StoredPolicy) -> policy_pb2.Policy:
    """The message of a stored policy, with its document if that was read."""
    return policy_pb2.Policy(
        policy_id=policy.policy_id,
        tenant_id=policy.tenant_id,
        version=policy.version,
        digest=policy.digest,
        state=_STATE_NUMBERS[policy.state],
        document=write_document(policy.document) if policy.document else None,
        created_at=timestamp(policy.created_at),
        created_by=policy.created_by,
        archived_at=timestamp(policy.archived_at) if policy.archived_at else None,
        archived_by=policy.archived_by,
    )


def write_decision(decision: Decision) -> policy_pb2.Decision:
    """The message of a decision: the rules that counted, then the allow rules that could not."""
    message = policy_pb2.Decision()
    fill_decision(message, decision)
    return message


def fill_decision(message: policy_pb2.Decision, decision: Decision) -> None:
    """As `write_decision`, in place, which spares an answer to a submission the copy."""
    evaluation, risk = decision.evaluation, decision.risk
    message.effect = _EFFECT_NUMBERS[evaluation.effect]
    message.policy_id = decision.policy.policy_id
    message.policy_version = decision.policy.version
    message.policy_digest = decision.policy.digest
    deciding = frozenset(evaluation.deciding)
    for rule in evaluation.matched:
        _fill_outcome(message.rules.add(), rule, deciding=rule.rule_id in deciding)
    for rule in evaluation.skipped:
        _fill_outcome(message.rules.add(), rule, deciding=False)
    message.missing_facts.extend(evaluation.missing_facts)
    for name, value in evaluation.facts_read:
        fact = message.facts.add()
        fact.name = name
        fact.value = value
    message.default_deny = evaluation.default_deny
    message.explanation = evaluation.explanation
    message.risk.score = risk.score
    message.risk.tier = _TIER_NUMBERS[risk.tier]
    for signal in risk.signals:
        written = message.risk.signals.add()
        written.name = signal.name
        written.weight = signal.weight
        written.detail = signal.detail
    message.risk.operation_class = risk.operation_class.value
    denial = decision.denial
    if denial is not None:
        message.denial.rule_ids.extend(denial.rule_ids)
        message.denial.otherwise = _EFFECT_NUMBERS[denial.otherwise]
        message.denial.missing_facts.extend(denial.missing_facts)


def _fill_outcome(message: policy_pb2.RuleOutcome, rule: RuleOutcome, *, deciding: bool) -> None:
    message.rule_id = rule.rule_id
    message.effect = _EFFECT_NUMBERS[rule.effect]
    message.indeterminate = rule.indeterminate
    message.missing_facts.extend(rule.missing)
    message.reason = rule.reason
    message.deciding = deciding
