"""Runs `oars verify` on files written for it, with a chain of receipts to verify."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result
from google.protobuf.json_format import MessageToDict

from oars_grpc.cli import commands
from oars_grpc.core.keys import TrustedKey
from oars_grpc.core.receipt import Receipt
from oars_grpc.generated.oars.v1 import receipt_pb2
from oars_grpc.transport.key_messages import write_key
from oars_grpc.transport.receipt_messages import write_receipt
from tests.support.factories import append_receipt, make_action, make_stored_key

TRUSTED = make_stored_key().trusted


def make_chain() -> tuple[Receipt, ...]:
    action, first = append_receipt(make_action(), "action.requested")
    action, second = append_receipt(action, "action.approved")
    return first, second, append_receipt(action, "action.executed")[1]


CHAIN = make_chain()


def keys_json(*keys: TrustedKey) -> dict[str, Any]:
    """As `GET /v1/trust/tenants/TENANT/keys` answers."""
    message = receipt_pb2.ListTrustedKeysResponse(keys=[write_key(key) for key in keys])
    return MessageToDict(message)


def receipt_json(receipt: Receipt) -> dict[str, Any]:
    """As the API answers it."""
    return MessageToDict(write_receipt(receipt))


class VerifyCommand:
    """Runs the command on files that it writes."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def write(self, name: str, content: Any) -> Path:
        path = self._directory / name
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        path.write_bytes(raw)
        return path

    def __call__(self, *contents: Any, keys: Any = None, options: Sequence[str] = ()) -> Result:
        files = [self.write(f"{number}.json", content) for number, content in enumerate(contents)]
        keys_file = self.write("keys", keys_json(TRUSTED) if keys is None else keys)
        arguments = ["verify", "--keys", str(keys_file), *options, *map(str, files)]
        result = CliRunner().invoke(commands, arguments, env={"COLUMNS": "200"})
        assert result.exception is None or isinstance(result.exception, SystemExit), (
            result.exception
        )
        return result

    def verdicts(self, *contents: Any, keys: Any = None) -> tuple[int, list[dict[str, Any]]]:
        result = self(*contents, keys=keys, options=["--json"])
        return result.exit_code, [json.loads(line) for line in result.stdout.splitlines()]


def results(verdict: dict[str, Any]) -> list[str]:
    return [check["result"] for check in verdict["checks"].values()]
