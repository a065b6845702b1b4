"""Erasure and legal holds on the real database: what goes, what stays, and what refuses to go."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import psycopg
import pytest
from sqlalchemy import Connection, Engine, event

from oars_grpc.core.action import ActionState
from oars_grpc.core.legal_hold import RELEASE_REQUEST_LIFETIME, HoldState, StepKind
from oars_grpc.core.receipt import parse_statement
from oars_grpc.core.receipt_filter import ReceiptFilter
from oars_grpc.core.retention_ports import HoldStore
from oars_grpc.core.stored import Change
from oars_grpc.errors import FailedPrecondition, NotFound, Unavailable
from oars_grpc.storage.ledger import PostgresLedger
from oars_grpc.storage.prepared import Session
from oars_grpc.storage.receipts import PostgresReceiptStore
from oars_grpc.storage.registry import PostgresRegistryStore
from oars_grpc.storage.retention import PostgresHoldStore
from oars_grpc.use_cases import retention as rounds
from oars_grpc.use_cases.legal_holds import LegalHolds
from tests.support.database import check_ledger, execute
from tests.support.factories import (
    append_receipt,
    make_request,
    new_id,
)
from tests.support.retention import (
    LATELY,
    LONG_AGO,
    RETENTION_DAYS,
    ShiftedClock,
    admin,
    encode,
    finished,
    make_holds,
    make_retention,
    place,
    set_retention,
)

# The class satisfies the port; mypy checks it.
_: type[HoldStore] = PostgresHoldStore


def bodies(url: str, change: Change) -> tuple[int, int]:
    """How many payloads and inputs of an action are stored."""
    key = (change.stored.action.request.tenant_id, change.stored.action.action_id)
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "SELECT (SELECT count(*) FROM receipt JOIN receipt_body USING (tenant_id, leaf_index)"
            " WHERE tenant_id = %s AND action_id = %s),"
            " (SELECT count(*) FROM action_body WHERE tenant_id = %s AND action_id = %s)",
            (*key, *key),
        ).fetchone()
    assert row is not None
    return row[0], row[1]


def leaves(url: str, tenant_id: str = "acme") -> list[tuple[Any, ...]]:
    """Everything of the log but the payloads."""
    with psycopg.connect(url) as connection:
        return connection.execute(
            "SELECT * FROM receipt WHERE tenant_id = %s ORDER BY leaf_index", (tenant_id,)
        ).fetchall()


KEPT, ERASED = (3, 1), (0, 0)


@pytest.fixture
def acme(engine: Engine) -> Engine:
    """The tenant keeps payloads for thirty days."""
    set_retention(engine, "acme", RETENTION_DAYS)
    return engine


def test_finished_actions_are_erased_whole_once_their_last_receipt_is_old_enough(
    acme: Engine, ledger: PostgresLedger, database_url: str
) -> None:
    old = [finished(state=state) for state in (ActionState.EXECUTED, ActionState.DENIED)]
    waiting = finished(state=ActionState.APPROVED, expires_at=LATELY)
    recent = finished(at=LATELY)
    half = finished()
    action = replace(half.stored.action, updated_at=LATELY)
    action, last = append_receipt(action)
    stored = replace(half.stored, action=action)
    half = replace(half, stored=stored, receipts=(*half.receipts, last))
    elsewhere = finished("globex")  # keeps everything for good
    ledger.commit([*old, waiting, recent, half, elsewhere])
    before = leaves(database_url)
    report = make_retention(acme).erase_due()
    assert (report.erased, report.failures) == (6, ())
    for change in old:
        assert bodies(database_url, change) == ERASED
    for change in (waiting, recent, elsewhere):
        assert bodies(database_url, change) == KEPT
    assert bodies(database_url, half) == (4, 1)
    # Of the log nothing changed but that the event came after it; `check_ledger` derives the roots.
    after = leaves(database_url)
    assert after[: len(before)] == before
    assert len(after) == len(before) + 1
    check_ledger(database_url)
    # What is erased is not erased again, and nothing to erase leaves no event.
    assert make_retention(acme).erase_due().erased == 0
    assert len(leaves(database_url)) == len(after)


def test_an_erased_receipt_says_what_was_erased_and_when(
    acme: Engine, ledger: PostgresLedger
) -> None:
    change = finished()
    ledger.commit([change])
    started = datetime.now(UTC)
    make_retention(acme).erase_due()
    store = PostgresReceiptStore(acme)
    erased = []
    for index, receipt in enumerate(change.receipts):
        found = store.find_receipt(["acme"], receipt.receipt_id)
        assert found is not None
        assert found.erasure is not None
        assert found.leaf_index == index
        assert found.receipt == replace(receipt, envelope=replace(receipt.envelope, payload=b""))
        assert found.receipt_digest == receipt.envelope.digest()
        assert found.leaf_hash == receipt.envelope.leaf_hash()
        assert started <= found.erasure.erased_at <= datetime.now(UTC)
        assert found.erasure.caller_subject == change.stored.action.request.caller.subject
        erased.append(found.erasure)
    event_of = store.find_receipt(["acme"], erased[0].receipt_id)
    assert event_of is not None
    assert event_of.erasure is None
    assert event_of.receipt.type == "retention.erased"
    told = parse_statement(event_of.receipt.envelope.payload)["predicate"]["event"]
    assert told["retentionDays"] == RETENTION_DAYS
    assert told["leaves"] == [[0, 2]]
    assert told["receipts"] == 3
    assert told["actionIds"] == [change.stored.action.action_id]
    action = ledger.find_action(["acme"], change.stored.action.action_id)
    assert action is not None
    assert action.action.input_digest == change.stored.action.input_digest


def test_a_backlog_goes_in_batches_and_holds_in_front_do_not_hide_what_is_behind(
    acme: Engine, ledger: PostgresLedger, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "CANDIDATES", 2)
    monkeypatch.setattr(rounds, "BATCHES", 3)
    changes = sorted(
        (finished() for _ in range(9)), key=lambda change: change.stored.action.action_id
    )
    ledger.commit(changes)
    holds = make_holds(acme)
    for change in changes[:3]:
        place(holds, ReceiptFilter(action_id=change.stored.action.action_id))
    retention = make_retention(acme)
    assert [retention.erase_due().erased for _ in range(3)] == [9, 9, 0]
    assert [bodies(database_url, change) for change in changes] == [*[KEPT] * 3, *[ERASED] * 6]
    assert sum(row[5] == "retention.erased" for row in leaves(database_url)) == 4
    check_ledger(database_url)


def test_a_tenant_that_was_looked_through_rests_until_its_settings_change(
    acme: Engine, ledger: PostgresLedger
) -> None:
    retention = make_retention(acme)
    ledger.commit([finished(at=LATELY)])
    assert retention.erase_due().erased == 0
    ledger.commit([finished()])
    assert retention.erase_due().erased == 0  # it was looked through a moment ago
    set_retention(acme, "acme", 10, version=3)
    assert retention.erase_due().erased == 6


def test_one_tenants_broken_key_does_not_keep_the_others_waiting(
    acme: Engine, ledger: PostgresLedger, database_url: str
) -> None:
    set_retention(acme, "globex", RETENTION_DAYS)
    broken, sound = finished("acme"), finished("globex")
    ledger.commit([broken, sound])
    execute(
        database_url,
        "UPDATE signing_key SET encrypted_seed = sha256(encrypted_seed) WHERE tenant_id = 'acme'",
    )
    report = make_retention(acme).erase_due()
    assert report.erased == 3
    assert [failure.tenant_id for failure in report.failures] == ["acme"]
    assert (bodies(database_url, broken), bodies(database_url, sound)) == (KEPT, ERASED)
    check_ledger(database_url)


def test_a_clock_that_went_wrong_erases_nothing_early(
    acme: Engine, ledger: PostgresLedger, database_url: str
) -> None:
    change = finished(at=LATELY)
    ledger.commit([change])
    ahead = make_retention(acme, ShiftedClock(timedelta(days=3650)))
    assert ahead.erase_due().erased == 0
    assert bodies(database_url, change) == KEPT


def test_settings_from_before_there_was_retention_keep_everything(
    acme: Engine, ledger: PostgresLedger, owner: psycopg.Connection, database_url: str
) -> None:
    change = finished()
    ledger.commit([change])
    owner.execute(
        "UPDATE tenant SET settings = convert_to("
        "(convert_from(settings, 'UTF8')::jsonb - 'retentionDays')::text, 'UTF8')"
    )
    tenant = PostgresRegistryStore(acme).find_tenant("acme")
    assert tenant is not None
    assert tenant.settings.retention_days == 0
    assert make_retention(acme).erase_due().erased == 0
    with pytest.raises(psycopg.errors.RestrictViolation, match="not past"):
        as_app(owner).execute(
            "SELECT oars_erase('acme', %s, now(), %s)",
            ([change.stored.action.action_id], change.receipts[0].receipt_id),
        )
    assert bodies(database_url, change) == KEPT


def test_several_replicas_erase_each_receipt_once(
    acme: Engine, ledger: PostgresLedger, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "CANDIDATES", 5)
    ledger.commit([finished() for _ in range(60)])
    replicas = [make_retention(acme) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        reports = list(pool.map(lambda replica: replica.erase_due(), replicas))
    assert sum(report.erased for report in reports) == 180
    assert all(not report.failures for report in reports)
    check_ledger(database_url)


@contextmanager
def disturbed(engine: Engine, disturb: Callable[[int, int], None]) -> Iterator[list[int]]:
    """Calls `disturb` before each statement and commit, with the server's process and a number."""
    count = [0]

    def step(pid: int) -> None:
        count[0] += 1
        disturb(pid, count[0])

    def before(connection: Connection, *_: object) -> None:
        driver: Any = connection.connection.driver_connection
        step(driver.info.backend_pid)

    execute_prepared = Session.execute

    def prepared(session: Session, *arguments: Any) -> Any:
        step(session.backend_pid)
        return execute_prepared(session, *arguments)

    event.listen(engine, "before_cursor_execute", before)
    event.listen(engine, "commit", before)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "execute", prepared)
        yield count
    event.remove(engine, "before_cursor_execute", before)
    event.remove(engine, "commit", before)


class Killed(Exception):
    pass


@pytest.mark.parametrize("how", ["client dies", "server ends the connection"])
def test_a_death_at_any_statement_leaves_nothing_half_erased(
    acme: Engine, ledger: PostgresLedger, database_url: str, how: str
) -> None:
    died = 0
    for number in range(1, 40):
        changes = [finished() for _ in range(2)]
        ledger.commit(changes)
        before = leaves(database_url)

        def disturb(pid: int, count: int, fatal: int = number) -> None:
            if count != fatal:
                return
            if how == "client dies":
                raise Killed
            with psycopg.connect(database_url, autocommit=True) as owner:
                owner.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))

        with disturbed(acme, disturb) as count:
            try:
                completed = not make_retention(acme).erase_due().failures
            except (Unavailable, Killed):
                completed = False
        check_ledger(database_url)
        # Completed: nothing died, or a pooled connection had done nothing yet and was replaced.
        assert {bodies(database_url, change) for change in changes} == {
            ERASED if completed else KEPT
        }
        assert (leaves(database_url) == before) is not completed
        if count[0] < number:
            break
        died += not completed
        assert make_retention(acme).erase_due().failures == ()
        assert {bodies(database_url, change) for change in changes} == {ERASED}
    assert count[0] < number
    # Tenant, page, leaves, erasure, event with its statements, commit.
    assert died >= 10


SCOPES: dict[str, tuple[Any, Any]] = {
    "action_id": ("mine", "act_other"),
    "agent_id": ("agent-1", "agent-2"),
    "user_id": ("user-1", "user-2"),
    "caller_subject": ("spiffe://example/agent", "spiffe://example/other"),
    "tool_id": ("github", "desk"),
    "operation": ("get_issue", "close_issue"),
    "recorded_from": (LONG_AGO, LONG_AGO + timedelta(microseconds=1)),
    "recorded_until": (LONG_AGO + timedelta(microseconds=1), LONG_AGO),
}


@pytest.mark.parametrize("field", sorted(SCOPES))
def test_a_hold_keeps_what_is_in_its_scope_and_nothing_else(
    acme: Engine, ledger: PostgresLedger, database_url: str, field: str
) -> None:
    change = finished()
    ledger.commit([change])
    inside, outside = SCOPES[field]
    holds = make_holds(acme)
    value: Any = change.stored.action.action_id if inside == "mine" else inside
    hold_id = place(holds, ReceiptFilter(**{field: value}))
    assert make_retention(acme).erase_due().erased == 0
    assert bodies(database_url, change) == KEPT
    release(holds, hold_id)
    place(holds, ReceiptFilter(**{field: outside}))
    assert make_retention(acme).erase_due().erased == 3
    assert bodies(database_url, change) == ERASED


def release(holds: LegalHolds, hold_id: str) -> None:
    for number in (1, 2):
        holds.release(admin(number), "acme", hold_id, "settled", 0, encode)


def test_a_hold_on_one_receipt_keeps_the_whole_action_and_of_another_tenant_nothing(
    acme: Engine, ledger: PostgresLedger, database_url: str
) -> None:
    set_retention(acme, "globex", RETENTION_DAYS)
    change = finished()
    action = replace(change.stored.action, updated_at=LONG_AGO + timedelta(days=1))
    action, last = append_receipt(action)
    stored = replace(change.stored, action=action)
    long = replace(change, stored=stored, receipts=(*change.receipts, last))
    other = finished("globex")
    ledger.commit([long, other])
    place(make_holds(acme), ReceiptFilter(recorded_from=LONG_AGO + timedelta(hours=1)))
    make_retention(acme).erase_due()
    assert (bodies(database_url, long), bodies(database_url, other)) == ((4, 1), ERASED)


def test_an_empty_scope_keeps_the_whole_tenant_until_two_admins_let_go(
    acme: Engine, ledger: PostgresLedger, database_url: str
) -> None:
    change = finished()
    ledger.commit([change])
    holds = make_holds(acme)
    hold_id = place(holds)
    holds.release(admin(1), "acme", hold_id, "settled", 0, encode)
    with pytest.raises(FailedPrecondition, match="second admin"):
        holds.release(admin(1), "acme", hold_id, "settled", 0, encode)
    assert make_retention(acme).erase_due().erased == 0
    holds.release(admin(2), "acme", hold_id, "agreed", 2, encode)
    held = holds.get(admin(), "acme", hold_id)
    assert held.state is HoldState.RELEASED
    assert [step.kind for step in held.hold.steps] == list(StepKind)
    with pytest.raises(FailedPrecondition, match="released already"):
        holds.release(admin(3), "acme", hold_id, "again", 0, encode)
    assert make_retention(acme).erase_due().erased == 3
    # Every step has its event, which names it, and events are never erased.
    store = PostgresReceiptStore(acme)
    for step in held.hold.steps:
        found = store.find_receipt(["acme"], step.receipt_id)
        assert found is not None
        assert found.receipt.type == f"hold.{step.kind.value}"
        told = orjson.loads(found.receipt.envelope.payload)["predicate"]
        assert told["caller"]["subject"] == step.subject
        assert told["event"]["holdId"] == hold_id
    check_ledger(database_url)


def test_a_request_lapses_and_is_made_anew(acme: Engine) -> None:
    holds = make_holds(acme)
    hold_id = place(holds)
    holds.release(admin(1), "acme", hold_id, "first", 0, encode)
    later = make_holds(acme, ShiftedClock(RELEASE_REQUEST_LIFETIME + timedelta(hours=1)))
    assert later.get(admin(), "acme", hold_id).state is HoldState.ACTIVE
    later.release(admin(2), "acme", hold_id, "second", 0, encode)
    held = later.get(admin(), "acme", hold_id)
    assert held.state is HoldState.RELEASE_REQUESTED
    assert [step.subject[-1] for step in held.hold.steps] == ["1", "1", "2"]
    later.release(admin(1), "acme", hold_id, "agreed", 0, encode)
    assert later.get(admin(), "acme", hold_id).state is HoldState.RELEASED


def test_of_racing_releases_no_two_of_one_admin_release(acme: Engine) -> None:
    holds = make_holds(acme)
    hold_id = place(holds)
    barrier = threading.Barrier(8)

    def ask(number: int) -> bool:
        barrier.wait(timeout=30)
        try:
            holds.release(admin(1), "acme", hold_id, f"try {number}", 0, encode)
        except FailedPrecondition:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(ask, range(8))) == [*[False] * 7, True]
    assert holds.get(admin(), "acme", hold_id).state is HoldState.RELEASE_REQUESTED


def test_holds_are_listed_newest_first_and_of_ones_own_tenant(acme: Engine) -> None:
    holds = make_holds(acme)
    placed = [place(holds, ReceiptFilter(agent_id=f"agent-{n}")) for n in range(3)]
    other = place(holds, tenant_id="globex")
    page = holds.list(admin(), "acme", 2, "", lambda _: 1)
    assert [held.hold.hold_id for held in page.holds] == placed[:0:-1]
    rest = holds.list(admin(), "acme", 2, page.next_page_token, lambda _: 1)
    assert [held.hold.hold_id for held in rest.holds] == placed[:1]
    assert rest.next_page_token == ""
    with pytest.raises(NotFound):
        holds.get(admin(), "acme", other)
    with pytest.raises(NotFound):
        holds.release(admin(), "acme", other, "not mine", 0, encode)


# Seconds by which the erasure starts before the hold: together, close, and so far apart that
# even a machine that always favours one side sees both outcomes.
LEADS = (0.0, 0.002, -0.002, 0.0, 0.01, -0.01, 0.3, -0.3)


def test_after_a_hold_was_placed_nothing_in_its_scope_is_erased(
    acme: Engine, ledger: PostgresLedger, database_url: str
) -> None:
    """Erasure and hold race, with changing leads; whichever comes first, the answer holds."""
    holds = make_holds(acme)
    outcomes = set()
    for number in range(10 * len(LEADS)):
        lead = LEADS[number % len(LEADS)]
        request = make_request(agent_id=f"raced-{number}")
        change = finished(request=request)
        ledger.commit([change])
        barrier = threading.Barrier(2)

        def erase(gate: threading.Barrier = barrier, lead: float = lead) -> int:
            retention = make_retention(acme)
            gate.wait(timeout=30)
            time.sleep(max(0.0, -lead))
            return retention.erase_due().erased

        def hold(
            gate: threading.Barrier = barrier, lead: float = lead, kept: Change = change
        ) -> tuple[int, int]:
            agent_id = kept.stored.action.request.agent_id
            gate.wait(timeout=30)
            time.sleep(max(0.0, lead))
            place(holds, ReceiptFilter(agent_id=agent_id))
            return bodies(database_url, kept)

        with ThreadPoolExecutor(2) as pool:
            erasing, holding = pool.submit(erase), pool.submit(hold)
            erased, at_answer = erasing.result(timeout=60), holding.result(timeout=60)
        assert bodies(database_url, change) == at_answer
        assert at_answer == (KEPT if erased == 0 else ERASED)
        outcomes.add(at_answer)
        if len(outcomes) == 2 and number >= 2 * len(LEADS):
            break
    assert outcomes == {KEPT, ERASED}
    check_ledger(database_url)


@pytest.fixture
def owner(database_url: str) -> Iterator[psycopg.Connection]:
    """A session of the superuser, who owns the tables."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


def as_app(connection: psycopg.Connection, tenant_id: str = "acme") -> psycopg.Connection:
    connection.execute("SET ROLE oars_app")
    connection.execute("SELECT set_config('oars.tenants', %s, false)", (tenant_id,))
    return connection


@pytest.mark.parametrize("table", ["receipt_body", "action_body"])
@pytest.mark.parametrize("replica", [False, True])
def test_nobody_deletes_what_no_erasure_records(
    acme: Engine,
    ledger: PostgresLedger,
    owner: psycopg.Connection,
    database_url: str,
    table: str,
    *,
    replica: bool,
) -> None:
    ledger.commit([finished()])
    if replica:
        owner.execute("SET session_replication_role = replica")
    with pytest.raises(psycopg.errors.RestrictViolation, match="append-only"):
        owner.execute(f"DELETE FROM {table}".encode())
    with pytest.raises(psycopg.errors.RestrictViolation, match="append-only"):
        owner.execute(f"TRUNCATE {table}".encode())
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        as_app(owner).execute(f"DELETE FROM {table}".encode())
    check_ledger(database_url)


def test_an_input_stays_as_long_as_one_receipt_of_its_action_does(
    acme: Engine, ledger: PostgresLedger, owner: psycopg.Connection
) -> None:
    change = finished()
    ledger.commit([change])
    record = "INSERT INTO erasure SELECT tenant_id, leaf_index, now(), receipt_id FROM receipt"
    with owner.transaction():
        owner.execute(f"{record} WHERE leaf_index < 2".encode())
        owner.execute("DELETE FROM receipt_body WHERE leaf_index < 2")
        with pytest.raises(psycopg.errors.RestrictViolation), owner.transaction():
            owner.execute("DELETE FROM receipt_body WHERE leaf_index = 2")
        with pytest.raises(psycopg.errors.RestrictViolation), owner.transaction():
            owner.execute("DELETE FROM action_body")
        owner.execute(f"{record} WHERE leaf_index = 2".encode())
        owner.execute("DELETE FROM action_body")


def test_under_a_hold_not_even_the_owner_erases(
    acme: Engine, ledger: PostgresLedger, owner: psycopg.Connection, database_url: str
) -> None:
    """Not what it records itself, and not what was recorded before the hold."""
    change = finished()
    ledger.commit([change])
    record = "INSERT INTO erasure SELECT tenant_id, leaf_index, now(), receipt_id FROM receipt"
    place_sql = (
        "INSERT INTO legal_hold VALUES ('acme', 'hold_x', 'x', '', 'agent-1', '', '', '', '')"
    )
    with owner.transaction(force_rollback=True):
        owner.execute(record.encode())
        owner.execute(place_sql)
        for table in ("receipt_body", "action_body"):
            with (
                pytest.raises(psycopg.errors.RestrictViolation, match="legal hold"),
                owner.transaction(),
            ):
                owner.execute(f"DELETE FROM {table}".encode())
    place(make_holds(acme), ReceiptFilter(agent_id="agent-1"))
    with pytest.raises(psycopg.errors.RestrictViolation, match="legal hold"):
        owner.execute(f"{record} WHERE action_id <> ''".encode())
    with pytest.raises(psycopg.errors.RestrictViolation, match="legal hold"):
        as_app(owner).execute(
            "SELECT oars_erase('acme', %s, now(), %s)",
            ([change.stored.action.action_id], change.receipts[0].receipt_id),
        )
    assert bodies(database_url, change) == KEPT


def test_the_function_that_erases_keeps_to_the_rule_whoever_calls_it(
    acme: Engine, ledger: PostgresLedger, owner: psycopg.Connection, database_url: str
) -> None:
    old, recent, waiting = finished(), finished(at=LATELY), finished(state=ActionState.APPROVED)
    foreign = finished("globex")
    ledger.commit([old, recent, waiting, foreign])
    app = as_app(owner)

    def erase(tenant_id: str, *changes: Change, event_id: str = "") -> None:
        actions = [change.stored.action.action_id for change in changes]
        app.execute(
            "SELECT oars_erase(%s, %s, now(), %s)",
            (tenant_id, actions, event_id or old.receipts[0].receipt_id),
        )

    for refused in (recent, waiting):
        with pytest.raises(psycopg.errors.RestrictViolation, match="not past"):
            erase("acme", old, refused)
    with pytest.raises(psycopg.errors.RestrictViolation, match="not past"):
        erase("acme", foreign)
    with pytest.raises(psycopg.errors.RestrictViolation, match="not past"):
        app.execute("SELECT oars_erase('acme', ARRAY[''], now(), '')")
    with pytest.raises(psycopg.errors.RestrictViolation, match="not past"):
        app.execute("SELECT oars_erase('acme', '{}', now(), '')")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        erase("globex", foreign)
    # No event, no erasure.
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        erase("acme", old, event_id=new_id("rcpt"))
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        app.execute("INSERT INTO erasure VALUES ('acme', 0, now(), '')")
    app.execute("SELECT set_config('oars.tenants', 'globex', false)")
    with pytest.raises(psycopg.errors.RestrictViolation, match="not past"):
        erase("globex", foreign)  # which keeps everything for good
    check_ledger(database_url)


STEP = (
    "INSERT INTO legal_hold_step"
    " SELECT 'acme', '{hold}', {sequence}, '{kind}', '{who}', '{fingerprint}', '{account}',"
    " {at}, '', receipt_id FROM receipt WHERE tenant_id = 'acme' ORDER BY leaf_index LIMIT 1"
)
CONFIRMED = {
    "sequence": 3,
    "kind": "released",
    "who": "spiffe://example/admin-2",
    "fingerprint": f"{2:064x}",
    "account": "admin-2",
    "at": "now()",
}


@pytest.mark.parametrize(
    "forged",
    [
        {"who": "spiffe://example/admin-1"},
        {"fingerprint": f"{1:064x}"},
        {"account": "admin-1"},
        {"at": "now() + interval '8 days'"},
        {"sequence": 2},
        {"sequence": 4},
        {"kind": "placed"},
        {"kind": "lifted"},
    ],
)
def test_the_database_itself_wants_a_second_admin(
    acme: Engine, owner: psycopg.Connection, forged: dict[str, Any]
) -> None:
    holds = make_holds(acme)
    hold_id = place(holds)
    with pytest.raises(psycopg.errors.RestrictViolation):  # nobody requested it
        owner.execute(STEP.format(hold=hold_id, **{**CONFIRMED, "sequence": 2}).encode())
    holds.release(admin(1), "acme", hold_id, "settled", 0, encode)
    app = as_app(owner)
    with pytest.raises(psycopg.errors.RestrictViolation):
        app.execute(STEP.format(hold=hold_id, **{**CONFIRMED, **forged}).encode())
    for statement in (
        "UPDATE legal_hold SET agent_id = 'nobody'",
        "DELETE FROM legal_hold",
        "DELETE FROM legal_hold_step",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            app.execute(statement.encode())
    app.execute(STEP.format(hold=hold_id, **CONFIRMED).encode())
    assert holds.get(admin(), "acme", hold_id).state is HoldState.RELEASED
    with pytest.raises(psycopg.errors.RestrictViolation):
        app.execute(STEP.format(hold=hold_id, **{**CONFIRMED, "sequence": 4}).encode())
