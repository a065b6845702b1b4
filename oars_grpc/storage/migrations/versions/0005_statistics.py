"""Statistics for tables that have grown before they were ever analysed.

Of such a table the planner knows nothing, and every index begins with the tenant: it may read a
whole log to find one receipt. Autovacuum comes within minutes at best, and only where it runs.
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# `reltuples` is -1 until the first ANALYZE or VACUUM, and survives a crash. Only the owner may
# analyse. A few pages suffice: shares, such as that of one tenant, hold as the table grows.
ANALYZE_NEW = """
CREATE FUNCTION oars_analyze_new_tables() RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    new_table regclass;
    analyzed bigint := 0;
BEGIN
    FOR new_table IN
        SELECT c.oid FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE n.nspname = 'public' AND c.relkind = 'r' AND c.reltuples < 0
            AND pg_has_role(current_user, c.relowner, 'USAGE')
            AND pg_relation_size(c.oid) >= 4 * 8192
        ORDER BY c.oid
    LOOP
        EXECUTE format('ANALYZE %s', new_table);
        analyzed := analyzed + 1;
    END LOOP;
    RETURN analyzed;
END
$$;
REVOKE ALL ON FUNCTION oars_analyze_new_tables FROM PUBLIC;
GRANT EXECUTE ON FUNCTION oars_analyze_new_tables TO oars_app;
"""


def upgrade() -> None:
    # Without parameters the driver takes several statements and leaves percent signs alone.
    op.get_bind().exec_driver_sql(ANALYZE_NEW, execution_options={"no_parameters": True})


def downgrade() -> None:
    op.execute("DROP FUNCTION oars_analyze_new_tables")
