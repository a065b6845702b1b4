"""The foundation: tenants, keys, policies, actions, approvals, receipts, the log's heads."""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# Roles belong to the whole cluster, and advisory locks to one database: the migration of another
# database may create the role, or grant it, at the same moment.
ROLE = """
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'oars_app') THEN
        BEGIN
            CREATE ROLE oars_app NOLOGIN;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;  -- somebody was faster
        END;
    END IF;
    IF NOT pg_has_role(current_user, 'oars_app', 'MEMBER') THEN
        BEGIN
            GRANT oars_app TO CURRENT_USER;
        EXCEPTION WHEN unique_violation THEN
            NULL;  -- somebody was faster
        END;
    END IF;
END
$$
"""

TABLES = """
CREATE TABLE tenant (
    tenant_id text NOT NULL,
    display_name text NOT NULL,
    settings bytea NOT NULL,
    policy_count bigint NOT NULL,
    created_at timestamptz NOT NULL,
    version bigint NOT NULL,
    CONSTRAINT tenant_pkey PRIMARY KEY (tenant_id),
    -- Row-level security reads a comma-separated list of ids.
    CONSTRAINT tenant_id_format CHECK (tenant_id ~ '^[a-z][a-z0-9_-]{0,63}$')
);
CREATE TABLE signing_key (
    tenant_id text NOT NULL,
    key_id text NOT NULL,
    public_key bytea NOT NULL,
    encrypted_seed bytea NOT NULL,
    state text NOT NULL,
    valid_from timestamptz NOT NULL,
    valid_until timestamptz,
    revoked_at timestamptz,
    revocation_reason text NOT NULL,
    CONSTRAINT signing_key_pkey PRIMARY KEY (tenant_id, key_id),
    CONSTRAINT signing_key_tenant_fkey FOREIGN KEY (tenant_id) REFERENCES tenant (tenant_id)
);
CREATE TABLE policy (
    tenant_id text NOT NULL,
    policy_id text NOT NULL,
    version bigint NOT NULL,
    digest text NOT NULL,
    document bytea NOT NULL,
    created_at timestamptz NOT NULL,
    created_by text NOT NULL,
    CONSTRAINT policy_pkey PRIMARY KEY (tenant_id, policy_id),
    CONSTRAINT policy_version_key UNIQUE (tenant_id, version),
    CONSTRAINT policy_tenant_fkey FOREIGN KEY (tenant_id) REFERENCES tenant (tenant_id)
);
CREATE TABLE policy_publication (
    tenant_id text NOT NULL,
    sequence bigint NOT NULL,
    policy_id text NOT NULL,
    published_at timestamptz NOT NULL,
    published_by text NOT NULL,
    CONSTRAINT policy_publication_pkey PRIMARY KEY (tenant_id, sequence),
    CONSTRAINT policy_publication_policy_fkey FOREIGN KEY (tenant_id, policy_id)
        REFERENCES policy (tenant_id, policy_id)
);
CREATE INDEX policy_publication_policy ON policy_publication (tenant_id, policy_id);
CREATE TABLE action (
    tenant_id text NOT NULL,
    action_id text NOT NULL,
    state text NOT NULL,
    agent_id text NOT NULL,
    user_id text NOT NULL,
    caller_subject text NOT NULL,
    tool_id text NOT NULL,
    operation text NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    expires_at timestamptz,
    version bigint NOT NULL,
    last_sequence bigint NOT NULL,
    last_receipt_digest text NOT NULL,
    approval_id text NOT NULL,
    input_digest text NOT NULL,
    action_digest text NOT NULL,
    output_digest text NOT NULL,
    error text NOT NULL,
    body bytea NOT NULL,
    CONSTRAINT action_pkey PRIMARY KEY (tenant_id, action_id)
);
CREATE INDEX action_state ON action (tenant_id, state, action_id);
CREATE INDEX action_agent ON action (tenant_id, agent_id, action_id);
CREATE INDEX action_caller ON action (tenant_id, caller_subject, action_id);
CREATE INDEX action_due ON action (expires_at, tenant_id, action_id)
    WHERE state IN ('approved', 'approval_required', 'quarantined');
CREATE TABLE action_body (
    tenant_id text NOT NULL,
    action_id text NOT NULL,
    input bytea NOT NULL,
    CONSTRAINT action_body_pkey PRIMARY KEY (tenant_id, action_id)
);
CREATE TABLE approval (
    tenant_id text NOT NULL,
    approval_id text NOT NULL,
    action_id text NOT NULL,
    action_digest text NOT NULL,
    policy_digest text NOT NULL,
    state text NOT NULL,
    required_approvals integer NOT NULL,
    decisions bytea NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    version bigint NOT NULL,
    CONSTRAINT approval_pkey PRIMARY KEY (tenant_id, approval_id)
);
CREATE INDEX approval_state ON approval (tenant_id, state, approval_id);
CREATE TABLE receipt (
    tenant_id text NOT NULL,
    leaf_index bigint NOT NULL,
    receipt_id text NOT NULL,
    action_id text NOT NULL,
    sequence bigint NOT NULL,
    type text NOT NULL,
    key_id text NOT NULL,
    signature bytea NOT NULL,
    receipt_digest text NOT NULL,
    previous_receipt_digest text NOT NULL,
    leaf_hash bytea NOT NULL,
    recorded_at timestamptz NOT NULL,
    CONSTRAINT receipt_pkey PRIMARY KEY (tenant_id, leaf_index),
    CONSTRAINT receipt_id_key UNIQUE (tenant_id, receipt_id),
    CONSTRAINT receipt_chain_key UNIQUE (tenant_id, action_id, sequence)
);
CREATE INDEX receipt_type ON receipt (tenant_id, type, leaf_index);
CREATE TABLE receipt_body (
    tenant_id text NOT NULL,
    leaf_index bigint NOT NULL,
    payload bytea NOT NULL,
    CONSTRAINT receipt_body_pkey PRIMARY KEY (tenant_id, leaf_index)
);
CREATE TABLE log_head (
    tenant_id text NOT NULL,
    size bigint NOT NULL,
    publication bigint NOT NULL,
    CONSTRAINT log_head_pkey PRIMARY KEY (tenant_id),
    CONSTRAINT log_head_tenant_fkey FOREIGN KEY (tenant_id) REFERENCES tenant (tenant_id)
) WITH (fillfactor = 50);
CREATE TABLE idempotency_outcome (
    tenant_id text NOT NULL,
    caller text NOT NULL,
    rpc text NOT NULL,
    key text NOT NULL,
    fingerprint text NOT NULL,
    response bytea NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    CONSTRAINT idempotency_outcome_pkey PRIMARY KEY (tenant_id, caller, rpc, key)
);
CREATE INDEX idempotency_outcome_expiry ON idempotency_outcome (expires_at);
"""

TENANT_TABLES = (
    "tenant",
    "signing_key",
    "policy",
    "policy_publication",
    "action",
    "action_body",
    "approval",
    "receipt",
    "receipt_body",
    "log_head",
    "idempotency_outcome",
)
APPEND_ONLY = ("policy", "policy_publication", "receipt", "receipt_body", "idempotency_outcome")
# What the application's role may change, column by column. Everything else it may only add.
CHANGEABLE = {
    "tenant": "display_name, settings, policy_count, version",
    "signing_key": "state, valid_until, revoked_at, revocation_reason",
    "action": "state, updated_at, expires_at, version, last_sequence, last_receipt_digest,"
    " approval_id, output_digest, error",
    "approval": "state, decisions, version",
    "log_head": "size, publication",
}

# An unset setting is NULL and one that a transaction has left behind is empty: no row for either.
VISIBLE = "tenant_id = ANY (string_to_array(current_setting('oars.tenants', true), ','))"

REFUSAL = """
CREATE FUNCTION oars_refuse_change() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: % refused', TG_TABLE_NAME, TG_OP
        USING ERRCODE = 'restrict_violation';
END
$$
"""
REFUSED = {
    "no_update": "BEFORE UPDATE ON {} FOR EACH ROW",
    "no_delete": "BEFORE DELETE ON {} FOR EACH ROW",
    "no_truncate": "BEFORE TRUNCATE ON {} FOR EACH STATEMENT",
}
# What the purge below removes may go once its time is over.
UNLESS = {("idempotency_outcome", "no_delete"): "WHEN (OLD.expires_at >= clock_timestamp())"}

# Upkeep works on all tenants, whom the application's role never sees together: these two run as
# the owner and give away no more than names, times and a number.
UPKEEP = """
CREATE FUNCTION oars_due_actions(
    cutoff timestamptz, after_expiry timestamptz, after_tenant text, after_action text,
    batch integer
)
RETURNS TABLE (tenant_id text, action_id text, expires_at timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT a.tenant_id, a.action_id, a.expires_at FROM public.action AS a
    WHERE a.state IN ('approved', 'approval_required', 'quarantined') AND a.expires_at <= cutoff
        AND (a.expires_at, a.tenant_id, a.action_id) > (after_expiry, after_tenant, after_action)
    ORDER BY a.expires_at, a.tenant_id, a.action_id
    LIMIT batch
$$;
CREATE FUNCTION oars_purge_outcomes(cutoff timestamptz, batch integer)
RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    removed bigint;
BEGIN
    DELETE FROM public.idempotency_outcome AS o
    USING (
        -- Several replicas may purge at once: each takes rows that no other has taken.
        SELECT e.tenant_id, e.caller, e.rpc, e.key FROM public.idempotency_outcome AS e
        WHERE e.expires_at < least(cutoff, now())
        ORDER BY e.expires_at
        LIMIT batch
        FOR UPDATE SKIP LOCKED
    ) AS expired
    WHERE o.tenant_id = expired.tenant_id AND o.caller = expired.caller
        AND o.rpc = expired.rpc AND o.key = expired.key;
    GET DIAGNOSTICS removed = ROW_COUNT;
    RETURN removed;
END
$$;
REVOKE ALL ON FUNCTION oars_due_actions, oars_purge_outcomes FROM PUBLIC;
GRANT EXECUTE ON FUNCTION oars_due_actions, oars_purge_outcomes TO oars_app;
"""


def upgrade() -> None:
    connection = op.get_bind()

    def run(script: str) -> None:
        # Without parameters the driver takes several statements and leaves percent signs alone.
        connection.exec_driver_sql(script, execution_options={"no_parameters": True})

    run(ROLE)
    run(TABLES)
    for table in TENANT_TABLES:
        run(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        run(
            f"CREATE POLICY tenant_wall ON {table} TO oars_app"
            f" USING ({VISIBLE}) WITH CHECK ({VISIBLE})"
        )
        # Default privileges of the database may have given more than is meant here.
        run(f"REVOKE ALL ON {table} FROM PUBLIC, oars_app")
        run(f"GRANT SELECT, INSERT ON {table} TO oars_app")
    for table, columns in CHANGEABLE.items():
        run(f"GRANT UPDATE ({columns}) ON {table} TO oars_app")
    run(
        "CREATE POLICY every_tenant ON tenant FOR SELECT TO oars_app"
        " USING (current_setting('oars.tenants', true) = '*')"
    )
    run("GRANT SELECT ON alembic_version TO oars_app")
    run(REFUSAL)
    for table in APPEND_ONLY:
        for name, event in REFUSED.items():
            condition = UNLESS.get((table, name), "")
            run(
                f"CREATE TRIGGER {name} {event.format(table)} {condition}"
                " EXECUTE FUNCTION oars_refuse_change()"
            )
            # ALWAYS: also where a session claims to be a replica (session_replication_role).
            run(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}")
    run(UPKEEP)


def downgrade() -> None:
    raise NotImplementedError("receipts are append-only: there is no way back to an empty database")
