"""The policy that a new tenant starts with.

Destructive operations are denied, high and critical risk asks a human, and reading and ordinary
writing at lower risk is allowed. Nothing permits the rest: an operation of unknown class is denied
by default until the tenant's own policy names it.
"""

from oars_grpc.core.policy import Effect, PolicyDocument, Rule, RuleMatch
from oars_grpc.core.risk import RiskTier

BUILTIN_POLICY = PolicyDocument(
    name="builtin",
    description="Deny destructive operations, approve high and critical risk, allow the rest of "
    "the operations listed.",
    rules=(
        Rule(
            id="deny-destructive",
            description="Deleting, dropping, wiping and their like.",
            effect=Effect.DENY,
            condition='risk.operation_class == "destructive"',
        ),
        Rule(
            id="approve-high-risk",
            description="A human decides on high and critical risk.",
            effect=Effect.APPROVE,
            match=RuleMatch(risk_tiers=(RiskTier.HIGH, RiskTier.CRITICAL)),
        ),
        Rule(
            id="allow-read-and-write",
            description="Reading and ordinary writing at low and medium risk.",
            effect=Effect.ALLOW,
            match=RuleMatch(risk_tiers=(RiskTier.LOW, RiskTier.MEDIUM)),
            condition='risk.operation_class in ["read", "write"]',
        ),
    ),
)
