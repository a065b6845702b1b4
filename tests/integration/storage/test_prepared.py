"""Values on their way to Postgres and back in its binary form."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine

from oars_grpc.errors import Unavailable
from oars_grpc.storage.binary import Encode, blobs, int4s, int8s, moments, texts
from oars_grpc.storage.prepared import Session, statement
from oars_grpc.storage.transaction import read_prepared, write_prepared
from tests.support.database import execute, opened

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


ECHO = statement("echo blobs", "SELECT * FROM unnest($1::bytea[])")
MOVE = statement("move", "UPDATE log_head SET publication = publication + 1 WHERE tenant_id = $1")
FAULT = statement("fault in between", "SELECT 1 / $1::bigint")
ZERO = (0).to_bytes(8, "big")


def _publication(engine: Engine) -> int:
    seen = statement("publication", "SELECT publication FROM log_head WHERE tenant_id = 'acme'")
    ((found,),) = write_prepared(engine, ["acme"], lambda session: session.rows(seen, []))
    assert isinstance(found, int)
    return found


def test_answers_and_questions_larger_than_any_buffer_travel_at_once(engine: Engine) -> None:
    # Neither side may wait for the other to read: the server answers before it was asked all.
    values = [bytes([number]) * 2_000_000 for number in range(8)]

    def work(session: Session) -> list[list[tuple[Any, ...]]]:
        asked = [session.queue_rows(ECHO, [blobs([value])]) for value in values]
        session.flush()
        return asked

    assert write_prepared(engine, ["acme"], work) == [[(value,)] for value in values]


def test_what_is_queued_behind_a_fault_is_not_done_and_nothing_is_committed(
    engine: Engine,
) -> None:
    before = _publication(engine)

    def work(session: Session) -> None:
        session.execute(MOVE, [b"acme"])
        session.execute(FAULT, [ZERO])
        session.execute(MOVE, [b"acme"])

    with pytest.raises(psycopg.errors.DivisionByZero):
        write_prepared(engine, ["acme"], work)
    assert _publication(engine) == before  # on the same connection, which is good


def test_an_answer_is_checked_before_the_commit_and_not_after(engine: Engine) -> None:
    before = _publication(engine)

    def refuse(_: object) -> None:
        raise RuntimeError("not this")

    with pytest.raises(RuntimeError, match=r"^not this$"):
        write_prepared(engine, ["acme"], lambda session: session.execute(MOVE, [b"acme"], refuse))
    assert _publication(engine) == before
    write_prepared(engine, ["acme"], lambda session: session.execute(MOVE, [b"acme"]))
    assert _publication(engine) == before + 1


def test_a_connection_that_was_left_in_the_middle_is_never_used_again(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    backends = []
    communicate = Session._next_result

    def interrupted(session: Session, *arguments: Any) -> Any:
        if session.backend_pid not in backends:
            backends.append(session.backend_pid)
            raise KeyboardInterrupt
        return communicate(session, *arguments)

    before = _publication(engine)
    with monkeypatch.context() as patch:
        patch.setattr(Session, "_next_result", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_prepared(engine, ["acme"], lambda session: session.execute(MOVE, [b"acme"]))
    assert _publication(engine) in (before, before + 1)  # whoever interrupts a COMMIT cannot know
    used = []
    write_prepared(engine, ["acme"], lambda session: used.append(session.backend_pid))
    assert used != backends


def test_what_reads_together_reads_one_snapshot_and_cannot_write(engine: Engine) -> None:
    seen = statement(
        "publication of acme", "SELECT publication FROM log_head WHERE tenant_id = 'acme'"
    )
    wait = statement("wait for a lock", "SELECT pg_advisory_xact_lock_shared($1::bigint)::text")
    number = (4711).to_bytes(8, "big")
    before = _publication(engine)
    with engine.connect() as holder, ThreadPoolExecutor(1) as threads:
        holder.exec_driver_sql("SELECT pg_advisory_lock(4711)")

        def queue(session: Session) -> list[list[tuple[Any, ...]]]:
            first = session.queue_rows(seen, [])
            session.execute(wait, [number])
            return [first, session.queue_rows(seen, [])]

        reading = threads.submit(read_prepared, engine, ["acme"], queue)
        while not holder.exec_driver_sql(
            "SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        ).all():
            time.sleep(0.01)
        write_prepared(engine, ["acme"], lambda session: session.execute(MOVE, [b"acme"]))
        assert _publication(engine) == before + 1
        holder.exec_driver_sql("SELECT pg_advisory_unlock(4711)")
        assert reading.result(timeout=30) == [[(before,)], [(before,)]]
    with pytest.raises(Unavailable) as caught:  # as by a standby
        read_prepared(engine, ["acme"], lambda session: session.execute(MOVE, [b"acme"]))
    assert isinstance(caught.value.__cause__, psycopg.errors.ReadOnlySqlTransaction)
    assert _publication(engine) == before + 1


def test_reads_see_the_tenants_of_their_transaction_only_and_survive_faults(
    engine: Engine,
) -> None:
    seen = statement("seen together", "SELECT tenant_id FROM log_head ORDER BY tenant_id")
    for tenants in (["acme"], ["acme", "globex"], []):
        rows = read_prepared(engine, tenants, lambda session: session.queue_rows(seen, []))
        assert [row[0] for row in rows] == tenants
        with pytest.raises(psycopg.errors.DivisionByZero):
            read_prepared(engine, tenants, lambda session: session.queue_rows(FAULT, [ZERO]))


@pytest.mark.parametrize("transact", [read_prepared, write_prepared])
def test_what_meets_a_dead_connection_is_done_on_a_fresh_one(
    database_url: str, transact: Callable[..., list[tuple[Any, ...]]]
) -> None:
    seen = statement("backend", "SELECT pg_backend_pid()::bigint")
    with opened(database_url, pool_size=1) as engine:

        def backend() -> int:
            ((pid,),) = transact(engine, [], lambda session: session.queue_rows(seen, []))
            return int(pid)

        first = backend()
        for _ in range(2):  # the second time every statement was prepared
            execute(database_url, f"SELECT pg_terminate_backend({first}, 10000)")
            fresh = backend()
            assert fresh != first
            first = fresh
