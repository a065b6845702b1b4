"""The tables as SQLAlchemy metadata; `migrations/` builds them, and a test holds the two together.

`tenant_id` leads every primary key, so that the schema can be spread over machines by tenant, and
only btree-comparable plain types occur: row-level security keeps Postgres from using an index
whose operator is not leakproof (enums, jsonb, arrays, numeric).
"""

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKeyConstraint,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    TextClause,
    UniqueConstraint,
    text,
)

from oars_grpc.storage import approval_tables, control_tables, lattice_tables  # noqa: F401 - complete the metadata
from oars_grpc.storage.columns import bytes_, int_, metadata, text_, time_

APP_ROLE = "oars_app"
# Who may see a row: a comma-separated list of tenant ids, set for one transaction at a time.
TENANTS_SETTING = "oars.tenants"
# The states in which time alone moves an action (`UpkeepStore.due_actions`).
DUE_STATES = ("approved", "approval_required", "quarantined")

tenant = Table(
    "tenant",
    metadata,
    text_("tenant_id"),
    text_("display_name"),
    bytes_("settings"),
    int_("policy_count"),
    time_("created_at"),
    int_("version"),
    PrimaryKeyConstraint("tenant_id", name="tenant_pkey"),
)

signing_key = Table(
    "signing_key",
    metadata,
    text_("tenant_id"),
    text_("key_id"),
    bytes_("public_key"),
    bytes_("encrypted_seed"),
    text_("state"),
    time_("valid_from"),
    time_("valid_until", nullable=True),
    time_("revoked_at", nullable=True),
    text_("revocation_reason"),
    # `receipt` or `checkpoint`: what the key signs.
    text_("purpose"),
    Column("trusted_log_size", BigInteger, nullable=True),
    PrimaryKeyConstraint("tenant_id", "key_id", name="signing_key_pkey"),
    ForeignKeyConstraint(["tenant_id"], ["tenant.tenant_id"], name="signing_key_tenant_fkey"),
)

policy = Table(
    "policy",
    metadata,
    text_("tenant_id"),
    text_("policy_id"),
    int_("version"),
    text_("digest"),
    bytes_("document"),
    time_("created_at"),
    text_("created_by"),
    PrimaryKeyConstraint("tenant_id", "policy_id", name="policy_pkey"),
    UniqueConstraint("tenant_id", "version", name="policy_version_key"),
    ForeignKeyConstraint(["tenant_id"], ["tenant.tenant_id"], name="policy_tenant_fkey"),
)

# The policy in force is that of the highest sequence; a rollback is one more publication.
policy_publication = Table(
    "policy_publication",
    metadata,
    text_("tenant_id"),
    int_("sequence"),
    text_("policy_id"),
    time_("published_at"),
    text_("published_by"),
    PrimaryKeyConstraint("tenant_id", "sequence", name="policy_publication_pkey"),
    ForeignKeyConstraint(
        ["tenant_id", "policy_id"],
        ["policy.tenant_id", "policy.policy_id"],
        name="policy_publication_policy_fkey",
    ),
    Index("policy_publication_policy", "tenant_id", "policy_id"),
)

# Policies that are put away; a row of `policy` never changes.
policy_archive = Table(
    "policy_archive",
    metadata,
    text_("tenant_id"),
    text_("policy_id"),
    time_("archived_at"),
    text_("archived_by"),
    PrimaryKeyConstraint("tenant_id", "policy_id", name="policy_archive_pkey"),
    ForeignKeyConstraint(
        ["tenant_id", "policy_id"],
        ["policy.tenant_id", "policy.policy_id"],
        name="policy_archive_policy_fkey",
    ),
)

# The tables of the hot path have no foreign keys: they are written only under the tenant's
# `log_head` row, and that one has the key.
action = Table(
    "action",
    metadata,
    text_("tenant_id"),
    text_("action_id"),
    text_("state"),
    text_("agent_id"),
    text_("user_id"),
    text_("caller_subject"),
    text_("tool_id"),
    text_("operation"),
    time_("created_at"),
    time_("updated_at"),
    time_("expires_at", nullable=True),
    int_("version"),
    int_("last_sequence"),
    text_("last_receipt_digest"),
    text_("approval_id"),
    text_("input_digest"),
    text_("action_digest"),
    text_("output_digest"),
    text_("error"),
    bytes_("body"),
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

# Apart from `action`, because retention may erase inputs and evidence while their digests stay.
action_body = Table(
    "action_body",
    metadata,
    text_("tenant_id"),
    text_("action_id"),
    bytes_("input"),
    # The detail of the action's evidence (`core/action_evidence.py`), empty where it has none.
    bytes_("evidence"),
    PrimaryKeyConstraint("tenant_id", "action_id", name="action_body_pkey"),
)


def _said(column: str) -> TextClause:
    """Where a column has something to say: of many rows it has nothing."""
    return text(f"{column} <> ''")


receipt = Table(
    "receipt",
    metadata,
    text_("tenant_id"),
    int_("leaf_index"),
    text_("receipt_id"),
    text_("action_id"),
    int_("sequence"),
    text_("type"),
    text_("key_id"),
    bytes_("signature"),
    text_("receipt_digest"),
    text_("previous_receipt_digest"),
    bytes_("leaf_hash"),
    time_("recorded_at"),
    # Read from the payload (`core/receipt_terms.py`), for search; empty where it has none.
    text_("agent_id"),
    text_("user_id"),
    text_("caller_subject"),
    text_("tool_id"),
    text_("operation"),
    text_("decision"),
    text_("policy_id"),
    int_("policy_version"),
    text_("risk_tier"),
    PrimaryKeyConstraint("tenant_id", "leaf_index", name="receipt_pkey"),
    UniqueConstraint("tenant_id", "receipt_id", name="receipt_id_key"),
    UniqueConstraint("tenant_id", "action_id", "sequence", name="receipt_chain_key"),
    # Every index of a search ends with the place in the log: a page is read in order, and stops.
    Index("receipt_type", "tenant_id", "type", "leaf_index"),
    Index("receipt_time", "tenant_id", "recorded_at", "leaf_index"),
    Index("receipt_agent", "tenant_id", "agent_id", "leaf_index"),
    Index("receipt_user", "tenant_id", "user_id", "leaf_index", postgresql_where=_said("user_id")),
    Index("receipt_caller", "tenant_id", "caller_subject", "leaf_index"),
    Index("receipt_tool", "tenant_id", "tool_id", "leaf_index"),
    Index("receipt_operation", "tenant_id", "operation", "leaf_index"),
    Index(
        "receipt_decision",
        "tenant_id",
        "decision",
        "leaf_index",
        postgresql_where=_said("decision"),
    ),
    Index(
        "receipt_policy",
        "tenant_id",
        "policy_id",
        "leaf_index",
        postgresql_where=_said("policy_id"),
    ),
    Index(
        "receipt_tier", "tenant_id", "risk_tier", "leaf_index", postgresql_where=_said("risk_tier")
    ),
)

# The rules that a decision's receipt names, one row each.
receipt_rule = Table(
    "receipt_rule",
    metadata,
    text_("tenant_id"),
    text_("rule_id"),
    int_("leaf_index"),
    PrimaryKeyConstraint("tenant_id", "rule_id", "leaf_index", name="receipt_rule_pkey"),
)

# Apart from the hashes, which must stay whatever retention says about payloads.
receipt_body = Table(
    "receipt_body",
    metadata,
    text_("tenant_id"),
    int_("leaf_index"),
    bytes_("payload"),
    PrimaryKeyConstraint("tenant_id", "leaf_index", name="receipt_body_pkey"),
)

# One hot row per tenant: room in its page keeps updates from touching the index. `publication` is
# the highest sequence of `policy_publication`. `revision` rises with every change of what decisions
# rest on (tenant, published policy, keys), here so that a commit sees it under its own lock.
log_head = Table(
    "log_head",
    metadata,
    text_("tenant_id"),
    int_("size"),
    int_("publication"),
    int_("revision"),
    # Roots of the full subtrees of the Merkle tree, largest first, 32 bytes each.
    bytes_("frontier"),
    PrimaryKeyConstraint("tenant_id", name="log_head_pkey"),
    ForeignKeyConstraint(["tenant_id"], ["tenant.tenant_id"], name="log_head_tenant_fkey"),
    postgresql_with={"fillfactor": "50"},
)

# Roots of full subtrees of 256, 256^2 … leaves: level 1 is a tile of leaf hashes, level 2 one of
# those. Level 0 is the column `leaf_hash` of the receipts.
log_node = Table(
    "log_node",
    metadata,
    text_("tenant_id"),
    Column("level", Integer, nullable=False),
    int_("position"),
    bytes_("hash"),
    PrimaryKeyConstraint("tenant_id", "level", "position", name="log_node_pkey"),
)

idempotency_outcome = Table(
    "idempotency_outcome",
    metadata,
    text_("tenant_id"),
    text_("caller"),
    text_("rpc"),
    text_("key"),
    text_("fingerprint"),
    bytes_("response"),
    time_("created_at"),
    time_("expires_at"),
    PrimaryKeyConstraint("tenant_id", "caller", "rpc", "key", name="idempotency_outcome_pkey"),
    Index("idempotency_outcome_expiry", "expires_at"),
)
