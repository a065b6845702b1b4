"""Where a server listens: ports, Unix sockets that only the sidecar can open, and mode off."""

import base64
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from oars_grpc.core.receipt import parse_statement
from oars_grpc.generated.oars.v1 import action_pb2
from oars_grpc.generated.oars.v1.action_pb2_grpc import ActionServiceStub
from oars_grpc.local.stack import LocalStack
from oars_grpc.settings import SETTINGS
from tests.support.client import Client
from tests.support.database import new_database
from tests.support.server import environment, failed_start, running_server


def serving(stack: LocalStack, **settings: str) -> dict[str, str]:
    """Settings of a server that must refuse to start; `settings` are what is wrong with it."""
    common = {
        "database_url": stack.postgres.url,
        "metrics_listen": "off",
        "key_encryption_key_file": str(stack._key_file()),
    }
    return environment(stack.certificates, stack.certificates, **(common | settings))


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory with a path short enough for a socket in it."""
    made = Path(tempfile.mkdtemp(prefix="oars-"))
    yield made
    shutil.rmtree(made)


def test_the_sidecar_socket_is_for_its_owner_alone(stack: LocalStack) -> None:
    listening = stack._sockets[0]
    assert stat.S_IMODE(listening.stat().st_mode) == 0o600
    assert stat.S_IMODE(listening.parent.stat().st_mode) == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root to become somebody else")
def test_another_account_cannot_open_the_socket_even_in_an_open_directory(
    stack: LocalStack, folder: Path, tmp_path: Path
) -> None:
    folder.chmod(0o755)
    settings = {
        "mtls_mode": "sidecar",
        "listen": f"unix:{folder}/s",
        "key_encryption_key_file": str(stack._key_file()),
    }
    with running_server(tmp_path, stack.certificates, stack.postgres.url, **settings):
        assert stat.S_IMODE((folder / "s").stat().st_mode) == 0o600
        assert _connect(folder / "s", "") == ""
        become_nobody = "os.setgroups([]); os.setgid(65534); os.setuid(65534)"
        assert "PermissionError" in _connect(folder / "s", become_nobody)


def _connect(path: Path, before: str) -> str:
    """What another process says that connects to a socket."""
    program = f"import os, socket; {before}\nsocket.socket(socket.AF_UNIX).connect('{path}')"
    command = [sys.executable, "-I", "-S", "-c", program]
    return subprocess.run(command, check=False, capture_output=True, text=True).stderr


def test_a_socket_is_not_put_where_others_could_replace_it(stack: LocalStack, folder: Path) -> None:
    settings = serving(stack, mtls_mode="sidecar", listen=f"unix:{folder}/s")
    folder.chmod(0o777)
    said = f"oars: {folder} is writable by others than its owner\n"
    assert failed_start(settings) == (2, said)
    folder.chmod(0o755)
    if os.geteuid() == 0:
        os.chown(folder, 65534, 65534)
        said = f"oars: {folder} belongs to another user (uid 65534)\n"
        assert failed_start(settings) == (2, said)
        os.chown(folder, 0, 0)
    (folder / "s").write_text("somebody's file")
    assert failed_start(settings) == (2, f"oars: {folder}/s exists and is not a socket\n")
    assert (folder / "s").read_text() == "somebody's file"
    gone = serving(stack, mtls_mode="sidecar", listen=f"unix:{folder}/none/s")
    assert failed_start(gone) == (2, f"oars: {folder}/none: No such file or directory\n")


def test_a_second_server_on_a_port_or_socket_says_so_and_leaves_the_first_alone(
    stack: LocalStack, agent: Client, tmp_path: Path
) -> None:
    key_file = str(stack._key_file())
    with running_server(
        tmp_path, stack.certificates, stack.postgres.url, key_encryption_key_file=key_file
    ) as first:
        in_use = "it is in use, or not an address of this machine"
        said = f"oars: cannot listen on {first.address}: {in_use}"
        code, output = failed_start(serving(stack, listen=first.address))
        # gRPC itself writes a line to standard error before.
        assert (code, output.splitlines()[-1]) == (2, said)
        assert "Traceback" not in output
        metrics = first.metrics_url.removeprefix("http://").removesuffix("/metrics")
        code, output = failed_start(serving(stack, metrics_listen=metrics))
        said = f"oars: OARS_METRICS_LISTEN: cannot listen on {metrics}: Address already in use\n"
        assert (code, output) == (2, said)
        assert "oars_database_up 1.0" in first.metrics()
    taken = stack._sockets[0]
    second = serving(stack, mtls_mode="sidecar", listen=f"unix:{taken}")
    assert failed_start(second) == (2, f"oars: another server listens on {taken}\n")
    assert agent.rest.get("/v1/actions").is_success


def test_a_server_that_was_killed_does_not_keep_its_successor_from_the_socket(
    stack: LocalStack, folder: Path, tmp_path: Path
) -> None:
    settings = {
        "mtls_mode": "sidecar",
        "listen": f"unix:{folder}/s",
        "key_encryption_key_file": str(stack._key_file()),
    }
    first = running_server(tmp_path, stack.certificates, stack.postgres.url, **settings)
    with first as killed:
        killed.process.kill()
        killed.process.wait()
        assert (folder / "s").is_socket()
    with running_server(tmp_path, stack.certificates, stack.postgres.url, **settings):
        pass


def test_a_server_does_not_start_under_another_key_encryption_key(
    stack: LocalStack, tmp_path: Path
) -> None:
    another = tmp_path / "another-key"
    another.write_bytes(base64.b64encode(bytes(32)))
    code, output = failed_start(serving(stack, key_encryption_key_file=str(another)))
    assert code == 2
    assert len(output.splitlines()) == 1
    assert output.startswith("oars: signing key ")
    assert "does not decrypt: is OARS_KEY_ENCRYPTION_KEY_FILE the file" in output
    # Where nothing is encrypted yet, any key is right.
    with (
        new_database(stack.postgres.url) as url,
        running_server(
            tmp_path, stack.certificates, url, key_encryption_key_file=str(another)
        ) as server,
    ):
        assert server.process.poll() is None


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"listen": "127.0.0.1:0"},
            "OARS_MTLS_MODE=off is refused unless OARS_ENV=development",
        ),
        (
            {"listen": "0.0.0.0:0", "env": "development"},
            "OARS_MTLS_MODE=off listens on a loopback address only",
        ),
        (
            {"listen": "[::]:0", "env": "development"},
            "OARS_MTLS_MODE=off listens on a loopback address only",
        ),
        (
            {"env": "development"},
            f"OARS_DEVELOPMENT_IDENTITY is required: {SETTINGS['OARS_DEVELOPMENT_IDENTITY'][1]}",
        ),
    ],
)
def test_mode_off_is_for_development_on_loopback_only(
    stack: LocalStack, settings: dict[str, str], said: str
) -> None:
    assert failed_start(serving(stack, mtls_mode="off", **settings)) == (2, f"oars: {said}\n")


def test_in_mode_off_every_call_is_the_development_identity(
    stack: LocalStack, tmp_path: Path
) -> None:
    settings = {
        "env": "development",
        "mtls_mode": "off",
        "development_identity": "spiffe://oars.dev/agent",
        "key_encryption_key_file": str(stack._key_file()),
    }
    request = action_pb2.SubmitActionRequest(agent_id="agent-1")
    request.resource.tool_id, request.resource.operation = "desk", "create_ticket"
    admin = f"Hash={'0' * 64};URI=spiffe://oars.dev/admin"
    with (
        running_server(tmp_path, stack.certificates, stack.postgres.url, **settings) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        response = ActionServiceStub(channel).SubmitAction(
            request, metadata=(("x-forwarded-client-cert", admin),), timeout=10
        )
    predicate = parse_statement(response.receipts[0].envelope.payload)["predicate"]
    assert predicate["caller"]["subject"] == "spiffe://oars.dev/agent"
