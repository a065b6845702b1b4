"""The `oars` command, run as a user runs it."""

import base64
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from click.testing import CliRunner

from oars_grpc.cli import commands
from oars_grpc.generated.oars.v1 import action_pb2
from oars_grpc.generated.oars.v1.action_pb2_grpc import ActionServiceStub
from oars_grpc.local.bundle import load_script
from oars_grpc.local.stack import LocalStack
from oars_grpc.settings import SETTINGS
from tests.support.client import action_body
from tests.support.database import new_database
from tests.support.server import environment, wait_for

OARS = [sys.executable, "-m", "oars_grpc.cli"]
NO_DATABASE = "postgresql:///x?host=/nonexistent"
COMMANDS = (
    (),
    ("serve",),
    ("migrate",),
    ("dev",),
    ("demo",),
    ("verify",),
    ("keys",),
    ("keys", "generate"),
    ("keys", "list"),
    ("keys", "rotate"),
    ("keys", "revoke"),
    ("policy",),
    ("policy", "check"),
    ("policy", "diff"),
    ("policy", "publish"),
    ("policy", "test"),
    ("approvals",),
    ("approvals", "list"),
    ("approvals", "show"),
    ("approvals", "approve"),
    ("approvals", "reject"),
    ("approvals", "watch"),
    ("approvers",),
    ("approvers", "enroll"),
    ("approvers", "unenroll"),
    ("approvers", "factor"),
    ("approvers", "key-new"),
    ("approvers", "key-proof"),
    ("approvers", "register-key"),
    ("approvers", "revoke-key"),
    ("approvers", "keys"),
)


def clean_environment() -> dict[str, str]:
    found = {name: value for name, value in os.environ.items() if not name.startswith("OARS_")}
    return found | {"COLUMNS": "200"}


def oars(
    *arguments: str | Path, env: Mapping[str, str] | None = None, seconds: float = 60
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*OARS, *map(str, arguments)],
        env=dict(env or clean_environment()),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


@dataclass(frozen=True)
class Dev:
    """A running `oars dev`."""

    process: subprocess.Popen[bytes]
    state: Path
    connection: dict[str, Any]

    def rest(self, role: str, path: str, body: object = None) -> bytes:
        """What REST answers, with nothing but what connection.json says; with a body it is POST."""
        identity = self.connection["identities"][role]
        tls = ssl.create_default_context(cafile=self.connection["ca_certificate"])
        tls.load_cert_chain(identity["certificate"], identity["private_key"])
        with httpx.Client(base_url=self.connection["rest_url"], verify=tls, timeout=20) as client:
            answer = client.get(path) if body is None else client.post(path, json=body)
        assert answer.is_success, answer.text
        return answer.content

    def submit(self, operation: str = "create_ticket") -> dict[str, Any]:
        found: dict[str, Any] = json.loads(
            self.rest("agent", "/v1/actions", action_body(operation))
        )
        return found

    def processes(self) -> list[int]:
        """Processes that have something to do with the state directory, this one included."""
        return processes_of(self.state)


def processes_of(state: Path) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            told = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
        except OSError:
            continue  # it ended, or is a kernel thread's
        if os.fsencode(state) in told:
            found.append(int(entry.name))
    return found


@contextmanager
def dev(state: Path) -> Iterator[Dev]:
    """`oars dev` from start to Ctrl-C; a test may end it otherwise."""
    log_file = state.with_suffix(".log")
    with log_file.open("ab") as log:
        process = subprocess.Popen(
            [*OARS, "dev", "--state", str(state)],
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # so that Ctrl-C can be sent to all of them, as a terminal does
        )
    connection = state / "connection.json"
    try:
        wait_for(
            lambda: connection.exists() or process.poll() is not None, "oars dev is up", seconds=90
        )
        assert process.poll() is None, log_file.read_text()
        yield Dev(process, state, json.loads(connection.read_text()))
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(60)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    with dev(tmp_path_factory.mktemp("cli") / "state") as started:
        yield started


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_explains_itself(command: tuple[str, ...]) -> None:
    name = "python -m oars_grpc.cli"
    finished = CliRunner().invoke(commands, [*command, "--help"], prog_name=name)
    assert finished.exit_code == 0, finished.output
    assert finished.stderr == ""
    assert finished.stdout.startswith(f"Usage: python -m oars_grpc.cli {' '.join(command)}".strip())
    if command in (("serve",), ("migrate",)):
        for name in SETTINGS:
            assert name in finished.stdout


def test_help_lists_every_command() -> None:
    listed = oars("--help").stdout
    for command in COMMANDS[1:7]:
        assert f"\n  {command[0]} " in listed


def test_an_unknown_command_or_option_is_a_usage_error() -> None:
    for arguments in (("frobnicate",), ("dev", "--frobnicate"), ("verify",), ("keys", "list")):
        finished = oars(*arguments)
        assert finished.returncode == 2
        assert "Traceback" not in finished.stderr


def test_the_demo_plays_its_five_scenes() -> None:
    temporary = Path(tempfile.gettempdir())
    before = set(temporary.glob("oars-demo-*"))
    finished = oars("demo", seconds=120)
    assert finished.returncode == 0, finished.stderr
    for scene in (
        "1. An agent asks to open a ticket",
        "2. It asks to delete a repository",
        "3. It asks to move money in production",
        "4. The same call twice under one idempotency key",
        "5. An auditor verifies offline",
    ):
        assert scene in finished.stdout
    for shown in (
        "create_ticket → APPROVED",
        "delete_repository → DENIED",
        "transfer_funds → APPROVAL_REQUIRED",
        "same bytes: True, x-idempotent-replay: true",
        "another request under that key: HTTP 409",
        "NOT VALID",
        "exit code 0",
        "exit code 1",
    ):
        assert shown in finished.stdout, finished.stdout
    assert "Traceback" not in finished.stderr
    assert set(temporary.glob("oars-demo-*")) <= before


def test_dev_writes_how_to_connect(running: Dev) -> None:
    connection = running.connection
    assert set(connection) == {
        "rest_url",
        "grpc_target",
        "ca_certificate",
        "identities",
        "tenant",
    }
    assert set(connection["identities"]) == {"admin", "operator", "approver", "auditor", "agent"}
    for identity in connection["identities"].values():
        assert set(identity) == {"certificate", "private_key", "tenant"}
        assert identity["tenant"] == "tenant_alpha"
        assert Path(identity["certificate"]).is_file()
        assert Path(identity["private_key"]).stat().st_mode & 0o077 == 0
    assert connection["tenant"] == "tenant_alpha"
    assert connection["rest_url"].startswith("https://")


def test_dev_serves_rest_and_grpc(running: Dev) -> None:
    action = running.submit()["action"]
    assert action["state"] == "ACTION_STATE_APPROVED"
    identity = running.connection["identities"]["agent"]
    credentials = grpc.ssl_channel_credentials(
        Path(running.connection["ca_certificate"]).read_bytes(),
        Path(identity["private_key"]).read_bytes(),
        Path(identity["certificate"]).read_bytes(),
    )
    with grpc.secure_channel(running.connection["grpc_target"], credentials) as channel:
        found = ActionServiceStub(channel).GetAction(
            action_pb2.GetActionRequest(action_id=action["actionId"]), timeout=10
        )
    assert found.action.action_digest == action["actionDigest"]


def test_keys_rotate_and_old_and_new_receipts_verify_offline(running: Dev, tmp_path: Path) -> None:
    connection = running.state / "connection.json"
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text(json.dumps(running.submit()))
    before = json.loads(oars("keys", "list", "--connection", connection).stdout)["keys"]
    rotated = oars("keys", "rotate", "--connection", connection)
    assert rotated.returncode == 0, rotated.stderr
    new.write_text(json.dumps(running.submit()))

    listed = oars("keys", "list", "--connection", connection)
    assert listed.returncode == 0, listed.stderr
    by_rest = running.rest("auditor", "/v1/trust/tenants/tenant_alpha/keys")
    assert json.loads(listed.stdout) == json.loads(by_rest)
    keys = json.loads(listed.stdout)["keys"]
    assert len(keys) == len(before) + 1
    active = [
        key["keyId"]
        for key in keys
        if (key["state"], key["purpose"]) == ("KEY_STATE_ACTIVE", "KEY_PURPOSE_RECEIPT")
    ]
    assert len(active) == 1
    assert f"signs receipts with key {active[0]} from now on" in rotated.stdout
    keys_file = tmp_path / "keys.json"
    keys_file.write_bytes(by_rest)
    finished = oars("verify", old, new, "--keys", keys_file, "--json")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    results = [json.loads(line) for line in finished.stdout.splitlines()]
    assert [result["valid"] for result in results] == [True] * 4
    assert results[2]["keyId"] == active[0]
    assert results[0]["keyId"] != active[0]

    # Neither without the new key, nor changed, nor out of its chain.
    old_keys = tmp_path / "old-keys.json"
    old_keys.write_text(json.dumps({"keys": before}))
    assert oars("verify", new, "--keys", old_keys).returncode == 1
    answer = json.loads(new.read_text())
    payload = base64.b64decode(answer["receipts"][0]["envelope"]["payload"])
    answer["receipts"][0]["envelope"]["payload"] = base64.b64encode(
        payload.replace(b"create_ticket", b"delete_ticket")
    ).decode()
    new.write_text(json.dumps(answer))
    changed = oars("verify", new, "--keys", keys_file)
    assert changed.returncode == 1
    assert "NOT VALID" in changed.stdout


def test_verify_reads_what_rest_answers(running: Dev, tmp_path: Path) -> None:
    submitted = running.submit()
    action_id = submitted["action"]["actionId"]
    receipt_id = submitted["receipts"][0]["receiptId"]
    files = {
        "one": f"/v1/receipts/{receipt_id}",
        "listed": f"/v1/receipts?actionId={action_id}",
        "keys": "/v1/trust/tenants/tenant_alpha/keys",
    }
    for name, path in files.items():
        (tmp_path / name).write_bytes(running.rest("auditor", path))
    for name, count in (("one", 1), ("listed", 2)):
        finished = oars("verify", tmp_path / name, "--keys", tmp_path / "keys", "--json")
        assert finished.returncode == 0, finished.stdout + finished.stderr
        assert len(finished.stdout.splitlines()) == count
    (tmp_path / "broken").write_text("{")
    for arguments in (
        (tmp_path / "broken", "--keys", tmp_path / "keys"),
        (tmp_path / "one", "--keys", tmp_path / "broken"),
        (tmp_path / "keys", "--keys", tmp_path / "keys"),
        (tmp_path / "absent", "--keys", tmp_path / "keys"),
    ):
        finished = oars("verify", *arguments)
        assert finished.returncode == 2
        assert "Traceback" not in finished.stderr


def test_a_revoked_keys_receipts_verify_offline_with_a_proof_and_not_without(
    running: Dev, tmp_path: Path
) -> None:
    """All of it by the command and by REST, as an operator and an auditor would."""
    connection = running.state / "connection.json"
    receipts = running.submit()["receipts"]
    path = tmp_path / "receipt.json"
    path.write_text(json.dumps(receipts[0]))
    proof, checkpoint = tmp_path / "receipt.proof", tmp_path / "checkpoint.json"
    answer = json.loads(running.rest("auditor", f"/v1/receipts/{receipts[0]['receiptId']}/proof"))
    proof.write_text(answer["proof"])
    checkpoint.write_bytes(running.rest("auditor", "/v1/log/tenant_alpha/checkpoint"))

    key_id = receipts[0]["keyId"]
    revoke = ("keys", "revoke", key_id, "--connection", connection, "--reason", "laptop lost")
    finished = oars(*revoke)
    assert finished.returncode == 0, finished.stderr
    assert f"key {key_id} is revoked" in finished.stdout
    assert "from now on" in finished.stdout
    assert oars(*revoke).returncode == 1  # there is no second time

    keys = tmp_path / "keys.json"
    keys.write_text(oars("keys", "list", "--connection", connection).stdout)
    for extra, code in (((), 1), (("--proof", proof), 0), (("--proof", proof, "--origin", "x"), 1)):
        finished = oars("verify", path, "--keys", keys, *extra)
        assert finished.returncode == code, finished.stdout + finished.stderr
    later = running.rest("auditor", "/v1/log/tenant_alpha/checkpoint")
    size = json.loads(checkpoint.read_bytes())["checkpoint"]["size"]
    consistency = tmp_path / "consistency.json"
    route = f"/v1/log/tenant_alpha/consistency?from_size={size}"
    consistency.write_bytes(running.rest("auditor", route))
    newer = tmp_path / "newer.json"
    newer.write_bytes(later)
    options = ("--checkpoint", checkpoint, "--checkpoint", newer, "--consistency", consistency)
    finished = oars("verify", "--keys", keys, *options)
    assert finished.returncode == 0, finished.stdout + finished.stderr


def test_keys_generate_makes_a_key_once(tmp_path: Path) -> None:
    path = tmp_path / "key"
    assert oars("keys", "generate", path).returncode == 0
    assert len(base64.b64decode(path.read_text())) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    before = path.read_bytes()
    again = oars("keys", "generate", path)
    assert again.returncode == 2
    assert "File exists" in again.stderr
    assert path.read_bytes() == before


def test_keys_say_so_when_nobody_answers(running: Dev, tmp_path: Path) -> None:
    connection = running.connection | {"rest_url": "https://localhost:9"}
    path = tmp_path / "connection.json"
    path.write_text(json.dumps(connection))
    for command in ("list", "rotate"):
        finished = oars("keys", command, "--connection", path)
        assert finished.returncode in (1, 2)
        assert "Traceback" not in finished.stderr
        assert len(finished.stderr.splitlines()) == 1
    path.write_text("{}")
    finished = oars("keys", "list", "--connection", path)
    assert finished.returncode == 2
    assert "is no connection.json" in finished.stderr


def test_ctrl_c_ends_everything_and_the_next_start_finds_everything(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with dev(state) as first:
        action_id = first.submit()["action"]["actionId"]
        certificates = {path.name: path.read_bytes() for path in (state / "certificates").iterdir()}
        assert len(first.processes()) > 3
        os.killpg(first.process.pid, signal.SIGINT)
        assert first.process.wait(60) == 0
        assert first.processes() == []
        assert not (state / "connection.json").exists()
        assert "Traceback" not in state.with_suffix(".log").read_text()
    with dev(state) as second:
        found = json.loads(second.rest("auditor", f"/v1/actions/{action_id}"))
        assert found["action"]["actionId"] == action_id
        again = {path.name: path.read_bytes() for path in (state / "certificates").iterdir()}
        assert again == certificates
        second.submit()


def test_after_a_kill_nothing_but_postgres_is_left_and_the_next_start_works(
    tmp_path: Path,
) -> None:
    state = tmp_path / "state"
    with dev(state) as killed:
        action_id = killed.submit()["action"]["actionId"]
        url = killed.connection["rest_url"]
        os.kill(killed.process.pid, signal.SIGKILL)
        killed.process.wait()
        # Server and Envoy end by themselves; Postgres waits for its next owner.
        wait_for(
            lambda: all(_is_postgres(pid) for pid in processes_of(state)), "the orphans end", 40
        )
        with pytest.raises(httpx.TransportError):
            httpx.get(url, verify=False)
    (state / "connection.json").unlink(missing_ok=True)
    with dev(state) as second:
        assert json.loads(second.rest("auditor", f"/v1/actions/{action_id}"))["action"]
        second.submit()
        os.kill(second.process.pid, signal.SIGKILL)
        second.process.wait()
    (state / "connection.json").unlink(missing_ok=True)
    with dev(state) as third:  # at once: the old server is still draining
        third.submit()
    wait_for(lambda: processes_of(state) == [], "the last one takes Postgres with it")


def _is_postgres(pid: int) -> bool:
    try:
        return b"postgres" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]
    except FileNotFoundError:
        return True  # it ended just now


def test_migrate_builds_the_schema_and_may_run_again(stack: LocalStack, tmp_path: Path) -> None:
    files = stack.certificates
    with new_database(stack.postgres.url) as url:
        for _ in range(2):
            finished = oars("migrate", env=environment(tmp_path, files, database_url=url))
            assert (finished.returncode, finished.stdout) == (0, "the schema is up to date\n")
            assert "Traceback" not in finished.stderr


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"mtls_mod": "tls"}, "OARS_MTLS_MOD is not a setting"),
        ({"mtls_mode": "ssl"}, "OARS_MTLS_MODE must be one of tls, sidecar, off, not 'ssl'"),
        ({"worker_threads": "many"}, "OARS_WORKER_THREADS must be from 1 to 500, not 'many'"),
        ({"rate_limit": "fast"}, "OARS_RATE_LIMIT must be like 500/second, not 'fast'"),
        ({"metrics_listen": "9464"}, "OARS_METRICS_LISTEN must be host:port or off, not '9464'"),
        ({"listen": "nowhere"}, "OARS_LISTEN "),
        ({"listen": "127.0.0.1:http"}, "OARS_LISTEN "),
        ({"listen": "unix:/tmp/oars.sock"}, "OARS_LISTEN: a Unix socket is for"),
        ({"tls_private_key_file": "/nonexistent"}, "OARS_TLS_PRIVATE_KEY_FILE: there is no file"),
        ({"key_encryption_key_file": "/dev/null"}, ""),
        ({"database_url": "mysql://x/y"}, "OARS_DATABASE_URL must begin with postgresql://"),
        ({"database_url": "postgresql://u@h:port/x"}, ""),
        ({"database_url": "postgresql:///x?sslmode=sometimes"}, ""),
        ({"database_url": NO_DATABASE}, "the database is out of reach"),
        ({"database_url": "postgresql://127.0.0.1:1/x"}, "the database is out of reach"),
    ],
)
def test_a_wrong_setting_is_one_line_and_exit_code_2(
    tmp_path: Path, settings: dict[str, str], said: str
) -> None:
    files = load_script("certs-dev/generate.py").generate(tmp_path / "files")
    command = "migrate" if "database_url" in settings else "serve"
    settings = {"database_url": NO_DATABASE, "metrics_listen": "off"} | settings
    finished = oars(command, env=environment(tmp_path, files, **settings))
    assert finished.returncode == 2, finished.stderr
    assert len(finished.stderr.splitlines()) == 1, finished.stderr
    assert finished.stderr.startswith(f"oars: {said}")


def test_a_wrong_private_key_is_one_line(stack: LocalStack, tmp_path: Path) -> None:
    files = Path(shutil.copytree(stack.certificates, tmp_path / "files"))
    (files / "server.key").write_bytes((files / "agent.key").read_bytes())
    settings = environment(tmp_path, files, database_url=stack.postgres.url, metrics_listen="off")
    finished = oars("serve", env=settings)
    said = f"oars: {files / 'server.key'} is not the key of {files / 'server.pem'}\n"
    assert (finished.returncode, finished.stderr) == (2, said)


def test_two_devs_on_one_state_do_not_hurt_each_other(running: Dev) -> None:
    second = oars("dev", "--state", running.state)
    assert (second.returncode, second.stderr) == (
        2,
        f"oars: another stack runs on {running.state}\n",
    )
    assert json.loads((running.state / "connection.json").read_text()) == running.connection
    assert running.submit()["action"]
