"""An approval that takes a one-time code and a signature, from enrolment to a stranger's check."""

import base64
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from click.testing import CliRunner
from pyotp import TOTP

from oars_grpc.cli import commands
from oars_grpc.core.approver_key import registration_message
from oars_grpc.core.canonical import encode_base64
from oars_grpc.core.grant import sign_grant
from oars_grpc.core.keys import SigningKey, signing_key
from oars_grpc.local.stack import LocalStack
from tests.support.client import Client, action_body, client_for, submit
from tests.support.identities import add_identity

TENANT = "tenant_proven"
BASE = f"/v1/tenants/{TENANT}"
ALICE = "spiffe://oars.dev/proven-alice"
STRANGER = Path(__file__).parents[1] / "interop" / "standalone_grant_verifier.py"
KEY, PUBLIC = signing_key(uuid4().bytes * 2)
ANOTHER_KEY = signing_key(uuid4().bytes * 2)[0]
Change = Callable[[dict[str, Any]], object]


@dataclass(frozen=True)
class World:
    """A tenant whose approvals take a code and a signature; Alice has both."""

    admin: Client
    alice: Client
    agent: Client

    def asked(self) -> Any:
        """An approval as Alice is shown it."""
        # Of its own input: an equal request would join the one that waits.
        context = {"environment": "production", "dataTypes": ["none"]}
        body = action_body("transfer_funds", context=context, input={"invoice": str(uuid4())})
        answer = submit(self.agent, body)
        found = self.alice.rest.get(f"/v1/approvals/{answer['approval']['approvalId']}")
        assert found.is_success, found.text
        return found.json()

    def new_app(self) -> TOTP:
        """Alice's app, enrolled anew: none of its codes was used, so that no test has to wait."""
        path = f"{BASE}/approvers:enrollSecondFactor"
        return TOTP(ask(self.admin, path, {"subject": ALICE})["secret"])

    def fresh_code(self) -> str:
        return self.new_app().now()

    def decide(self, shown: Any, key: str = "", **changes: Any) -> httpx.Response:
        approval = shown["approval"]
        body = {
            "verdict": "VERDICT_APPROVE",
            "actionDigest": approval["actionDigest"],
            "displayDigest": approval["displayDigest"],
            **changes,
        }
        return self.alice.rest.post(
            f"/v1/approvals/{approval['approvalId']}/decision",
            json={name: value for name, value in body.items() if value is not None},
            headers={"idempotency-key": key} if key else {},
        )


def signed(shown: Any, key: SigningKey = KEY) -> str:
    payload = base64.b64decode(shown["grantPayload"])
    return json.dumps(sign_grant(payload, key).to_json())


@pytest.fixture(scope="module")
def world(stack: LocalStack) -> Iterator[World]:
    with ExitStack() as opened:
        clients = []
        for name, role in (("admin", "admin"), ("alice", "approver"), ("agent", "agent")):
            add_identity(stack, f"proven-{name}", role=role, tenants=[TENANT])
            clients.append(opened.enter_context(client_for(stack, f"proven-{name}")))
        admin, alice, agent = clients
        workflow = {"workflowId": "default", "stepUp": True, "signedGrants": True}
        settings = {"workflows": [workflow | {"stages": [{"name": "one", "requiredApprovals": 1}]}]}
        ask(admin, "/v1/tenants", {"tenantId": TENANT, "settings": settings})
        proof = KEY.sign(registration_message(TENANT, ALICE, PUBLIC))
        registration = {"subject": ALICE, "publicKey": encode_base64(PUBLIC)}
        ask(admin, f"{BASE}/approver-keys", registration | {"proof": encode_base64(proof)})
        yield World(admin, alice, agent)


def ask(client: Client, path: str, body: Any) -> Any:
    answer = client.rest.post(path, json=body)
    assert answer.is_success, answer.text
    return answer.json()


def reason_of(answer: httpx.Response) -> str:
    assert answer.is_client_error, answer.text
    details = answer.json()["details"]
    found: str = next(d["reason"] for d in details if d["@type"].endswith("ErrorInfo"))
    return found


def test_an_approval_takes_both_and_whoever_reads_the_receipt_sees_both(
    world: World, tmp_path: Path
) -> None:
    shown = world.asked()
    grant = signed(shown)
    # Neither is left out, and nothing is used up by what is refused for its form.
    for missing in ({"oneTimeCode": "000000"}, {"signedGrant": grant}):
        assert world.decide(shown, **missing).status_code == 400
    code = world.fresh_code()
    key = f"decide-{uuid4()}"
    approved = world.decide(shown, key, oneTimeCode=code, signedGrant=grant)
    assert approved.is_success, approved.text
    (decision,) = approved.json()["approval"]["decisions"]
    assert (decision["steppedUp"], decision["keyId"]) == (True, KEY.key_id)
    # Repeated under its key it is answered alike: no second code is asked for.
    again = world.decide(shown, key, oneTimeCode=code, signedGrant=grant)
    assert again.json() == approved.json()
    assert again.headers["x-idempotent-replay"] == "true"

    receipts = world.admin.rest.get(
        "/v1/receipts", params={"tenantId": TENANT, "actionId": shown["approval"]["actionId"]}
    ).json()
    decided = next(r for r in receipts["receipts"] if r["type"] == "action.approval_decided")
    approval = json.loads(base64.b64decode(decided["envelope"]["payload"]))["predicate"]["approval"]
    assert approval["stepUp"]["method"] == "totp"
    assert code not in json.dumps(approval)
    assert_verifies(world, receipts, tmp_path)


def assert_verifies(world: World, receipts: Any, folder: Path) -> None:
    """Offline, by our command and by a stranger's."""
    registered = world.admin.rest.get(
        "/v1/receipts", params={"tenantId": TENANT, "type": "approver_key.registered"}
    ).json()
    keys = world.admin.rest.get(f"/v1/trust/tenants/{TENANT}/keys").json()
    files = {"receipts.json": receipts, "registered.json": registered, "keys.json": keys}
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    (folder / "alice.der").write_bytes(PUBLIC)
    given = [str(folder / name) for name in ("receipts.json", "registered.json")]
    for options, source in (
        ([], "registered for the approver in the log"),
        (["--approver-key", str(folder / "alice.der")], "one of the approver keys supplied"),
    ):
        result = CliRunner().invoke(
            commands, ["verify", *given, "--keys", str(folder / "keys.json"), "--json", *options]
        )
        assert result.exit_code == 0, result.output
        checks = [json.loads(line)["checks"] for line in result.stdout.splitlines()]
        (found,) = (check["grant"] for check in checks if "grant" in check)
        assert found == {"result": "passed", "detail": f"by approver key {KEY.key_id}, {source}"}

    def stranger(content: Any) -> subprocess.CompletedProcess[str]:
        (folder / "changed.json").write_text(json.dumps(content))
        return subprocess.run(
            [sys.executable, "-I", str(STRANGER), str(folder / "changed.json")],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    assert stranger(receipts).stdout == "1 grants verify\n"
    for change, complaint in (
        (lambda said: said.update(verdict="reject"), "of something else"),
        (lambda said: said.update(displayDigest="0" * 64), "of something else"),
        (lambda said: said["grant"].update(keyId="0" * 16), "not the one named"),
    ):
        refused = stranger(edited(receipts, change))
        assert refused.returncode == 1
        assert complaint in refused.stderr


def edited(receipts: Any, change: Change) -> Any:
    """The receipts after a change to what the decision says; their own signatures do not matter."""
    copied = json.loads(json.dumps(receipts))
    decided = next(r for r in copied["receipts"] if r["type"] == "action.approval_decided")
    statement = json.loads(base64.b64decode(decided["envelope"]["payload"]))
    change(statement["predicate"]["approval"])
    decided["envelope"]["payload"] = encode_base64(json.dumps(statement).encode())
    return copied


def test_a_grant_of_something_else_or_by_another_key_is_refused(world: World) -> None:
    shown, other = world.asked(), world.asked()
    for grant, reason in (
        (signed(other), "GRANT_MISMATCH"),
        (signed(shown, ANOTHER_KEY), "APPROVER_KEY_NOT_REGISTERED"),
        (forged(signed(shown)), "GRANT_SIGNATURE_INVALID"),
    ):
        answer = world.decide(shown, oneTimeCode=world.fresh_code(), signedGrant=grant)
        assert (answer.status_code, reason_of(answer)) == (403, reason)
    malformed = world.decide(shown, oneTimeCode=world.fresh_code(), signedGrant="{}")
    assert malformed.status_code == 400
    still = world.alice.rest.get(f"/v1/approvals/{shown['approval']['approvalId']}").json()
    assert still["approval"]["state"] == "APPROVAL_STATE_PENDING"


def forged(grant: str) -> str:
    value = json.loads(grant)
    value["signatures"][0]["sig"] = encode_base64(bytes(64))
    return json.dumps(value)


def test_a_used_or_a_wrong_code_approves_nothing(world: World) -> None:
    shown, other = world.asked(), world.asked()
    app = world.new_app()
    code = app.now()
    near = {app.at(int(time.time()), counter_offset=offset) for offset in range(-2, 4)}
    wrong = next(guess for guess in ("000000", "111111", "222222") if guess not in near)
    refused = world.decide(shown, oneTimeCode=wrong, signedGrant=signed(shown))
    assert (refused.status_code, reason_of(refused)) == (403, "SECOND_FACTOR_WRONG")
    assert world.decide(shown, oneTimeCode=code, signedGrant=signed(shown)).is_success
    again = world.decide(other, oneTimeCode=code, signedGrant=signed(other))
    assert (again.status_code, reason_of(again)) == (403, "SECOND_FACTOR_WRONG")
    # A rejection takes neither.
    assert world.decide(other, verdict="VERDICT_REJECT").is_success


def test_after_five_wrong_codes_a_right_one_is_refused_for_a_while(world: World) -> None:
    shown = world.asked()
    app = world.new_app()
    near = {app.at(int(time.time()), counter_offset=offset) for offset in range(-2, 4)}
    wrong = next(guess for guess in ("000000", "111111", "222222") if guess not in near)
    answers = [
        world.decide(shown, oneTimeCode=code, signedGrant=signed(shown))
        for code in [*[wrong] * 5, app.now()]
    ]
    assert [reason_of(answer) for answer in answers] == [
        *["SECOND_FACTOR_WRONG"] * 4,
        *["SECOND_FACTOR_LOCKED"] * 2,
    ]
    assert {answer.status_code for answer in answers[4:]} == {429}
    (retry,) = (d for d in answers[5].json()["details"] if d["@type"].endswith("RetryInfo"))
    assert 800 < float(retry["retryDelay"].rstrip("s")) <= 900
    state = world.admin.rest.get(f"{BASE}/second-factor", params={"subject": ALICE})
    assert state.json()["secondFactor"]["lockedUntil"]
