"""What receipts are searched by, read from their payloads.

The payload is the truth; storage keeps these terms beside it, and the check of a log derives them
anew.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

_NOTHING: Mapping[str, Any] = {}


@dataclass(frozen=True, slots=True)
class ReceiptTerms:
    """The terms of one receipt; empty where its payload does not say."""

    agent_id: str
    user_id: str
    caller_subject: str
    tool_id: str
    operation: str
    decision: str
    policy_id: str
    policy_version: int
    risk_tier: str
    rule_ids: tuple[str, ...]


def terms_of(payload: bytes) -> ReceiptTerms:
    """The terms of a payload that `parse_receipt` accepts."""
    return ReceiptTerms(**terms_by_name(orjson.loads(payload)["predicate"]))


def terms_by_name(predicate: Mapping[str, Any]) -> dict[str, Any]:
    """The terms of a predicate, by the names of `ReceiptTerms`."""
    resource = predicate.get("resource", _NOTHING)
    decision = predicate.get("decision", _NOTHING)
    policy = predicate.get("policy", _NOTHING)
    return {
        "agent_id": predicate.get("agentId", ""),
        "user_id": predicate.get("userId", ""),
        "caller_subject": predicate.get("caller", _NOTHING).get("subject", ""),
        "tool_id": resource.get("toolId", ""),
        "operation": resource.get("operation", ""),
        "decision": decision.get("effect", ""),
        "policy_id": policy.get("policyId", ""),
        "policy_version": policy.get("version", 0),
        "risk_tier": decision.get("risk", _NOTHING).get("tier", ""),
        "rule_ids": tuple(sorted({rule["ruleId"] for rule in decision.get("rules", ())})),
    }
