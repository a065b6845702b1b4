from datetime import UTC, datetime

import pytest

from oars_grpc.core.action import ActionContext, ActionRequest, Resource
from oars_grpc.core.builtin_policy import BUILTIN_POLICY
from oars_grpc.core.evaluation import Evaluation, evaluate
from oars_grpc.core.facts import action_facts
from oars_grpc.core.identity import Principal, Role
from oars_grpc.core.policy import PolicyDocument
from oars_grpc.core.policy_document import validate_document
from oars_grpc.core.risk import RiskConfig, assess_risk

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CALLER = Principal("spiffe://acme/a", "f" * 64, Role.AGENT, frozenset({"acme"}))


def decide(
    operation: str,
    environment: str,
    data_types: tuple[str, ...] | None = (),
    *,
    with_risk: bool = True,
) -> Evaluation:
    request = ActionRequest(
        "acme",
        "agent-1",
        CALLER,
        Resource("tool", operation, "T-1"),
        context=ActionContext(environment, data_types),
    )
    risk = assess_risk(request, RiskConfig()) if with_risk else None
    return evaluate(validate_document(BUILTIN_POLICY), action_facts(request, risk, NOW))


@pytest.mark.parametrize(
    ("operation", "environment", "effect", "deciding"),
    [
        ("get_ticket", "production", "allow", ("allow-read-and-write",)),
        ("create_ticket", "production", "allow", ("allow-read-and-write",)),
        ("create_ticket", "", "allow", ("allow-read-and-write",)),
        ("transfer_funds", "production", "approve", ("approve-high-risk",)),
        ("grant_role", "", "approve", ("approve-high-risk",)),
        ("delete_repository", "production", "deny", ("deny-destructive",)),
        ("delete_repository", "dev", "deny", ("deny-destructive",)),
        ("\uff24elete", "dev", "deny", ("deny-destructive",)),
        ("update_deleteall", "dev", "deny", ("deny-destructive",)),
        ("bulk_update_and_deletes", "dev", "deny", ("deny-destructive",)),
        ("fetch_then_removes", "dev", "deny", ("deny-destructive",)),
        ("get_dropall", "dev", "deny", ("deny-destructive",)),
        ("set_superuser", "production", "approve", ("approve-high-risk",)),
        ("add_sshkey", "production", "approve", ("approve-high-risk",)),
        ("create_wiretransfer", "production", "approve", ("approve-high-risk",)),
        ("set_superuser", "dev", "approve", ("approve-high-risk",)),
        ("run_script", "dev", "approve", ("approve-high-risk",)),
        ("transfer_funds", "dev", "approve", ("approve-high-risk",)),
        ("frobnicate", "dev", "deny", ()),  # of no known class: nothing permits it
        ("frobnicate", "production", "deny", ()),
    ],
)
def test_what_a_new_tenant_starts_with(
    operation: str, environment: str, effect: str, deciding: tuple[str, ...]
) -> None:
    evaluation = decide(operation, environment)
    assert (evaluation.effect.value, evaluation.deciding) == (effect, deciding)
    assert evaluation.default_deny is (deciding == ())


@pytest.mark.parametrize("environment", ["dev", "production", ""])
@pytest.mark.parametrize(
    "operation",
    ["get_ticket", "create_ticket", "transfer_funds", "grant_role", "run_x", "frobnicate", "drop"],
)
def test_what_is_left_unsaid_is_never_answered_more_mildly(
    operation: str, environment: str
) -> None:
    unsaid = decide(operation, environment, None).effect.strictness
    for stated in ((), ("public",), ("pii",), ("credentials",), ("credentials", "pii")):
        assert decide(operation, environment, stated).effect.strictness <= unsaid
        assert decide(operation, "", stated).effect.strictness >= (
            decide(operation, environment, stated).effect.strictness
        )


def test_without_a_risk_assessment_everything_is_denied() -> None:
    evaluation = decide("get_ticket", "dev", with_risk=False)
    assert evaluation.effect.value == "deny"
    assert evaluation.missing_facts == ("risk.operation_class", "risk.tier")


def test_the_builtin_policy_survives_its_json_form() -> None:
    assert PolicyDocument.from_json(BUILTIN_POLICY.to_json()) == BUILTIN_POLICY
