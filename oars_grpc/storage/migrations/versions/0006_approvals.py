"""Approvals in stages, what approvers hold, and policies that are put away."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# An approval of before has no body: it is one stage that anybody with the role may answer.
APPROVALS = """
ALTER TABLE approval
    ADD COLUMN caller_subject text NOT NULL DEFAULT '',
    ADD COLUMN escalates_at timestamptz,
    ADD COLUMN body bytea NOT NULL DEFAULT '{}';
ALTER TABLE approval
    ALTER COLUMN caller_subject DROP DEFAULT, ALTER COLUMN body DROP DEFAULT;
CREATE INDEX approval_pending ON approval (tenant_id, action_digest) WHERE state = 'pending';
CREATE INDEX approval_escalation ON approval (escalates_at, tenant_id, approval_id)
    WHERE state = 'pending';
"""

TABLES = """
CREATE TABLE policy_archive (
    tenant_id text NOT NULL, policy_id text NOT NULL,
    archived_at timestamptz NOT NULL, archived_by text NOT NULL,
    CONSTRAINT policy_archive_pkey PRIMARY KEY (tenant_id, policy_id),
    CONSTRAINT policy_archive_policy_fkey FOREIGN KEY (tenant_id, policy_id)
        REFERENCES policy (tenant_id, policy_id)
);
CREATE TABLE second_factor (
    tenant_id text NOT NULL, subject text NOT NULL, encrypted_secret bytea NOT NULL,
    enrolled_at timestamptz NOT NULL, enrolled_by text NOT NULL,
    -- The last time step whose code was used: none at or before it counts again.
    last_step bigint NOT NULL,
    failures bigint NOT NULL, locked_until timestamptz,
    CONSTRAINT second_factor_pkey PRIMARY KEY (tenant_id, subject),
    CONSTRAINT second_factor_tenant_fkey FOREIGN KEY (tenant_id) REFERENCES tenant (tenant_id)
);
CREATE TABLE approver_key (
    tenant_id text NOT NULL, key_id text NOT NULL, subject text NOT NULL,
    public_key bytea NOT NULL, registered_at timestamptz NOT NULL, registered_by text NOT NULL,
    revoked_at timestamptz, revocation_reason text NOT NULL,
    CONSTRAINT approver_key_pkey PRIMARY KEY (tenant_id, key_id),
    CONSTRAINT approver_key_tenant_fkey FOREIGN KEY (tenant_id) REFERENCES tenant (tenant_id)
);
CREATE INDEX approver_key_subject ON approver_key (tenant_id, subject, key_id);
"""

# In all tenants, which the application's role never sees together.
DUE = """
CREATE FUNCTION oars_due_escalations(
    cutoff timestamptz, after_time timestamptz, after_tenant text, after_approval text,
    batch integer
)
RETURNS TABLE (tenant_id text, approval_id text, action_id text, escalates_at timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT a.tenant_id, a.approval_id, a.action_id, a.escalates_at FROM public.approval AS a
    WHERE a.state = 'pending' AND a.escalates_at <= cutoff
        AND (a.escalates_at, a.tenant_id, a.approval_id)
            > (after_time, after_tenant, after_approval)
    ORDER BY a.escalates_at, a.tenant_id, a.approval_id
    LIMIT batch
$$;
REVOKE ALL ON FUNCTION oars_due_escalations FROM PUBLIC;
GRANT EXECUTE ON FUNCTION oars_due_escalations TO oars_app;
"""

VISIBLE = "tenant_id = ANY (string_to_array(current_setting('oars.tenants', true), ','))"
# What of a row may change; a registered key and an archived policy stay what they are.
CHANGEABLE = {
    "policy_archive": "",
    "second_factor": "encrypted_secret, enrolled_at, enrolled_by, last_step, failures,"
    " locked_until",
    "approver_key": "revoked_at, revocation_reason",
}
REFUSED = {
    "policy_archive": {
        "no_update": "BEFORE UPDATE ON {} FOR EACH ROW",
        "no_delete": "BEFORE DELETE ON {} FOR EACH ROW",
        "no_truncate": "BEFORE TRUNCATE ON {} FOR EACH STATEMENT",
    },
    "approver_key": {
        # There is no way back from a revocation.
        "no_return": "BEFORE UPDATE ON {} FOR EACH ROW WHEN (OLD.revoked_at IS NOT NULL)",
        "no_delete": "BEFORE DELETE ON {} FOR EACH ROW",
        "no_truncate": "BEFORE TRUNCATE ON {} FOR EACH STATEMENT",
    },
    "second_factor": {
        # A used code stays used, whatever a program does.
        "no_return": "BEFORE UPDATE ON {} FOR EACH ROW WHEN"
        " (NEW.last_step < OLD.last_step AND NEW.encrypted_secret = OLD.encrypted_secret)",
        "no_truncate": "BEFORE TRUNCATE ON {} FOR EACH STATEMENT",
    },
}


def upgrade() -> None:
    connection = op.get_bind()

    def run(script: str) -> None:
        # Without parameters the driver takes several statements and leaves percent signs alone.
        connection.exec_driver_sql(script, execution_options={"no_parameters": True})

    run(APPROVALS)
    run("GRANT UPDATE (escalates_at, body) ON approval TO oars_app")
    run(TABLES)
    for table, columns in CHANGEABLE.items():
        run(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        run(
            f"CREATE POLICY tenant_wall ON {table} TO oars_app"
            f" USING ({VISIBLE}) WITH CHECK ({VISIBLE})"
        )
        run(f"REVOKE ALL ON {table} FROM PUBLIC, oars_app")
        run(f"GRANT SELECT, INSERT ON {table} TO oars_app")
        if columns:
            run(f"GRANT UPDATE ({columns}) ON {table} TO oars_app")
    run("GRANT DELETE ON second_factor TO oars_app")
    for table, triggers in REFUSED.items():
        for name, event in triggers.items():
            run(
                f"CREATE TRIGGER {name} {event.format(table)} EXECUTE FUNCTION oars_refuse_change()"
            )
            run(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}")
    run(DUE)


def downgrade() -> None:
    raise NotImplementedError("approvals are kept: there is no way back")
