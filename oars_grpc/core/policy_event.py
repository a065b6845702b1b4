"""What the events in a tenant's log tell of its policies; `core/event.py` writes them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from oars_grpc.core.canonical import statement_json
from oars_grpc.core.decision import Decision
from oars_grpc.core.receipt import format_time
from oars_grpc.core.stored import StoredPolicy

POLICY_CREATED = "policy.created"
POLICY_PUBLISHED = "policy.published"
POLICY_ROLLED_BACK = "policy.rolled_back"
POLICY_ARCHIVED = "policy.archived"
POLICY_SIMULATED = "policy.simulated"
# A policy may have a thousand rules that decide, and an event has to fit the log.
_RULES_BYTES = 12_288


def created_event(policy: StoredPolicy, name: str, rules: int) -> dict[str, Any]:
    """A draft was stored."""
    return {**policy.reference().to_json(), "name": name, "rules": rules}


def published_event(policy: StoredPolicy, replaced: StoredPolicy | None) -> dict[str, Any]:
    """A policy decides from here on, instead of another."""
    return {
        **policy.reference().to_json(),
        "replaced": None if replaced is None else replaced.reference().to_json(),
    }


def archived_event(policy: StoredPolicy) -> dict[str, Any]:
    """A policy was put away."""
    return policy.reference().to_json()


def simulated_event(
    decision: Decision, action_digest: str, at: datetime, hypothetical_caller: str
) -> dict[str, Any]:
    """A document was tried on a hypothetical action, of which only the digest is told.

    `policyId` is empty and `version` 0 for a document that is not stored.
    """
    evaluation = decision.evaluation
    deciding = _within(evaluation.deciding)
    return {
        **decision.policy.to_json(),
        "effect": evaluation.effect.value,
        "defaultDeny": evaluation.default_deny,
        "decidingRules": deciding,
        "omittedRules": len(evaluation.deciding) - len(deciding),
        "riskScore": decision.risk.score,
        "riskTier": decision.risk.tier.value,
        "actionDigest": action_digest,
        "decidedAt": format_time(at),
        "hypotheticalCaller": hypothetical_caller,
    }


def _within(names: Sequence[str]) -> list[str]:
    kept, size = [], 0
    for name in names:
        size += len(statement_json(name)) + 1
        if size > _RULES_BYTES:
            break
        kept.append(name)
    return kept
