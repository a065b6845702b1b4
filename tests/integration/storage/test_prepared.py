"""Values on their way to Postgres and back in its binary form."""

from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine

from oars_grpc.storage.binary import Encode, blobs, int4s, int8s, moments, texts
from oars_grpc.storage.prepared import Session, statement
from oars_grpc.storage.transaction import write_prepared

EARLY = datetime(1, 1, 1, tzinfo=UTC)
LATE = datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)


@pytest.mark.parametrize(
    ("kind", "encode", "values"),
    [
        ("text", texts, ["", "plain", 'a "b" {c}, \\d', "zwölf ☃ 🂡", "NULL", "x" * 70_000]),
        ("bytea", blobs, [b"", b"\x00\xff", bytes(range(256)) * 300]),
        ("bigint", int8s, [0, -1, 2**63 - 1, -(2**63)]),
        ("integer", int4s, [0, -1, 2**31 - 1, -(2**31)]),
        ("timestamptz", moments, [EARLY, datetime(2000, 1, 1, tzinfo=UTC), LATE]),
        ("timestamptz", moments, [None, datetime(2026, 1, 2, 3, 4, 5, 678_901, UTC), None]),
        ("text", texts, []),
    ],
)
def test_values_come_back_as_they_went(
    engine: Engine, kind: str, encode: Encode, values: list[Any]
) -> None:
    name = f"echo {kind}"
    echo = statement(name, f"SELECT * FROM unnest($1::{kind}[])")

    def work(session: Session) -> list[tuple[Any, ...]]:
        return session.rows(echo, [encode(values)])

    for _ in range(2):  # prepared, then found prepared
        assert write_prepared(engine, ["acme"], work) == [(value,) for value in values]


def test_an_error_is_the_drivers_and_leaves_the_connection_good(engine: Engine) -> None:
    fault = statement("fault", "SELECT 1 / $1::bigint")
    zero, one = (0).to_bytes(8, "big"), (1).to_bytes(8, "big")
    with pytest.raises(psycopg.errors.DivisionByZero):
        write_prepared(engine, ["acme"], lambda session: session.rows(fault, [zero]))
    assert write_prepared(engine, ["acme"], lambda session: session.rows(fault, [one])) == [(1,)]


def test_a_session_sees_the_tenants_of_its_transaction_only(engine: Engine) -> None:
    seen = statement("seen", "SELECT tenant_id FROM log_head ORDER BY tenant_id")
    for tenants in (["acme"], ["acme", "globex"], []):
        rows = write_prepared(engine, tenants, lambda session: session.rows(seen, []))
        assert [row[0] for row in rows] == tenants
