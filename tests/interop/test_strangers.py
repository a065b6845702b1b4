"""Code that knows nothing of ours reads what a server answers: golden answers, and fresh ones."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from oars_grpc.cli import commands
from oars_grpc.local.stack import LocalStack
from tests.support.log_story import GOLDEN, play, record

HERE = Path(__file__).parent
VERIFIER = HERE / "standalone_verifier.py"
Change = Callable[[Path], None]


@pytest.fixture(scope="module")
def fresh(stack: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the server of today answers."""
    folder = tmp_path_factory.mktemp("log")
    play(stack, "tenant_strangers")
    record(stack, "tenant_strangers", folder)
    return folder


@pytest.fixture(params=["golden", "fresh"])
def log(request: pytest.FixtureRequest) -> Path:
    """A folder of answers."""
    if request.param == "golden":
        return GOLDEN
    folder: Path = request.getfixturevalue("fresh")
    return folder


def _verify(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the verifier as a stranger would: isolated, from elsewhere, with nothing of ours."""
    files = [folder / "keys.json", folder / "receipts.json"]
    files += sorted((folder / "proofs").glob("*.tlog-proof"))
    return subprocess.run(
        [sys.executable, "-I", str(VERIFIER), *map(str, files)],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        timeout=60,
    )


def _go_test(folder: Path) -> subprocess.CompletedProcess[str]:
    # The toolchain is a wheel of the test extra; a machine's own one does too.
    go = shutil.which("go", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert go is not None
    environment = os.environ | {"OARS_GOLDEN": str(folder), "GOTOOLCHAIN": "local"}
    return subprocess.run(
        [go, "test", "-count=1", "-v", "./..."],
        cwd=HERE / "go",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_the_verifier_is_short_and_knows_nothing_of_ours() -> None:
    source = VERIFIER.read_text()
    assert len(source.splitlines()) < 200
    assert "oars_grpc" not in source


def test_a_stranger_verifies_every_receipt_chain_and_proof(log: Path) -> None:
    ran = _verify(log)
    assert ran.returncode == 0, ran.stderr
    receipts = len(list((log / "proofs").iterdir()))
    assert receipts >= 10
    assert f"{receipts} receipts" in ran.stdout
    assert f"{receipts} proofs" in ran.stdout


def _replace(name: str, old: str, new: str) -> Change:
    def change(folder: Path) -> None:
        path = folder / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return change


def _swap_proofs(folder: Path) -> None:
    first, second = folder / "proofs" / "0.tlog-proof", folder / "proofs" / "1.tlog-proof"
    text = second.read_text()
    second.write_text(text.replace("index 1\n", "index 0\n"))
    first.unlink()


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(_replace("receipts.json", '"payload": "ey', '"payload": "eX'), id="payload"),
        pytest.param(_replace("receipts.json", '"sig": "', '"sig": "AA'), id="signature"),
        pytest.param(
            _replace("keys.json", "KEY_PURPOSE_RECEIPT", "KEY_PURPOSE_CHECKPOINT"), id="key"
        ),
        pytest.param(_swap_proofs, id="swapped"),
    ],
)
def test_a_stranger_refuses_what_was_changed(change: Change, tmp_path: Path) -> None:
    folder = tmp_path / "log"
    shutil.copytree(GOLDEN, folder)
    change(folder)
    assert _verify(folder).returncode != 0


def test_our_own_verifier_agrees(log: Path) -> None:
    """What an earlier version has signed, too."""
    command = ["verify", str(log / "receipts.json"), "--keys", str(log / "keys.json"), "--json"]
    for proof in (log / "proofs").iterdir():
        command += ["--proof", str(proof)]
    for answer in log.glob("consistency-*.json"):
        command += ["--consistency", str(answer)]
    ran = CliRunner().invoke(commands, command)
    assert ran.exit_code == 0, ran.output
    verdicts = [json.loads(line) for line in ran.output.splitlines()]
    receipts = [verdict for verdict in verdicts if "receiptId" in verdict]
    assert len(receipts) == len(list((log / "proofs").iterdir()))
    assert {verdict["checks"]["inclusion"]["result"] for verdict in receipts} == {"passed"}


def test_go_verifies_checkpoints_and_proofs(log: Path) -> None:
    """With golang.org/x/mod/sumdb/note and github.com/transparency-dev/merkle."""
    ran = _go_test(log)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    for name in ("TestInclusion", "TestConsistency", "TestForgedCheckpoint"):
        assert f"--- PASS: {name}" in ran.stdout
