"""Hostile spellings, omissions and contradictions, by REST and gRPC: no weaker than the plain."""

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from google.protobuf import json_format

from oars_grpc.core.policy import Effect, PolicyDocument, Rule, RuleMatch
from oars_grpc.generated.oars.v1 import action_pb2, policy_pb2, tenant_pb2
from oars_grpc.local.stack import LocalStack
from oars_grpc.transport.policy_messages import write_document
from tests.support.client import Client, client_for
from tests.support.identities import add_identity

TENANT = "evasion"
DOCUMENT = PolicyDocument(
    "evasion",
    (
        Rule("forbid", Effect.DENY, RuleMatch(operations=("drop_database",))),
        Rule("hold", Effect.QUARANTINE, RuleMatch(target_contains=("secret",))),
        Rule("ask", Effect.APPROVE, RuleMatch(environments=("production",))),
        Rule("slow", Effect.DENY, condition="input.l.exists(x, x in input.l && x == 'stop')"),
        Rule("permit", Effect.ALLOW),
    ),
)


@pytest.fixture(scope="module")
def attacker(stack: LocalStack) -> Iterator[Client]:
    """An agent of a tenant with the policy above, whose region its identity verifies."""
    add_identity(stack, "evasion-admin", role="admin", tenants=[TENANT])
    add_identity(
        stack, "attacker", role="agent", tenants=[TENANT], attributes={"environment": "production"}
    )
    add_identity(stack, "evader", role="agent", tenants=[TENANT])
    with client_for(stack, "evasion-admin") as admin:
        admin.tenants.CreateTenant(tenant_pb2.CreateTenantRequest(tenant_id=TENANT))
        draft = admin.policies.CreatePolicy(
            policy_pb2.CreatePolicyRequest(tenant_id=TENANT, document=write_document(DOCUMENT))
        ).policy
        admin.policies.PublishPolicy(
            policy_pb2.PublishPolicyRequest(policy_id=draft.policy_id, tenant_id=TENANT)
        )
    with client_for(stack, "attacker") as client:
        yield client


@pytest.fixture(scope="module")
def evader(stack: LocalStack, attacker: Client) -> Iterator[Client]:
    """An agent of the same tenant of which nothing is verified but its name."""
    with client_for(stack, "evader") as client:
        yield client


def body(**changes: Any) -> dict[str, Any]:
    """An action that the policy allows, unlike any before; replace what a case is about."""
    resource = {"toolId": "desk", "operation": "read_report", "target": "docs/1"}
    context: dict[str, Any] = {"environment": "staging", "dataTypes": ["none"]}
    context |= changes.pop("context", {}) | {"attributes": {"nonce": uuid4().hex}}
    resource |= changes.pop("resource", {})
    shown = {"agentId": "agent-1", "resource": resource, "context": context, "input": {"l": []}}
    return shown | changes


def effects(client: Client, **changes: Any) -> tuple[str, str]:
    """The effect over REST and over gRPC."""
    answer = client.rest.post("/v1/actions", json=body(**changes))
    assert answer.status_code == 200, answer.text
    request = json_format.ParseDict(body(**changes), action_pb2.SubmitActionRequest())
    decision = client.actions.SubmitAction(request).decision
    return answer.json()["decision"]["effect"], policy_pb2.Effect.Name(decision.effect)


CASES: dict[str, tuple[dict[str, Any], str]] = {
    "plain": ({}, "ALLOW"),
    "denied": ({"resource": {"operation": "drop_database"}}, "DENY"),
    "case": ({"resource": {"operation": "Drop_Database"}}, "DENY"),
    "separators": ({"resource": {"operation": "DROP-DATABASE"}}, "DENY"),
    "camel case": ({"resource": {"operation": "dropDatabase"}}, "DENY"),
    "full width": ({"resource": {"operation": "\uff44\uff52\uff4f\uff50_database"}}, "DENY"),
    "zero width": ({"resource": {"operation": "dr\u200bop_database"}}, "DENY"),
    "tag characters": ({"resource": {"operation": "drop\U000e0061_database"}}, "DENY"),
    "Cyrillic": ({"resource": {"operation": "dr\u043ep_d\u0430t\u0430b\u0430se"}}, "DENY"),
    "struck through": ({"resource": {"operation": "d\u0336r\u0336op_database"}}, "DENY"),
    "lookalike target": ({"resource": {"target": "vault/\u0455ecret"}}, "QUARANTINE"),
    "no target": ({"resource": {"target": ""}}, "QUARANTINE"),
    "no environment": ({"context": {"environment": ""}}, "APPROVE"),
    "invisible environment": ({"context": {"environment": "\u2060"}}, "APPROVE"),
    "lookalike environment": ({"context": {"environment": "pr\u043eduction"}}, "APPROVE"),
    "no input": ({"input": {}}, "DENY"),
    "wrong type": ({"input": {"l": 7}}, "DENY"),
    "more data than a condition may read": ({"input": {"l": ["x"] * 20_000}}, "DENY"),
}


@pytest.mark.parametrize("name", CASES)
def test_the_decision_is_no_weaker_than_of_the_plain_form(evader: Client, name: str) -> None:
    changes, effect = CASES[name]
    assert effects(evader, **changes) == (f"EFFECT_{effect}", f"EFFECT_{effect}")


def test_a_verified_attribute_wins_over_what_the_caller_says(attacker: Client) -> None:
    assert effects(attacker, context={"environment": "staging"}) == ("EFFECT_APPROVE",) * 2
    assert effects(attacker, context={"environment": ""}) == ("EFFECT_APPROVE",) * 2


def test_text_that_reads_otherwise_than_it_is_stored_is_refused(evader: Client) -> None:
    shown = body(resource={"operation": "\u202edrop_database"})
    answer = evader.rest.post("/v1/actions", json=shown)
    assert answer.status_code == 400
    assert "resource.operation" in answer.text
