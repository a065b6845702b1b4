"""Retention and legal holds: what was erased, what must not be, and who let go of it."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

TABLES = """
CREATE TABLE erasure (
    tenant_id text NOT NULL, leaf_index bigint NOT NULL,
    erased_at timestamptz NOT NULL, event_receipt_id text NOT NULL,
    CONSTRAINT erasure_pkey PRIMARY KEY (tenant_id, leaf_index),
    -- Deferred: the event is appended last, so that the head of the log is locked briefly.
    CONSTRAINT erasure_event_fkey FOREIGN KEY (tenant_id, event_receipt_id)
        REFERENCES receipt (tenant_id, receipt_id) DEFERRABLE INITIALLY DEFERRED
);
CREATE TABLE legal_hold (
    tenant_id text NOT NULL, hold_id text NOT NULL, name text NOT NULL,
    -- The scope: what is empty or NULL does not restrict.
    action_id text NOT NULL, agent_id text NOT NULL, user_id text NOT NULL,
    caller_subject text NOT NULL, tool_id text NOT NULL, operation text NOT NULL,
    recorded_from timestamptz, recorded_until timestamptz,
    CONSTRAINT legal_hold_pkey PRIMARY KEY (tenant_id, hold_id),
    CONSTRAINT legal_hold_tenant_fkey FOREIGN KEY (tenant_id) REFERENCES tenant (tenant_id)
);
CREATE TABLE legal_hold_step (
    tenant_id text NOT NULL, hold_id text NOT NULL, sequence bigint NOT NULL, kind text NOT NULL,
    subject text NOT NULL, fingerprint_sha256 text NOT NULL, service_account_id text NOT NULL,
    taken_at timestamptz NOT NULL, reason text NOT NULL, receipt_id text NOT NULL,
    CONSTRAINT legal_hold_step_pkey PRIMARY KEY (tenant_id, hold_id, sequence),
    CONSTRAINT legal_hold_step_hold_fkey FOREIGN KEY (tenant_id, hold_id)
        REFERENCES legal_hold (tenant_id, hold_id),
    CONSTRAINT legal_hold_step_event_fkey FOREIGN KEY (tenant_id, receipt_id)
        REFERENCES receipt (tenant_id, receipt_id) DEFERRABLE INITIALLY DEFERRED
);
CREATE UNIQUE INDEX legal_hold_release_key ON legal_hold_step (tenant_id, hold_id)
    WHERE kind = 'released';
"""

QUESTIONS = """
-- Erasures and holds of a tenant come one after the other: both begin here.
CREATE FUNCTION oars_lock_tenant(of_tenant text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM FROM public.tenant WHERE tenant_id = of_tenant FOR NO KEY UPDATE;
END
$$;
-- Those of the actions that have a receipt under a hold: they are kept whole.
CREATE FUNCTION oars_held(of_tenant text, actions text[]) RETURNS SETOF text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH hold AS MATERIALIZED (
        SELECT * FROM public.legal_hold AS h
        WHERE h.tenant_id = of_tenant AND NOT EXISTS (
            SELECT FROM public.legal_hold_step AS s
            WHERE s.tenant_id = h.tenant_id AND s.hold_id = h.hold_id AND s.kind = 'released'
        )
    )
    SELECT r.action_id FROM public.receipt AS r
    WHERE r.tenant_id = of_tenant AND r.action_id = ANY (actions) AND EXISTS (
        SELECT FROM hold AS h
        WHERE h.action_id IN ('', r.action_id)
            AND h.agent_id IN ('', r.agent_id)
            AND h.user_id IN ('', r.user_id)
            AND h.caller_subject IN ('', r.caller_subject)
            AND h.tool_id IN ('', r.tool_id)
            AND h.operation IN ('', r.operation)
            AND (h.recorded_from IS NULL OR r.recorded_at >= h.recorded_from)
            AND (h.recorded_until IS NULL OR r.recorded_at < h.recorded_until)
    )
$$;
CREATE FUNCTION oars_check_not_held(of_tenant text, actions text[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM public.oars_lock_tenant(of_tenant);
    IF EXISTS (SELECT public.oars_held(of_tenant, actions)) THEN
        RAISE EXCEPTION 'an action of tenant % is under legal hold', of_tenant
            USING ERRCODE = 'restrict_violation';
    END IF;
END
$$;
-- What a tenant keeps ends here, by the database's own clock; NULL where it keeps all for good.
CREATE FUNCTION oars_retention_cutoff(of_tenant text) RETURNS timestamptz
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT now() - make_interval(
        days => nullif((convert_from(settings, 'UTF8')::json ->> 'retentionDays')::integer, 0)
    ) FROM public.tenant WHERE tenant_id = of_tenant
$$;
-- Whether an action is finished, and the last of its receipts older than the cutoff.
CREATE FUNCTION oars_is_past(of_tenant text, of_action text, cutoff timestamptz) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (
        SELECT FROM public.action
        WHERE tenant_id = of_tenant AND action_id = of_action
            AND state IN ('denied', 'executed', 'failed', 'expired', 'canceled')
    ) AND NOT EXISTS (
        SELECT FROM public.receipt
        WHERE tenant_id = of_tenant AND action_id = of_action
            AND (recorded_at >= cutoff) IS NOT FALSE
    )
$$;
"""

# The triggers hold for everybody, the owner included.
TRIGGERS = """
-- Once for a statement, over the rows that it `changed`: holds are matched to all of them at once.
CREATE FUNCTION oars_check_erasure() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (
        SELECT FROM changed AS c
        LEFT JOIN public.receipt AS r ON r.tenant_id = c.tenant_id AND r.leaf_index = c.leaf_index
        WHERE coalesce(r.action_id, '') = ''
    ) THEN
        RAISE EXCEPTION 'only receipts of actions are erased' USING ERRCODE = 'restrict_violation';
    END IF;
    PERFORM public.oars_check_not_held(r.tenant_id, array_agg(DISTINCT r.action_id))
    FROM changed AS c
    JOIN public.receipt AS r ON r.tenant_id = c.tenant_id AND r.leaf_index = c.leaf_index
    GROUP BY r.tenant_id;
    RETURN NULL;
END
$$;
CREATE FUNCTION oars_check_payload_deletion() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (
        SELECT FROM changed AS c WHERE NOT EXISTS (
            SELECT FROM public.erasure AS e
            WHERE e.tenant_id = c.tenant_id AND e.leaf_index = c.leaf_index
        )
    ) THEN
        RAISE EXCEPTION '% is append-only: % of what no erasure records refused',
            TG_TABLE_NAME, TG_OP USING ERRCODE = 'restrict_violation';
    END IF;
    PERFORM public.oars_check_not_held(r.tenant_id, array_agg(DISTINCT r.action_id))
    FROM changed AS c
    JOIN public.receipt AS r ON r.tenant_id = c.tenant_id AND r.leaf_index = c.leaf_index
    GROUP BY r.tenant_id;
    RETURN NULL;
END
$$;
CREATE FUNCTION oars_check_input_deletion() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (
        SELECT FROM changed AS c
        LEFT JOIN public.receipt AS r ON r.tenant_id = c.tenant_id AND r.action_id = c.action_id
        LEFT JOIN public.erasure AS e ON e.tenant_id = r.tenant_id AND e.leaf_index = r.leaf_index
        WHERE e.leaf_index IS NULL
    ) THEN
        RAISE EXCEPTION '% is append-only: % of what no erasure records refused',
            TG_TABLE_NAME, TG_OP USING ERRCODE = 'restrict_violation';
    END IF;
    PERFORM public.oars_check_not_held(c.tenant_id, array_agg(c.action_id))
    FROM changed AS c GROUP BY c.tenant_id;
    RETURN NULL;
END
$$;
CREATE FUNCTION oars_check_hold() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM public.oars_lock_tenant(NEW.tenant_id);
    RETURN NEW;
END
$$;
CREATE FUNCTION oars_check_hold_step() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    previous public.legal_hold_step%ROWTYPE;
    permitted boolean;
BEGIN
    PERFORM public.oars_lock_tenant(NEW.tenant_id);
    SELECT * INTO previous FROM public.legal_hold_step AS s
    WHERE s.tenant_id = NEW.tenant_id AND s.hold_id = NEW.hold_id
    ORDER BY s.sequence DESC LIMIT 1;
    IF NOT FOUND THEN
        permitted := NEW.sequence = 1 AND NEW.kind = 'placed';
    ELSIF NEW.sequence <> previous.sequence + 1 OR previous.kind = 'released' THEN
        permitted := false;
    ELSIF NEW.kind = 'released' THEN
        -- By a second admin, within the week that a request lasts.
        permitted := previous.kind = 'release_requested'
            AND NEW.subject <> previous.subject
            AND NEW.fingerprint_sha256 <> previous.fingerprint_sha256
            AND (NEW.service_account_id = ''
                OR NEW.service_account_id <> previous.service_account_id)
            AND NEW.taken_at < previous.taken_at + interval '168 hours';
    ELSE
        permitted := NEW.kind = 'release_requested';
    END IF;
    IF permitted IS NOT TRUE THEN
        RAISE EXCEPTION 'step % of legal hold % refused', NEW.kind, NEW.hold_id
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END
$$;
"""

# The application's role has DELETE on nothing. This runs as the owner, for the tenants that the
# transaction has named, and erases only what the tenant's own settings give up.
ERASE = """
CREATE FUNCTION oars_erase(
    of_tenant text, actions text[], moment timestamptz, event_id text
)
RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    cutoff timestamptz;
    erased bigint;
BEGIN
    IF (of_tenant = ANY (string_to_array(current_setting('oars.tenants', true), ','))) IS NOT TRUE
    THEN
        RAISE EXCEPTION 'tenant % is not one of the transaction', of_tenant
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    PERFORM public.oars_lock_tenant(of_tenant);
    cutoff := public.oars_retention_cutoff(of_tenant);
    IF cutoff IS NULL OR (
        SELECT bool_and(public.oars_is_past(of_tenant, wanted.action_id, cutoff))
        FROM unnest(actions) AS wanted (action_id)
    ) IS NOT TRUE THEN
        RAISE EXCEPTION 'an action to erase is not past the retention of tenant %', of_tenant
            USING ERRCODE = 'restrict_violation';
    END IF;
    INSERT INTO public.erasure (tenant_id, leaf_index, erased_at, event_receipt_id)
    SELECT r.tenant_id, r.leaf_index, moment, event_id FROM public.receipt AS r
    WHERE r.tenant_id = of_tenant AND r.action_id = ANY (actions);
    DELETE FROM public.receipt_body AS b USING public.receipt AS r
    WHERE r.tenant_id = of_tenant AND r.action_id = ANY (actions)
        AND b.tenant_id = r.tenant_id AND b.leaf_index = r.leaf_index;
    GET DIAGNOSTICS erased = ROW_COUNT;
    DELETE FROM public.action_body AS b
    WHERE b.tenant_id = of_tenant AND b.action_id = ANY (actions);
    RETURN erased;
END
$$;
"""

FUNCTIONS = "oars_lock_tenant, oars_held, oars_retention_cutoff, oars_is_past, oars_erase"
NEW_TABLES = ("erasure", "legal_hold", "legal_hold_step")
VISIBLE = "tenant_id = ANY (string_to_array(current_setting('oars.tenants', true), ','))"
REFUSED = {
    "no_update": "BEFORE UPDATE ON {} FOR EACH ROW",
    "no_delete": "BEFORE DELETE ON {} FOR EACH ROW",
    "no_truncate": "BEFORE TRUNCATE ON {} FOR EACH STATEMENT",
}
_ROWS = "FOR EACH ROW"
_NEW = "REFERENCING NEW TABLE AS changed FOR EACH STATEMENT"
_OLD = "REFERENCING OLD TABLE AS changed FOR EACH STATEMENT"
CHECKS = {
    "erasure": ("checked", "AFTER INSERT", _NEW, "oars_check_erasure"),
    "legal_hold": ("checked", "BEFORE INSERT", _ROWS, "oars_check_hold"),
    "legal_hold_step": ("checked", "BEFORE INSERT", _ROWS, "oars_check_hold_step"),
    "receipt_body": ("no_delete", "AFTER DELETE", _OLD, "oars_check_payload_deletion"),
    "action_body": ("no_delete", "AFTER DELETE", _OLD, "oars_check_input_deletion"),
}


def upgrade() -> None:
    connection = op.get_bind()

    def run(script: str) -> None:
        # Without parameters the driver takes several statements and leaves percent signs alone.
        connection.exec_driver_sql(script, execution_options={"no_parameters": True})

    def refuse(table: str, name: str) -> None:
        event = REFUSED[name].format(table)
        run(f"CREATE TRIGGER {name} {event} EXECUTE FUNCTION oars_refuse_change()")
        # ALWAYS: also where a session claims to be a replica (session_replication_role).
        run(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}")

    for script in (TABLES, QUESTIONS, TRIGGERS, ERASE):
        run(script)
    run(f"REVOKE ALL ON FUNCTION {FUNCTIONS} FROM PUBLIC")
    run(f"GRANT EXECUTE ON FUNCTION {FUNCTIONS} TO oars_app")
    for table in NEW_TABLES:
        run(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        run(
            f"CREATE POLICY tenant_wall ON {table} TO oars_app"
            f" USING ({VISIBLE}) WITH CHECK ({VISIBLE})"
        )
        run(f"REVOKE ALL ON {table} FROM PUBLIC, oars_app")
        # Erasures are recorded by the one function that erases.
        granted = "SELECT" if table == "erasure" else "SELECT, INSERT"
        run(f"GRANT {granted} ON {table} TO oars_app")
        for name in REFUSED:
            refuse(table, name)
    for name in ("no_update", "no_truncate"):
        refuse("action_body", name)
    run("DROP TRIGGER no_delete ON receipt_body")
    for table, (name, event, rows, function) in CHECKS.items():
        run(f"CREATE TRIGGER {name} {event} ON {table} {rows} EXECUTE FUNCTION {function}()")
        run(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}")


def downgrade() -> None:
    raise NotImplementedError("what was erased is gone: there is no way back")
