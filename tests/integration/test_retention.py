"""Retention and legal holds on the real stack: what is erased says so, and what is held stays."""

import base64
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from oars_grpc.core.envelope import envelope_from_json
from oars_grpc.core.receipt import parse_statement
from oars_grpc.local.stack import LocalStack
from tests.support.client import Client, action_body, client_for, submit
from tests.support.identities import add_identity

TENANT = "tenant_retention"
HOLDS = f"/v1/tenants/{TENANT}/holds"
# Some rounds of upkeep, on a busy machine.
ERASED_IN_SECONDS = 60.0


@dataclass(frozen=True)
class World:
    """A tenant of this module's own."""

    stack: LocalStack
    admin: Client
    second_admin: Client
    auditor: Client
    agent: Client

    def finished(self, agent_id: str) -> list[Any]:
        """The three receipts of a finished action, forty days old."""
        answer = submit(self.agent, action_body(agentId=agent_id))
        action_id = answer["action"]["actionId"]
        done = self.agent.rest.post(
            f"/v1/actions/{action_id}:complete", json={"outcome": "OUTCOME_SUCCEEDED"}
        )
        assert done.is_success, done.text
        self._age(action_id)
        receipts: list[Any] = [*answer["receipts"], *done.json()["receipts"]]
        return receipts

    def keep_for(self, days: int) -> None:
        changed = self.admin.rest.patch(
            f"/v1/tenants/{TENANT}", json={"settings": {"retentionDays": days}}
        )
        assert changed.is_success, changed.text
        assert changed.json()["tenant"]["settings"]["retentionDays"] == days

    def receipt(self, receipt_id: str) -> Any:
        answer = self.agent.rest.get(f"/v1/receipts/{receipt_id}")
        assert answer.is_success, answer.text
        return answer.json()["receipt"]

    def is_erased(self, receipts: list[Any]) -> bool:
        found = self._erasures(receipts)
        # It may happen between two of the looks; what is looked at after an erased one is erased.
        assert found == sorted(found), "an action is erased whole"
        return all(found)

    def is_kept(self, receipts: list[Any]) -> bool:
        return not any(self._erasures(receipts))

    def _erasures(self, receipts: list[Any]) -> list[bool]:
        return [bool(self.receipt(r["receiptId"]).get("erasure")) for r in receipts]

    def _age(self, action_id: str) -> None:
        """Move an action into the past, as only the owner of the tables can."""
        with psycopg.connect(self.stack.postgres.url) as owner:
            owner.execute("ALTER TABLE receipt DISABLE TRIGGER no_update")
            owner.execute(
                "UPDATE receipt SET recorded_at = recorded_at - interval '40 days'"
                " WHERE tenant_id = %s AND action_id = %s",
                (TENANT, action_id),
            )
            owner.execute("ALTER TABLE receipt ENABLE ALWAYS TRIGGER no_update")
            owner.execute(
                "UPDATE action SET created_at = created_at - interval '40 days',"
                " updated_at = updated_at - interval '40 days'"
                " WHERE tenant_id = %s AND action_id = %s",
                (TENANT, action_id),
            )


@pytest.fixture(scope="module")
def world(stack: LocalStack) -> Iterator[World]:
    roles = {
        "first": ("admin", {"serviceAccountId": "first"}),
        "second": ("admin", {"serviceAccountId": "second"}),
        "third": ("auditor", {}),
        "fourth": ("agent", {}),
    }
    with ExitStack() as opened:
        clients = []
        for name, (role, entry) in roles.items():
            add_identity(stack, f"retention-{name}", role=role, tenants=[TENANT], **entry)
            clients.append(opened.enter_context(client_for(stack, f"retention-{name}")))
        made = World(stack, *clients)
        created = made.admin.rest.post("/v1/tenants", json={"tenantId": TENANT})
        assert created.is_success, created.text
        yield made


def wait_until(true: Callable[[], bool]) -> None:
    ends = time.monotonic() + ERASED_IN_SECONDS
    while not true():
        assert time.monotonic() < ends, "it did not come true in time"
        time.sleep(0.5)


def verified(client: Client, **request: Any) -> Any:
    answer = client.rest.post("/v1/receipts/verify", json={"tenantId": TENANT, **request})
    assert answer.is_success, answer.text
    return answer.json()


def checks_of(answer: Any) -> dict[str, str]:
    return {
        check["name"]: check["result"].removeprefix("CHECK_RESULT_") for check in answer["checks"]
    }


def test_after_its_retention_a_payload_is_gone_and_its_proofs_stay(world: World) -> None:
    world.keep_for(0)
    kept = world.finished("erased-agent")
    proofs = [
        world.agent.rest.get(f"/v1/receipts/{receipt['receiptId']}/proof").json()
        for receipt in kept
    ]
    before = world.admin.rest.get(f"/v1/log/{TENANT}/checkpoint").json()["checkpoint"]
    world.keep_for(30)
    wait_until(lambda: world.is_erased(kept))

    for receipt, proof in zip(kept, proofs, strict=True):
        found = world.receipt(receipt["receiptId"])
        assert found["envelope"]["payload"] == ""
        assert found["receiptDigest"] == receipt["receiptDigest"]
        assert found["leafIndex"] == proof["leafIndex"]
        for same in ("type", "sequence", "actionId", "keyId", "previousReceiptDigest"):
            assert found[same] == receipt[same]
        again = world.agent.rest.get(f"/v1/receipts/{receipt['receiptId']}/proof").json()
        assert again["leafHash"] == proof["leafHash"]
        # What is left of it can still be shown to stand in the log.
        answer = verified(world.agent, receiptId=receipt["receiptId"])
        assert (answer["valid"], answer["errors"]) == (False, [])
        assert checks_of(answer) == {
            "signature": "NOT_CHECKED",
            "key_trust": "NOT_CHECKED",
            "schema": "NOT_CHECKED",
            "chain": "NOT_CHECKED",
            "inclusion": "PASSED",
        }
        assert found["erasure"]["receiptId"] in answer["checks"][0]["detail"]
        assert answer["receipt"]["erasure"] == found["erasure"]
        # Whoever kept the receipt can prove it as ever.
        whole = verified(world.agent, envelope=receipt["envelope"], proof=again["proof"])
        assert whole["valid"], whole
        assert checks_of(whole)["inclusion"] == "PASSED"

    listed = world.agent.rest.get(
        "/v1/receipts", params={"tenantId": TENANT, "actionId": kept[0]["actionId"]}
    ).json()["receipts"]
    assert [receipt["receiptId"] for receipt in listed] == [r["receiptId"] for r in kept]
    action = world.agent.rest.get(f"/v1/actions/{kept[0]['actionId']}").json()["action"]
    assert action["state"] == "ACTION_STATE_EXECUTED"

    # The event says by which rule; it is a receipt like any other, and the log has only grown.
    event_id = world.receipt(kept[0]["receiptId"])["erasure"]["receiptId"]
    assert verified(world.auditor, receiptId=event_id)["valid"]
    event = world.auditor.rest.get(f"/v1/receipts/{event_id}").json()["receipt"]
    told = parse_statement(envelope_from_json(event["envelope"]).payload)["predicate"]["event"]
    assert told["retentionDays"] == 30
    assert kept[0]["actionId"] in told["actionIds"]
    grown = world.admin.rest.get(
        f"/v1/log/{TENANT}/consistency", params={"fromSize": before["size"]}
    ).json()
    assert grown["from"]["rootHash"] == before["rootHash"]
    assert int(grown["to"]["size"]) > int(before["size"])
    with psycopg.connect(world.stack.postgres.url) as owner:
        row = owner.execute(
            "SELECT count(*) FROM action_body WHERE action_id = %s", (kept[0]["actionId"],)
        ).fetchone()
    assert row == (0,)


def test_a_hold_keeps_what_is_in_scope_until_a_second_admin_lets_go(world: World) -> None:
    world.keep_for(0)
    held, free = world.finished("held-agent"), world.finished("free-agent")
    placed = world.admin.rest.post(
        HOLDS,
        json={"name": "case 7", "reason": "litigation", "scope": {"agentId": "held-agent"}},
    ).json()["hold"]
    path = f"{HOLDS}/{placed['holdId']}"
    assert placed["state"] == "LEGAL_HOLD_STATE_ACTIVE"
    world.keep_for(30)
    wait_until(lambda: world.is_erased(free))
    assert world.is_kept(held)

    asked = world.admin.rest.post(f"{path}:release", json={"reason": "settled"})
    assert asked.json()["hold"]["state"] == "LEGAL_HOLD_STATE_RELEASE_REQUESTED"
    again = world.admin.rest.post(f"{path}:release", json={"reason": "settled"})
    assert again.status_code == 400
    assert again.json()["details"][0]["reason"] == "SECOND_ADMIN_REQUIRED"
    world.keep_for(31)  # under other settings the tenant is looked through at once
    witness = world.finished("witness-agent")
    world.keep_for(30)
    wait_until(lambda: world.is_erased(witness))
    assert world.is_kept(held)

    agreed = world.second_admin.rest.post(
        f"{path}:release", json={"reason": "agreed", "expectedVersion": 2}
    ).json()["hold"]
    assert agreed["state"] == "LEGAL_HOLD_STATE_RELEASED"
    assert [step["serviceAccountId"] for step in agreed["steps"]] == ["first", "first", "second"]
    world.keep_for(29)
    wait_until(lambda: world.is_erased(held))
    for step, kind in zip(
        agreed["steps"], ("placed", "release_requested", "released"), strict=True
    ):
        event = world.auditor.rest.get(f"/v1/receipts/{step['receiptId']}").json()["receipt"]
        assert event["type"] == f"hold.{kind}"
        assert base64.b64decode(event["envelope"]["payload"])
        assert verified(world.auditor, receiptId=step["receiptId"])["valid"]
    assert world.auditor.rest.get(path).json()["hold"] == agreed
    listed = world.auditor.rest.get(HOLDS, params={"pageSize": 1}).json()["holds"]
    assert listed == [agreed]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"reason": "x"}, "name"),
        ({"name": "x"}, "reason"),
        ({"scope": {"type": "action.denied"}}, "scope.type"),
        ({"scope": {"ruleId": "r"}}, "scope.rule_id"),
        ({"scope": {"decision": "EFFECT_DENY"}}, "scope.decision"),
        ({"scope": {"riskTier": "RISK_TIER_HIGH"}}, "scope.risk_tier"),
        ({"scope": {"actionId": "mine"}}, "scope.action_id"),
    ],
)
def test_a_hold_that_cannot_be_kept_is_refused(
    world: World, body: dict[str, Any], field: str
) -> None:
    whole = {"name": "x", "reason": "x", **body} if "scope" in body else body
    refused = world.admin.rest.post(HOLDS, json=whole)
    assert refused.status_code == 400
    violations = [
        violation["field"]
        for detail in refused.json()["details"]
        for violation in detail.get("fieldViolations", ())
    ]
    assert violations == [field]


def test_holds_are_an_admins_to_place_and_an_auditors_to_read(world: World) -> None:
    body = {"name": "x", "reason": "x", "scope": {"agentId": "nobody"}}
    for client in (world.auditor, world.agent):
        assert client.rest.post(HOLDS, json=body).status_code == 403
    assert world.auditor.rest.get(HOLDS).status_code == 200
    assert world.agent.rest.get(HOLDS).status_code == 403


@pytest.mark.parametrize("days", [-1, 36_501])
def test_a_retention_beyond_reason_is_refused(world: World, days: int) -> None:
    refused = world.admin.rest.patch(
        f"/v1/tenants/{TENANT}", json={"settings": {"retentionDays": days}}
    )
    assert refused.status_code == 400
    assert "settings.retention_days" in refused.text
