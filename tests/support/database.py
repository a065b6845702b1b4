"""A real Postgres for tests: one cluster, a migrated template, a database for each test."""

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import orjson
import psycopg
from sqlalchemy import Engine, make_url

from oars_grpc.core.canonical import sha256_hex
from oars_grpc.core.envelope import PAYLOAD_TYPE, Envelope
from oars_grpc.core.log_check import check_log
from oars_grpc.core.merkle import EMPTY, TILE_HEIGHT, append
from oars_grpc.core.ports import Registry
from oars_grpc.core.receipt import NO_ACTION
from oars_grpc.core.retention import RETENTION_ERASED
from oars_grpc.core.stored_log import Problem
from oars_grpc.storage.engine import open_engine
from oars_grpc.storage.log_scan import scan_log
from oars_grpc.storage.registry import PostgresRegistryStore
from tests.support.factories import NOW, TENANT, make_policy, make_stored_key, make_tenant

TEMPLATE = "oars_template"


def url_of(url: str, database: str) -> str:
    """The URL of another database of the same server."""
    return make_url(url).set(database=database).render_as_string(hide_password=False)


def execute(url: str, *statements: str) -> None:
    """Execute as the user of the URL, each statement by itself."""
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


@contextmanager
def new_database(url: str, template: str = "template1") -> Iterator[str]:
    """A database that lives as long as the context; its URL."""
    name = f"test_{uuid4().hex[:16]}"
    execute(url, f"CREATE DATABASE {name} TEMPLATE {template}")
    try:
        yield url_of(url, name)
    finally:
        execute(url, f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def opened(url: str, pool_size: int = 4, **settings: float) -> Iterator[Engine]:
    """An engine with short timeouts."""
    engine = open_engine(
        url,
        pool_size=pool_size,
        statement_timeout_ms=int(settings.get("statement_timeout_ms", 10_000)),
        lock_timeout_ms=int(settings.get("lock_timeout_ms", 10_000)),
        application_name="oars-test",
        pool_timeout_s=settings.get("pool_timeout_s", 30.0),
    )
    try:
        yield engine
    finally:
        engine.dispose()


def create_tenant(engine: Engine, tenant_id: str) -> None:
    """A tenant with a signing key and the built-in policy, published."""

    def work(registry: Registry) -> None:
        assert registry.insert_tenant(make_tenant(tenant_id))
        registry.insert_key(make_stored_key(tenant_id))
        policy = registry.insert_policy(make_policy(tenant_id))
        registry.publish(tenant_id, policy.policy_id, "spiffe://example/admin", NOW)

    PostgresRegistryStore(engine).run(tenant_id, work)


def publish_policy(engine: Engine, tenant_id: str) -> None:
    """Publish another policy."""

    def work(registry: Registry) -> None:
        registry.lock_tenant(tenant_id)
        policy = registry.insert_policy(make_policy(tenant_id))
        registry.publish(tenant_id, policy.policy_id, "spiffe://example/admin", NOW)

    PostgresRegistryStore(engine).run(tenant_id, work)


def checked_log(url: str) -> list[Problem]:
    """What the check of the log, signatures included, finds wrong in the first tenant's log."""
    with opened(url, pool_size=1) as engine:
        return scan_log(engine, TENANT, lambda snapshot: list(check_log(snapshot.log())))


def check_ledger(url: str) -> int:
    """Check everything that is stored, as the owner sees it; how many receipts there are.

    Indices without gaps, chains without breaks, hashes that are those of the payloads, no action,
    outcome, receipt or payload without the others, but for what an erasure records, and heads that
    know the latest publication.
    """
    receipts = 0
    with psycopg.connect(url) as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        for tenant_id, size, frontier in connection.execute(
            "SELECT tenant_id, size, frontier FROM log_head"
        ):
            receipts += size
            leaves = _check_log(connection, tenant_id, size)
            _check_tree(connection, tenant_id, leaves, frontier)
        _check_erasures(connection)
        broken = connection.execute(
            "SELECT action_id FROM action AS a WHERE (last_sequence, last_receipt_digest) IS"
            " DISTINCT FROM (SELECT (sequence, receipt_digest) FROM receipt AS r WHERE"
            " r.tenant_id = a.tenant_id AND r.action_id = a.action_id"
            " ORDER BY sequence DESC LIMIT 1)"
        ).fetchall()
        assert broken == []
        broken = connection.execute(
            "SELECT tenant_id FROM log_head AS h WHERE publication IS DISTINCT FROM"
            " (SELECT max(sequence) FROM policy_publication AS p WHERE p.tenant_id = h.tenant_id)"
        ).fetchall()
        assert broken == []
    return receipts


def _check_erasures(connection: psycopg.Connection) -> None:
    """Of every action and receipt there is the body, or the record of an event that erased it."""
    broken = connection.execute(
        "SELECT r.tenant_id, r.leaf_index FROM receipt AS r"
        " LEFT JOIN receipt_body AS b USING (tenant_id, leaf_index)"
        " LEFT JOIN erasure AS e USING (tenant_id, leaf_index)"
        " WHERE (b.payload IS NULL) <> (e.erased_at IS NOT NULL)"
    ).fetchall()
    assert broken == []
    broken = connection.execute(
        "SELECT a.tenant_id, a.action_id FROM action AS a"
        " LEFT JOIN action_body AS b USING (tenant_id, action_id)"
        " JOIN receipt AS r USING (tenant_id, action_id)"
        " LEFT JOIN erasure AS e USING (tenant_id, leaf_index)"
        " WHERE (b.input IS NULL) <> (e.erased_at IS NOT NULL)"
    ).fetchall()
    assert broken == []
    recorded = connection.execute(
        "SELECT tenant_id, event_receipt_id, array_agg(leaf_index) FROM erasure"
        " GROUP BY tenant_id, event_receipt_id"
    ).fetchall()
    events = connection.execute(
        "SELECT tenant_id, receipt_id, payload FROM receipt"
        " JOIN receipt_body USING (tenant_id, leaf_index) WHERE type = %s",
        (RETENTION_ERASED,),
    ).fetchall()
    told = {}
    for tenant_id, receipt_id, payload in events:
        ranges = orjson.loads(payload)["predicate"]["event"]["leaves"]
        told[tenant_id, receipt_id] = {
            index for first, last in ranges for index in range(first, last + 1)
        }
    assert told == {(tenant, event): set(leaves) for tenant, event, leaves in recorded}


def _check_tree(
    connection: psycopg.Connection, tenant_id: str, leaves: list[bytes], frontier: bytes
) -> None:
    tree, nodes = append(EMPTY, leaves)
    assert frontier == tree.to_bytes()
    stored = connection.execute(
        "SELECT level, position, hash FROM log_node WHERE tenant_id = %s", (tenant_id,)
    ).fetchall()
    expected = {(subtree.height // TILE_HEIGHT, subtree.index): root for subtree, root in nodes}
    assert {(level, position): hash_ for level, position, hash_ in stored} == expected


def _check_log(connection: psycopg.Connection, tenant_id: str, size: int) -> list[bytes]:
    """Check leaves and chains; the leaf hashes in their order."""
    rows = connection.execute(
        "SELECT r.leaf_index, r.action_id, r.sequence, r.previous_receipt_digest,"
        " r.receipt_digest, r.leaf_hash, b.payload FROM receipt AS r"
        " LEFT JOIN receipt_body AS b USING (tenant_id, leaf_index)"
        " WHERE tenant_id = %s ORDER BY leaf_index",
        (tenant_id,),
    ).fetchall()
    assert [row[0] for row in rows] == list(range(size))
    last: dict[str, tuple[int, str]] = {}
    for _, action_id, sequence, previous, digest, leaf_hash, payload in rows:
        assert (sequence - 1, previous) == last.get(action_id, (0, ""))
        last[action_id] = (sequence, digest)
        if payload is not None:  # else erased: `_check_erasures`
            assert digest == sha256_hex(payload)
            assert leaf_hash == Envelope(PAYLOAD_TYPE, payload, ()).leaf_hash()
    found = connection.execute("SELECT action_id FROM action WHERE tenant_id = %s", (tenant_id,))
    assert {row[0] for row in found} == set(last) - {NO_ACTION}
    return [row[5] for row in rows]
