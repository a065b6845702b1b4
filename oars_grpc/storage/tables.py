"""The tables as SQLAlchemy metadata; `migrations/` builds them, and a test holds the two together.

`tenant_id` leads every primary key, so that the schema can be spread over machines by tenant, and
only btree-comparable plain types occur: row-level security keeps Postgres from using an index
whose operator is not leakproof (enums, jsonb, arrays, numeric).
"""

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    text,
)

APP_ROLE = "oars_app"
# Who may see a row: a comma-separated list of tenant ids, set for one transaction at a time.
TENANTS_SETTING = "oars.tenants"
# The states in which time alone moves an action (`UpkeepStore.due_actions`).
DUE_STATES = ("approved", "approval_required", "quarantined")

metadata = MetaData()


def _text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False)


def _int(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False)


def _bytes(name: str) -> Column[bytes]:
    return Column(name, LargeBinary, nullable=False)


def _time(name: str, *, nullable: bool = False) -> Column[object]:
    return Column(name, DateTime(timezone=True), nullable=nullable)


tenant = Table(
    "tenant",
    metadata,
    _text("tenant_id"),
    _text("display_name"),
    _bytes("settings"),
    _int("policy_count"),
    _time("created_at"),
    _int("version"),
    PrimaryKeyConstraint("tenant_id", name="tenant_pkey"),
)

signing_key = Table(
    "signing_key",
    metadata,
    _text("tenant_id"),
    _text("key_id"),
    _bytes("public_key"),
    _bytes("encrypted_seed"),
    _text("state"),
    _time("valid_from"),
    _time("valid_until", nullable=True),
    _time("revoked_at", nullable=True),
    _text("revocation_reason"),
    PrimaryKeyConstraint("tenant_id", "key_id", name="signing_key_pkey"),
    ForeignKeyConstraint(["tenant_id"], ["tenant.tenant_id"], name="signing_key_tenant_fkey"),
)

policy = Table(
    "policy",
    metadata,
    _text("tenant_id"),
    _text("policy_id"),
    _int("version"),
    _text("digest"),
    _bytes("document"),
    _time("created_at"),
    _text("created_by"),
    PrimaryKeyConstraint("tenant_id", "policy_id", name="policy_pkey"),
    UniqueConstraint("tenant_id", "version", name="policy_version_key"),
    ForeignKeyConstraint(["tenant_id"], ["tenant.tenant_id"], name="policy_tenant_fkey"),
)

# The policy in force is that of the highest sequence; a rollback is one more publication.
policy_publication = Table(
    "policy_publication",
    metadata,
    _text("tenant_id"),
    _int("sequence"),
    _text("policy_id"),
    _time("published_at"),
    _text("published_by"),
    PrimaryKeyConstraint("tenant_id", "sequence", name="policy_publication_pkey"),
    ForeignKeyConstraint(
        ["tenant_id", "policy_id"],
        ["policy.tenant_id", "policy.policy_id"],
        name="policy_publication_policy_fkey",
    ),
    Index("policy_publication_policy", "tenant_id", "policy_id"),
)

# The tables of the hot path have no foreign keys: they are written only under the tenant's
# `log_head` row, and that one has the key.
action = Table(
    "action",
    metadata,
    _text("tenant_id"),
    _text("action_id"),
    _text("state"),
    _text("agent_id"),
    _text("user_id"),
    _text("caller_subject"),
    _text("tool_id"),
    _text("operation"),
    _time("created_at"),
    _time("updated_at"),
    _time("expires_at", nullable=True),
    _int("version"),
    _int("last_sequence"),
    _text("last_receipt_digest"),
    _text("approval_id"),
    _text("input_digest"),
    _text("action_digest"),
    _text("output_digest"),
    _text("error"),
    _bytes("body"),
    PrimaryKeyConstraint("tenant_id", "action_id", name="action_pkey"),
    Index("action_state", "tenant_id", "state", "action_id"),
    Index("action_agent", "tenant_id", "agent_id", "action_id"),
    Index("action_caller", "tenant_id", "caller_subject", "action_id"),
    # The one index that does not begin with the tenant: upkeep looks through all of them.
    Index(
        "action_due",
        "expires_at",
        "tenant_id",
        "action_id",
        postgresql_where=text("state IN ('approved', 'approval_required', 'quarantined')"),
    ),
)

# Apart from `action`, because retention may erase inputs while their digests stay.
action_body = Table(
    "action_body",
    metadata,
    _text("tenant_id"),
    _text("action_id"),
    _bytes("input"),
    PrimaryKeyConstraint("tenant_id", "action_id", name="action_body_pkey"),
)

approval = Table(
    "approval",
    metadata,
    _text("tenant_id"),
    _text("approval_id"),
    _text("action_id"),
    _text("action_digest"),
    _text("policy_digest"),
    _text("state"),
    Column("required_approvals", Integer, nullable=False),
    _bytes("decisions"),
    _time("created_at"),
    _time("expires_at"),
    _int("version"),
    PrimaryKeyConstraint("tenant_id", "approval_id", name="approval_pkey"),
    Index("approval_state", "tenant_id", "state", "approval_id"),
)

receipt = Table(
    "receipt",
    metadata,
    _text("tenant_id"),
    _int("leaf_index"),
    _text("receipt_id"),
    _text("action_id"),
    _int("sequence"),
    _text("type"),
    _text("key_id"),
    _bytes("signature"),
    _text("receipt_digest"),
    _text("previous_receipt_digest"),
    _bytes("leaf_hash"),
    _time("recorded_at"),
    PrimaryKeyConstraint("tenant_id", "leaf_index", name="receipt_pkey"),
    UniqueConstraint("tenant_id", "receipt_id", name="receipt_id_key"),
    UniqueConstraint("tenant_id", "action_id", "sequence", name="receipt_chain_key"),
    Index("receipt_type", "tenant_id", "type", "leaf_index"),
)

# Apart from the hashes, which must stay whatever retention says about payloads.
receipt_body = Table(
    "receipt_body",
    metadata,
    _text("tenant_id"),
    _int("leaf_index"),
    _bytes("payload"),
    PrimaryKeyConstraint("tenant_id", "leaf_index", name="receipt_body_pkey"),
)

# One hot row per tenant: room in its page keeps updates from touching the index. `publication` is
# the highest sequence of `policy_publication`, here so that a commit sees it under its own lock.
log_head = Table(
    "log_head",
    metadata,
    _text("tenant_id"),
    _int("size"),
    _int("publication"),
    PrimaryKeyConstraint("tenant_id", name="log_head_pkey"),
    ForeignKeyConstraint(["tenant_id"], ["tenant.tenant_id"], name="log_head_tenant_fkey"),
    postgresql_with={"fillfactor": "50"},
)

idempotency_outcome = Table(
    "idempotency_outcome",
    metadata,
    _text("tenant_id"),
    _text("caller"),
    _text("rpc"),
    _text("key"),
    _text("fingerprint"),
    _bytes("response"),
    _time("created_at"),
    _time("expires_at"),
    PrimaryKeyConstraint("tenant_id", "caller", "rpc", "key", name="idempotency_outcome_pkey"),
    Index("idempotency_outcome_expiry", "expires_at"),
)
