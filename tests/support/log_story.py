"""Plays actions of every kind on a stack and writes down what it answers about its log.

    keys.json  receipts.json  proofs/<leaf>.tlog-proof  consistency-<from>-<to>.json

The interop tests play it live; `python -m tests.support.log_story` replaces the files in
`tests/golden/log`, which show that what an earlier version has signed still verifies.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import httpx

from oars_grpc.local.stack import LocalStack
from tests.support.client import Client, action_body, client_for, submit
from tests.support.identities import add_identity

GOLDEN = Path(__file__).parents[1] / "golden" / "log"


def play(stack: LocalStack, tenant_id: str) -> None:
    """Fill the log of a new tenant: allowed, completed, denied, approved, rejected, rotated."""
    for role in ("admin", "agent", "approver", "auditor"):
        add_identity(stack, f"{tenant_id}-{role}", role=role, tenants=[tenant_id])
    with client_for(stack, f"{tenant_id}-admin") as admin:
        _ask(admin.rest.post("/v1/tenants", json={"tenantId": tenant_id}))
        with (
            client_for(stack, f"{tenant_id}-agent") as agent,
            client_for(stack, f"{tenant_id}-approver") as approver,
        ):
            _allow_and_complete(agent)
            submit(agent, action_body("delete_repository"))
            _decide(agent, approver, "VERDICT_APPROVE")
            _ask(admin.rest.post(f"/v1/tenants/{tenant_id}/keys:rotate", json={}))
            _decide(agent, approver, "VERDICT_REJECT")
            submit(agent, action_body("list_tickets", input={"Größe": "ʘ", "n": 1.5}))
            _allow_and_complete(agent)


def record(stack: LocalStack, tenant_id: str, folder: Path) -> None:
    """Write the log's keys, receipts and proofs as the REST API answers them."""
    (folder / "proofs").mkdir(parents=True, exist_ok=True)
    with client_for(stack, f"{tenant_id}-auditor") as auditor:
        rest = auditor.rest
        listed = _ask(rest.get("/v1/receipts", params={"pageSize": 200}))
        _write(folder / "receipts.json", listed)
        _write(folder / "keys.json", _ask(rest.get(f"/v1/trust/tenants/{tenant_id}/keys")))
        for place, receipt in enumerate(listed["receipts"]):
            answer = _ask(rest.get(f"/v1/receipts/{receipt['receiptId']}/proof"))
            (folder / "proofs" / f"{place}.tlog-proof").write_text(answer["proof"])
        size = len(listed["receipts"])
        for old in range(1, size + 1):
            answer = _ask(
                rest.get(
                    f"/v1/log/{tenant_id}/consistency", params={"fromSize": old, "toSize": size}
                )
            )
            _write(folder / f"consistency-{old}-{size}.json", answer)


def _allow_and_complete(agent: Client) -> None:
    action = submit(agent, action_body())["action"]
    done = {"outcome": "OUTCOME_SUCCEEDED", "output": {"ticket": "T-1"}}
    _ask(agent.rest.post(f"/v1/actions/{action['actionId']}:complete", json=done))


def _decide(agent: Client, approver: Client, verdict: str) -> None:
    production = {"environment": "production", "dataTypes": ["personal"]}
    body = action_body("transfer_funds", context=production)
    submitted = submit(agent, body)
    approval = submitted["approval"]
    path = f"/v1/approvals/{approval['approvalId']}/decision"
    decision = {
        "verdict": verdict,
        "reason": "seen",
        "actionDigest": approval["actionDigest"],
        "displayDigest": approval["displayDigest"],
    }
    _ask(approver.rest.post(path, json=decision))


def _ask(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == httpx.codes.OK, answer.text
    found: dict[str, Any] = answer.json()
    return found


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")


def main() -> None:
    """Replace the golden files."""
    with tempfile.TemporaryDirectory(prefix="oars-") as state, LocalStack(Path(state)) as stack:
        play(stack, "golden")
        for path in GOLDEN.glob("**/*.*"):
            path.unlink()
        record(stack, "golden", GOLDEN)


if __name__ == "__main__":
    main()
