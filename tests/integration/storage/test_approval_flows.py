"""What approvals promise, on the use cases over a real database."""

import base64
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import orjson
import psycopg
import pyotp
import pytest

from oars_grpc.core.action import ActionState
from oars_grpc.core.approval import Approval, ApprovalState, Verdict
from oars_grpc.core.approver_key import registration_message
from oars_grpc.core.canonical import sha256_hex
from oars_grpc.core.grant import sign_grant
from oars_grpc.core.identity import Role
from oars_grpc.core.keys import signing_key
from oars_grpc.core.policy import Effect, PolicyDocument, Rule, RuleMatch
from oars_grpc.core.ports import Registry
from oars_grpc.core.receipt import APPROVAL_DECIDED, APPROVAL_ESCALATED
from oars_grpc.core.tenant import TenantSettings
from oars_grpc.core.workflow import Approver, Stage, StageMode, Workflow
from oars_grpc.errors import OarsError
from tests.support.database import check_ledger, checked_log, execute
from tests.support.factories import TENANT, make_policy, make_principal
from tests.support.replicas import AGENT, Replica, approver, call, named, replica

BOB, CAROL, DAN = approver("bob"), approver("carol"), approver("dan")
ADMIN = make_principal("spiffe://example/admin", role=Role.ADMIN, service_account_id="")
OPERATOR = make_principal("spiffe://example/op", role=Role.OPERATOR, service_account_id="")
STARTED = (ActionState.EXECUTING, ApprovalState.CONSUMED)


@pytest.fixture
def server(database_url: str) -> Iterator[Replica]:
    with replica(database_url) as server:
        yield server
    check_ledger(database_url)
    assert checked_log(database_url) == []


def publish(server: Replica, *rules: Rule) -> None:
    document = PolicyDocument("theirs", rules)

    def work(registry: Registry) -> None:
        registry.lock_tenant(TENANT)
        policy = registry.insert_policy(make_policy(document=document, digest=document.digest))
        registry.publish(TENANT, policy.policy_id, ADMIN.subject, server.clock.now())

    server.registry.run(TENANT, work)


def rule(effect: Effect, workflow_id: str = "", rule_id: str = "r", **match: Any) -> Rule:
    return Rule(rule_id, effect, RuleMatch(**match), workflow_id=workflow_id)


def reason_of(work: Any, *args: Any, **named_args: Any) -> str:
    with pytest.raises(OarsError) as refused:
        work(*args, **named_args)
    violations = getattr(refused.value, "violations", ())
    return ",".join(violation.field for violation in violations) or refused.value.reason


def payloads(url: str, action_id: str) -> list[dict[str, Any]]:
    """The predicates of an action's receipts, in order."""
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "SELECT payload FROM receipt JOIN receipt_body USING (tenant_id, leaf_index)"
            " WHERE action_id = %s ORDER BY sequence",
            (action_id,),
        )
        return [orjson.loads(row[0])["predicate"] for row in rows]


def granted(server: Replica, agent_id: str = "agent-1") -> Approval:
    approval = server.submit(agent_id)
    server.decide(approval, BOB)
    return approval


# Workflows


def test_the_workflows_of_all_rules_that_ask_are_gone_through_one_after_the_other(
    server: Replica, database_url: str
) -> None:
    money = Workflow("money", (Stage("finance", approvers=(Approver(CAROL.subject),)),))
    legal = Workflow(
        "legal",
        (Stage("review", StageMode.SERIAL, 2, (Approver(DAN.subject), Approver(ADMIN.subject))),),
    )
    server.set_settings(TenantSettings(workflows=(money, legal)))
    publish(
        server,
        rule(Effect.APPROVE, "money", "m"),
        rule(Effect.APPROVE, "legal", "l"),
        rule(Effect.APPROVE, "", "d"),
    )
    approval = server.submit("agent-1")
    assert [stage.workflow_id for stage in approval.stages] == ["default", "legal", "money"]
    assert approval.required_approvals == 4
    assert reason_of(server.decide, approval, AGENT) == "SELF_APPROVAL"
    server.decide(approval, BOB)
    assert reason_of(server.decide, approval, CAROL) == "NOT_AN_APPROVER"
    assert reason_of(server.decide, approval, ADMIN) == "NOT_YOUR_TURN"
    server.decide(approval, DAN)
    server.decide(approval, ADMIN)
    assert server.states(approval)[0] is ActionState.APPROVAL_REQUIRED
    server.decide(approval, CAROL)
    assert server.states(approval)[0] is ActionState.APPROVED
    predicates = payloads(database_url, approval.action_id)
    stages = [p["approval"]["stage"] for p in predicates if p["type"] == APPROVAL_DECIDED]
    assert stages == [0, 1, 1, 2]
    told = predicates[1]["approval"]
    assert [stage["workflowId"] for stage in told["stages"]] == ["default", "legal", "money"]
    whole = [{"workflowId": s.workflow_id, **s.stage.to_json()} for s in approval.stages]
    assert told["workflowDigest"] == sha256_hex(orjson.dumps(whole, option=orjson.OPT_SORT_KEYS))


def test_the_least_time_of_the_workflows_counts_and_else_the_tenants(server: Replica) -> None:
    quick = Workflow("quick", (Stage("s"),), expires_seconds=60)
    slow = Workflow("slow", (Stage("s"),), expires_seconds=600)
    server.set_settings(TenantSettings(approval_seconds=3600, workflows=(quick, slow)))
    publish(server, rule(Effect.APPROVE, "quick", "q"), rule(Effect.APPROVE, "slow", "s"))
    approval = server.submit("agent-1")
    assert approval.expires_at - approval.created_at == timedelta(seconds=60)
    publish(server, rule(Effect.APPROVE))
    approval = server.submit("agent-1")
    assert approval.expires_at - approval.created_at == timedelta(hours=1)


def test_a_rule_that_names_a_workflow_of_nobody_lets_nothing_through(server: Replica) -> None:
    publish(server, rule(Effect.APPROVE, "gone"))
    assert reason_of(server.submit, "agent-1") == "WORKFLOW_NOT_FOUND"


def test_an_overdue_stage_is_escalated_and_then_its_target_decides(
    server: Replica, database_url: str
) -> None:
    stage = Stage(
        "slow", approvers=(Approver(BOB.subject),), sla_seconds=60, escalate_to=(Approver("sa-9"),)
    )
    server.set_settings(TenantSettings(workflows=(Workflow("default", (stage,)),)))
    approval = server.submit("agent-1")
    boss = replace(CAROL, service_account_id="sa-9")
    assert server.escalations.escalate_due().done == 0
    server.clock.shift = timedelta(seconds=61)
    assert reason_of(server.decide, approval, boss) == "NOT_AN_APPROVER"
    assert server.escalations.escalate_due().done == 1
    assert server.escalations.escalate_due().done == 0
    server.decide(approval, boss)
    assert server.states(approval)[0] is ActionState.APPROVED
    event = payloads(database_url, approval.action_id)[2]
    assert event["type"] == APPROVAL_ESCALATED
    assert event["approval"]["escalatedTo"] == [{"principal": "sa-9"}]


# What a decision is bound to


@pytest.mark.parametrize("verdict", list(Verdict))
@pytest.mark.parametrize(
    ("field", "reason"),
    [("action_digest", "ACTION_DIGEST_MISMATCH"), ("display_digest", "DISPLAY_DIGEST_MISMATCH")],
)
def test_a_decision_about_anything_else_is_refused(
    server: Replica, field: str, reason: str, verdict: Verdict
) -> None:
    approval = server.submit("agent-1")
    digests = {name: getattr(approval, name) for name in ("action_digest", "display_digest")}
    digests[field] = "0" * 64
    other = replace(
        approval,
        action_digest=digests["action_digest"],
        display_digest=digests["display_digest"],
    )
    assert reason_of(server.decide, other, BOB, verdict) == reason
    assert server.approval(approval.approval_id) == approval


def test_what_is_shown_has_the_digest_that_is_bound_and_says_all_that_is_asked(
    server: Replica,
) -> None:
    approval = server.submit("agent-1")
    shown = server.approvals.show(call(BOB, "GetApproval"), TENANT, approval.approval_id)
    assert shown.display is not None
    assert sha256_hex(shown.display) == approval.display_digest
    display = orjson.loads(shown.display)
    assert display["input"] == {"amount": "12.50"}
    assert display["resource"]["target"] == "account/77"
    assert display["actionDigest"] == approval.action_digest
    assert display["decidingRules"] == ["approve-high-risk"]
    assert orjson.loads(shown.grant_payload)["approver"] == BOB.subject


def test_an_approval_of_before_there_were_displays_is_decided_by_what_is_shown_now(
    server: Replica, database_url: str
) -> None:
    approval = server.submit("agent-1")
    execute(database_url, "UPDATE approval SET body = '{}', caller_subject = ''")
    old = server.approval(approval.approval_id)
    assert (old.display_digest, old.asking, old.required_approvals) == ("", (), 1)
    assert reason_of(server.decide, approval, AGENT) == "SELF_APPROVAL"
    assert reason_of(server.decide, old, BOB) == "DISPLAY_DIGEST_MISMATCH"
    server.decide(approval, BOB)
    assert server.states(approval)[0] is ActionState.APPROVED
    server.start(approval.action_id)


def test_an_approval_survives_the_server_that_opened_it(server: Replica, database_url: str) -> None:
    with replica(database_url) as gone:
        approval = gone.submit("agent-1")
    server.decide(server.approval(approval.approval_id), BOB)
    server.start(approval.action_id)
    assert server.states(approval) == STARTED


# The same again


def test_the_same_again_joins_and_only_while_it_waits(server: Replica) -> None:
    approval = server.submit("agent-1")
    again = server.ask("agent-1", "another key").response.decode().split("|")
    assert (again[0], again[2], again[4]) == (approval.action_id, approval.approval_id, "joined")
    assert server.ask("agent-1", "another key").replayed
    other = server.submit("agent-2")
    assert other.approval_id != approval.approval_id
    server.decide(approval, BOB)
    later = server.submit("agent-1")
    assert later.approval_id != approval.approval_id
    server.decide(later, BOB, Verdict.REJECT)
    assert server.submit("agent-1").approval_id != later.approval_id


def test_what_waits_under_another_policy_or_is_over_is_not_joined(server: Replica) -> None:
    first = server.submit("agent-1")
    publish(server, rule(Effect.APPROVE))
    second = server.submit("agent-1")
    assert second.approval_id != first.approval_id
    server.clock.shift = timedelta(days=2)
    assert server.submit("agent-1").approval_id != second.approval_id


# A grant is used once, and policy is asked again


def test_a_started_action_has_used_its_grant_and_is_then_reported(
    server: Replica, database_url: str
) -> None:
    approval = granted(server)
    assert reason_of(server.complete, approval.action_id) == "EXECUTION_NOT_STARTED"
    server.start(approval.action_id, "k")
    assert server.states(approval) == STARTED
    assert server.start(approval.action_id, "k").replayed
    assert reason_of(server.start, approval.action_id, "k2") == "INVALID_STATE_TRANSITION"
    server.complete(approval.action_id)
    assert server.states(approval) == (ActionState.EXECUTED, ApprovalState.CONSUMED)
    started = payloads(database_url, approval.action_id)[4]
    assert started["type"] == "action.executing"
    assert started["reevaluation"]["effect"] == "approve"
    assert started["approval"]["displayDigest"] == approval.display_digest


def test_a_start_without_effect_gives_the_grant_back(server: Replica) -> None:
    approval = granted(server)
    assert reason_of(server.withdraw_start, approval.action_id) == "INVALID_STATE_TRANSITION"
    for _ in range(2):
        server.start(approval.action_id)
        server.withdraw_start(approval.action_id)
        assert server.states(approval) == (ActionState.APPROVED, ApprovalState.APPROVED)
    server.clock.shift = timedelta(hours=1)
    assert reason_of(server.start, approval.action_id) == "PERMIT_EXPIRED"
    assert server.upkeep.expire_due().done == 1
    assert server.states(approval) == (ActionState.EXPIRED, ApprovalState.EXPIRED)


@pytest.mark.parametrize("effect", [Effect.DENY, Effect.QUARANTINE])
def test_a_policy_that_became_stricter_stops_a_granted_action(
    server: Replica, database_url: str, effect: Effect
) -> None:
    approval = granted(server)
    publish(server, rule(effect, rule_id="newer"))
    server.start(approval.action_id)
    assert server.states(approval) == (ActionState.DENIED, ApprovalState.CANCELED)
    last = payloads(database_url, approval.action_id)[-1]
    assert (last["type"], last["decision"]["decidingRules"]) == ("action.denied", ["newer"])
    assert reason_of(server.start, approval.action_id) == "INVALID_STATE_TRANSITION"


def test_a_withdrawn_action_takes_its_unused_grant_along(server: Replica) -> None:
    approval = granted(server)
    server.actions.cancel(call(AGENT, "CancelAction"), TENANT, approval.action_id, "", named)
    assert server.states(approval) == (ActionState.CANCELED, ApprovalState.CANCELED)


def test_nothing_permits_it_any_more_stops_it_too(server: Replica) -> None:
    approval = granted(server)
    publish(server, rule(Effect.ALLOW, tool_ids=("another",)))
    server.start(approval.action_id)
    assert server.states(approval)[0] is ActionState.DENIED


def test_a_policy_that_asks_for_more_people_stops_it_and_one_that_asks_for_fewer_does_not(
    server: Replica,
) -> None:
    more = Workflow("more", (Stage("board", required_approvals=2),))
    signed = Workflow("signed", (Stage("approval"),), signed_grants=True)
    server.set_settings(TenantSettings(workflows=(more, signed)))
    stopped, signatureless, free = (granted(server, f"agent-{n}") for n in range(3))
    publish(server, rule(Effect.APPROVE, "more"))
    server.start(stopped.action_id)
    assert server.states(stopped)[0] is ActionState.DENIED
    publish(server, rule(Effect.APPROVE, "signed"))
    server.start(signatureless.action_id)
    assert server.states(signatureless)[0] is ActionState.DENIED
    publish(server, rule(Effect.ALLOW))
    server.start(free.action_id)
    assert server.states(free) == STARTED


def test_another_policy_that_asks_for_the_same_people_does_not_stop_it(server: Replica) -> None:
    approval = granted(server)
    publish(server, rule(Effect.APPROVE))
    server.start(approval.action_id)
    assert server.states(approval) == STARTED


def test_what_policy_allowed_may_be_started_and_is_stopped_where_people_are_asked_now(
    server: Replica,
) -> None:
    publish(server, rule(Effect.ALLOW))
    ids = [server.ask(f"agent-{n}").response.decode().split("|")[0] for n in range(3)]
    server.start(ids[0])
    assert server.action(ids[0]).action.state is ActionState.EXECUTING
    server.withdraw_start(ids[0])
    server.complete(ids[1])  # by the permit alone
    publish(server, rule(Effect.APPROVE))
    server.start(ids[2])
    assert server.action(ids[2]).action.state is ActionState.DENIED


def test_only_its_own_caller_starts_an_action(server: Replica) -> None:
    approval = granted(server)
    other = replace(ADMIN, may_act_for_users=None)
    refused = reason_of(
        server.executions.start, call(other, "StartAction"), TENANT, approval.action_id, named
    )
    assert refused == "NOT_THE_CALLER"


def test_an_input_that_was_changed_in_the_database_is_not_started(
    server: Replica, database_url: str
) -> None:
    approval = granted(server)
    execute(
        database_url,
        "ALTER TABLE action_body DISABLE TRIGGER ALL",
        'UPDATE action_body SET input = \'{"amount":"99999.00"}\'',
        "ALTER TABLE action_body ENABLE TRIGGER ALL",
    )
    with pytest.raises(RuntimeError, match="does not have its digest"):
        server.start(approval.action_id)
    assert server.states(approval) == (ActionState.APPROVED, ApprovalState.APPROVED)
    execute(
        database_url,
        "ALTER TABLE action_body DISABLE TRIGGER ALL",
        'UPDATE action_body SET input = \'{"amount":"12.50"}\'',
        "ALTER TABLE action_body ENABLE TRIGGER ALL",
    )


# Out of quarantine


def test_release_from_quarantine_is_approved_by_others_than_who_released(server: Replica) -> None:
    publish(server, rule(Effect.QUARANTINE))
    action_id = server.ask("agent-1").response.decode().split("|")[0]
    releaser = replace(ADMIN, subject="spiffe://example/releaser")
    answer = server.actions.release(
        call(releaser, "ReleaseAction"), TENANT, action_id, "looks harmless", named
    )
    approval = server.approval(answer.response.decode().split("|")[2])
    assert reason_of(server.decide, approval, releaser) == "SELF_APPROVAL"
    server.decide(approval, BOB)
    server.start(action_id)  # policy still says quarantine, and people have let it out
    assert server.states(approval) == STARTED


def test_what_policy_denies_by_now_is_not_released(server: Replica) -> None:
    publish(server, rule(Effect.QUARANTINE))
    action_id = server.ask("agent-1").response.decode().split("|")[0]
    publish(server, rule(Effect.DENY))
    made = call(OPERATOR, "ReleaseAction")
    assert reason_of(server.actions.release, made, TENANT, action_id, "", named) == "POLICY_DENIES"
    assert server.action(action_id).action.state is ActionState.QUARANTINED


# Second factor and signed grants


def step_up(server: Replica) -> pyotp.TOTP:
    """A tenant in which every approval needs a code, and Bob's codes."""
    stage = Workflow("default", (Stage("approval", required_approvals=2),), step_up=True)
    server.set_settings(TenantSettings(workflows=(stage,)))
    enrolment = server.second_factors.enrol(
        call(ADMIN, "EnrollSecondFactor"), TENANT, BOB.subject, lambda _factor: b""
    )
    assert enrolment.secret is not None
    return pyotp.TOTP(base64.b32encode(enrolment.secret).decode())


def test_a_code_is_asked_for_counts_once_and_stands_in_the_receipt(
    server: Replica, database_url: str
) -> None:
    totp = step_up(server)
    approval = server.submit("agent-1")
    assert approval.step_up
    assert reason_of(server.decide, approval, BOB) == "one_time_code"
    assert reason_of(server.decide, approval, CAROL, one_time_code="123456") == (
        "SECOND_FACTOR_NOT_ENROLLED"
    )
    code = totp.at(server.clock.now())
    wrong = f"{(int(code) + 1) % 1_000_000:06}"
    assert reason_of(server.decide, approval, BOB, one_time_code=wrong) == "SECOND_FACTOR_WRONG"
    first = server.decide(approval, BOB, key="k", one_time_code=code)
    # The retry of a decision that was taken is answered; the code for another action is not.
    assert server.decide(approval, BOB, key="k", one_time_code=code).response == first.response
    other = server.submit("agent-2")
    assert reason_of(server.decide, other, BOB, one_time_code=code) == "SECOND_FACTOR_WRONG"
    told = payloads(database_url, approval.action_id)[2]["approval"]
    assert told["stepUp"]["method"] == "totp"
    assert (
        server.approval(approval.approval_id).decisions[0].time_step == (told["stepUp"]["timeStep"])
    )
    server.decide(other, CAROL, Verdict.REJECT)  # to say no takes no code


def test_a_refusal_that_needs_no_code_costs_none(server: Replica) -> None:
    totp = step_up(server)
    approval = server.submit("agent-1")
    code = totp.at(server.clock.now())
    other = replace(approval, action_digest="0" * 64)
    assert reason_of(server.decide, other, BOB, one_time_code=code) == "ACTION_DIGEST_MISMATCH"
    server.decide(approval, BOB, one_time_code=code)


def test_critical_risk_asks_for_a_code_by_itself(server: Replica) -> None:
    publish(server, rule(Effect.APPROVE))
    assert not server.submit("agent-1").step_up
    assert server.submit("agent-1-delete", operation="delete_account").step_up


def test_a_workflow_can_ask_for_signed_grants(server: Replica, database_url: str) -> None:
    workflow = Workflow("default", (Stage("approval"),), signed_grants=True)
    server.set_settings(TenantSettings(workflows=(workflow,)))
    key, public = signing_key(bytes(range(1, 33)))
    proof = key.sign(registration_message(TENANT, BOB.subject, public))
    server.approver_keys.register(
        call(ADMIN, "RegisterApproverKey"), TENANT, BOB.subject, public, proof, lambda _key: b""
    )
    approval = server.submit("agent-1")
    assert reason_of(server.decide, approval, BOB) == "signed_grant"
    shown = server.approvals.show(call(BOB, "GetApproval"), TENANT, approval.approval_id)
    envelope = orjson.dumps(sign_grant(shown.grant_payload, key).to_json())
    other = server.submit("agent-2")
    assert reason_of(server.decide, other, BOB, signed_grant=envelope) == "GRANT_MISMATCH"
    assert reason_of(server.decide, approval, CAROL, signed_grant=envelope) in {
        "GRANT_MISMATCH",
        "APPROVER_KEY_NOT_REGISTERED",
    }
    server.decide(approval, BOB, signed_grant=envelope)
    told = payloads(database_url, approval.action_id)[2]["approval"]["grant"]
    assert told["keyId"] == key.key_id
    assert server.approval(approval.approval_id).decisions[0].key_id == key.key_id
