"""Approvals that others wait for already: of two that ask the same, the second joins the first."""

from collections.abc import Sequence

from oars_grpc.core.approval import Approval
from oars_grpc.storage.binary import moments, texts
from oars_grpc.storage.prepared import Session, statement

# Tenant, digest of the action, digest of the policy: what makes two approvals ask the same.
PendingKey = tuple[str, ...]

_FIND_PENDING = statement(
    "find pending",
    "SELECT wanted.tenant_id, wanted.action_digest, wanted.policy_digest"
    " FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[])"
    " AS wanted (tenant_id, action_digest, policy_digest, opened_at), LATERAL ("
    "SELECT FROM approval AS a WHERE a.tenant_id = wanted.tenant_id"
    " AND a.action_digest = wanted.action_digest AND a.policy_digest = wanted.policy_digest"
    " AND a.state = 'pending' AND a.expires_at > wanted.opened_at LIMIT 1) AS found",
)


def pending_key(approval: Approval) -> PendingKey:
    """What an approval asks."""
    return (approval.tenant_id, approval.action_digest, approval.policy_digest)


def find_pending(session: Session, approvals: Sequence[Approval]) -> set[PendingKey]:
    """Those of the approvals, which are to be opened, that another one asks the same as."""
    columns = zip(*map(pending_key, approvals), strict=True)
    opened_at = moments([approval.created_at for approval in approvals])
    return set(session.rows(_FIND_PENDING, [*map(texts, columns), opened_at]))
