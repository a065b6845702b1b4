import json
from typing import Any

import pytest

from oars_grpc.core.action import ActionContext, ActionRequest, Resource
from oars_grpc.core.canonical import canonical_json, sha256_hex, statement_json
from oars_grpc.core.decision import (
    Decision,
    PolicyReference,
    decide,
    decision_for_receipt,
    decision_from_json,
    decision_to_json,
)
from oars_grpc.core.policy import Effect, PolicyDocument, Rule
from oars_grpc.core.policy_document import validate_document
from oars_grpc.core.risk import RiskConfig
from tests.support.factories import NOW, compiled, make_request

REFERENCE = PolicyReference("pol_x", 3, "d" * 64)


def decision_about(request: ActionRequest, document: PolicyDocument | None = None) -> Decision:
    policy = validate_document(document) if document else compiled()
    return decide(request, REFERENCE, policy, RiskConfig(), NOW)


def request_to(operation: str, environment: str = "production", **changes: Any) -> ActionRequest:
    return make_request(
        resource=Resource("tool", operation, "T-1"), context=ActionContext(environment), **changes
    )


MANY_RULES = PolicyDocument(
    name="many",
    rules=tuple(
        Rule(id=f"rule-{number:03}", effect=Effect.DENY, condition="input.amount > 1")
        for number in range(200)
    ),
)
DECISIONS = {
    "allowed": decision_about(request_to("get_ticket")),
    "forbidden": decision_about(request_to("delete_repository")),
    "asked": decision_about(request_to("transfer_funds")),
    "not permitted": decision_about(request_to("frobnicate", "dev")),
    "indeterminate": decision_about(request_to("get_ticket"), MANY_RULES),
}


def test_the_decisions_tried_here_differ() -> None:
    assert {name: decision.effect.value for name, decision in DECISIONS.items()} == {
        "allowed": "allow",
        "forbidden": "deny",
        "asked": "approve",
        "not permitted": "deny",
        "indeterminate": "deny",
    }


@pytest.mark.parametrize("name", DECISIONS)
def test_a_decision_survives_its_json_form(name: str) -> None:
    written = statement_json(decision_to_json(DECISIONS[name]))
    assert decision_from_json(json.loads(written)) == DECISIONS[name]


@pytest.mark.parametrize("name", DECISIONS)
def test_a_decision_keeps_the_restricted_profile(name: str) -> None:
    """No floats, ASCII names: the fast writer and RFC 8785 agree on what a receipt carries."""
    for value in (decision_to_json(DECISIONS[name]), decision_for_receipt(DECISIONS[name])):
        _check_restricted(value)
        assert statement_json(value) == canonical_json(value)


def _check_restricted(value: Any) -> None:
    if isinstance(value, dict):
        assert all(name.isascii() for name in value)
        for item in value.values():
            _check_restricted(item)
    elif isinstance(value, list):
        for item in value:
            _check_restricted(item)
    else:
        assert value is None or isinstance(value, (str, bool, int))


def test_forbidden_is_told_from_not_permitted() -> None:
    forbidden = decision_to_json(DECISIONS["forbidden"])
    assert (forbidden["decidingRules"], forbidden["defaultDeny"]) == (["deny-destructive"], False)
    nothing = decision_to_json(DECISIONS["not permitted"])
    assert (nothing["decidingRules"], nothing["defaultDeny"]) == ([], True)


def test_a_decision_names_the_policy_the_risk_and_what_was_missing() -> None:
    written = decision_to_json(DECISIONS["indeterminate"])
    assert written["policy"] == {"policyId": "pol_x", "version": 3, "digest": "d" * 64}
    assert written["missingFacts"] == ["input.amount"]
    assert written["rules"][0]["indeterminate"] is True
    assert written["risk"]["tier"] in {"low", "medium", "high", "critical"}


def test_the_same_request_is_decided_the_same_whatever_the_clock_says() -> None:
    first = decide(request_to("get_ticket"), REFERENCE, compiled(), RiskConfig(), NOW)
    later = decide(
        request_to("get_ticket"), REFERENCE, compiled(), RiskConfig(), NOW.replace(year=2030)
    )
    assert first == later


@pytest.mark.parametrize("name", DECISIONS)
def test_a_receipt_names_the_digest_of_the_whole_decision(name: str) -> None:
    whole = decision_to_json(DECISIONS[name])
    carried = decision_for_receipt(DECISIONS[name])
    assert carried.pop("decisionDigest") == sha256_hex(canonical_json(whole))
    if carried.pop("omitted") == {}:
        assert carried == whole


def test_what_a_receipt_leaves_out_is_counted() -> None:
    carried = decision_for_receipt(DECISIONS["indeterminate"])
    assert 0 < len(carried["rules"]) < 200
    assert len(carried["rules"]) + carried["omitted"]["rules"] == 200
    assert len(carried["decidingRules"]) + carried["omitted"].get("decidingRules", 0) == 200
    for name in ("allowed", "forbidden", "asked", "not permitted"):
        assert decision_for_receipt(DECISIONS[name])["omitted"] == {}
