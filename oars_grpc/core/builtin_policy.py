"""The policy that a new tenant starts with.

Destructive operations are denied, running code, money, permissions and high risk ask a human, and
reading and ordinary writing at lower risk is allowed. Nothing permits the rest: an operation of
unknown class is denied by default until the tenant's own policy names it. More risk is never
answered more mildly, so that nobody gains by leaving things unsaid.
"""

from oars_grpc.core.policy import Effect, PolicyDocument, Rule, RuleMatch
from oars_grpc.core.risk import RiskTier

BUILTIN_POLICY = PolicyDocument(
    name="builtin",
    description="Deny destructive operations, approve what is consequential or of high risk, allow "
    "other reading and writing.",
    rules=(
        Rule(
            id="deny-destructive",
            description="Deleting, dropping, wiping and their like.",
            effect=Effect.DENY,
            condition='risk.operation_class == "destructive"',
        ),
        Rule(
            id="approve-high-risk",
            description="A human decides on running code, money, permissions, and high risk.",
            effect=Effect.APPROVE,
            condition='risk.operation_class in ["execute", "money", "permission"]'
            ' || (risk.operation_class in ["read", "write"] && risk.tier in ["high", "critical"])',
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
