"""The Merkle log: frontiers, tile roots, checkpoint keys; columns that receipts are searched by."""

from alembic import op
from sqlalchemy import Connection

from oars_grpc.core.merkle import EMPTY, append

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TABLES = """
ALTER TABLE log_head ADD COLUMN revision bigint NOT NULL DEFAULT 0;
ALTER TABLE log_head ADD COLUMN frontier bytea NOT NULL DEFAULT '';
ALTER TABLE log_head ALTER COLUMN revision DROP DEFAULT, ALTER COLUMN frontier DROP DEFAULT;
ALTER TABLE signing_key ADD COLUMN purpose text NOT NULL DEFAULT 'receipt';
ALTER TABLE signing_key ALTER COLUMN purpose DROP DEFAULT;
ALTER TABLE signing_key ADD COLUMN trusted_log_size bigint;
CREATE TABLE log_node (
    tenant_id text NOT NULL,
    level integer NOT NULL,
    position bigint NOT NULL,
    hash bytea NOT NULL,
    CONSTRAINT log_node_pkey PRIMARY KEY (tenant_id, level, position)
);
CREATE TABLE receipt_rule (
    tenant_id text NOT NULL,
    rule_id text NOT NULL,
    leaf_index bigint NOT NULL,
    CONSTRAINT receipt_rule_pkey PRIMARY KEY (tenant_id, rule_id, leaf_index)
);
ALTER TABLE receipt
    ADD COLUMN agent_id text NOT NULL DEFAULT '',
    ADD COLUMN user_id text NOT NULL DEFAULT '',
    ADD COLUMN caller_subject text NOT NULL DEFAULT '',
    ADD COLUMN tool_id text NOT NULL DEFAULT '',
    ADD COLUMN operation text NOT NULL DEFAULT '',
    ADD COLUMN decision text NOT NULL DEFAULT '',
    ADD COLUMN policy_id text NOT NULL DEFAULT '',
    ADD COLUMN policy_version bigint NOT NULL DEFAULT 0,
    ADD COLUMN risk_tier text NOT NULL DEFAULT '';
"""

# The payloads say all of it already. Only the owner can, and only here, past the triggers.
BACKFILL = """
ALTER TABLE receipt DISABLE TRIGGER no_update;
UPDATE receipt AS r SET
    agent_id = coalesce(b.p ->> 'agentId', ''),
    user_id = coalesce(b.p ->> 'userId', ''),
    caller_subject = coalesce(b.p -> 'caller' ->> 'subject', ''),
    tool_id = coalesce(b.p -> 'resource' ->> 'toolId', ''),
    operation = coalesce(b.p -> 'resource' ->> 'operation', ''),
    decision = coalesce(b.p -> 'decision' ->> 'effect', ''),
    policy_id = coalesce(b.p -> 'policy' ->> 'policyId', ''),
    policy_version = coalesce((b.p -> 'policy' ->> 'version')::bigint, 0),
    risk_tier = coalesce(b.p -> 'decision' -> 'risk' ->> 'tier', '')
FROM (
    SELECT tenant_id, leaf_index, convert_from(payload, 'UTF8')::json -> 'predicate' AS p
    FROM receipt_body
) AS b
WHERE r.tenant_id = b.tenant_id AND r.leaf_index = b.leaf_index;
ALTER TABLE receipt ENABLE ALWAYS TRIGGER no_update;
INSERT INTO receipt_rule (tenant_id, rule_id, leaf_index)
SELECT DISTINCT b.tenant_id, rule ->> 'ruleId', b.leaf_index
FROM receipt_body AS b,
    json_array_elements(
        convert_from(b.payload, 'UTF8')::json -> 'predicate' -> 'decision' -> 'rules'
    ) AS rule;
"""

INDEXES = """
ALTER TABLE receipt
    ALTER COLUMN agent_id DROP DEFAULT, ALTER COLUMN user_id DROP DEFAULT,
    ALTER COLUMN caller_subject DROP DEFAULT, ALTER COLUMN tool_id DROP DEFAULT,
    ALTER COLUMN operation DROP DEFAULT, ALTER COLUMN decision DROP DEFAULT,
    ALTER COLUMN policy_id DROP DEFAULT, ALTER COLUMN policy_version DROP DEFAULT,
    ALTER COLUMN risk_tier DROP DEFAULT;
CREATE INDEX receipt_time ON receipt (tenant_id, recorded_at, leaf_index);
CREATE INDEX receipt_agent ON receipt (tenant_id, agent_id, leaf_index);
CREATE INDEX receipt_user ON receipt (tenant_id, user_id, leaf_index) WHERE user_id <> '';
CREATE INDEX receipt_caller ON receipt (tenant_id, caller_subject, leaf_index);
CREATE INDEX receipt_tool ON receipt (tenant_id, tool_id, operation, leaf_index);
CREATE INDEX receipt_operation ON receipt (tenant_id, operation, leaf_index);
CREATE INDEX receipt_decision ON receipt (tenant_id, decision, leaf_index) WHERE decision <> '';
CREATE INDEX receipt_policy ON receipt (tenant_id, policy_id, policy_version, leaf_index)
    WHERE policy_id <> '';
CREATE INDEX receipt_tier ON receipt (tenant_id, risk_tier, leaf_index) WHERE risk_tier <> '';
"""

NEW_TABLES = ("log_node", "receipt_rule")
CHANGEABLE = {
    "log_head": "size, publication, revision, frontier",
    "signing_key": "state, valid_until, revoked_at, revocation_reason, trusted_log_size",
}
VISIBLE = "tenant_id = ANY (string_to_array(current_setting('oars.tenants', true), ','))"
REFUSED = {
    "no_update": "BEFORE UPDATE ON {} FOR EACH ROW",
    "no_delete": "BEFORE DELETE ON {} FOR EACH ROW",
    "no_truncate": "BEFORE TRUNCATE ON {} FOR EACH STATEMENT",
}
BATCH = 10_000


def upgrade() -> None:
    connection = op.get_bind()

    def run(script: str) -> None:
        # Without parameters the driver takes several statements and leaves percent signs alone.
        connection.exec_driver_sql(script, execution_options={"no_parameters": True})

    run(TABLES)
    run(BACKFILL)
    run(INDEXES)
    build_trees(connection)
    for table in NEW_TABLES:
        run(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        run(
            f"CREATE POLICY tenant_wall ON {table} TO oars_app"
            f" USING ({VISIBLE}) WITH CHECK ({VISIBLE})"
        )
        run(f"REVOKE ALL ON {table} FROM PUBLIC, oars_app")
        run(f"GRANT SELECT, INSERT ON {table} TO oars_app")
        for name, event in REFUSED.items():
            run(
                f"CREATE TRIGGER {name} {event.format(table)} EXECUTE FUNCTION oars_refuse_change()"
            )
            run(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}")
    for table, columns in CHANGEABLE.items():
        run(f"GRANT UPDATE ({columns}) ON {table} TO oars_app")


def build_trees(connection: Connection) -> None:
    """Frontiers and tile roots of the logs that are there already."""
    heads = connection.exec_driver_sql("SELECT tenant_id, size FROM log_head WHERE size > 0").all()
    for tenant_id, size in heads:
        frontier = EMPTY
        while frontier.size < size:
            rows = connection.exec_driver_sql(
                "SELECT leaf_hash FROM receipt WHERE tenant_id = %s AND leaf_index >= %s"
                " ORDER BY leaf_index LIMIT %s",
                (tenant_id, frontier.size, BATCH),
            ).all()
            if not rows:
                raise RuntimeError(f"the log of tenant {tenant_id} lacks leaf {frontier.size}")
            frontier, nodes = append(frontier, (bytes(row[0]) for row in rows))
            for subtree, node in nodes:
                connection.exec_driver_sql(
                    "INSERT INTO log_node (tenant_id, level, position, hash)"
                    " VALUES (%s, %s, %s, %s)",
                    (tenant_id, subtree.height // 8, subtree.index, node),
                )
        connection.exec_driver_sql(
            "UPDATE log_head SET frontier = %s WHERE tenant_id = %s",
            (frontier.to_bytes(), tenant_id),
        )


def downgrade() -> None:
    raise NotImplementedError("the log is append-only: there is no way back")
