"""Policies through the running stack: lifecycle and its events, explanations, simulations."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from oars_grpc.core.envelope import envelope_from_json
from oars_grpc.core.receipt import parse_statement
from oars_grpc.local.stack import LocalStack
from tests.support.client import Client, action_body, client_for, submit
from tests.support.identities import add_identity

TENANT = "tenant_policies"
ALLOW_ALL = {"id": "all", "effect": "EFFECT_ALLOW"}


@dataclass(frozen=True)
class World:
    """A tenant of this module's own."""

    admin: Client
    auditor: Client
    agent: Client
    pinned: Client

    def post(self, path: str, body: dict[str, Any] | None = None, **headers: str) -> httpx.Response:
        return self.admin.rest.post(f"/v1/policies{path}", json=body or {}, headers=headers)

    def draft(self, name: str, *rules: dict[str, Any]) -> Any:
        document = {"name": name, "rules": rules or (ALLOW_ALL,)}
        return done(self.post("", {"document": document}))["policy"]

    def published(self, name: str, *rules: dict[str, Any]) -> Any:
        policy_id = self.draft(name, *rules)["policyId"]
        return done(self.post(f"/{policy_id}/publish"))["policy"]

    def state(self, policy_id: str) -> str:
        found: str = done(self.admin.rest.get(f"/v1/policies/{policy_id}"))["policy"]["state"]
        return found

    def events(self, type_: str) -> list[Any]:
        """The events of a type, in the order of the log."""
        found, token = [], ""
        while True:
            page = done(
                self.admin.rest.get(
                    "/v1/receipts", params={"type": type_, "pageSize": 200, "pageToken": token}
                )
            )
            found += [statement(receipt)["event"] for receipt in page.get("receipts", [])]
            token = page.get("nextPageToken", "")
            if not token:
                return found


def done(answer: httpx.Response) -> Any:
    assert answer.is_success, answer.text
    return answer.json()


def refusal(answer: httpx.Response) -> str:
    """The reason of a refusal."""
    assert answer.is_client_error, answer.text
    reason: str = answer.json()["details"][0]["reason"]
    return reason


def statement(receipt: Any) -> Any:
    """The predicate that a receipt's signature covers."""
    return parse_statement(envelope_from_json(receipt["envelope"]).payload)["predicate"]


def named(policy: Any) -> dict[str, Any]:
    """How an event names a policy."""
    return {
        "policyId": policy["policyId"],
        "version": int(policy["version"]),
        "digest": policy["digest"],
    }


@pytest.fixture(scope="module")
def world(stack: LocalStack) -> Iterator[World]:
    verified = {"environment": "production", "data_types": "pii", "team": "payments"}
    with ExitStack() as opened:

        def client(name: str, role: str, **entry: Any) -> Client:
            add_identity(stack, f"policies-{name}", role=role, tenants=[TENANT], **entry)
            return opened.enter_context(client_for(stack, f"policies-{name}"))

        made = World(
            client("admin", "admin"),
            client("auditor", "auditor"),
            client("agent", "agent"),
            client("pinned", "agent", attributes=verified),
        )
        done(made.admin.rest.post("/v1/tenants", json={"tenantId": TENANT}))
        yield made


def test_every_change_of_a_policy_is_an_event(world: World) -> None:
    first = world.published("first")
    second = world.published("second")
    back = done(world.post(f"/{second['policyId']}/rollback"))["policy"]
    assert back["policyId"] == first["policyId"]
    archived = done(world.post(f"/{second['policyId']}/archive"))["policy"]
    assert archived["state"] == "POLICY_STATE_ARCHIVED"

    created = {event["policyId"]: event for event in world.events("policy.created")}
    assert created[first["policyId"]] == {**named(first), "name": "first", "rules": 1}
    published = {event["policyId"]: event for event in world.events("policy.published")}
    assert published[second["policyId"]] == {**named(second), "replaced": named(first)}
    assert world.events("policy.rolled_back")[-1] == {**named(first), "replaced": named(second)}
    assert world.events("policy.archived")[-1] == named(second)


def test_publishing_the_published_policy_changes_nothing(world: World) -> None:
    policy = world.published("again")
    before = world.events("policy.published")
    assert done(world.post(f"/{policy['policyId']}/publish"))["policy"] == policy
    assert world.events("policy.published") == before


def test_rolling_back_walks_back_and_passes_over_archived_policies(world: World) -> None:
    first, second, third, fourth = (world.published(name)["policyId"] for name in "abcd")
    assert done(world.post(f"/{third}/archive"))["policy"]["state"] == "POLICY_STATE_ARCHIVED"
    assert done(world.post(f"/{fourth}/rollback"))["policy"]["policyId"] == second
    assert refusal(world.post(f"/{fourth}/rollback")) == "POLICY_NOT_PUBLISHED"
    assert done(world.post(f"/{second}/rollback"))["policy"]["policyId"] == first
    assert world.state(second) == world.state(fourth) == "POLICY_STATE_SUPERSEDED"


def test_there_is_an_end_to_rolling_back(world: World) -> None:
    published = world.published("last")["policyId"]
    for _ in range(100):
        answer = world.post(f"/{published}/rollback")
        if not answer.is_success:
            break
        published = answer.json()["policy"]["policyId"]
    assert refusal(answer) == "NOTHING_TO_ROLL_BACK_TO"
    assert world.state(published) == "POLICY_STATE_PUBLISHED"


def test_an_archived_policy_is_put_away(world: World, stack: LocalStack) -> None:
    draft, published = world.draft("away"), world.published("stays")
    assert refusal(world.post(f"/{published['policyId']}/archive")) == "POLICY_PUBLISHED"
    first = done(world.post(f"/{draft['policyId']}/archive"))["policy"]
    assert first["archivedBy"] == "spiffe://oars.dev/policies-admin"
    events = len(world.events("policy.archived"))
    assert done(world.post(f"/{draft['policyId']}/archive"))["policy"] == first
    assert len(world.events("policy.archived")) == events
    assert refusal(world.post(f"/{draft['policyId']}/publish")) == "POLICY_ARCHIVED"
    assert done(world.admin.rest.get(f"/v1/policies/{draft['policyId']}"))["policy"] == first

    def listed(**params: Any) -> list[str]:
        page = done(world.admin.rest.get("/v1/policies", params={"pageSize": 3, **params}))
        return [policy["policyId"] for policy in page["policies"]]

    assert published["policyId"] in listed()
    assert draft["policyId"] not in listed()
    assert draft["policyId"] in listed(includeArchived=True)


def test_the_same_document_twice_is_two_versions_of_one_digest(world: World) -> None:
    first, second = world.draft("twin"), world.draft("twin")
    assert first["digest"] == second["digest"]
    assert first["policyId"] != second["policyId"]
    assert int(second["version"]) == int(first["version"]) + 1


def test_a_faulty_condition_is_refused_by_rule_line_and_column(world: World) -> None:
    rules = [ALLOW_ALL, {"id": "x", "effect": "EFFECT_DENY", "condition": "1 == 1 &&\n  nope > 1"}]
    answer = world.post("", {"document": {"name": "faulty", "rules": rules}})
    assert answer.status_code == httpx.codes.BAD_REQUEST
    (violation,) = next(
        detail["fieldViolations"]
        for detail in answer.json()["details"]
        if "fieldViolations" in detail
    )
    assert violation["field"] == "document.rules[1].condition"
    assert violation["description"].startswith("line 2, column 3: ")


def test_a_policy_publishes_only_with_its_workflows_and_keeps_them(world: World) -> None:
    def settle(*names: str) -> httpx.Response:
        stage = {"name": "one", "requiredApprovals": 1, "approvers": [{"role": "admin"}]}
        workflows = [{"workflowId": name, "stages": [stage]} for name in names]
        return world.admin.rest.patch(
            f"/v1/tenants/{TENANT}", json={"settings": {"workflows": workflows}}
        )

    rule = {"id": "R-7", "effect": "EFFECT_APPROVE", "workflowId": "finance"}
    before = world.published("before")["policyId"]
    policy_id = world.draft("asks finance", rule)["policyId"]
    refused = world.post(f"/{policy_id}/publish")
    assert refusal(refused) == "WORKFLOW_NOT_FOUND"
    assert "R-7" in refused.text
    assert "finance" in refused.text
    assert world.state(before) == "POLICY_STATE_PUBLISHED"
    done(settle("finance", "legal"))
    try:
        done(world.post(f"/{policy_id}/publish"))
        refused = settle("legal")
        assert refusal(refused) == "WORKFLOW_IN_USE"
        assert "R-7" in refused.text
        done(settle("finance"))
        changes = {change["setting"] for change in world.events("tenant.updated")[-1]["changes"]}
        assert changes == {"workflows.legal"}
        done(world.post(f"/{policy_id}/rollback"))
        done(settle())
        # A rollback is a publication, too.
        after = world.published("after")["policyId"]
        assert refusal(world.post(f"/{policy_id}/publish")) == "WORKFLOW_NOT_FOUND"
        done(world.post(f"/{after}/rollback"))
    finally:
        world.published("allows again")
        done(settle())


def test_an_update_of_the_tenant_is_an_event(world: World) -> None:
    tenant = f"/v1/tenants/{TENANT}"
    before = done(world.admin.rest.get(tenant))["tenant"]
    body = {"displayName": "Renamed", "settings": {"riskWeights": {"contradiction": 30}}}
    after = done(world.admin.rest.patch(tenant, json=body))["tenant"]
    event = world.events("tenant.updated")[-1]
    assert event["version"] == int(after["version"]) == int(before["version"]) + 1
    assert {"setting": "risk.contradiction", "before": "25", "after": "30"} in event["changes"]
    assert {change["setting"] for change in event["changes"]} == {
        "displayName",
        "risk.contradiction",
    }
    done(world.admin.rest.patch(tenant, json={}))


PRODUCTION_DENIED = (
    {"id": "prod", "effect": "EFFECT_DENY", "match": {"environments": ["production"]}},
    {"id": "pii", "effect": "EFFECT_QUARANTINE", "match": {"requiredDataTypes": ["pii"]}},
    ALLOW_ALL,
)


def test_a_verified_attribute_wins_over_what_the_caller_asserts(world: World) -> None:
    world.published("no production", *PRODUCTION_DENIED)
    asserted = {"environment": "staging", "dataTypes": ["none"], "attributes": {"team": "sales"}}
    body = action_body("list_tickets", context=asserted)
    assert submit(world.agent, body)["decision"]["effect"] == "EFFECT_ALLOW"

    answer = submit(world.pinned, body)
    decision = answer["decision"]
    assert decision["effect"] == "EFFECT_DENY"
    assert {"name": "context.environment", "value": "production"} in decision["facts"]
    told = [s for s in decision["risk"]["signals"] if s["name"] == "context.contradiction"]
    assert [signal["detail"] for signal in told] == [
        "context.environment is production, not staging",
        "context.data_types is pii, not none",
        "context.attributes.team is payments, not sales",
    ]
    assert {signal["weight"] for signal in told} == {25}

    receipt = statement(answer["receipts"][1])
    assert receipt["context"]["environment"] == "staging"  # as asserted
    assert {"name": "context.environment", "value": "production"} in receipt["decision"]["facts"]
    signed = receipt["decision"]["risk"]["signals"]
    assert [signal for signal in signed if signal["name"] == "context.contradiction"] == told


def test_a_denial_says_what_denied_and_what_would_change_it(world: World) -> None:
    world.published("no production", *PRODUCTION_DENIED)
    answer = submit(world.pinned, action_body("list_tickets", context={}))
    expected = {"ruleIds": ["prod"], "otherwise": "EFFECT_QUARANTINE", "missingFacts": []}
    assert answer["decision"]["denial"] == expected
    receipt = statement(answer["receipts"][1])
    assert receipt["decision"]["denial"] == {**expected, "otherwise": "quarantine"}
    action_id = answer["action"]["actionId"]
    stored = done(world.pinned.rest.get(f"/v1/actions/{action_id}"))
    assert stored["decision"]["denial"] == expected


def hypothetical(**fields: Any) -> dict[str, Any]:
    document = {"name": "tried", "rules": PRODUCTION_DENIED}
    return action_body("list_tickets", document=document) | fields


def test_a_simulation_writes_nothing_but_an_event(world: World) -> None:
    def size() -> int:
        path = f"/v1/log/{TENANT}/checkpoint"
        return int(done(world.admin.rest.get(path))["checkpoint"]["size"])

    before = size()
    body = hypothetical(input={"secret": "do-not-tell"})
    first = world.post("/simulate", body, **{"idempotency-key": "tried-once"})
    assert done(first)["decision"]["effect"] == "EFFECT_ALLOW"
    again = world.post("/simulate", body, **{"idempotency-key": "tried-once"})
    assert again.json() == first.json()
    assert again.headers["x-idempotent-replay"] == "true"
    assert size() == before + 1
    event = world.events("policy.simulated")[-1]
    assert event["policyId"] == ""
    assert event["digest"] == first.json()["decision"]["policyDigest"]
    assert (event["effect"], event["decidingRules"], event["omittedRules"]) == ("allow", ["all"], 0)
    assert event["hypotheticalCaller"] == ""
    assert "do-not-tell" not in str(event)
    submitted = submit(world.admin, action_body("list_tickets", input={"secret": "do-not-tell"}))
    assert event["actionDigest"] == submitted["action"]["actionDigest"]


def test_a_simulation_knows_everything_that_a_submission_does(world: World) -> None:
    rules = (
        {"id": "deep", "effect": "EFFECT_APPROVE", "condition": "delegation.depth > 1"},
        {"id": "agent", "effect": "EFFECT_QUARANTINE", "condition": 'caller.role == "agent"'},
        {"id": "weak", "effect": "EFFECT_DENY", "condition": "evidence.coherence < 0.5"},
        ALLOW_ALL,
    )
    document = {"name": "tried", "rules": rules}
    coherent = {"coherence": 0.9}

    def counted(**fields: Any) -> set[str]:
        body = hypothetical(document=document, **fields)
        decision = done(world.post("/simulate", body))["decision"]
        return {rule["ruleId"] for rule in decision["rules"]}

    assert counted() == {"weak", "all"}  # indeterminate, and so it counts
    assert counted(evidence=coherent) == {"all"}
    assert counted(evidence={"coherence": 0}) == {"weak", "all"}
    chain = ["user-1", "agent-0"]
    assert counted(evidence=coherent, delegationChain=chain) == {"deep", "all"}
    caller = {"subject": "spiffe://oars.dev/x", "role": "agent"}
    assert counted(evidence=coherent, caller=caller) == {"agent", "all"}
    assert world.events("policy.simulated")[-1]["hypotheticalCaller"] == caller["subject"]


def test_a_hypothetical_caller_is_an_admins_to_suppose(world: World) -> None:
    verified = {"environment": "production"}
    caller = {"subject": "spiffe://oars.dev/x", "role": "agent", "attributes": verified}
    body = hypothetical(caller=caller)
    assert done(world.post("/simulate", body))["decision"]["denial"]["ruleIds"] == ["prod"]
    path = "/v1/policies/simulate"
    assert refusal(world.auditor.rest.post(path, json=body)) == "ROLE_FORBIDDEN"
    assert done(world.auditor.rest.post(path, json=hypothetical()))["decision"]
    wrong = hypothetical(
        caller={"role": "king"}, evidence={"support": 1.5}, delegationChain=["no spaces"]
    )
    answer = world.post("/simulate", wrong)
    fields = {
        violation["field"]
        for detail in answer.json()["details"]
        for violation in detail.get("fieldViolations", ())
    }
    assert fields == {
        "caller.subject",
        "caller.role",
        "evidence.support",
        "delegation_chain[0]",
    }
