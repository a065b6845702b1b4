"""`oars log` against a running stack, as its operator, an auditor and a witness would use it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from oars_grpc.core.checkpoint import Checkpoint, parse_checkpoint, parse_proof
from oars_grpc.core.note import parse_note, parse_vkey, verified_by
from oars_grpc.local.stack import TENANT, LocalStack, free_port
from tests.support.client import Client, action_body, client_for, submit


def oars(
    *arguments: str | Path, code: int = 0, environment: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    finished = subprocess.run(
        [sys.executable, "-m", "oars_grpc.cli", *map(str, arguments)],
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert finished.returncode == code, finished.stdout + finished.stderr
    return finished


def connection(stack: LocalStack) -> tuple[str, Path]:
    return "--connection", stack.certificates.parent / "connection.json"


def log_vkey(client: Client) -> str:
    """The key of the log. A witness would be told it by its operator, not by the server."""
    listed = client.rest.get(f"/v1/trust/tenants/{TENANT}/keys").json()["keys"]
    (vkey,) = [key["vkey"] for key in listed if key.get("vkey")]
    assert isinstance(vkey, str)
    return vkey


def read(path: Path) -> Checkpoint:
    return parse_checkpoint(parse_note(path.read_text()))


def test_a_log_is_fetched_checked_and_exported(
    stack: LocalStack, agent: Client, auditor: Client, tmp_path: Path
) -> None:
    action = submit(agent, action_body())["action"]
    saved = tmp_path / "checkpoint"
    oars("log", "checkpoint", *connection(stack), "--output", saved)
    assert verified_by(parse_note(saved.read_text()), [parse_vkey(log_vkey(auditor))])
    submit(agent, action_body())

    listed = auditor.rest.get("/v1/receipts", params={"actionId": action["actionId"]}).json()
    receipt = listed["receipts"][0]
    shown = oars("log", "proof", receipt["receiptId"], *connection(stack)).stdout
    inclusion, note = parse_proof(shown)
    assert inclusion.leaf_index == int(receipt.get("leafIndex", 0))
    assert parse_checkpoint(note).size > read(saved).size
    oars("log", "proof", "rcpt_none", *connection(stack), code=1)

    environment = stack.server_environment(0)
    found = oars("log", "check", "--tenant", TENANT, "--checkpoint", saved, environment=environment)
    assert f"{TENANT}: whole" in found.stdout

    for _ in range(2):
        oars("log", "export", tmp_path / "tiles", "--tenant", TENANT, environment=environment)
        submit(agent, action_body())
    exported = tmp_path / "tiles" / "checkpoint"
    assert verified_by(parse_note(exported.read_text()), [parse_vkey(log_vkey(auditor))])
    assert (tmp_path / "tiles" / "tile" / "entries").is_dir()
    oars("log", "export", tmp_path / "tiles", "--tenant", "nobody", code=2, environment=environment)


def test_a_witness_follows_a_log_until_it_is_told_to_stop(
    stack: LocalStack, agent: Client, auditor: Client, tmp_path: Path
) -> None:
    key, state = tmp_path / "key", tmp_path / "state"
    mine = parse_vkey(oars("log", "witness", "init", "--name", "example.com/w1", key).stdout)
    assert key.stat().st_mode & 0o777 == 0o600
    oars("log", "witness", "init", "--name", "example.com/w1", key, code=2)
    log = log_vkey(auditor)
    arguments = ("--key", key, "--state", state, "--log-vkey", log, *connection(stack))
    submit(agent, action_body())
    running = subprocess.Popen(
        [
            sys.executable,
            *("-m", "oars_grpc.cli", "log", "witness", "run", "--interval", "0.2"),
            *map(str, arguments),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        published = state / "oars%2Ftenant_alpha" / "checkpoint"
        first = wait_for_more(published, 0)
        oars("log", "witness", "run", "--once", *arguments, code=1)  # two must not share a state
        submit(agent, action_body())
        second = wait_for_more(published, first.size)
    finally:
        running.send_signal(signal.SIGTERM)
        _, told = running.communicate(timeout=60)
    assert running.returncode == 0, told
    assert "stopped" in told
    note = parse_note(published.read_text())
    assert len(verified_by(note, [mine, parse_vkey(log)])) == 2
    of_size = published.parent / "by-size"
    assert {first.size, second.size} <= {int(path.name) for path in of_size.iterdir()}

    # Its memory is what it cosigns by: without it, it does not begin anew unasked.
    (published.parent / "cosigning").unlink()
    refused = oars("log", "witness", "run", "--once", *arguments, code=1)
    assert "is gone" in refused.stderr


def wait_for_more(path: Path, size: int) -> Checkpoint:
    ends = time.monotonic() + 60
    while time.monotonic() < ends:
        if path.exists() and (found := read(path)).size > size:
            return found
        time.sleep(0.1)
    raise AssertionError(f"{path} does not grow beyond {size}")


def test_a_witness_takes_no_other_key_and_no_silence_for_an_answer(
    stack: LocalStack, auditor: Client, tmp_path: Path
) -> None:
    key, other = tmp_path / "key", tmp_path / "other"
    oars("log", "witness", "init", "--name", "example.com/w1", key)
    vkey = oars("log", "witness", "init", "--name", "oars/tenant_alpha", other).stdout.strip()
    arguments = ("--key", key, "--state", tmp_path / "state", "--once", *connection(stack))
    run = ("log", "witness", "run")
    assert "not the key of a log" in oars(*run, *arguments, "--log-vkey", vkey, code=2).stderr
    key.chmod(0o644)
    wanted = ("--log-vkey", log_vkey(auditor))
    assert "chmod 600" in oars(*run, *arguments, *wanted, code=2).stderr
    key.chmod(0o600)
    nowhere = json.loads(connection(stack)[1].read_text())
    nowhere["rest_url"] = f"https://localhost:{free_port()}"
    (tmp_path / "nowhere.json").write_text(json.dumps(nowhere))
    alone = (*run, *arguments[:-2], *wanted, "--connection", tmp_path / "nowhere.json")
    assert oars(*alone, code=2).stderr.count("trying again") == 4
    assert not list((tmp_path / "state").glob("*/checkpoint"))


@contextmanager
def started(state: Path) -> Iterator[tuple[LocalStack, Client]]:
    with (
        LocalStack(state, postgres_settings={"fsync": "off"}) as stack,
        client_for(stack, "agent") as agent,
    ):
        yield stack, agent


def test_a_log_restored_from_a_backup_is_refused_as_the_fork_that_it_is(tmp_path: Path) -> None:
    """Two stacks with the keys of one: what they sign is two histories of one log."""
    one, other, state = tmp_path / "one", tmp_path / "other", tmp_path / "state"
    key = tmp_path / "key"
    oars("log", "witness", "init", "--name", "example.com/w1", key)
    run = ("log", "witness", "run", "--once", "--key", key, "--state", state)
    with started(one) as (stack, agent), client_for(stack, "auditor") as auditor:
        submit(agent, action_body())
        vkey = ("--log-vkey", log_vkey(auditor))
        oars(*run, *vkey, *connection(stack))
    subprocess.run(["cp", "-a", one, other], check=True)  # with its owners
    with started(one) as (stack, agent):
        submit(agent, action_body())
        oars(*run, *vkey, *connection(stack))
    directory = state / "oars%2Ftenant_alpha"
    cosigned = (directory / "checkpoint").read_bytes()
    refusals = []
    with started(other) as (stack, agent):
        for _ in range(3):  # smaller, as large, and larger than what was cosigned
            refusals.append(oars(*run, *vkey, *connection(stack), code=1).stderr)
            submit(agent, action_body())
    assert [
        what in told
        for what, told in zip(
            ("it was cut off", "two roots", "not shown to continue"), refusals, strict=True
        )
    ] == [True] * 3, refusals
    assert (directory / "checkpoint").read_bytes() == cosigned
    evidence = sorted((directory / "evidence").iterdir())
    assert len(evidence) == 3
    for kept in evidence:
        for name in ("refused", "cosigned"):
            assert verified_by(parse_note((kept / name).read_text()), [parse_vkey(vkey[1])])
