"""Tables of lattices; `migrations/versions/0007_lattices.py` builds them.

    lattice ── generation ──< part >── chunk         operation: the building of a lattice

The numbers of a lattice are a generation of parts, each a chunk that is named by its digest: equal
chunks of a tenant are stored once. A change writes the parts of a new generation beside the old one
and then, in one transaction, makes it the current one. What is not current is swept after a while,
so that who is reading the old one may finish.
"""

from sqlalchemy import ForeignKeyConstraint, Index, PrimaryKeyConstraint, Table, text

from oars_grpc.storage.columns import bytes_, int_, metadata, text_, time_

lattice = Table(
    "lattice",
    metadata,
    text_("tenant_id"),
    text_("lattice_id"),
    text_("display_name"),
    text_("state"),
    text_("generation"),
    int_("anchors"),
    int_("dimension"),
    int_("version"),
    time_("created_at"),
    text_("created_by"),
    time_("updated_at"),
    bytes_("body"),
    PrimaryKeyConstraint("tenant_id", "lattice_id", name="lattice_pkey"),
    ForeignKeyConstraint(["tenant_id"], ["tenant.tenant_id"], name="lattice_tenant_fkey"),
)

lattice_generation = Table(
    "lattice_generation",
    metadata,
    text_("tenant_id"),
    text_("generation"),
    # `open` while it is written, `current`, or `past`.
    text_("state"),
    time_("touched_at"),
    PrimaryKeyConstraint("tenant_id", "generation", name="lattice_generation_pkey"),
    ForeignKeyConstraint(
        ["tenant_id"], ["tenant.tenant_id"], name="lattice_generation_tenant_fkey"
    ),
    # The sweep looks through all tenants.
    Index(
        "lattice_generation_stale",
        "touched_at",
        "tenant_id",
        "generation",
        postgresql_where=text("state <> 'current'"),
    ),
)

lattice_chunk = Table(
    "lattice_chunk",
    metadata,
    text_("tenant_id"),
    # Lower-case hex SHA-256 over the bytes before compression.
    text_("digest"),
    bytes_("data"),
    time_("used_at"),
    PrimaryKeyConstraint("tenant_id", "digest", name="lattice_chunk_pkey"),
)

lattice_part = Table(
    "lattice_part",
    metadata,
    text_("tenant_id"),
    text_("generation"),
    # `anchors`, `gates`, `neighbors` or `cosines`.
    text_("kind"),
    int_("position"),
    text_("digest"),
    PrimaryKeyConstraint("tenant_id", "generation", "kind", "position", name="lattice_part_pkey"),
    ForeignKeyConstraint(
        ["tenant_id", "generation"],
        ["lattice_generation.tenant_id", "lattice_generation.generation"],
        name="lattice_part_generation_fkey",
    ),
    ForeignKeyConstraint(
        ["tenant_id", "digest"],
        ["lattice_chunk.tenant_id", "lattice_chunk.digest"],
        name="lattice_part_chunk_fkey",
    ),
    Index("lattice_part_digest", "tenant_id", "digest"),
)

lattice_operation = Table(
    "lattice_operation",
    metadata,
    text_("tenant_id"),
    text_("operation_id"),
    text_("lattice_id"),
    text_("state"),
    int_("progress_ppm"),
    int_("attempts"),
    int_("cancel_requested"),
    time_("created_at"),
    text_("created_by"),
    time_("updated_at"),
    # Whoever works on it, and until when the others leave it alone.
    text_("holder"),
    time_("lease_until"),
    int_("error_code"),
    text_("error"),
    PrimaryKeyConstraint("tenant_id", "operation_id", name="lattice_operation_pkey"),
    ForeignKeyConstraint(["tenant_id"], ["tenant.tenant_id"], name="lattice_operation_tenant_fkey"),
    Index(
        "lattice_operation_due",
        "lease_until",
        "tenant_id",
        "operation_id",
        postgresql_where=text("state IN ('pending', 'running')"),
    ),
)
