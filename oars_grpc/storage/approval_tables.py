"""Tables of approvals and of what approvers hold; `migrations/` builds them."""

from sqlalchemy import (
    Column,
    ForeignKeyConstraint,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    text,
)

from oars_grpc.storage.columns import bytes_, int_, metadata, text_, time_

approval = Table(
    "approval",
    metadata,
    text_("tenant_id"),
    text_("approval_id"),
    text_("action_id"),
    text_("action_digest"),
    text_("policy_digest"),
    text_("state"),
    Column("required_approvals", Integer, nullable=False),
    bytes_("decisions"),
    time_("created_at"),
    time_("expires_at"),
    int_("version"),
    text_("caller_subject"),
    # When the stage under way is over its time; NULL where it is not waited for.
    time_("escalates_at", nullable=True),
    # Stages, what was shown, and who may not decide.
    bytes_("body"),
    PrimaryKeyConstraint("tenant_id", "approval_id", name="approval_pkey"),
    Index("approval_state", "tenant_id", "state", "approval_id"),
    Index(
        "approval_pending",
        "tenant_id",
        "action_digest",
        postgresql_where=text("state = 'pending'"),
    ),
    # As of `action_due`, upkeep looks through all tenants.
    Index(
        "approval_escalation",
        "escalates_at",
        "tenant_id",
        "approval_id",
        postgresql_where=text("state = 'pending'"),
    ),
)

# The secrets of one-time codes (RFC 6238), encrypted like signing keys; `last_step` is the last
# time step whose code was used.
second_factor = Table(
    "second_factor",
    metadata,
    text_("tenant_id"),
    text_("subject"),
    bytes_("encrypted_secret"),
    time_("enrolled_at"),
    text_("enrolled_by"),
    int_("last_step"),
    int_("failures"),
    time_("locked_until", nullable=True),
    PrimaryKeyConstraint("tenant_id", "subject", name="second_factor_pkey"),
    ForeignKeyConstraint(["tenant_id"], ["tenant.tenant_id"], name="second_factor_tenant_fkey"),
)

# Keys with which approvers sign what they grant; their private halves never come here.
approver_key = Table(
    "approver_key",
    metadata,
    text_("tenant_id"),
    text_("key_id"),
    text_("subject"),
    bytes_("public_key"),
    time_("registered_at"),
    text_("registered_by"),
    time_("revoked_at", nullable=True),
    text_("revocation_reason"),
    PrimaryKeyConstraint("tenant_id", "key_id", name="approver_key_pkey"),
    ForeignKeyConstraint(["tenant_id"], ["tenant.tenant_id"], name="approver_key_tenant_fkey"),
    Index("approver_key_subject", "tenant_id", "subject", "key_id"),
)
