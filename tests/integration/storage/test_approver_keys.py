"""Approvers' keys on Postgres: registered once, revoked for good, and judged as they stand."""

import json
from dataclasses import dataclass, replace

import psycopg
import pytest
from sqlalchemy import Engine

from oars_grpc.core.approver_key import ApproverKey, registration_message
from oars_grpc.core.call import Call
from oars_grpc.core.grant import grant_payload, sign_grant
from oars_grpc.core.identity import Role
from oars_grpc.core.keys import SigningKey, signing_key
from oars_grpc.core.page_token import PageTokens
from oars_grpc.core.stored import Committed, Superseded
from oars_grpc.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    OarsError,
    PermissionDenied,
)
from oars_grpc.storage.approvers import PostgresApproverStore
from oars_grpc.storage.ledger import PostgresLedger
from oars_grpc.storage.registry import PostgresRegistryStore
from oars_grpc.system import SystemChance, SystemClock
from oars_grpc.use_cases.approver_keys import ApproverKeys
from oars_grpc.use_cases.events import EventWriter
from oars_grpc.use_cases.keyring import Keyring
from tests.support.database import check_ledger
from tests.support.factories import KEY_ENCRYPTION_KEY, make_change, make_principal

ALICE, BOB = "spiffe://example/alice", "spiffe://example/bob"
ADMIN = make_principal("spiffe://example/admin", role=Role.ADMIN, service_account_id="")
KEY, PUBLIC = signing_key(b"\x07" * 32)
PAYLOAD = grant_payload(
    tenant_id="acme",
    approval_id="apr_1",
    action_id="act_1",
    action_digest="a" * 64,
    policy_digest="b" * 64,
    display_digest="c" * 64,
    approver=ALICE,
    verdict="approve",
    stage=1,
)


@dataclass
class World:
    keys: ApproverKeys
    url: str

    def register(
        self, subject: str = ALICE, key: SigningKey = KEY, public: bytes = PUBLIC
    ) -> ApproverKey:
        found: list[ApproverKey] = []
        proof = key.sign(registration_message("acme", subject, public))
        self.keys.register(Call(ADMIN, "/test", "r"), "acme", subject, public, proof, Noting(found))
        return found[0]

    def revoke(self, key_id: str = KEY.key_id) -> ApproverKey:
        found: list[ApproverKey] = []
        self.keys.revoke(Call(ADMIN, "/test", "r"), "acme", key_id, "lost", Noting(found))
        return found[0]

    def refusal(self, envelope: bytes, subject: str = ALICE, tenant_id: str = "acme") -> str:
        try:
            self.keys.check(tenant_id, subject, envelope, PAYLOAD)
        except OarsError as error:
            return error.reason
        return ""


class Noting:
    """An encoder that keeps what it is given."""

    def __init__(self, found: list[ApproverKey]) -> None:
        self._found = found

    def __call__(self, key: ApproverKey) -> bytes:
        self._found.append(key)
        return b""


@pytest.fixture
def world(database_url: str, engine: Engine) -> World:
    chance, clock = SystemChance(), SystemClock()
    keys = ApproverKeys(
        registry=PostgresRegistryStore(engine),
        store=PostgresApproverStore(engine),
        events=EventWriter(Keyring(KEY_ENCRYPTION_KEY, chance, clock), chance),
        tokens=PageTokens(b"s"),
        clock=clock,
    )
    return World(keys, database_url)


def signed(key: SigningKey = KEY, payload: bytes = PAYLOAD) -> bytes:
    return json.dumps(sign_grant(payload, key).to_json()).encode()


def test_a_grant_is_taken_of_a_registered_key_until_it_is_revoked(world: World) -> None:
    assert world.refusal(signed()) == "APPROVER_KEY_NOT_REGISTERED"
    registered = world.register()
    assert (registered.key_id, registered.subject) == (KEY.key_id, ALICE)
    grant = world.keys.check("acme", ALICE, signed(), PAYLOAD)
    assert (grant.key_id, grant.public_key) == (KEY.key_id, PUBLIC)
    # It is Alice's, in this tenant, and of this key.
    assert world.refusal(signed(), BOB) == "APPROVER_KEY_NOT_REGISTERED"
    assert world.refusal(signed(), tenant_id="globex") == "APPROVER_KEY_NOT_REGISTERED"
    assert world.refusal(signed(signing_key(b"\x08" * 32)[0])) == "APPROVER_KEY_NOT_REGISTERED"
    assert world.refusal(signed(payload=PAYLOAD + b" ")) == "GRANT_MISMATCH"
    forged = sign_grant(PAYLOAD, KEY).to_json()
    forged["signatures"][0]["sig"] = "A" * 86 + "=="
    assert world.refusal(json.dumps(forged).encode()) == "GRANT_SIGNATURE_INVALID"
    with pytest.raises(InvalidArgument):
        world.keys.check("acme", ALICE, b"{}", PAYLOAD)
    revoked = world.revoke()
    assert revoked.revoked_at is not None
    assert world.refusal(signed()) == "APPROVER_KEY_REVOKED"
    assert check_ledger(world.url) == 2  # two events, in an unbroken chain


def test_a_key_is_registered_once_for_one_subject_and_never_again(world: World) -> None:
    world.register()
    for subject in (ALICE, BOB):
        with pytest.raises(AlreadyExists):
            world.register(subject)
    world.revoke()
    with pytest.raises(AlreadyExists):
        world.register()
    with pytest.raises(FailedPrecondition):
        world.revoke()
    with pytest.raises(NotFound):
        world.revoke("0" * 16)
    with psycopg.connect(world.url) as owner, pytest.raises(psycopg.errors.RestrictViolation):
        owner.execute("UPDATE approver_key SET revoked_at = NULL")


def test_who_cannot_sign_with_a_key_cannot_have_it_registered(world: World) -> None:
    for key, subject in ((signing_key(b"\x08" * 32)[0], ALICE), (KEY, BOB)):
        proof = key.sign(registration_message("acme", subject, PUBLIC))
        with pytest.raises(PermissionDenied) as caught:
            world.keys.register(Call(ADMIN, "/test", "r"), "acme", ALICE, PUBLIC, proof, Noting([]))
        assert caught.value.reason == "PROOF_OF_POSSESSION_INVALID"
    with pytest.raises(PermissionDenied) as caught:
        world.register(ADMIN.subject)
    assert caught.value.reason == "SELF_ENROLMENT"
    assert check_ledger(world.url) == 0


def test_a_decision_that_was_composed_before_a_revocation_does_not_commit(
    world: World, engine: Engine
) -> None:
    ledger = PostgresLedger(engine)
    world.register()
    before = ledger.basis("acme", None).revision
    change = replace(make_change("acme"), expected_revision=before)
    world.revoke()
    assert ledger.basis("acme", None).revision > before
    assert list(ledger.commit([change])) == [Superseded()]
    now = replace(change, expected_revision=ledger.basis("acme", None).revision)
    assert list(ledger.commit([now])) == [Committed()]


def test_keys_are_listed_by_page_and_by_subject(world: World) -> None:
    made = []
    for number in range(1, 6):
        key, public = signing_key(bytes([number]) * 32)
        made.append(world.register(ALICE if number % 2 else BOB, key, public))
    call = Call(ADMIN, "/test", "r")

    def listed(subject: str, size: int) -> list[ApproverKey]:
        found: list[ApproverKey] = []
        token = ""
        while True:
            page = world.keys.list(call, "acme", subject, size, token, lambda _key: 100)
            assert len(page.keys) <= size
            found += page.keys
            token = page.next_page_token
            if not token:
                return found

    by_id = sorted(made, key=lambda key: key.key_id)
    assert listed("", 2) == by_id
    assert listed(ALICE, 1) == [key for key in by_id if key.subject == ALICE]
    assert listed("nobody", 2) == []
    token = world.keys.list(call, "acme", "", 2, "", lambda _key: 100).next_page_token
    with pytest.raises(InvalidArgument):
        world.keys.list(call, "acme", ALICE, 2, token, lambda _key: 100)
