"""Second factors and approvers' keys on the real stack, over both ways in."""

import base64
import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from click.testing import CliRunner
from pyotp import TOTP, parse_uri

from oars_grpc.cli import commands
from oars_grpc.core.approver_key import registration_message
from oars_grpc.core.keys import signing_key
from oars_grpc.local.stack import LocalStack
from tests.support.client import Client, client_for
from tests.support.identities import add_identity

TENANT = "tenant_approvers"
BASE = f"/v1/tenants/{TENANT}"
SUBJECT = "spiffe://oars.dev/approvers-alice"


@dataclass(frozen=True)
class World:
    """A tenant of this module's own."""

    stack: LocalStack
    admin: Client
    second_admin: Client
    approver: Client

    def enrol(self, subject: str = SUBJECT, client: Client | None = None, key: str = "") -> Any:
        return (client or self.admin).rest.post(
            f"{BASE}/approvers:enrollSecondFactor",
            json={"subject": subject},
            headers={"idempotency-key": key} if key else {},
        )

    def events(self, type_: str) -> list[Any]:
        """What the tenant's log tells of events of a type, in order."""
        answer = self.admin.rest.get("/v1/receipts", params={"tenantId": TENANT, "type": type_})
        assert answer.is_success, answer.text
        payloads = [
            json.loads(base64.b64decode(receipt["envelope"]["payload"]))
            for receipt in answer.json()["receipts"]
        ]
        return [payload["predicate"]["event"] for payload in payloads]


@pytest.fixture(scope="module")
def world(stack: LocalStack) -> Iterator[World]:
    with ExitStack() as opened:
        clients = []
        for name, role in (("one", "admin"), ("two", "admin"), ("alice", "approver")):
            add_identity(stack, f"approvers-{name}", role=role, tenants=[TENANT])
            clients.append(opened.enter_context(client_for(stack, f"approvers-{name}")))
        made = World(stack, *clients)
        created = made.admin.rest.post("/v1/tenants", json={"tenantId": TENANT})
        assert created.is_success, created.text
        yield made


def reason_of(answer: Any) -> str:
    assert answer.is_client_error, answer.text
    details = answer.json()["details"]
    found: str = next(d["reason"] for d in details if d["@type"].endswith("ErrorInfo"))
    return found


def test_a_secret_is_told_once_and_stored_nowhere_in_the_clear(world: World) -> None:
    key = f"enrol-{uuid4()}"
    first = world.enrol(key=key)
    assert first.is_success, first.text
    told = first.json()
    app = parse_uri(told["otpauthUri"])
    assert isinstance(app, TOTP)
    assert (app.secret, app.name, app.issuer) == (told["secret"], SUBJECT, f"OARS {TENANT}")
    assert (app.digits, app.interval, app.digest().name) == (6, 30, "sha1")
    assert len(app.byte_secret()) == 20
    again = world.enrol(key=key)
    assert again.headers["x-idempotent-replay"] == "true"
    assert again.json() == told | {"secret": "", "otpauthUri": ""}
    with psycopg.connect(world.stack.postgres.url) as owner:
        stored = owner.execute(
            "SELECT response FROM idempotency_outcome WHERE key = %s", (key,)
        ).fetchall()
        rows = owner.execute("SELECT encrypted_secret FROM second_factor").fetchall()
    assert len(stored) == 1
    for (value,) in (*stored, *rows):
        assert told["secret"].encode() not in value
        assert app.byte_secret() not in value


def test_the_state_of_a_factor_is_told_and_never_its_secret(world: World) -> None:
    enrolled = world.enrol().json()["secondFactor"]
    for client in (world.admin, world.approver):
        answer = client.rest.get(f"{BASE}/second-factor", params={"subject": SUBJECT})
        assert answer.is_success, answer.text
        assert answer.json() == {"secondFactor": enrolled}
    # Not locked: `lockedUntil` is unset.
    assert set(enrolled) == {"tenantId", "subject", "enrolledAt", "enrolledBy"}
    assert enrolled["enrolledBy"] == "spiffe://oars.dev/approvers-one"
    missing = world.admin.rest.get(f"{BASE}/second-factor", params={"subject": "nobody"})
    assert (missing.status_code, reason_of(missing)) == (404, "SECOND_FACTOR_NOT_FOUND")


def test_an_admin_makes_no_approver_of_himself_and_an_approver_nobody(world: World) -> None:
    own = "spiffe://oars.dev/approvers-one"
    assert reason_of(world.enrol(own)) == "SELF_ENROLMENT"
    assert world.enrol(own, world.second_admin).is_success
    assert reason_of(world.enrol(own, world.approver)) == "ROLE_FORBIDDEN"


def test_enrolments_and_removals_are_events_without_the_secret(world: World) -> None:
    subject = f"spiffe://oars.dev/{uuid4()}"
    secrets = [world.enrol(subject).json()["secret"] for _ in range(2)]
    removed = world.admin.rest.post(
        f"{BASE}/approvers:removeSecondFactor", json={"subject": subject}
    )
    assert removed.is_success, removed.text
    again = world.admin.rest.post(f"{BASE}/approvers:removeSecondFactor", json={"subject": subject})
    assert reason_of(again) == "SECOND_FACTOR_NOT_ENROLLED"
    enrolled = [e for e in world.events("second_factor.enrolled") if e["subject"] == subject]
    assert enrolled == [{"subject": subject, "replaced": replaced} for replaced in (False, True)]
    assert {"subject": subject} in world.events("second_factor.removed")
    text = json.dumps([world.events(f"second_factor.{kind}") for kind in ("enrolled", "removed")])
    assert not any(secret in text for secret in secrets)


def registration(seed: bytes, subject: str = SUBJECT, **changes: Any) -> dict[str, Any]:
    key, public_key = signing_key(seed)
    proof = key.sign(registration_message(TENANT, subject, public_key))
    body = {"subject": subject, "publicKey": encoded(public_key), "proof": encoded(proof)}
    return body | changes


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_a_key_is_registered_listed_and_revoked_and_each_is_an_event(world: World) -> None:
    seed = uuid4().bytes * 2
    key, public_key = signing_key(seed)
    made = world.admin.rest.post(f"{BASE}/approver-keys", json=registration(seed))
    assert made.is_success, made.text
    registered = made.json()["key"]
    assert (registered["keyId"], registered["publicKey"]) == (key.key_id, encoded(public_key))
    assert registered["registeredBy"] == "spiffe://oars.dev/approvers-one"
    listed = world.approver.rest.get(
        f"{BASE}/approver-keys", params={"subject": SUBJECT, "pageSize": 200}
    )
    assert registered in listed.json()["keys"]
    others = world.approver.rest.get(f"{BASE}/approver-keys", params={"subject": "nobody"})
    assert others.json() == {"keys": [], "nextPageToken": ""}
    twice = world.admin.rest.post(f"{BASE}/approver-keys", json=registration(seed))
    assert (twice.status_code, reason_of(twice)) == (409, "APPROVER_KEY_EXISTS")

    path = f"{BASE}/approver-keys/{key.key_id}:revoke"
    assert world.admin.rest.post(path, json={"reason": " "}).status_code == 400
    revoked = world.second_admin.rest.post(path, json={"reason": "lost the token"})
    assert revoked.is_success, revoked.text
    assert revoked.json()["key"]["revocationReason"] == "lost the token"
    assert revoked.json()["key"]["revokedAt"] > registered["registeredAt"]
    assert reason_of(world.admin.rest.post(path, json={"reason": "x"})) == (
        "APPROVER_KEY_ALREADY_REVOKED"
    )
    unknown = f"{BASE}/approver-keys/{'0' * 16}:revoke"
    missing = world.admin.rest.post(unknown, json={"reason": "x"})
    assert (missing.status_code, reason_of(missing)) == (404, "APPROVER_KEY_NOT_FOUND")
    told = {"subject": SUBJECT, "keyId": key.key_id, "publicKey": encoded(public_key)}
    assert told in world.events("approver_key.registered")
    assert told | {"reason": "lost the token"} in world.events("approver_key.revoked")


def test_a_key_given_as_pem_is_the_same_key(world: World) -> None:
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        PublicFormat,
        load_der_public_key,
    )

    seed = uuid4().bytes * 2
    key, public_key = signing_key(seed)
    pem = load_der_public_key(public_key).public_bytes(
        Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
    )
    body = registration(seed, publicKey=encoded(pem))
    made = world.admin.rest.post(f"{BASE}/approver-keys", json=body)
    assert made.is_success, made.text
    assert made.json()["key"]["keyId"] == key.key_id
    assert made.json()["key"]["publicKey"] == encoded(public_key)


def test_a_key_is_registered_for_whom_it_was_proven_only(world: World) -> None:
    seed = uuid4().bytes * 2
    key, public_key = signing_key(seed)
    elsewhere = key.sign(registration_message("tenant_alpha", SUBJECT, public_key))
    for body in (
        registration(seed) | {"subject": "spiffe://oars.dev/bob"},
        registration(seed, proof=encoded(elsewhere)),
        registration(seed, proof=encoded(bytes(64))),
    ):
        refused = world.admin.rest.post(f"{BASE}/approver-keys", json=body)
        assert reason_of(refused) == "PROOF_OF_POSSESSION_INVALID"
    own = registration(seed, "spiffe://oars.dev/approvers-one")
    refused = world.admin.rest.post(f"{BASE}/approver-keys", json=own)
    assert reason_of(refused) == "SELF_ENROLMENT"
    assert world.second_admin.rest.post(f"{BASE}/approver-keys", json=own).is_success


@pytest.mark.parametrize("path", ["second-factor", "approver-keys"])
def test_a_query_does_not_override_the_path(world: World, path: str) -> None:
    for query in (
        "tenantId=tenant_alpha&subject=x",
        "subject=x&tenant_id=tenant_alpha",
        "subject=x&t%65nantId=tenant_alpha",
    ):
        assert reason_of(world.admin.rest.get(f"{BASE}/{path}?{query}")) == "UNEXPECTED_QUERY"


def test_the_commands_make_an_approver(world: World, tmp_path: Path) -> None:
    """Over connection.json, in tenant_alpha: what an admin does, and what the approver does."""
    connection = ["--connection", str(world.stack.certificates.parent / "connection.json")]

    def oars(*arguments: str) -> str:
        result = CliRunner().invoke(commands, ["approvers", *arguments])
        assert result.exit_code == 0, result.output
        return result.stdout

    subject = f"spiffe://oars.dev/{uuid4()}"
    uri, secret = oars("enroll", subject, *connection).splitlines()
    app = parse_uri(uri)
    assert secret == f"secret {app.secret}"
    assert json.loads(oars("factor", subject, *connection))["subject"] == subject
    assert subject in oars("unenroll", subject, *connection)

    key, proof = tmp_path / "key.pem", tmp_path / "proof.json"
    oars("key-new", str(key))
    proof.write_text(oars("key-proof", str(key), "--subject", subject, "--tenant", "tenant_alpha"))
    key_id = oars("register-key", str(proof), *connection).split()[1]
    (listed,) = json.loads(oars("keys", "--subject", subject, *connection))["keys"]
    assert (listed["keyId"], listed["subject"]) == (key_id, subject)
    assert "revoked" in oars("revoke-key", key_id, "--reason", "over", *connection)
    (listed,) = json.loads(oars("keys", "--subject", subject, *connection))["keys"]
    assert listed["revocationReason"] == "over"
    refused = CliRunner().invoke(commands, ["approvers", "factor", subject, *connection])
    assert refused.exit_code == 1
    assert "SECOND_FACTOR_NOT_FOUND" in refused.stderr
