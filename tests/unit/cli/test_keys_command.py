"""`oars keys revoke` and `rotate`: what is refused before anybody is asked."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from oars_grpc.cli import commands

KEY_ID = "0123456789abcdef"


@pytest.fixture
def connection(tmp_path: Path) -> str:
    """Of a server that is not there: whoever is asked would be missed."""
    path = tmp_path / "connection.json"
    path.write_text(
        json.dumps(
            {
                "rest_url": "https://localhost:9",
                "ca_certificate": "missing",
                "tenant": "acme",
                "identities": {},
            }
        )
    )
    return str(path)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["revoke", "--reason", "x"], "KEY_ID"),
        (["revoke", KEY_ID], "--reason"),
        (["revoke", "../../x", "--reason", "x"], "16 hexadecimal digits"),
        (["revoke", KEY_ID.upper(), "--reason", "x"], "16 hexadecimal digits"),
        (["revoke", f"{KEY_ID}\n", "--reason", "x"], "16 hexadecimal digits"),
        (["revoke", KEY_ID, "--reason", "x", "--compromised-at", "yesterday"], "RFC 3339"),
        (["revoke", KEY_ID, "--reason", "x", "--compromised-at", ""], "RFC 3339"),
        (
            ["revoke", KEY_ID, "--reason", "x", "--compromised-at", "2026-03-01T12:00:00"],
            "no time zone",
        ),
        (["rotate", "--purpose", "everything"], "--purpose"),
    ],
)
def test_a_wrong_argument_is_named(connection: str, arguments: list[str], error: str) -> None:
    result = CliRunner().invoke(commands, ["keys", *arguments, "--connection", connection])
    assert result.exit_code == 2
    assert error in result.stderr


@pytest.mark.parametrize(
    "moment", ["2026-03-01T12:00:00Z", "2026-03-01T14:00:00+02:00", "2026-03-01T12:00:00.5Z"]
)
def test_a_good_command_gets_as_far_as_the_certificate(connection: str, moment: str) -> None:
    arguments = ["revoke", KEY_ID, "--reason", "x", "--compromised-at", moment]
    result = CliRunner().invoke(commands, ["keys", *arguments, "--connection", connection])
    assert result.exit_code == 1
    assert "no usable certificate of the admin" in result.stderr
