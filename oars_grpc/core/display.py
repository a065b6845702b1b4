"""What an approver is shown before deciding, and the digest that the decision is bound to.

The display is a function of the action as it was asked and of the decision of policy: who asks for
what with which input and evidence, how risky that is, and why people have to decide. It is
canonical JSON (RFC 8785), so that whoever shows it can be held to it.
"""

from oars_grpc.core.action import Action
from oars_grpc.core.canonical import canonical_json, sha256_hex
from oars_grpc.core.decision import Decision
from oars_grpc.core.receipt import caller_json, format_time

DISPLAY_VERSION = 1


def approval_display(action: Action, decision: Decision) -> bytes:
    """What is shown; the action must have its input.

    Raises:
        ValueError: the input, or the detail of the evidence, was not read.
    """
    request, evaluation, risk = action.request, decision.evaluation, decision.risk
    if request.input is None:
        raise ValueError("the input of this action was not read")
    context = request.context
    evidence = {} if request.evidence is None else {"evidence": request.evidence.shown()}
    return canonical_json(
        {
            **evidence,
            "version": DISPLAY_VERSION,
            "tenantId": request.tenant_id,
            "actionId": action.action_id,
            "actionDigest": action.action_digest,
            "requestedAt": format_time(action.created_at),
            "agentId": request.agent_id,
            "userId": request.user_id,
            "caller": caller_json(request.caller),
            "delegationChain": list(request.delegation_chain),
            "resource": {
                "toolId": request.resource.tool_id,
                "operation": request.resource.operation,
                "target": request.resource.target,
            },
            "context": {
                "environment": context.environment,
                "dataTypes": None if context.data_types is None else list(context.data_types),
                "attributes": dict(context.attributes),
            },
            "execution": request.execution.value,
            "inputDigest": action.input_digest,
            "input": request.input,
            "policy": decision.policy.to_json(),
            "decidingRules": list(evaluation.deciding),
            "explanation": evaluation.explanation,
            "missingFacts": list(evaluation.missing_facts),
            "risk": {
                "score": risk.score,
                "tier": risk.tier.value,
                "signals": [
                    {"name": signal.name, "weight": signal.weight, "detail": signal.detail}
                    for signal in risk.signals
                ],
            },
        }
    )


def display_digest(display: bytes) -> str:
    """Lower-case hex SHA-256."""
    return sha256_hex(display)
