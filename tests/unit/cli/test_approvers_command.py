"""`oars approvers`: keys made on the approver's own machine, and what is refused at once."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from oars_grpc.cli import commands
from oars_grpc.core.approver_key import is_possession_proven
from oars_grpc.core.keys import key_id_of


def run(*arguments: object) -> Result:
    return CliRunner().invoke(commands, ["approvers", *map(str, arguments)])


def pem_of(key: Any, encryption: Any = None) -> bytes:
    written: bytes = key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption()
    )
    return written


def test_a_key_is_made_for_its_owner_only_and_proves_itself(tmp_path: Path) -> None:
    file = tmp_path / "alice.pem"
    made = run("key-new", file)
    assert made.exit_code == 0, made.output
    assert file.stat().st_mode & 0o777 == 0o600
    before = file.read_bytes()
    assert run("key-new", file).exit_code == 2
    assert file.read_bytes() == before
    proven = run("key-proof", file, "--subject", "spiffe://x/älice", "--tenant", "acme")
    assert proven.exit_code == 0, proven.output
    proof = json.loads(proven.stdout)
    public_key, signature = (base64.b64decode(proof[name]) for name in ("publicKey", "proof"))
    assert (proof["tenantId"], proof["subject"]) == ("acme", "spiffe://x/älice")
    assert is_possession_proven("acme", "spiffe://x/älice", public_key, signature)
    assert key_id_of(public_key) in made.stdout
    # It holds nothing of the private half.
    assert not any(line in proven.stdout for line in before.decode().splitlines() if line)


GOOD = pem_of(Ed25519PrivateKey.generate())
LOCKED = pem_of(Ed25519PrivateKey.generate(), BestAvailableEncryption(b"secret"))


@pytest.mark.parametrize(
    ("content", "mode", "complaint"),
    [
        (GOOD, 0o644, "chmod 600"),
        (GOOD, 0o640, "chmod 600"),
        (b"", 0o600, ""),
        (b"x" * 70_000, 0o600, "too large"),
        (pem_of(generate_private_key(SECP256R1())), 0o600, "not an Ed25519 key"),
        (LOCKED, 0o600, "without a password"),
    ],
)
def test_a_file_that_is_no_key_of_ones_own_is_refused(
    tmp_path: Path, content: bytes, mode: int, complaint: str
) -> None:
    file = tmp_path / "key.pem"
    file.write_bytes(content)
    file.chmod(mode)
    result = run("key-proof", file, "--subject", "s", "--tenant", "acme")
    assert result.exit_code == 2
    assert complaint in result.stderr


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b'{"tenantId": "a", "subject": "s", "publicKey": "k"}',
        b'{"tenantId": "a", "subject": "s", "publicKey": "k", "proof": 7}',
    ],
)
def test_a_file_that_is_no_proof_is_refused_before_anybody_is_asked(
    tmp_path: Path, content: bytes
) -> None:
    file, connection = tmp_path / "proof.json", tmp_path / "connection.json"
    file.write_bytes(content)
    connection.write_text("{}")
    result = run("register-key", file, "--connection", connection)
    assert result.exit_code == 2
    assert "proof.json" in result.stderr


def test_ids_are_checked_before_anybody_is_asked(tmp_path: Path) -> None:
    file, connection = tmp_path / "key.pem", tmp_path / "connection.json"
    assert run("key-new", file).exit_code == 0
    connection.write_text("{}")
    assert run("key-proof", file, "--subject", "s", "--tenant", "../x").exit_code == 2
    revoked = run("revoke-key", "../x", "--reason", "r", "--connection", connection)
    assert revoked.exit_code == 2
    assert "16 hexadecimal digits" in revoked.stderr
