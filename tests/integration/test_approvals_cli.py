"""`oars approvals` as an approver uses it, against the real stack and against one that lies."""

import base64
import json
import os
import pty
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from pyotp import TOTP

from oars_grpc.cli import commands
from oars_grpc.cli.approver_key_file import make_approver_key
from oars_grpc.core.canonical import canonical_json
from oars_grpc.core.envelope import envelope_from_json
from oars_grpc.core.receipt import parse_statement
from oars_grpc.local.stack import LocalStack
from tests.support.client import RISKY, Client, action_body, client_for, submit
from tests.support.identities import add_identity
from tests.support.lying_proxy import LyingProxy, lying_proxy
from tests.support.tokens import ISSUER, OidcFiles, SigningKey, default_claims, issuer_entry

OARS = [sys.executable, "-m", "oars_grpc.cli"]
TENANT = "tenant_terminal"
ANN = "spiffe://oars.dev/terminal-ann"
KEY = SigningKey.new("ES256")
# Moves the cursor, erases the line, turns the reading round, hides; and an escape that is none.
TRICKS = "pay\u202e001\u2066 \x1b[2K\x1b]0;x\x07\u200b\u00a0\u115f\\u{0041}"


@dataclass(frozen=True)
class Desk:
    """A tenant of this module's own, and the files by which commands reach it."""

    agent: Client
    admin: Client
    ann: Client
    connection: Path

    def ask(self, **changes: Any) -> dict[str, Any]:
        body = action_body("transfer_funds", context=RISKY, **changes)
        found: dict[str, Any] = submit(self.agent, body)["approval"]
        return found

    def approval(self, approval_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.ann.rest.get(f"/v1/approvals/{approval_id}").json()["approval"]
        return found

    def workflow(self, **fields: Any) -> None:
        """Ask this of all approvals from now on."""
        named = {"workflowId": "default", "stages": [{"name": "approval"}], **fields}
        answer = self.admin.rest.patch(
            f"/v1/tenants/{TENANT}", json={"settings": {"workflows": [named]}}
        )
        assert answer.is_success, answer.text

    def oars(self, *arguments: str, stdin: str | None = None) -> "Finished":
        return run(*arguments, connection=self.connection, stdin=stdin)


@dataclass(frozen=True)
class Finished:
    """What a command left."""

    returncode: int
    stdout: str
    stderr: str


def run(*arguments: str, connection: Path, stdin: str | None = None) -> Finished:
    """A command that has no terminal."""
    line = ["approvals", *arguments, "--connection", str(connection)]
    done = CliRunner().invoke(commands, line, input=stdin)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return Finished(done.exit_code, done.stdout, done.stderr)


def on_a_terminal(*arguments: str, connection: Path, typed: Mapping[str, str]) -> tuple[int, str]:
    """Exit code and screen of a command on a terminal; what is typed where it asks for it."""
    process, terminal = pty.fork()
    if process == 0:  # the command
        line = [*OARS, "approvals", *arguments, "--connection", str(connection)]
        os.execve(line[0], line, {**os.environ, "TERM": "xterm", "COLUMNS": "160"})
    screen, waiting = "", dict(typed)
    while True:
        try:
            screen += os.read(terminal, 4096).decode(errors="replace")
        except OSError:  # as Linux tells the end of a terminal
            break
        for prompt in [prompt for prompt in waiting if prompt in screen]:
            time.sleep(0.3)  # until the echo is off
            os.write(terminal, f"{waiting.pop(prompt)}\n".encode())
    _, status = os.waitpid(process, 0)
    os.close(terminal)
    return os.waitstatus_to_exitcode(status), screen


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """A stack of its own, whose server knows an issuer."""
    files = OidcFiles(tmp_path_factory.mktemp("oidc"), KEY)
    files.write(issuer_entry(tenantIds=[TENANT]))
    with LocalStack(
        tmp_path_factory.mktemp("stack"),
        postgres_settings={"fsync": "off"},
        server_settings={"OARS_OIDC_FILE": str(files.path)},
    ) as started:
        yield started


@pytest.fixture(scope="module")
def desk(stack: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    roles = {"agent": "agent", "admin": "admin", "ann": "approver", "portal": "auditor"}
    written = json.loads((stack.certificates.parent / "connection.json").read_text())
    with ExitStack() as opened:
        clients, identities = {}, {}
        for name, role in roles.items():
            more: dict[str, Any] = {"scopes": []} if name == "portal" else {}
            add_identity(stack, f"terminal-{name}", role=role, tenants=[TENANT], **more)
            clients[name] = opened.enter_context(client_for(stack, f"terminal-{name}"))
            identities[name] = {
                "certificate": str(stack.certificates / f"terminal-{name}.pem"),
                "private_key": str(stack.certificates / f"terminal-{name}.key"),
            }
        identities["approver"] = identities["ann"]
        connection = tmp_path_factory.mktemp("desk") / "connection.json"
        connection.write_text(json.dumps(written | {"tenant": TENANT, "identities": identities}))
        created = clients["admin"].rest.post("/v1/tenants", json={"tenantId": TENANT})
        assert created.is_success, created.text
        yield Desk(clients["agent"], clients["admin"], clients["ann"], connection)


@pytest.fixture
def proxy(desk: Desk, tmp_path: Path) -> Iterator[tuple[LyingProxy, Path]]:
    """A server that lies, and the connection that leads to it."""
    with lying_proxy(desk.ann.rest) as started:
        connection = tmp_path / "connection.json"
        honest = json.loads(desk.connection.read_text())
        connection.write_text(json.dumps(honest | {"rest_url": started.url}))
        yield started, connection


def digest(value: Any) -> str:
    return sha256(canonical_json(value)).hexdigest()


def test_the_list_tells_what_is_asked_by_whom_and_for_how_long(desk: Desk) -> None:
    asked = desk.ask(userId="", resource={"toolId": "bank", "operation": "pay", "target": "a/1"})
    own = submit(desk.admin, action_body("transfer_funds", context=RISKY))["approval"]
    listed = desk.oars("list", "--pending")
    assert (listed.returncode, listed.stderr) == (0, "")
    (line,) = [line for line in listed.stdout.splitlines() if asked["approvalId"] in line]
    for told in ("pending", "pay bank a/1", "agent-1", "1/1 approval 0/1", asked["expiresAt"][:19]):
        assert told in line
    # Nobody decides what he asked for.
    mine = desk.oars("list", "--mine", "--role", "admin", "--format", "json")
    ids = [json.loads(each)["approvalId"] for each in mine.stdout.splitlines()]
    assert asked["approvalId"] in ids
    assert own["approvalId"] not in ids
    overdue = desk.oars("list", "--overdue")
    assert (overdue.returncode, overdue.stdout) == (0, "")
    one = desk.oars("list", "--limit", "1", "--format", "json").stdout.splitlines()
    assert [json.loads(each)["approvalId"] for each in one] == [own["approvalId"]]
    refused = desk.oars("list", "--role", "agent")
    assert refused.returncode == 1
    assert "ROLE_FORBIDDEN" in refused.stderr
    assert desk.oars("list", "--role", "nobody").returncode == 1


def test_all_that_is_asked_is_shown_and_nothing_of_it_touches_the_terminal(desk: Desk) -> None:
    lookalike = "tr\u0430nsfer_funds"
    given = {"note": TRICKS, "amount": "1200.00", "list": [1, 2.5, None, True], "Größe": "1\n2"}
    asked = desk.ask(
        input=given,
        userId="",
        delegationChain=["team:desk"],
        resource={"toolId": "bank", "operation": lookalike, "target": "account/77"},
    )
    shown = desk.oars("show", asked["approvalId"])
    assert (shown.returncode, shown.stderr) == (0, "")
    text = shown.stdout
    for unseen in "\u202e\u2066\x1b\x07\u200b\u00a0\u115f":
        assert unseen not in text
    assert all(character.isprintable() or character == "\n" for character in text)
    assert r"pay\u{202e}001\u{2066} \u001b[2K\u001b]0;x\u0007\u{200b}\u{00a0}\u{115f}" in text
    assert r"\\u{0041}" in text
    for told in ('"amount": "1200.00"', "2.5", '"Größe": "1\\n2"', "account/77", "team:desk"):
        assert told in text
    assert f"{lookalike}  (!) other letters, drawn like transfer_funds" in text
    for name in ("actionDigest", "displayDigest"):
        assert asked[name] in text
    assert "spiffe://oars.dev/terminal-agent (role agent" in text
    assert desk.oars("show", "apr_0000").returncode == 2
    assert desk.oars("show", "../../actions").returncode == 2
    missing = desk.oars("show", asked["approvalId"][:-1] + "0")
    assert missing.returncode == 1
    assert "APPROVAL_NOT_FOUND" in missing.stderr


def test_a_decision_is_sent_with_what_was_shown_and_recorded(desk: Desk) -> None:
    asked = desk.ask(input={"title": "approve me"})
    assert desk.oars("approve", asked["approvalId"]).returncode == 2  # there is nobody to ask
    assert desk.approval(asked["approvalId"])["state"] == "APPROVAL_STATE_PENDING"
    done = desk.oars("approve", asked["approvalId"], "--yes", "--reason", "invoice 4711")
    assert (done.returncode, done.stderr) == (0, "")
    assert "approve me" in done.stdout
    assert f"{asked['approvalId']} is approved, stage 1/1" in done.stdout
    approval = desk.approval(asked["approvalId"])
    (decision,) = approval["decisions"]
    assert (decision["approver"], decision["reason"]) == (ANN, "invoice 4711")
    again = desk.oars("reject", asked["approvalId"], "--yes")
    assert again.returncode == 1
    assert "APPROVAL_NOT_PENDING" in again.stderr
    other = desk.ask(input={"title": "reject me"})
    done = desk.oars("reject", other["approvalId"], "--yes")
    assert f"{other['approvalId']} is rejected" in done.stdout
    assert desk.approval(other["approvalId"])["state"] == "APPROVAL_STATE_REJECTED"


def test_on_a_terminal_it_asks_first_and_a_code_is_never_seen(desk: Desk) -> None:
    made = desk.admin.rest.post(
        f"/v1/tenants/{TENANT}/approvers:enrollSecondFactor", json={"subject": ANN}
    )
    totp = TOTP(made.json()["secret"])
    desk.workflow(stepUp=True)
    try:
        asked = desk.ask(input={"title": "with a code"})
        name, connection = asked["approvalId"], desk.connection
        question = "Do you approve exactly this?"
        code, screen = on_a_terminal("approve", name, connection=connection, typed={question: "n"})
        assert code == 1
        assert "Aborted" in screen
        assert desk.approval(name)["decisions"] == []
        now = totp.now()
        code, screen = on_a_terminal(
            "approve", name, connection=connection, typed={question: "y", "One-time code": now}
        )
        assert code == 0, screen
        assert "a one-time code" in screen
        assert now not in screen
        (decision,) = desk.approval(name)["decisions"]
        assert decision["steppedUp"]
        # Without a terminal it comes from standard input; and counts once.
        other = desk.ask(input={"title": "with another"})["approvalId"]
        assert desk.oars("approve", other, "--yes").returncode == 2
        short = desk.oars("approve", other, "--yes", "--code-stdin", stdin="12\n")
        assert (short.returncode, desk.approval(other)["decisions"]) == (1, [])
        used = desk.oars("approve", other, "--yes", "--code-stdin", stdin=f"{now}\n")
        assert used.returncode == 1
        assert "SECOND_FACTOR_WRONG" in used.stderr
        later = totp.at(time.time() + 30)
        done = desk.oars("approve", other, "--yes", "--code-stdin", stdin=f"{later}\n")
        assert done.returncode == 0, done.stderr
    finally:
        desk.workflow()


def test_a_grant_is_signed_by_the_approvers_own_key(desk: Desk, tmp_path: Path) -> None:
    key_file = tmp_path / "ann.pem"
    public_key = make_approver_key(key_file)
    proof = subprocess.run(
        [*OARS, "approvers", "key-proof", str(key_file), "--subject", ANN, "--tenant", TENANT],
        capture_output=True,
        check=True,
        timeout=60,
    )
    body = json.loads(proof.stdout)
    registered = desk.admin.rest.post(f"/v1/tenants/{TENANT}/approver-keys", json=body)
    assert registered.is_success, registered.text
    desk.workflow(signedGrants=True)
    try:
        asked = desk.ask(input={"title": "signed"})["approvalId"]
        unsigned = desk.oars("approve", asked, "--yes")
        assert unsigned.returncode == 2
        assert "--key" in unsigned.stderr
        key_file.chmod(0o644)
        readable = desk.oars("approve", asked, "--yes", "--key", str(key_file))
        assert readable.returncode == 2
        assert "chmod" in readable.stderr
        assert desk.approval(asked)["decisions"] == []
        key_file.chmod(0o600)
        done = desk.oars("approve", asked, "--yes", "--key", str(key_file))
        assert done.returncode == 0, done.stderr
        refused = desk.ask(input={"title": "signed, no"})["approvalId"]
        done = desk.oars("reject", refused, "--yes", "--key", str(key_file))
        assert done.returncode == 0, done.stderr
    finally:
        desk.workflow()
    for approval_id, verdict in ((asked, "approve"), (refused, "reject")):
        action_id = desk.approval(approval_id)["actionId"]
        receipts = desk.ann.rest.get("/v1/receipts", params={"action_id": action_id}).json()
        (decided,) = [r for r in receipts["receipts"] if r["type"] == "action.approval_decided"]
        statement = parse_statement(envelope_from_json(decided["envelope"]).payload)
        grant = statement["predicate"]["approval"]["grant"]
        assert base64.b64decode(grant["publicKey"]) == public_key
        assert json.loads(base64.b64decode(grant["envelope"]["payload"]))["verdict"] == verdict


def lie_about_the_input(body: dict[str, Any]) -> None:
    display = json.loads(body["display"])
    display["input"] = {"title": "harmless"}
    body["display"] = canonical_json(display).decode()


def lie_with_a_digest(body: dict[str, Any]) -> None:
    lie_about_the_input(body)
    body["approval"]["displayDigest"] = sha256(body["display"].encode()).hexdigest()


def lie_with_all_digests_but_one(body: dict[str, Any]) -> None:
    display = json.loads(body["display"])
    display["input"] = {"title": "harmless"}
    display["inputDigest"] = digest(display["input"])
    body["display"] = canonical_json(display).decode()
    body["approval"]["displayDigest"] = sha256(body["display"].encode()).hexdigest()


def lie_about_the_target(body: dict[str, Any]) -> None:
    display = json.loads(body["display"])
    display["resource"]["target"] = "account/of-a-friend"
    body["display"] = canonical_json(display).decode()
    body["approval"]["displayDigest"] = sha256(body["display"].encode()).hexdigest()


def lie_twice_in_one_name(body: dict[str, Any]) -> None:
    body["display"] = body["display"].replace('"input":', '"input":{},"input":', 1)
    body["approval"]["displayDigest"] = sha256(body["display"].encode()).hexdigest()


def lie_about_the_policy(body: dict[str, Any]) -> None:
    body["approval"]["policyDigest"] = "0" * 64


def lie_about_the_action(body: dict[str, Any]) -> None:
    body["approval"]["actionDigest"] = "0" * 64


def show_nothing(body: dict[str, Any]) -> None:
    body["display"] = ""


def show_something_else(body: dict[str, Any]) -> None:
    body["display"] = "[]"
    body["approval"]["displayDigest"] = sha256(b"[]").hexdigest()


@pytest.mark.parametrize(
    "lie",
    [
        lie_about_the_input,
        lie_with_a_digest,
        lie_with_all_digests_but_one,
        lie_about_the_target,
        lie_twice_in_one_name,
        lie_about_the_policy,
        lie_about_the_action,
        show_nothing,
        show_something_else,
    ],
)
def test_a_server_that_lies_gets_nothing_shown_and_nothing_decided(
    desk: Desk, proxy: tuple[LyingProxy, Path], lie: Any
) -> None:
    lying, connection = proxy
    asked = desk.ask(input={"title": "the truth"})["approvalId"]
    honest = run("show", asked, connection=connection)
    assert honest.returncode == 0, honest.stderr
    lying.lie = lie
    for arguments in (("show", asked), ("approve", asked, "--yes"), ("reject", asked, "--yes")):
        answer = run(*arguments, connection=connection)
        assert (answer.returncode, answer.stdout) == (1, "")
        assert asked in answer.stderr
    assert lying.changes == []
    assert desk.approval(asked)["decisions"] == []


def test_nothing_is_signed_but_what_was_shown_and_under_no_other_name(
    desk: Desk, proxy: tuple[LyingProxy, Path]
) -> None:
    lying, connection = proxy
    asked = desk.ask(input={"title": "sign this"})["approvalId"]

    def other_grant(body: dict[str, Any]) -> None:
        payload = json.loads(base64.b64decode(body["grantPayload"]))
        payload["actionDigest"] = "0" * 64
        body["grantPayload"] = base64.b64encode(canonical_json(payload)).decode()

    def other_name(body: dict[str, Any]) -> None:
        payload = json.loads(base64.b64decode(body["grantPayload"]))
        payload["approver"] = "spiffe://oars.dev/somebody"
        body["grantPayload"] = base64.b64encode(canonical_json(payload)).decode()

    def other_approval(body: dict[str, Any]) -> None:
        other = desk.ask(input={"title": "not this"})["approvalId"]
        body.update(desk.ann.rest.get(f"/v1/approvals/{other}").json())

    for lie in (other_grant, other_name, other_approval):
        lying.lie = lie
        answer = run("approve", asked, "--yes", connection=connection)
        assert (answer.returncode, answer.stdout) == (1, "")
    assert lying.changes == []


def test_a_decision_whose_answer_is_lost_is_sent_again_and_counts_once(
    desk: Desk, proxy: tuple[LyingProxy, Path]
) -> None:
    lossy, connection = proxy
    lossy.lost_answers = 2
    asked = desk.ask(input={"title": "once"})["approvalId"]
    done = run("approve", asked, "--yes", connection=connection)
    assert done.returncode == 0, done.stderr
    assert "is approved" in done.stdout
    assert len(lossy.changes) == 3
    assert len({key for _, _, key in lossy.changes}) == 1
    assert len(desk.approval(asked)["decisions"]) == 1
    lossy.lost_answers = 9
    asked = desk.ask(input={"title": "never"})["approvalId"]
    unknown = run("approve", asked, "--yes", connection=connection)
    assert unknown.returncode == 1
    assert f"oars approvals show {asked}" in unknown.stderr


def test_a_person_decides_by_a_token_over_the_certificate_that_carries_it(
    desk: Desk, tmp_path: Path
) -> None:
    token_file = tmp_path / "token"
    token_file.touch(0o600)
    token_file.write_text(KEY.token(default_claims()) + "\n")
    asked = desk.ask(input={"title": "by token"})["approvalId"]
    person = ("--role", "portal", "--token-file", str(token_file))
    assert "ROLE_FORBIDDEN" not in desk.oars("show", asked, *person).stderr
    done = desk.oars("approve", asked, "--yes", *person)
    assert done.returncode == 0, done.stderr
    assert f"You are oidc:{ISSUER}#alice." in done.stdout
    (decision,) = desk.approval(asked)["decisions"]
    assert decision["approver"] == f"oidc:{ISSUER}#alice"
    assert decision["carriedBy"] == "spiffe://oars.dev/terminal-portal"
    token_file.chmod(0o644)
    assert desk.oars("show", asked, *person).returncode == 2


def test_watching_prints_each_change_and_goes_on_where_the_connection_broke(
    desk: Desk, proxy: tuple[LyingProxy, Path]
) -> None:
    lossy, connection = proxy
    lossy.cut_streams = 2
    first = desk.ask(input={"title": "watched"})
    line = [*OARS, "approvals", "watch", "--mine", "--seconds", "12"]
    with subprocess.Popen(
        [*line, "--connection", str(connection)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as watching:
        assert watching.stdout is not None
        assert watching.stderr is not None
        events = [json.loads(watching.stdout.readline())]
        while events[-1]["approval"]["approvalId"] != first["approvalId"]:
            events.append(json.loads(watching.stdout.readline()))
        second = desk.ask(input={"title": "watched, too"})
        desk.oars("approve", first["approvalId"], "--yes")
        events += [json.loads(text) for text in watching.stdout.read().splitlines()]
        told = watching.stderr.read()
        assert watching.wait(30) == 0
    assert told.count("trying again") == 2
    assert len(lossy.streams) >= 3
    states = [(e["approval"]["approvalId"], e["approval"]["state"]) for e in events]
    assert (second["approvalId"], "APPROVAL_STATE_PENDING") in states
    assert (first["approvalId"], "APPROVAL_STATE_APPROVED") in states
    # The cursor of an event is where another watch goes on.
    at = states.index((first["approvalId"], "APPROVAL_STATE_APPROVED"))
    rest = desk.oars("watch", "--mine", "--seconds", "2", "--cursor", events[at]["cursor"])
    assert rest.returncode == 0, rest.stderr
    assert first["approvalId"] not in rest.stdout
    assert desk.oars("watch", "--seconds", "2", "--cursor", "forged").returncode == 1


def test_on_a_terminal_a_watch_is_a_table_of_what_waits(desk: Desk) -> None:
    asked = desk.ask(resource={"toolId": "bank", "operation": "pay", "target": "a/live"})
    code, screen = on_a_terminal("watch", "--seconds", "4", connection=desk.connection, typed={})
    assert code == 0, screen
    assert asked["approvalId"] in screen
    assert "waits until" in screen
