"""Tables of controls; `migrations/versions/0003_controls.py` builds them."""

from sqlalchemy import (
    ForeignKeyConstraint,
    Index,
    PrimaryKeyConstraint,
    Table,
    text,
)

from oars_grpc.storage.columns import bytes_, int_, metadata, text_, time_

control_mapping = Table(
    "control_mapping",
    metadata,
    text_("tenant_id"),
    text_("mapping_id"),
    text_("framework"),
    text_("control_id"),
    text_("description"),
    bytes_("filter"),
    # Names of evidence types, with commas between them.
    text_("required_evidence"),
    time_("created_at"),
    text_("created_by"),
    # Receipts below this place in the log have been looked at.
    int_("tagged_size"),
    time_("retired_at", nullable=True),
    text_("retired_by"),
    PrimaryKeyConstraint("tenant_id", "mapping_id", name="control_mapping_pkey"),
    ForeignKeyConstraint(["tenant_id"], ["tenant.tenant_id"], name="control_mapping_tenant_fkey"),
    # One mapping of a control at a time.
    Index(
        "control_mapping_active",
        "tenant_id",
        "framework",
        "control_id",
        unique=True,
        postgresql_where=text("retired_at IS NULL"),
    ),
)

# The receipts that the filter of a mapping picks, one row each: `evidence` has a bit for each type
# of evidence (`storage/controls.py`), none where the receipt is activity and no evidence.
receipt_control = Table(
    "receipt_control",
    metadata,
    text_("tenant_id"),
    text_("mapping_id"),
    int_("leaf_index"),
    time_("recorded_at"),
    int_("evidence"),
    PrimaryKeyConstraint("tenant_id", "mapping_id", "leaf_index", name="receipt_control_pkey"),
    # Holds all that a report reads.
    Index("receipt_control_time", "tenant_id", "mapping_id", "recorded_at", "evidence"),
)
