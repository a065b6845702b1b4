"""`oars demo`: the story that a newcomer needs to see, on the real stack, in a minute."""

import base64
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import httpx
from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from oars_grpc.local.stack import TENANT, LocalStack

_COLOURS = {
    "APPROVED": "green",
    "EXECUTED": "green",
    "DENIED": "red",
    "APPROVAL_REQUIRED": "yellow",
}


@click.command()
def demo() -> None:
    """Start everything in a temporary directory, play the story, leave nothing behind."""
    console = Console()
    with tempfile.TemporaryDirectory(prefix="oars-demo-") as folder:
        with console.status("starting Postgres, server and Envoy with mutual TLS …"):
            stack = LocalStack(Path(folder) / "state")
            stack.start()
        try:
            with ExitStack() as clients:
                Story(console, stack, clients, Path(folder)).play()
        finally:
            with console.status("stopping …"):
                stack.stop()
    console.print("[bold green]Every step above happened on the real stack.[/] Next: oars dev")


class Story:
    """Five scenes over REST, each with a client certificate of its own."""

    def __init__(
        self, console: Console, stack: LocalStack, clients: ExitStack, folder: Path
    ) -> None:
        self._console = console
        self._folder = folder
        roles = ("agent", "approver", "auditor")
        self._clients = {role: clients.enter_context(stack.client(role)) for role in roles}
        self._url = stack.rest_url

    def play(self) -> None:
        """All scenes, in order."""
        self._console.print(Panel(f"OARS is at {self._url}, tenant {TENANT}", expand=False))
        receipts = self._allowed()
        self._denied()
        self._approved_by_a_person()
        self._replayed()
        self._tampered(receipts)

    def _allowed(self) -> list[dict[str, Any]]:
        self._scene("1", "An agent asks to open a ticket: policy allows it")
        answer = self._submit("create_ticket", "support/login-fails", {"title": "Login fails"})
        self._show(answer)
        self._console.print("the agent executes it and reports the outcome")
        done = self._post(
            "agent",
            f"/v1/actions/{answer['action']['actionId']}:complete",
            {"outcome": "OUTCOME_SUCCEEDED", "output": {"ticket": "T-1001"}},
        )
        self._show(done)
        return [*answer["receipts"], *done["receipts"]]

    def _denied(self) -> None:
        self._scene("2", "It asks to delete a repository: policy forbids it")
        self._show(self._submit("delete_repository", "acme/payments", {}))

    def _approved_by_a_person(self) -> None:
        self._scene("3", "It asks to move money in production: a person decides")
        answer = self._submit(
            "transfer_funds",
            "account/77",
            {"amount": "1200.00", "currency": "EUR"},
            environment="production",
        )
        self._show(answer)
        approval = answer["approval"]
        self._console.print("the approver, with a certificate of its own, says yes")
        decided = self._post(
            "approver",
            f"/v1/approvals/{approval['approvalId']}/decision",
            {
                "verdict": "VERDICT_APPROVE",
                "reason": "invoice 4711 is due",
                "actionDigest": approval["actionDigest"],
                "displayDigest": approval["displayDigest"],
            },
        )
        self._show(decided)
        self._console.print("the agent starts it, which uses the approval up, and reports back")
        path = f"/v1/actions/{answer['action']['actionId']}"
        self._show(self._post("agent", f"{path}:start", {}))
        done = {"outcome": "OUTCOME_SUCCEEDED", "output": {"transfer": "F-77"}}
        self._show(self._post("agent", f"{path}:complete", done))

    def _replayed(self) -> None:
        self._scene("4", "The same call twice under one idempotency key: one action, one answer")
        key = {"idempotency-key": "demo-key-1"}
        first, second = (
            self._call("agent", "/v1/actions", _action("create_ticket", "support/dup", {}), key)
            for _ in range(2)
        )
        same = first.content == second.content
        replayed = second.headers.get("x-idempotent-replay")
        self._console.print(f"same bytes: [bold]{same}[/], x-idempotent-replay: {replayed}")
        other = self._call("agent", "/v1/actions", _action("create_ticket", "other", {}), key)
        self._console.print(
            f"another request under that key: HTTP [bold]{other.status_code}[/] "
            f"{other.json()['message']}"
        )

    def _tampered(self, receipts: list[dict[str, Any]]) -> None:
        self._scene("5", "An auditor verifies offline; one changed byte is found")
        keys = self._clients["auditor"].get(f"/v1/trust/tenants/{TENANT}/keys")
        keys_file, receipts_file = self._folder / "keys.json", self._folder / "receipts.json"
        keys_file.write_text(keys.text, encoding="utf-8")
        receipts_file.write_text(json.dumps(receipts), encoding="utf-8")
        self._verify(receipts_file, keys_file)
        payload = base64.b64decode(receipts[1]["envelope"]["payload"])
        forged = payload.replace(b"create_ticket", b"delete_ticket", 1)
        receipts[1]["envelope"]["payload"] = base64.b64encode(forged).decode()
        receipts_file.write_text(json.dumps(receipts), encoding="utf-8")
        self._console.print("now with create_ticket changed to delete_ticket in the second receipt")
        self._verify(receipts_file, keys_file)

    def _verify(self, receipts: Path, keys: Path) -> None:
        self._console.print(f"$ oars verify {receipts.name} --keys {keys.name}", style="bold")
        command = [sys.executable, "-m", "oars_grpc.cli", "verify", str(receipts)]
        finished = subprocess.run(  # noqa: S603 - our own interpreter and module
            [*command, "--keys", str(keys)], check=False, capture_output=True, text=True
        )
        self._console.print(finished.stdout, markup=False, highlight=False, end="")
        self._console.print(f"exit code {finished.returncode}")

    def _submit(
        self, operation: str, target: str, input_: Mapping[str, Any], environment: str = "staging"
    ) -> dict[str, Any]:
        return self._post("agent", "/v1/actions", _action(operation, target, input_, environment))

    def _post(self, role: str, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        answer = self._call(role, path, body, {})
        if answer.status_code != httpx.codes.OK:
            raise click.ClickException(f"{path}: HTTP {answer.status_code} {answer.text}")
        found: dict[str, Any] = answer.json()
        return found

    def _call(
        self, role: str, path: str, body: Mapping[str, Any], headers: Mapping[str, str]
    ) -> httpx.Response:
        return self._clients[role].post(path, json=body, headers=dict(headers))

    def _scene(self, number: str, title: str) -> None:
        self._console.rule(f"[bold]{number}. {title}", align="left")

    def _show(self, answer: Mapping[str, Any]) -> None:
        action = answer.get("action")
        if action:
            state = action["state"].removeprefix("ACTION_STATE_")
            colour = _COLOURS.get(state, "cyan")
            self._console.print(f"{action['resource']['operation']} → [bold {colour}]{state}[/]")
        decision = answer.get("decision")
        if decision:
            risk = decision["risk"]
            tier = risk["tier"].removeprefix("RISK_TIER_").lower()
            self._console.print(f"{decision['explanation']} (risk {risk['score']}, {tier})")
        table = Table("receipt", "sequence", "key", "digest", box=None, header_style="dim")
        for receipt in answer["receipts"]:
            digest = receipt["receiptDigest"][:16] + "…"
            sequence = str(receipt["sequence"])
            table.add_row(receipt["type"], sequence, receipt["keyId"], digest)
        self._console.print(table)


def _action(
    operation: str, target: str, input_: Mapping[str, Any], environment: str = "staging"
) -> dict[str, Any]:
    return {
        "agentId": "support-agent",
        "userId": "user:alice",
        "resource": {"toolId": "desk", "operation": operation, "target": target},
        "context": {"environment": environment, "dataTypes": ["none"]},
        "input": dict(input_),
    }
