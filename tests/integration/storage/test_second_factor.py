"""Codes tried at the same moment on two replicas: one use, and every failure counted."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from threading import Barrier

import psycopg
import pytest
from pyotp import TOTP
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from oars_grpc.core.call import Call
from oars_grpc.core.identity import Principal, Role
from oars_grpc.core.second_factor import LOCK_TIME, MAXIMUM_FAILURES, SecondFactor, secret_text
from oars_grpc.errors import (
    ConfigurationError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    OarsError,
    PermissionDenied,
    ResourceExhausted,
)
from oars_grpc.storage.approvers import PostgresApproverStore
from oars_grpc.storage.registry import PostgresRegistryStore
from oars_grpc.system import SystemChance
from oars_grpc.use_cases.events import EventWriter
from oars_grpc.use_cases.keyring import Keyring
from oars_grpc.use_cases.sealer import Sealer
from oars_grpc.use_cases.second_factors import SecondFactors
from tests.support.database import check_ledger, opened
from tests.support.factories import KEY_ENCRYPTION_KEY, NOW, make_principal

SUBJECT = "spiffe://example/alice"
ADMIN = make_principal("spiffe://example/admin", role=Role.ADMIN, service_account_id="")
WRONG = "SECOND_FACTOR_WRONG"
LOCKED = "SECOND_FACTOR_LOCKED"


@dataclass
class HandClock:
    """A clock that a test sets."""

    moment: datetime = NOW

    def now(self) -> datetime:
        return self.moment


def factors_on(engine: Engine, clock: HandClock, key: bytes = KEY_ENCRYPTION_KEY) -> SecondFactors:
    """The use case of one replica."""
    chance = SystemChance()
    return SecondFactors(
        registry=PostgresRegistryStore(engine),
        store=PostgresApproverStore(engine),
        sealer=Sealer(key, chance),
        events=EventWriter(Keyring(KEY_ENCRYPTION_KEY, chance, clock), chance),
        clock=clock,
        chance=chance,
    )


@dataclass
class World:
    """Two replicas on one database, and the app of one approver."""

    url: str
    clock: HandClock
    replicas: tuple[SecondFactors, SecondFactors]
    app: TOTP

    def code(self, offset: int = 0) -> str:
        return self.app.at(self.clock.moment, counter_offset=offset)

    def wrong_code(self) -> str:
        near = {self.code(offset) for offset in (-1, 0, 1)}
        return next(code for code in ("000000", "111111", "222222", "333333") if code not in near)

    def outcome(self, code: str, replica: int = 0) -> str:
        """The reason of the refusal, or nothing."""
        try:
            self.replicas[replica].burn("acme", SUBJECT, code)
        except OarsError as error:
            return error.reason
        return ""

    def outcomes(self, codes: list[str]) -> Counter[str]:
        """What comes of codes that are tried at the same moment, on both replicas in turn."""
        barrier = Barrier(len(codes))

        def attempt(number: int) -> str:
            barrier.wait(30)
            return self.outcome(codes[number], number % 2)

        with ThreadPoolExecutor(len(codes)) as pool:
            return Counter(pool.map(attempt, range(len(codes))))

    def stored(self) -> SecondFactor:
        return self.replicas[0].get(call(), "acme", SUBJECT)


def call(admin: Principal = ADMIN) -> Call:
    return Call(admin, "/test", "req")


def enrol(factors: SecondFactors, subject: str = SUBJECT, tenant_id: str = "acme") -> TOTP:
    admin = replace(ADMIN, tenant_ids=frozenset({tenant_id}))
    enrolment = factors.enrol(call(admin), tenant_id, subject, lambda _factor: b"told")
    assert enrolment.secret is not None
    return TOTP(secret_text(enrolment.secret))


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    with opened(database_url, pool_size=10) as one, opened(database_url, pool_size=10) as other:
        clock = HandClock()
        replicas = (factors_on(one, clock), factors_on(other, clock))
        yield World(database_url, clock, replicas, enrol(replicas[0]))


def test_of_one_code_tried_at_once_on_two_replicas_one_counts(world: World) -> None:
    for _ in range(25):
        world.clock.moment += timedelta(seconds=30)
        assert world.outcomes([world.code()] * 4) == {"": 1, WRONG: 3}
        assert world.stored().last_step == world.app.timecode(world.clock.moment)
        world.clock.moment += timedelta(seconds=30)
        assert world.outcome(world.code()) == ""  # and the count begins anew


def test_of_neighbouring_codes_tried_at_once_none_counts_after_a_later_one(world: World) -> None:
    for _ in range(15):
        world.clock.moment += timedelta(seconds=120)
        codes = [world.code(offset) for offset in (-1, 0, 1) for _ in range(2)]
        outcomes = world.outcomes(codes)
        assert 1 <= outcomes[""] <= 3
        assert set(outcomes) <= {"", WRONG, LOCKED}
        # The last one counts in any order, unless the others have locked the factor before.
        last = world.app.timecode(world.clock.moment) + 1
        assert world.stored().last_step == last or outcomes[LOCKED]
        world.clock.moment += LOCK_TIME
        assert world.outcome(world.code()) == ""


def test_wrong_codes_tried_at_once_are_all_counted_and_lock(world: World) -> None:
    assert world.outcomes([world.wrong_code()] * (MAXIMUM_FAILURES - 1)) == {WRONG: 4}
    assert world.outcomes([world.wrong_code()] * 6) == {LOCKED: 6}
    # The first locked it, the others were not tried.
    assert world.stored().failures == MAXIMUM_FAILURES
    assert world.outcome(world.code()) == LOCKED
    with pytest.raises(ResourceExhausted) as caught:
        world.replicas[1].burn("acme", SUBJECT, world.code())
    assert caught.value.retry_after_ms == 15 * 60 * 1000


def test_a_lock_survives_a_restart_and_ends_by_itself(world: World) -> None:
    for _ in range(MAXIMUM_FAILURES):
        assert world.outcome(world.wrong_code()) in (WRONG, LOCKED)
    with opened(world.url) as engine:
        restarted = factors_on(engine, world.clock)
        assert restarted.get(call(), "acme", SUBJECT).locked_until == NOW + LOCK_TIME
        with pytest.raises(ResourceExhausted):
            restarted.burn("acme", SUBJECT, world.code())
        world.clock.moment += LOCK_TIME
        assert restarted.get(call(), "acme", SUBJECT).locked_until is None
        step_up = restarted.burn("acme", SUBJECT, world.code())
    assert step_up.to_json() == {
        "method": "totp",
        "timeStep": world.app.timecode(world.clock.moment),
        "verifiedAt": "2026-03-01T12:15:00.123456Z",
    }


def test_a_new_enrolment_ends_the_old_secret_and_its_lock(world: World) -> None:
    used = world.code()
    assert world.outcome(used) == ""
    old = world.app
    for _ in range(MAXIMUM_FAILURES):
        world.outcome(world.wrong_code())
    world.app = enrol(world.replicas[1])
    assert old.secret != world.app.secret
    assert world.outcome(old.at(world.clock.moment, counter_offset=1)) == WRONG
    assert world.outcome(world.code()) == ""  # of a step that the old secret has used
    assert world.outcome(world.code()) == WRONG
    # Two enrolments, each an event of an unbroken chain.
    assert check_ledger(world.url) == 2


def test_a_removed_factor_takes_no_code(world: World) -> None:
    factors = world.replicas[0]
    factors.remove(call(), "acme", SUBJECT, lambda _factor: b"told")
    with pytest.raises(FailedPrecondition) as caught:
        world.replicas[1].burn("acme", SUBJECT, world.code())
    assert caught.value.reason == "SECOND_FACTOR_NOT_ENROLLED"
    with pytest.raises(FailedPrecondition):
        factors.remove(call(), "acme", SUBJECT, lambda _factor: b"told")
    with pytest.raises(NotFound):
        factors.get(call(), "acme", SUBJECT)
    assert check_ledger(world.url) == 2


def test_an_admin_enrols_for_others_only(world: World) -> None:
    factors = world.replicas[0]
    admin = replace(ADMIN, service_account_id="sa-Admin")
    for own in (admin.subject, admin.subject.upper(), "sa-admin"):
        with pytest.raises(PermissionDenied) as caught:
            factors.enrol(call(admin), "acme", own, lambda _factor: b"told")
        assert caught.value.reason == "SELF_ENROLMENT"
    assert check_ledger(world.url) == 1


def test_a_factor_is_its_tenants_own(world: World) -> None:
    elsewhere = enrol(world.replicas[0], tenant_id="globex")
    assert world.outcome(elsewhere.at(world.clock.moment)) == WRONG
    with pytest.raises(PermissionDenied):
        world.replicas[0].enrol(call(), "globex", SUBJECT, lambda _factor: b"told")
    with pytest.raises(FailedPrecondition):
        world.replicas[0].burn("nobody", SUBJECT, "123456")


@pytest.mark.parametrize("code", ["", "12345", "abcdef", "\x00" * 6])
def test_what_is_no_code_is_no_attempt(world: World, code: str) -> None:
    with pytest.raises(InvalidArgument):
        world.replicas[0].burn("acme", SUBJECT, code)
    assert world.stored().failures == 0


def test_the_secret_is_nowhere_in_the_clear(world: World) -> None:
    secret = world.app.byte_secret()
    spellings = (secret, world.app.secret.encode(), secret.hex().encode())
    with psycopg.connect(world.url) as owner:
        tables = owner.execute(
            "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables"
            " WHERE schemaname = 'public'"
        ).fetchall()
        assert tables
        for (table,) in tables:
            rows = owner.execute(f"SELECT * FROM {table}").fetchall()
            for row in rows:
                values = [v if isinstance(v, bytes) else str(v).encode() for v in row]
                assert not any(spelling in value for spelling in spellings for value in values)


def test_a_sealed_secret_of_another_row_or_key_does_not_open(
    world: World, database_url: str
) -> None:
    other = enrol(world.replicas[0], "spiffe://example/bob")
    with psycopg.connect(database_url) as owner:
        owner.execute(
            "UPDATE second_factor SET encrypted_secret = (SELECT encrypted_secret"
            " FROM second_factor WHERE subject = 'spiffe://example/bob') WHERE subject = %s",
            (SUBJECT,),
        )
    with pytest.raises(ConfigurationError):
        world.replicas[0].burn("acme", SUBJECT, other.at(world.clock.moment))
    with opened(database_url) as engine, pytest.raises(ConfigurationError):
        factors_on(engine, world.clock, b"k" * 32).burn(
            "acme", "spiffe://example/bob", other.at(world.clock.moment)
        )


def test_the_database_itself_takes_no_step_back(world: World) -> None:
    assert world.outcome(world.code()) == ""
    with psycopg.connect(world.url) as owner, pytest.raises(psycopg.errors.RestrictViolation):
        owner.execute("UPDATE second_factor SET last_step = last_step - 1")


def test_the_application_cannot_empty_the_table(world: World, engine: Engine) -> None:
    with pytest.raises(DBAPIError), engine.connect() as connection:
        connection.exec_driver_sql("TRUNCATE second_factor")
