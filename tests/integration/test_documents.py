"""Every command in the documents is run, as it stands; none may be added without being run here."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from oars_grpc.local.stack import LocalStack, free_port
from tests.support.client import Client, action_body, submit

ROOT = Path(__file__).resolve().parent.parent.parent
DOCUMENTS = (
    "README.md",
    "proto/README.md",
    "deploy/README.md",
    "deploy/envoy/README.md",
    "certs-dev/README.md",
)
INSTALLING = "python3 -m venv .venv"


def commands(document: str) -> list[str]:
    """What stands behind a prompt in the document's console blocks."""
    text = (ROOT / document).read_text()
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    return [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]


def run(command: str, cwd: Path, *, seconds: float = 120, **environment: str) -> str:
    """Run a command as a shell of a user would, with this environment's programs first."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    finished = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=cwd,
        env={**os.environ, "PATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert finished.returncode == 0, f"{command}\n{finished.stdout}\n{finished.stderr}"
    return finished.stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A clean copy of what git knows, without this machine's leftovers."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    copy = tmp_path / "checkout"
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    return copy


def test_every_document_with_commands_is_known() -> None:
    with_commands = {
        str(path.relative_to(ROOT))
        for path in ROOT.glob("**/*.md")
        if "```console" in path.read_text() and not {".venv", "node_modules"} & set(path.parts)
    }
    assert with_commands <= set(DOCUMENTS)


def test_the_readme_command_to_run_works_in_a_clean_checkout(checkout: Path) -> None:
    (command,) = [line for line in commands("README.md") if line.endswith("oars demo")]
    shown = run(command, checkout, seconds=900)
    assert "DENIED" in shown
    assert "NOT VALID" in shown
    installed = run(".venv/bin/python -Pc 'import oars_grpc; print(oars_grpc.__file__)'", checkout)
    assert "site-packages" in installed, "the demo ran from an installed package"


def test_the_gate_runs_the_readme_command_to_test() -> None:
    (command,) = [line for line in commands("README.md") if line.endswith("pytest -n 3")]
    assert command in (ROOT / ".ci" / "run").read_text()


def test_the_readme_commands_work_on_a_running_stack(stack: LocalStack, tmp_path: Path) -> None:
    (tmp_path / ".oars").symlink_to(stack.certificates.parent)
    for block in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL):
        (tmp_path / "example.py").write_text(block)
        assert "ACTION_STATE_APPROVED" in run("python example.py", tmp_path)
    shown = [
        run(line, tmp_path, COLUMNS="120")
        for line in commands("README.md")
        if not line.startswith(INSTALLING)
    ]
    assert any("valid" in text for text in shown)
    assert (tmp_path / "key-encryption-key").stat().st_mode & 0o777 == 0o600


def test_the_deployment_commands_work(stack: LocalStack, tmp_path: Path, agent: Client) -> None:
    (tmp_path / ".oars").symlink_to(stack.certificates.parent)
    shutil.copytree(ROOT / "deploy" / "policies", tmp_path / "deploy" / "policies")
    environment = stack.server_environment(0)
    # The approvals of the document are of nobody; here they are of two that wait.
    waiting = {}
    for number in (1, 2):
        context = {"environment": "production", "dataTypes": ["none"]}
        body = action_body("transfer_funds", context=context, input={"document": number})
        approval_id = submit(agent, body)["approval"]["approvalId"]
        waiting[f"apr_{number:026}"] = approval_id

    def of_now(line: str) -> str:
        for written, approval_id in waiting.items():
            line = line.replace(written, approval_id)
        return line

    shown = "".join(
        run(of_now(line), tmp_path, seconds=60, **environment)
        for line in commands("deploy/README.md")
    )
    first, second = waiting.values()
    assert f"{first} is approved" in shown
    assert f"{second} is rejected" in shown
    assert "the schema is up to date" in shown
    assert "tenant_alpha: whole" in shown
    assert list((tmp_path / "public").iterdir())
    assert list((tmp_path / "witness").glob("*/checkpoint"))


def test_the_sidecar_commands_work(stack: LocalStack, tmp_path: Path) -> None:
    """The committed files under other roots: nobody should have to own /etc for a test."""
    for source in (ROOT / "deploy" / "envoy").glob("*.yaml"):
        text = source.read_text().replace("/etc/oars", str(tmp_path)).replace("/run/oars", "/tmp")
        text = text.replace("8443", str(free_port())).replace("9901", str(free_port()))
        (tmp_path / "envoy").mkdir(exist_ok=True)
        (tmp_path / "envoy" / source.name).write_text(text)
    shutil.copy(ROOT / "oars_grpc/generated/oars.v1.pb", tmp_path / "envoy")
    shutil.copytree(stack.certificates, tmp_path / "certs")
    validate, serve = (
        line.replace("/etc/oars", str(tmp_path)) for line in commands("deploy/envoy/README.md")
    )
    assert "--mode validate" in validate
    run(validate, tmp_path)
    # Serving goes on until it is told to stop: still there after three seconds is success.
    run(f"timeout --preserve-status --signal=TERM 3 {serve}", tmp_path)


def test_the_certificate_command_works(checkout: Path) -> None:
    for line in commands("certs-dev/README.md"):
        run(line, checkout)
    assert (checkout / "certs-dev" / "trusted-identities.json").exists()
    ignored = run("git init -q && git add -A && git ls-files certs-dev", checkout)
    assert ignored.split() == ["certs-dev/README.md", "certs-dev/generate.py"]
