"""Controls: mappings of them, and the receipts that bear on each."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TABLES = """
CREATE TABLE control_mapping (
    tenant_id text NOT NULL,
    mapping_id text NOT NULL,
    framework text NOT NULL,
    control_id text NOT NULL,
    description text NOT NULL,
    filter bytea NOT NULL,
    required_evidence text NOT NULL,
    created_at timestamptz NOT NULL,
    created_by text NOT NULL,
    tagged_size bigint NOT NULL,
    retired_at timestamptz,
    retired_by text NOT NULL,
    CONSTRAINT control_mapping_pkey PRIMARY KEY (tenant_id, mapping_id),
    CONSTRAINT control_mapping_tenant_fkey FOREIGN KEY (tenant_id) REFERENCES tenant (tenant_id)
);
CREATE UNIQUE INDEX control_mapping_active ON control_mapping (tenant_id, framework, control_id)
    WHERE retired_at IS NULL;
CREATE TABLE receipt_control (
    tenant_id text NOT NULL,
    mapping_id text NOT NULL,
    leaf_index bigint NOT NULL,
    recorded_at timestamptz NOT NULL,
    evidence bigint NOT NULL,
    CONSTRAINT receipt_control_pkey PRIMARY KEY (tenant_id, mapping_id, leaf_index)
);
CREATE INDEX receipt_control_time
    ON receipt_control (tenant_id, mapping_id, recorded_at, evidence);
"""

# An index of a search has one value and then the place in the log, or a page cannot be read in
# order: of a tool it lists all operations, of a policy (an id has one version) there is no other.
INDEXES = """
DROP INDEX receipt_tool;
CREATE INDEX receipt_tool ON receipt (tenant_id, tool_id, leaf_index);
DROP INDEX receipt_policy;
CREATE INDEX receipt_policy ON receipt (tenant_id, policy_id, leaf_index) WHERE policy_id <> '';
"""

# Which mappings the follower has to go on with, in all tenants; the application's role never sees
# these together. Those furthest behind come first.
LAGGING = """
CREATE FUNCTION oars_lagging_controls(batch integer)
RETURNS TABLE (tenant_id text, mapping_id text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT m.tenant_id, m.mapping_id
    FROM public.control_mapping AS m JOIN public.log_head AS h ON h.tenant_id = m.tenant_id
    WHERE m.retired_at IS NULL AND m.tagged_size < h.size
    ORDER BY h.size - m.tagged_size DESC
    LIMIT batch
$$;
REVOKE ALL ON FUNCTION oars_lagging_controls FROM PUBLIC;
GRANT EXECUTE ON FUNCTION oars_lagging_controls TO oars_app;
"""

# A tag is never changed, and of a mapping only how far it has got and that it is over.
CHANGEABLE = "tagged_size, retired_at, retired_by"
VISIBLE = "tenant_id = ANY (string_to_array(current_setting('oars.tenants', true), ','))"
REFUSED = {
    "receipt_control": {
        "no_update": "BEFORE UPDATE ON {} FOR EACH ROW",
        "no_delete": "BEFORE DELETE ON {} FOR EACH ROW",
        "no_truncate": "BEFORE TRUNCATE ON {} FOR EACH STATEMENT",
    },
    "control_mapping": {
        "no_delete": "BEFORE DELETE ON {} FOR EACH ROW",
        "no_truncate": "BEFORE TRUNCATE ON {} FOR EACH STATEMENT",
        # Tags do not go back, and who is retired stays so.
        "no_return": "BEFORE UPDATE ON {} FOR EACH ROW WHEN"
        " (NEW.tagged_size < OLD.tagged_size OR OLD.retired_at IS NOT NULL)",
    },
}


def upgrade() -> None:
    connection = op.get_bind()

    def run(script: str) -> None:
        # Without parameters the driver takes several statements and leaves percent signs alone.
        connection.exec_driver_sql(script, execution_options={"no_parameters": True})

    run(TABLES)
    run(INDEXES)
    for table, triggers in REFUSED.items():
        run(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        run(
            f"CREATE POLICY tenant_wall ON {table} TO oars_app"
            f" USING ({VISIBLE}) WITH CHECK ({VISIBLE})"
        )
        run(f"REVOKE ALL ON {table} FROM PUBLIC, oars_app")
        run(f"GRANT SELECT, INSERT ON {table} TO oars_app")
        for name, event in triggers.items():
            run(
                f"CREATE TRIGGER {name} {event.format(table)} EXECUTE FUNCTION oars_refuse_change()"
            )
            run(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}")
    run(f"GRANT UPDATE ({CHANGEABLE}) ON control_mapping TO oars_app")
    run(LAGGING)


def downgrade() -> None:
    raise NotImplementedError("controls are kept: there is no way back")
