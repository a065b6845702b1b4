"""The largest request that is accepted, decided by the largest policy, still fits the log."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from oars_grpc.core.action import ActionContext, ActionRequest, Resource
from oars_grpc.core.action_evidence import (
    AgainstItem,
    EvidenceAssessment,
    EvidenceDetail,
    EvidenceRisk,
)
from oars_grpc.core.approval import open_approval
from oars_grpc.core.canonical import sha256_hex, statement_json
from oars_grpc.core.decision import (
    PolicyReference,
    decide,
    decision_for_receipt,
    decision_to_json,
)
from oars_grpc.core.lattice.grounding import MAXIMUM_AGAINST
from oars_grpc.core.policy import Effect, PolicyDocument, Rule, RuleMatch
from oars_grpc.core.policy_document import validate_document
from oars_grpc.core.receipt import MAXIMUM_PAYLOAD_BYTES, write_receipt
from oars_grpc.core.risk import RiskConfig
from oars_grpc.core.workflow import MAXIMUM_PLANNED_STAGES, Stage, WorkflowPlan
from oars_grpc.use_cases.grants import approval_json
from tests.support import factories

NOW = datetime(2026, 1, 1, tzinfo=UTC)
WIDE = "\U0001f600"  # four bytes a character


def largest_request() -> ActionRequest:
    return factories.make_request(
        agent_id="a" * 128,
        user_id="u" * 128,
        delegation_chain=tuple(f"{number:0>256}" for number in range(16)),
        resource=Resource("t" * 128, WIDE * 128, WIDE * 1024),
        context=ActionContext(
            WIDE * 64,
            tuple(WIDE * 62 + f"{number:02}" for number in range(32)),
            {f"{number:0>64}": WIDE * 256 for number in range(16)},
        ),
        # All of it contradicts what is verified, and every contradiction is a signal.
        caller=factories.make_principal(
            attributes={
                "environment": WIDE * 16,
                "data_types": WIDE * 16,
                **{f"{number:0>64}": WIDE * 33 for number in range(16)},
            }
        ),
        evidence=largest_evidence(),
    )


def largest_evidence() -> EvidenceAssessment:
    most = 1_000_000
    return EvidenceAssessment(
        digest="f" * 64,
        source="lat_" + "0" * 26,
        lattice_digest="f" * 64,
        action_embedding_digest="f" * 64,
        dimension=4_096,
        items=most,
        used=256,
        support=most,
        coherence=most,
        conflict=most,
        novelty=most,
        p_value=most,
        risk=EvidenceRisk(most, most, most, most, 256 * most, 256, 256),
        against=(AgainstItem("i" * 128, "f" * 64, "adverse", most),) * MAXIMUM_AGAINST,
        detail=EvidenceDetail((), {}),
    )


def test_the_largest_receipt_fits_and_says_what_it_leaves_out() -> None:
    rules = tuple(
        Rule(
            id=f"{number:0>64}",
            effect=Effect.DENY,
            match=RuleMatch(user_ids=("u" * 128,)),
            condition=f'"{number}" == "" || context.environment != ""',
        )
        for number in range(570)  # as many as a document of the largest size has
    )
    policy = validate_document(PolicyDocument("large", rules))
    request = largest_request()
    reference = PolicyReference("pol_" + "0" * 26, 2**31, "f" * 64)
    decision = decide(request, reference, policy, RiskConfig(), NOW)
    detail: dict[str, Any] = {
        "policy": reference.to_json(),
        "decision": decision_for_receipt(decision),
    }
    action = replace(factories.make_action(request), last_sequence=9, last_receipt_digest="f" * 64)
    receipt = write_receipt(
        receipt_id=factories.new_id("rcpt"),
        action=action,
        type_="action.approval_required",
        detail=detail,
        now=NOW,
        key=factories.make_signing_key(),
    )
    assert len(receipt.envelope.payload) <= MAXIMUM_PAYLOAD_BYTES
    assert detail["decision"]["omitted"]["rules"] == 570 - len(detail["decision"]["rules"])
    whole = sha256_hex(statement_json(decision_to_json(decision)))
    assert detail["decision"]["decisionDigest"] == whole


def test_an_ordinary_decision_is_carried_whole() -> None:
    decision = factories.make_decision()
    carried = decision_for_receipt(decision)
    assert carried.pop("omitted") == {}
    carried.pop("decisionDigest")
    assert carried == decision_to_json(decision)


def test_the_largest_request_for_approval_fits_with_all_that_policy_missed() -> None:
    def asking(effect: Effect, first: int, count: int) -> tuple[Rule, ...]:
        return tuple(
            Rule(
                id=f"{number:0>64}",
                effect=effect,
                match=RuleMatch(user_ids=("u" * 128,)),
                condition=f'context.attributes["{number % 100:0>64}"] == "x"'
                f" || input.a{number:0>40}.b == 1",
            )
            for number in range(first, first + count)
        )

    rules = (*asking(Effect.APPROVE, 0, 200), *asking(Effect.ALLOW, 200, 100))
    policy = validate_document(PolicyDocument("large", rules))
    request = largest_request()
    reference = PolicyReference("pol_" + "0" * 26, 2**31, "f" * 64)
    decision = decide(request, reference, policy, RiskConfig(), NOW)
    assert (decision.effect, bool(decision.evaluation.skipped)) == (Effect.APPROVE, True)
    action = replace(factories.make_action(request), last_sequence=9, last_receipt_digest="f" * 64)
    stages = tuple(
        (f"w{number:0>63}", Stage(WIDE * 64, required_approvals=16, sla_seconds=2_592_000))
        for number in range(MAXIMUM_PLANNED_STAGES)
    )
    approval = open_approval(
        approval_id=factories.new_id("apr"),
        action=action,
        policy_digest="f" * 64,
        display_digest="f" * 64,
        plan=WorkflowPlan(stages, 0, step_up=True, signed_grants=True),
        approval_seconds=2_592_000,
        step_up=True,
        released_by=(),
        now=NOW,
    )
    asked = approval_json(approval)
    receipt = write_receipt(
        receipt_id=factories.new_id("rcpt"),
        action=action,
        type_="action.approval_required",
        detail={
            "policy": reference.to_json(),
            "decision": decision_for_receipt(decision),
            "approval": asked,
        },
        now=NOW,
        key=factories.make_signing_key(),
    )
    assert len(receipt.envelope.payload) <= MAXIMUM_PAYLOAD_BYTES
    assert len(asked["stages"]) + asked["omittedStages"] == MAXIMUM_PLANNED_STAGES
