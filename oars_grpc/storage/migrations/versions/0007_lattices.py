"""Lattices: their numbers in chunks, and the operations that build them."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

TABLES = """
CREATE TABLE lattice (
    tenant_id text NOT NULL, lattice_id text NOT NULL, display_name text NOT NULL,
    state text NOT NULL, generation text NOT NULL,
    anchors bigint NOT NULL, dimension bigint NOT NULL, version bigint NOT NULL,
    created_at timestamptz NOT NULL, created_by text NOT NULL, updated_at timestamptz NOT NULL,
    body bytea NOT NULL,
    CONSTRAINT lattice_pkey PRIMARY KEY (tenant_id, lattice_id),
    CONSTRAINT lattice_tenant_fkey FOREIGN KEY (tenant_id) REFERENCES tenant (tenant_id)
);
CREATE TABLE lattice_generation (
    tenant_id text NOT NULL, generation text NOT NULL, state text NOT NULL,
    touched_at timestamptz NOT NULL,
    CONSTRAINT lattice_generation_pkey PRIMARY KEY (tenant_id, generation),
    CONSTRAINT lattice_generation_tenant_fkey FOREIGN KEY (tenant_id)
        REFERENCES tenant (tenant_id)
);
CREATE INDEX lattice_generation_stale ON lattice_generation (touched_at, tenant_id, generation)
    WHERE state <> 'current';
CREATE TABLE lattice_chunk (
    tenant_id text NOT NULL, digest text NOT NULL, data bytea NOT NULL,
    used_at timestamptz NOT NULL,
    CONSTRAINT lattice_chunk_pkey PRIMARY KEY (tenant_id, digest)
);
-- Compressed before it comes here.
ALTER TABLE lattice_chunk ALTER COLUMN data SET STORAGE EXTERNAL;
CREATE TABLE lattice_part (
    tenant_id text NOT NULL, generation text NOT NULL, kind text NOT NULL,
    position bigint NOT NULL, digest text NOT NULL,
    CONSTRAINT lattice_part_pkey PRIMARY KEY (tenant_id, generation, kind, position),
    CONSTRAINT lattice_part_generation_fkey FOREIGN KEY (tenant_id, generation)
        REFERENCES lattice_generation (tenant_id, generation),
    CONSTRAINT lattice_part_chunk_fkey FOREIGN KEY (tenant_id, digest)
        REFERENCES lattice_chunk (tenant_id, digest)
);
CREATE INDEX lattice_part_digest ON lattice_part (tenant_id, digest);
CREATE TABLE lattice_operation (
    tenant_id text NOT NULL, operation_id text NOT NULL, lattice_id text NOT NULL,
    state text NOT NULL, progress_ppm bigint NOT NULL, attempts bigint NOT NULL,
    cancel_requested bigint NOT NULL,
    created_at timestamptz NOT NULL, created_by text NOT NULL, updated_at timestamptz NOT NULL,
    holder text NOT NULL, lease_until timestamptz NOT NULL,
    error_code bigint NOT NULL, error text NOT NULL,
    CONSTRAINT lattice_operation_pkey PRIMARY KEY (tenant_id, operation_id),
    CONSTRAINT lattice_operation_tenant_fkey FOREIGN KEY (tenant_id) REFERENCES tenant (tenant_id)
);
CREATE INDEX lattice_operation_due ON lattice_operation (lease_until, tenant_id, operation_id)
    WHERE state IN ('pending', 'running');
"""

# In all tenants, which the application's role never sees together. By the database's own clock: a
# lease that one server took must have the same end for all.
CLAIM = """
CREATE FUNCTION oars_claim_lattice_operation(holder_name text, lease_seconds integer)
RETURNS TABLE (tenant_id text, operation_id text)
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH due AS (
        SELECT o.tenant_id, o.operation_id FROM public.lattice_operation AS o
        WHERE o.state IN ('pending', 'running') AND o.lease_until <= now()
        ORDER BY o.lease_until, o.tenant_id, o.operation_id
        LIMIT 1 FOR UPDATE SKIP LOCKED
    )
    UPDATE public.lattice_operation AS o
    SET state = 'running', holder = holder_name, attempts = o.attempts + 1, updated_at = now(),
        lease_until = now() + make_interval(secs => lease_seconds)
    FROM due WHERE o.tenant_id = due.tenant_id AND o.operation_id = due.operation_id
    RETURNING o.tenant_id, o.operation_id
$$;
REVOKE ALL ON FUNCTION oars_claim_lattice_operation FROM PUBLIC;
GRANT EXECUTE ON FUNCTION oars_claim_lattice_operation TO oars_app;
"""

# A chunk goes with the last part that names it. Whoever adds a part first touches its chunk: the
# deletion below waits for that and then finds `used_at` too recent.
SWEEP = """
CREATE FUNCTION oars_sweep_lattices(older_than_seconds integer, batch integer) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    cutoff timestamptz := now() - make_interval(secs => greatest(older_than_seconds, 60));
    stale record;
    gone text[];
    swept bigint;
BEGIN
    SELECT g.tenant_id, g.generation INTO stale FROM public.lattice_generation AS g
    WHERE g.state <> 'current' AND g.touched_at < cutoff
    ORDER BY g.touched_at, g.tenant_id, g.generation LIMIT 1 FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN 0;
    END IF;
    -- Who sweeps another generation of the same chunks waits until this one's parts are gone: else
    -- each would see the other's parts still, and both would leave the chunks to the other.
    PERFORM FROM public.lattice_chunk AS c
    WHERE c.tenant_id = stale.tenant_id AND c.digest IN (
        SELECT p.digest FROM public.lattice_part AS p
        WHERE p.tenant_id = stale.tenant_id AND p.generation = stale.generation
        ORDER BY p.kind, p.position LIMIT batch
    )
    ORDER BY c.digest FOR UPDATE;
    WITH chosen AS (
        SELECT p.kind, p.position FROM public.lattice_part AS p
        WHERE p.tenant_id = stale.tenant_id AND p.generation = stale.generation
        ORDER BY p.kind, p.position LIMIT batch
    ), deleted AS (
        DELETE FROM public.lattice_part AS p USING chosen AS c
        WHERE p.tenant_id = stale.tenant_id AND p.generation = stale.generation
            AND p.kind = c.kind AND p.position = c.position
        RETURNING p.digest
    )
    SELECT array_agg(DISTINCT digest), count(*) INTO gone, swept FROM deleted;
    IF swept = 0 THEN
        DELETE FROM public.lattice_generation AS g
        WHERE g.tenant_id = stale.tenant_id AND g.generation = stale.generation;
        RETURN 1;
    END IF;
    DELETE FROM public.lattice_chunk AS c
    WHERE c.tenant_id = stale.tenant_id AND c.digest = ANY (gone) AND c.used_at < cutoff
        AND NOT EXISTS (
            SELECT FROM public.lattice_part AS p
            WHERE p.tenant_id = c.tenant_id AND p.digest = c.digest
        );
    RETURN swept;
END
$$;
REVOKE ALL ON FUNCTION oars_sweep_lattices FROM PUBLIC;
GRANT EXECUTE ON FUNCTION oars_sweep_lattices TO oars_app;
"""

VISIBLE = "tenant_id = ANY (string_to_array(current_setting('oars.tenants', true), ','))"
# What of a row may change. The numbers themselves never do; the sweep alone deletes them.
CHANGEABLE = {
    "lattice": "state, generation, anchors, version, updated_at, body",
    "lattice_generation": "state, touched_at",
    "lattice_chunk": "used_at",
    "lattice_part": "digest",
    "lattice_operation": "state, progress_ppm, cancel_requested, updated_at, holder, lease_until,"
    " error_code, error",
}
DELETABLE = ("lattice", "lattice_operation")


def upgrade() -> None:
    connection = op.get_bind()

    def run(script: str) -> None:
        # Without parameters the driver takes several statements and leaves percent signs alone.
        connection.exec_driver_sql(script, execution_options={"no_parameters": True})

    run(TABLES)
    for table, columns in CHANGEABLE.items():
        run(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        run(
            f"CREATE POLICY tenant_wall ON {table} TO oars_app"
            f" USING ({VISIBLE}) WITH CHECK ({VISIBLE})"
        )
        run(f"REVOKE ALL ON {table} FROM PUBLIC, oars_app")
        run(f"GRANT SELECT, INSERT ON {table} TO oars_app")
        run(f"GRANT UPDATE ({columns}) ON {table} TO oars_app")
    for table in DELETABLE:
        run(f"GRANT DELETE ON {table} TO oars_app")
    run(CLAIM)
    run(SWEEP)


def downgrade() -> None:
    raise NotImplementedError("lattices are kept: there is no way back")
