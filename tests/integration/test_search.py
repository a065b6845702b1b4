"""Search through the live stack: every field, precise refusals, pages bound to their filter."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner, Result

from oars_grpc.cli import commands
from oars_grpc.generated.oars.v1 import control_pb2, policy_pb2, receipt_pb2
from oars_grpc.local.stack import LocalStack
from tests.support.client import Client, action_body, client_for, submit
from tests.support.identities import add_identity
from tests.support.rpcs import RPCS, UNKNOWN_IDS, call_rest, refused_by_grpc, rest_refusal

TENANT = "tenant_search"
R: Any = receipt_pb2
TOO_LATE = {"recorded_from": {"seconds": 10**12}}
AGENTS = 3
ROUNDS = 4


@pytest.fixture(scope="module")
def admin(stack: LocalStack) -> Iterator[Client]:
    """The administrator of a tenant with actions of three agents, allowed, denied and waiting."""
    add_identity(stack, "search-agent", role="agent", tenants=[TENANT])
    add_identity(stack, "search-admin", role="admin", tenants=[TENANT])
    with client_for(stack, "search-admin") as client, client_for(stack, "search-agent") as agent:
        created = client.rest.post("/v1/tenants", json={"tenantId": TENANT})
        assert created.status_code in (200, 409), created.text
        for _ in range(ROUNDS):
            for number in range(AGENTS):
                for operation in ("create_ticket", "delete_repository", "transfer_funds"):
                    resource = {"toolId": f"tool-{number}", "operation": operation, "target": "x"}
                    submit(agent, action_body(agentId=f"agent-{number}", resource=resource))
        yield client


def rest_pages(client: Client, **query: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    token = ""
    while True:
        answer = client.rest.get("/v1/receipts", params={**query, "pageToken": token})
        assert answer.status_code == 200, answer.text
        body = answer.json()
        found += body["receipts"]
        token = body["nextPageToken"]
        if not token:
            return found


def grpc_pages(client: Client, **fields: Any) -> list[Any]:
    found: list[Any] = []
    token = ""
    while True:
        request = R.ListReceiptsRequest(page_token=token, **fields)
        page = client.receipts.ListReceipts(request, timeout=30)
        found += page.receipts
        token = page.next_page_token
        if not token:
            return found


def predicate_of(receipt: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(receipt.envelope.payload)["predicate"]
    return found


def test_every_field_picks_what_the_payloads_say(admin: Client) -> None:
    all_ = grpc_pages(admin, page_size=200)
    told = {receipt.receipt_id: predicate_of(receipt) for receipt in all_}
    some = next(each for each in told.values() if each.get("decision", {}).get("rules"))
    decision, policy = some["decision"], some["policy"]
    moment = all_[len(all_) // 2].recorded_at
    text = moment.ToJsonString()
    cases: list[tuple[dict[str, Any], dict[str, Any], Any]] = [
        ({"action_id": some["actionId"]}, {}, lambda p: p.get("actionId") == some["actionId"]),
        ({"type": "action.denied"}, {}, lambda p: p["type"] == "action.denied"),
        ({"agent_id": "agent-1"}, {}, lambda p: p.get("agentId") == "agent-1"),
        ({"user_id": "nobody"}, {}, lambda p: p.get("userId") == "nobody"),
        (
            {"caller_subject": "spiffe://oars.dev/search-agent"},
            {},
            lambda p: p["caller"]["subject"] == "spiffe://oars.dev/search-agent",
        ),
        ({"tool_id": "tool-2"}, {}, lambda p: p.get("resource", {}).get("toolId") == "tool-2"),
        (
            {"operation": "transfer_funds"},
            {},
            lambda p: p.get("resource", {}).get("operation") == "transfer_funds",
        ),
        (
            {"decision": policy_pb2.EFFECT_DENY},
            {"decision": "EFFECT_DENY"},
            lambda p: p.get("decision", {}).get("effect") == "deny",
        ),
        (
            {"policy_id": policy["policyId"], "policy_version": policy["version"]},
            {},
            lambda p: p.get("policy", {}).get("policyId") == policy["policyId"],
        ),
        ({"policy_id": policy["policyId"], "policy_version": 77}, {}, lambda _: False),
        (
            {"rule_id": decision["rules"][0]["ruleId"]},
            {},
            lambda p: (
                decision["rules"][0]["ruleId"]
                in [rule["ruleId"] for rule in p.get("decision", {}).get("rules", ())]
            ),
        ),
        (
            {"risk_tier": policy_pb2.RISK_TIER_HIGH},
            {"risk_tier": "RISK_TIER_HIGH"},
            lambda p: p.get("decision", {}).get("risk", {}).get("tier") == "high",
        ),
        (
            {"recorded_from": moment},
            {"recorded_from": text},
            lambda p: p["recordedAt"] >= text_of(moment),
        ),
        (
            {"recorded_until": moment, "tool_id": "tool-1"},
            {"recorded_until": text},
            lambda p: (
                p["recordedAt"] < text_of(moment)
                and p.get("resource", {}).get("toolId") == "tool-1"
            ),
        ),
    ]
    met = 0
    for fields, spelled, holds in cases:
        expected = [id_ for id_, predicate in told.items() if holds(predicate)]
        assert [each.receipt_id for each in grpc_pages(admin, page_size=3, **fields)] == expected
        rest = rest_pages(admin, page_size=7, **fields | spelled)
        assert [each["receiptId"] for each in rest] == expected
        met += bool(expected)
    assert met >= len(cases) - 3


def text_of(moment: Any) -> str:
    found: str = moment.ToDatetime().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return found


@pytest.mark.parametrize(
    ("fields", "at_fault"),
    [
        ({"policy_version": 2}, "policy_version"),
        ({"policy_id": UNKNOWN_IDS["policy_id"], "policy_version": -1}, "policy_version"),
        ({"policy_id": "pol_x"}, "policy_id"),
        ({"action_id": UNKNOWN_IDS["receipt_id"]}, "action_id"),
        ({"decision": 99}, "decision"),
        ({"risk_tier": 99}, "risk_tier"),
        ({"type": "with space"}, "type"),
        ({"agent_id": "x" * 129}, "agent_id"),
        ({"rule_id": "x\n"}, "rule_id"),
        ({"recorded_from": {"seconds": 9}, "recorded_until": {"seconds": 9}}, "recorded_from"),
        (TOO_LATE, "recorded_from"),
        ({"control": "CC6.1"}, "control"),
        ({"control": "soc2:"}, "control"),
        ({"control": "SOC2:CC6.1"}, "control"),
    ],
)
def test_each_field_is_refused_by_its_name(
    admin: Client, fields: dict[str, Any], at_fault: str
) -> None:
    request = R.ListReceiptsRequest(**fields)
    refusal = refused_by_grpc(admin, RPCS["ListReceipts"], request)
    assert refusal.fields[0] == at_fault
    # An unknown number of an enum and a time beyond all calendars do not pass as JSON.
    if at_fault not in ("decision", "risk_tier") and fields != TOO_LATE:
        assert rest_refusal(call_rest(admin, RPCS["ListReceipts"], request)) == refusal


def test_all_faults_are_named_at_once(admin: Client) -> None:
    request = R.ListReceiptsRequest(policy_version=1, control="x", risk_tier=99, tenant_id="A B")
    refusal = refused_by_grpc(admin, RPCS["ListReceipts"], request)
    assert set(refusal.fields) == {"policy_version", "control", "risk_tier", "tenant_id"}


def test_a_token_goes_on_with_its_own_filter_only(admin: Client) -> None:
    first = R.ListReceiptsRequest(page_size=2, tool_id="tool-1")
    token = admin.receipts.ListReceipts(first, timeout=20).next_page_token
    assert token
    for other in (
        {},
        {"tool_id": "tool-2"},
        {"tool_id": "tool-1", "type": "action.denied"},
        {"tool_id": "tool-1", "recorded_from": {"seconds": 1}},
    ):
        request = R.ListReceiptsRequest(page_size=2, page_token=token, **other)
        assert refused_by_grpc(admin, RPCS["ListReceipts"], request).fields == ("page_token",)
    request = R.ListReceiptsRequest(page_size=5, page_token=token, tool_id="tool-1")
    assert len(admin.receipts.ListReceipts(request, timeout=20).receipts) == 5


def test_an_unmapped_control_is_not_found_and_a_mapped_one_shows_what_it_picks(
    admin: Client,
) -> None:
    unknown = R.ListReceiptsRequest(control="soc2:CC9.9")
    assert refused_by_grpc(admin, RPCS["ListReceipts"], unknown).reason == "CONTROL_NOT_FOUND"
    admin.controls.CreateControlMapping(
        control_pb2.CreateControlMappingRequest(
            framework="soc2",
            control_id="CC6.1",
            filter=R.ReceiptFilter(operation="delete_repository", tool_id="tool-0"),
        ),
        timeout=20,
    )
    expected = grpc_pages(admin, operation="delete_repository", tool_id="tool-0")
    assert len(expected) == 2 * ROUNDS
    assert grpc_pages(admin, page_size=3, control="soc2:CC6.1") == expected
    rest = rest_pages(admin, control="soc2:CC6.1", type="action.denied")
    assert [each["receiptId"] for each in rest] == [
        each.receipt_id for each in expected if each.type == "action.denied"
    ]


def test_an_agent_searches_its_own_action_only_and_by_no_control(
    stack: LocalStack, admin: Client
) -> None:
    (receipt, *_) = grpc_pages(admin, type="action.requested", agent_id="agent-0")
    with client_for(stack, "search-agent") as agent:
        own = grpc_pages(agent, action_id=receipt.action_id, type="action.requested")
        assert [each.receipt_id for each in own] == [receipt.receipt_id]
        for fields, at_fault in (
            ({"agent_id": "agent-0"}, "action_id"),
            ({"action_id": receipt.action_id, "control": "soc2:CC6.1"}, "control"),
        ):
            request = R.ListReceiptsRequest(**fields)
            refusal = refused_by_grpc(agent, RPCS["ListReceipts"], request)
            assert refusal.fields == (at_fault,)


def test_the_terminal_lists_what_the_filter_picks(admin: Client, stack: LocalStack) -> None:
    expected = grpc_pages(admin, type="action.denied", tool_id="tool-1")

    def listed(*options: str) -> Result:
        connection = str(stack.certificates.parent / "connection.json")
        arguments = ["receipts", "list", "--connection", connection, *options]
        return CliRunner().invoke(commands, arguments)

    # The connection's own tenant is another one: its auditor may not ask about this one.
    refused = listed("--tenant", TENANT)
    assert refused.exit_code == 1
    assert "TENANT_FORBIDDEN" in refused.output
    assert expected
    add_identity(stack, "auditor-of-both", role="auditor", tenants=[TENANT, "tenant_alpha"])
    own = json.loads((stack.certificates.parent / "connection.json").read_text())
    own["tenant"] = TENANT
    own["identities"]["auditor"] = {
        "certificate": str(stack.certificates / "auditor-of-both.pem"),
        "private_key": str(stack.certificates / "auditor-of-both.key"),
    }
    other = stack.certificates / "connection-of-both.json"
    other.write_text(json.dumps(own))
    asked = ("--connection", str(other), "--type", "action.denied", "--tool-id", "tool-1")
    as_json = listed(*asked, "--decision", "deny", "--risk-tier", "high", "--json")
    assert as_json.exit_code == 0, as_json.output
    lines = [json.loads(line)["receiptId"] for line in as_json.output.splitlines()]
    both = {"decision": policy_pb2.EFFECT_DENY, "risk_tier": policy_pb2.RISK_TIER_HIGH}
    picked = grpc_pages(admin, type="action.denied", tool_id="tool-1", **both)
    assert lines == [each.receipt_id for each in picked]
    table = listed(*asked, "--limit", "2")
    assert [each.receipt_id in table.output for each in expected] == [
        True,
        True,
        *[False] * (len(expected) - 2),
    ]
    malformed = listed("--connection", str(other), "--policy-version", "2")
    assert malformed.exit_code == 1
    assert "policy_version" in malformed.output
