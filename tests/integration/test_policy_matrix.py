"""The golden decision matrix through the live server: each policy published in its own tenant."""

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
from google.protobuf import json_format

from oars_grpc.core.envelope import envelope_from_json
from oars_grpc.core.receipt import parse_statement
from oars_grpc.generated.oars.v1 import (
    action_evidence_pb2,
    action_pb2,
    context_pb2,
    policy_pb2,
    tenant_pb2,
)
from oars_grpc.local.stack import LocalStack
from oars_grpc.transport.policy_messages import write_document
from tests.support.client import Client, client_for
from tests.support.identities import add_identity
from tests.support.policy_matrix import ATTRIBUTES, Case, Expectation, matrix

POLICIES, CASES = matrix()
LIVE = [case for case in CASES if not case.engine_only]


@dataclass(frozen=True)
class Matrix:
    """Who administers the tenants and who acts in them."""

    admin: Client
    agent: Client


def tenant_of(policy: str) -> str:
    return f"matrix-{policy}"


@pytest.fixture(scope="module")
def published(stack: LocalStack) -> Iterator[Matrix]:
    """A tenant for every policy, with that policy published."""
    tenants = [tenant_of(name) for name in POLICIES]
    add_identity(stack, "matrix-admin", role="admin", tenants=tenants)
    add_identity(
        stack, "matrix", role="agent", tenants=tenants, mayActForUsers=True, attributes=ATTRIBUTES
    )
    with client_for(stack, "matrix-admin") as admin, client_for(stack, "matrix") as agent:
        for name, document in POLICIES.items():
            tenant = tenant_of(name)
            admin.tenants.CreateTenant(tenant_pb2.CreateTenantRequest(tenant_id=tenant))
            draft = admin.policies.CreatePolicy(
                policy_pb2.CreatePolicyRequest(tenant_id=tenant, document=write_document(document))
            ).policy
            assert draft.digest == document.digest
            admin.policies.PublishPolicy(
                policy_pb2.PublishPolicyRequest(policy_id=draft.policy_id, tenant_id=tenant)
            )
        yield Matrix(admin, agent)


def parts(case: Case) -> dict[str, Any]:
    """What submissions and simulations share."""
    request = case.request()
    stated = request.context.data_types
    return {
        "tenant_id": tenant_of(case.policy),
        "agent_id": request.agent_id,
        "user_id": request.user_id,
        "resource": context_pb2.Resource(
            tool_id=request.resource.tool_id,
            operation=request.resource.operation,
            target=request.resource.target,
        ),
        "context": context_pb2.ActionContext(
            environment=request.context.environment,
            data_types=["none"] if stated == () else stated or (),
            # So that no two cases are the same action, of which the second would join the first.
            attributes={**request.context.attributes, "case": str(CASES.index(case))},
        ),
        "input": json_format.ParseDict(
            json.loads(request.input_bytes()), policy_pb2.SimulatePolicyRequest().input
        ),
    }


def told_by_message(decision: policy_pb2.Decision) -> Expectation:
    rules = decision.rules
    effect = policy_pb2.Effect.Name(decision.effect).removeprefix("EFFECT_").lower()
    skipped = {r.rule_id for r in rules if r.indeterminate and r.effect == policy_pb2.EFFECT_ALLOW}
    return Expectation(
        effect=effect,
        deciding=tuple(sorted(rule.rule_id for rule in rules if rule.deciding)),
        counted=tuple(sorted(rule.rule_id for rule in rules if rule.rule_id not in skipped)),
        skipped=tuple(sorted(skipped)),
        indeterminate=tuple(sorted(rule.rule_id for rule in rules if rule.indeterminate)),
        missing=tuple(sorted(decision.missing_facts)),
        default_deny=decision.default_deny,
    )


def told_by_receipt(decision: Mapping[str, Any]) -> Expectation:
    outcomes = [*decision["rules"], *decision["skippedRules"]]
    assert decision["omitted"] == {}
    return Expectation(
        effect=decision["effect"],
        deciding=tuple(sorted(decision["decidingRules"])),
        counted=tuple(sorted(rule["ruleId"] for rule in decision["rules"])),
        skipped=tuple(sorted(rule["ruleId"] for rule in decision["skippedRules"])),
        indeterminate=tuple(sorted(rule["ruleId"] for rule in outcomes if rule["indeterminate"])),
        missing=tuple(sorted(decision["missingFacts"])),
        default_deny=decision["defaultDeny"],
    )


STATES = {
    "allow": action_pb2.ACTION_STATE_APPROVED,
    "deny": action_pb2.ACTION_STATE_DENIED,
    "approve": action_pb2.ACTION_STATE_APPROVAL_REQUIRED,
    "quarantine": action_pb2.ACTION_STATE_QUARANTINED,
}


def evidence_of(case: Case) -> action_evidence_pb2.ActionEvidence | None:
    if case.evidence is None:
        return None
    items = [
        action_evidence_pb2.EvidenceItem(id=each.item_id, text=each.text, embedding=each.embedding)
        for each in case.evidence.items
    ]
    return action_evidence_pb2.ActionEvidence(
        items=items, action_embedding=case.evidence.action_embedding
    )


def faults_of_submission(matrix_: Matrix, case: Case) -> list[str]:
    """How the answer, the state or the receipt of a submission differs from the matrix."""
    answer = matrix_.agent.actions.SubmitAction(
        action_pb2.SubmitActionRequest(
            **parts(case),
            delegation_chain=case.request().delegation_chain,
            evidence=evidence_of(case),
        ),
        metadata=(("idempotency-key", f"matrix-{CASES.index(case)}"),),
    )
    receipt = answer.receipts[-1]
    envelope = json_format.MessageToDict(receipt.envelope)
    predicate = parse_statement(envelope_from_json(envelope).payload)["predicate"]
    found = {
        "answer": (told_by_message(answer.decision), case.expect),
        "receipt": (told_by_receipt(predicate["decision"]), case.expect),
        "state": (answer.action.state, STATES[case.expect.effect]),
        "type": (len(answer.receipts), 2),
    }
    return [f"{case.name}: {k}: {is_} != {be}" for k, (is_, be) in found.items() if is_ != be]


def faults_of_simulation(matrix_: Matrix, case: Case) -> list[str]:
    """How a simulation at the case's time differs from the matrix."""
    request = policy_pb2.SimulatePolicyRequest(**parts(case))
    assert case.time is not None
    request.time.FromDatetime(case.time)
    found = told_by_message(matrix_.admin.policies.SimulatePolicy(request).decision)
    return [] if found == case.expect else [f"{case.name}: {found} != {case.expect}"]


def test_submissions_are_decided_and_recorded_as_the_matrix_says(published: Matrix) -> None:
    cases = [case for case in LIVE if case.time is None]
    assert len(cases) > 150
    with ThreadPoolExecutor(4) as pool:
        faults = list(pool.map(lambda case: faults_of_submission(published, case), cases))
    assert [fault for found in faults for fault in found] == []


def test_simulations_at_a_time_are_decided_as_the_matrix_says(published: Matrix) -> None:
    cases = [case for case in LIVE if case.time is not None]
    assert len(cases) > 20
    assert [fault for case in cases for fault in faults_of_simulation(published, case)] == []
