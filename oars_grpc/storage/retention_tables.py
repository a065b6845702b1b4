"""Tables of retention and legal holds; `migrations/versions/0004_retention.py` builds them."""

from sqlalchemy import ForeignKeyConstraint, Index, PrimaryKeyConstraint, Table, text

from oars_grpc.storage.columns import int_, metadata, text_, time_

# The receipts whose payload is erased, and the event that says so. Only `oars_erase` adds rows.
erasure = Table(
    "erasure",
    metadata,
    text_("tenant_id"),
    int_("leaf_index"),
    time_("erased_at"),
    text_("event_receipt_id"),
    PrimaryKeyConstraint("tenant_id", "leaf_index", name="erasure_pkey"),
    # Deferred: the event is appended last, so that the head of the log is locked briefly.
    ForeignKeyConstraint(
        ["tenant_id", "event_receipt_id"],
        ["receipt.tenant_id", "receipt.receipt_id"],
        name="erasure_event_fkey",
        deferrable=True,
        initially="DEFERRED",
    ),
)

legal_hold = Table(
    "legal_hold",
    metadata,
    text_("tenant_id"),
    text_("hold_id"),
    text_("name"),
    # The scope: what is empty or NULL does not restrict.
    text_("action_id"),
    text_("agent_id"),
    text_("user_id"),
    text_("caller_subject"),
    text_("tool_id"),
    text_("operation"),
    time_("recorded_from", nullable=True),
    time_("recorded_until", nullable=True),
    PrimaryKeyConstraint("tenant_id", "hold_id", name="legal_hold_pkey"),
    ForeignKeyConstraint(["tenant_id"], ["tenant.tenant_id"], name="legal_hold_tenant_fkey"),
)

# A hold ends with the step `released`; a trigger sees to it that two admins took part.
legal_hold_step = Table(
    "legal_hold_step",
    metadata,
    text_("tenant_id"),
    text_("hold_id"),
    int_("sequence"),
    text_("kind"),
    text_("subject"),
    text_("fingerprint_sha256"),
    text_("service_account_id"),
    time_("taken_at"),
    text_("reason"),
    text_("receipt_id"),
    PrimaryKeyConstraint("tenant_id", "hold_id", "sequence", name="legal_hold_step_pkey"),
    ForeignKeyConstraint(
        ["tenant_id", "hold_id"],
        ["legal_hold.tenant_id", "legal_hold.hold_id"],
        name="legal_hold_step_hold_fkey",
    ),
    ForeignKeyConstraint(
        ["tenant_id", "receipt_id"],
        ["receipt.tenant_id", "receipt.receipt_id"],
        name="legal_hold_step_event_fkey",
        deferrable=True,
        initially="DEFERRED",
    ),
    Index(
        "legal_hold_release_key",
        "tenant_id",
        "hold_id",
        unique=True,
        postgresql_where=text("kind = 'released'"),
    ),
)
