"""One key from many threads at once, on every rpc that changes something: one answer for all.

The losers of such a race find the state already changed by the winner. They must answer what the
winner answered, not that the state no longer permits what they ask.
"""

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import httpx
import pytest

from oars_grpc.local.stack import LocalStack
from tests.support.client import RISKY, Client, action_body, submit

THREADS = 24


class World:
    """The clients and what the calls need to be there."""

    def __init__(
        self, agent: Client, approver: Client, operator: Client, admin: Client, beta_admin: Client
    ) -> None:
        self.agent, self.approver, self.operator = agent, approver, operator
        self.admin, self.beta_admin = admin, beta_admin

    def approved(self) -> str:
        return str(submit(self.agent, action_body())["action"]["actionId"])

    def approval(self) -> Mapping[str, Any]:
        body = action_body("transfer_funds", context=RISKY)
        approval: Mapping[str, Any] = submit(self.agent, body)["approval"]
        return approval

    def policy(self) -> str:
        document = {
            "name": f"race {uuid4()}",
            "rules": [{"id": "a", "effect": "EFFECT_ALLOW"}],
        }
        answer = self.beta_admin.rest.post("/v1/policies", json={"document": document})
        return str(answer.json()["policy"]["policyId"])

    def published(self) -> str:
        policy = self.policy()
        answer = self.beta_admin.rest.post(f"/v1/policies/{policy}/publish", json={})
        assert answer.is_success, answer.text
        return policy

    def tenant_version(self) -> int:
        answer = self.beta_admin.rest.get("/v1/tenants/tenant_beta")
        return int(answer.json()["tenant"]["version"])


@pytest.fixture(scope="module")
def world(
    stack: LocalStack,
    agent: Client,
    approver: Client,
    operator: Client,
    admin: Client,
    beta_admin: Client,
) -> World:
    return World(agent, approver, operator, admin, beta_admin)


Call = tuple[httpx.Client, str, str, dict[str, Any]]


def submitting(world: World) -> Call:
    return world.agent.rest, "POST", "/v1/actions", action_body()


def starting(world: World) -> Call:
    return world.agent.rest, "POST", f"/v1/actions/{world.approved()}:start", {}


def starting_by_a_grant(world: World) -> Call:
    _, method, decision, body = deciding(world)
    decided = world.approver.rest.request(method, decision, json=body)
    assert decided.is_success, decided.text
    action_id = decided.json()["approval"]["actionId"]
    return world.agent.rest, "POST", f"/v1/actions/{action_id}:start", {}


def completing(world: World) -> Call:
    body = {"outcome": "OUTCOME_SUCCEEDED", "output": {"done": True}}
    return world.agent.rest, "POST", f"/v1/actions/{world.approved()}:complete", body


def canceling(world: World) -> Call:
    return world.agent.rest, "POST", f"/v1/actions/{world.approved()}:cancel", {"reason": "no"}


def deciding(world: World) -> Call:
    approval = world.approval()
    digests = {name: approval[name] for name in ("actionDigest", "displayDigest")}
    body = {"verdict": "VERDICT_APPROVE", **digests}
    path = f"/v1/approvals/{approval['approvalId']}/decision"
    return world.approver.rest, "POST", path, body


def creating_a_policy(world: World) -> Call:
    document = {"name": "raced", "rules": [{"id": "a", "effect": "EFFECT_DENY"}]}
    return world.beta_admin.rest, "POST", "/v1/policies", {"document": document}


def publishing(world: World) -> Call:
    return world.beta_admin.rest, "POST", f"/v1/policies/{world.policy()}/publish", {}


def rolling_back(world: World) -> Call:
    return world.beta_admin.rest, "POST", f"/v1/policies/{world.published()}/rollback", {}


def archiving(world: World) -> Call:
    return world.beta_admin.rest, "POST", f"/v1/policies/{world.policy()}/archive", {}


def simulating(world: World) -> Call:
    return world.beta_admin.rest, "POST", "/v1/policies/simulate", action_body()


def updating_a_tenant(world: World) -> Call:
    body = {"displayName": "raced", "expectedVersion": str(world.tenant_version())}
    return world.beta_admin.rest, "PATCH", "/v1/tenants/tenant_beta", body


def rotating(world: World) -> Call:
    return world.beta_admin.rest, "POST", "/v1/tenants/tenant_beta/keys:rotate", {}


@pytest.mark.parametrize(
    "prepare",
    [
        submitting,
        starting,
        starting_by_a_grant,
        completing,
        canceling,
        deciding,
        creating_a_policy,
        publishing,
        rolling_back,
        archiving,
        simulating,
        updating_a_tenant,
        rotating,
    ],
)
def test_all_calls_under_one_key_get_the_first_answer(
    world: World, prepare: Callable[[World], Call]
) -> None:
    for _ in range(3):
        client, method, path, body = prepare(world)
        key = {"idempotency-key": f"race-{uuid4()}"}
        together = threading.Barrier(THREADS)

        def call(
            _: int,
            together: threading.Barrier = together,
            client: httpx.Client = client,
            method: str = method,
            path: str = path,
            body: dict[str, Any] = body,
            key: dict[str, str] = key,
        ) -> httpx.Response:
            together.wait()
            return client.request(method, path, json=body, headers=key)

        with ThreadPoolExecutor(THREADS) as pool:
            answers = list(pool.map(call, range(THREADS)))
        refused = [answer.text for answer in answers if not answer.is_success]
        assert refused == []
        assert len({answer.content for answer in answers}) == 1
        first = [answer for answer in answers if "x-idempotent-replay" not in answer.headers]
        assert len(first) == 1
