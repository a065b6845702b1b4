"""What somebody with all rights on the database could do to a log."""

from collections.abc import Sequence

import psycopg

from oars_grpc.core.merkle import EMPTY, TILE_HEIGHT, append

PROTECTED = ("receipt", "receipt_body", "receipt_rule", "log_node", "erasure", "action_body")


def tamper(url: str, *statements: str, perhaps: Sequence[str] = ()) -> None:
    """Execute as a superuser, past the triggers that refuse it.

    Each of the statements must change something, those of `perhaps` need not.
    """
    with psycopg.connect(url) as connection:
        for table in PROTECTED:
            connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER ALL".encode())
        for statement in statements:
            assert connection.execute(statement.encode()).rowcount, statement
        for statement in perhaps:
            connection.execute(statement.encode())
        for table in PROTECTED:
            connection.execute(f"ALTER TABLE {table} ENABLE TRIGGER ALL".encode())


def truncate(url: str, tenant_id: str, size: int, *, actions: bool = False) -> None:
    """Cut a log off, with head, frontier and nodes as if it had never been longer.

    `actions`: also those actions whose chains are cut, as if they had never been submitted.
    """
    of = f"tenant_id = '{tenant_id}'"
    gone = f"{of} AND leaf_index >= {size}"
    if actions:
        tamper(
            url,
            f"DELETE FROM action WHERE {of} AND action_id IN"
            f" (SELECT action_id FROM receipt WHERE {gone})",
        )
    tamper(
        url,
        f"DELETE FROM receipt WHERE {gone}",
        f"DELETE FROM receipt_body WHERE {gone}",
        perhaps=[f"DELETE FROM receipt_rule WHERE {gone}"],
    )
    rebuild_tree(url, tenant_id)


def rebuild_tree(url: str, tenant_id: str) -> None:
    """Head, frontier and nodes as they follow from the leaf hashes that are there."""
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "SELECT leaf_hash FROM receipt WHERE tenant_id = %s ORDER BY leaf_index", (tenant_id,)
        ).fetchall()
        tree, nodes = append(EMPTY, [row[0] for row in rows])
        connection.execute(
            "UPDATE log_head SET size = %s, frontier = %s WHERE tenant_id = %s",
            (tree.size, tree.to_bytes(), tenant_id),
        )
        connection.execute("ALTER TABLE log_node DISABLE TRIGGER ALL")
        connection.execute("DELETE FROM log_node WHERE tenant_id = %s", (tenant_id,))
        for subtree, hash_ in nodes:
            connection.execute(
                "INSERT INTO log_node VALUES (%s, %s, %s, %s)",
                (tenant_id, subtree.height // TILE_HEIGHT, subtree.index, hash_),
            )
        connection.execute("ALTER TABLE log_node ENABLE TRIGGER ALL")
