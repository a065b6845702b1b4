"""What somebody would try who wants an effect that policy and people did not agree to."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any

import orjson
import psycopg
import pytest

from oars_grpc.core.action import ActionState
from oars_grpc.core.approval import ApprovalState
from oars_grpc.core.identity import Role
from oars_grpc.core.policy import Effect, PolicyDocument, Rule, RuleMatch
from oars_grpc.core.ports import Registry
from oars_grpc.core.receipt import APPROVAL_JOINED
from oars_grpc.core.risk import RiskConfig
from oars_grpc.core.tenant import TenantSettings
from oars_grpc.core.workflow import Approver, Stage, Workflow
from oars_grpc.errors import OarsError
from tests.support.database import check_ledger, checked_log
from tests.support.factories import TENANT, make_policy, make_principal
from tests.support.replicas import AGENT, Replica, approver, call, named, replica

BOB, CAROL = approver("bob"), approver("carol")
OPERATOR = make_principal("spiffe://example/op", role=Role.OPERATOR, service_account_id="")
STORM = 8


@pytest.fixture
def server(database_url: str) -> Iterator[Replica]:
    with replica(database_url) as server:
        yield server
    check_ledger(database_url)
    assert checked_log(database_url) == []


def ask_for(effect: Effect, server: Replica) -> None:
    document = PolicyDocument("theirs", (Rule("r", effect, RuleMatch()),))

    def work(registry: Registry) -> None:
        registry.lock_tenant(TENANT)
        policy = registry.insert_policy(make_policy(document=document, digest=document.digest))
        registry.publish(TENANT, policy.policy_id, OPERATOR.subject, server.clock.now())

    server.registry.run(TENANT, work)


def reason_of(work: Any, *args: Any, **named_args: Any) -> str:
    with pytest.raises(OarsError) as refused:
        work(*args, **named_args)
    violations = getattr(refused.value, "violations", ())
    return ",".join(violation.field for violation in violations) or refused.value.reason


def storming(server: Replica, agent_id: str) -> str:
    """Submit the same once more; the reason of a refusal, if there was one."""
    try:
        server.ask(agent_id)
    except OarsError as error:
        return error.reason
    return ""


def last_payload(url: str, action_id: str) -> dict[str, Any]:
    """The predicate of the action's last receipt."""
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "SELECT payload FROM receipt JOIN receipt_body USING (tenant_id, leaf_index)"
            " WHERE action_id = %s ORDER BY sequence DESC LIMIT 1",
            (action_id,),
        ).fetchone()
    assert row is not None
    predicate: dict[str, Any] = orjson.loads(row[0])["predicate"]
    return predicate


def default_of(*stages: Stage, **changes: Any) -> TenantSettings:
    return TenantSettings(workflows=(Workflow("default", stages),), **changes)


def test_people_who_were_asked_once_do_not_answer_for_being_asked_twice(server: Replica) -> None:
    look = Stage("look")
    server.set_settings(default_of(look))
    approval = server.submit("agent-1")
    server.decide(approval, BOB)
    server.set_settings(default_of(look, look))
    server.start(approval.action_id)
    action, grant = server.states(approval)
    assert action is ActionState.DENIED
    assert grant is not ApprovalState.CONSUMED


def test_a_person_does_not_count_by_token_and_then_by_certificate(server: Replica) -> None:
    server.set_settings(default_of(Stage("two", required_approvals=2)))
    certificate = replace(BOB, service_account_id="Bob@example.com")

    def token(issuer: str, subject: str) -> Any:
        return replace(
            BOB,
            subject=f"oidc:https://{issuer}#{subject}",
            service_account_id="",
            carried_by="spiffe://example/portal",
            aliases=frozenset({subject, "bob@example.com", "user:bob@example.com"}),
        )

    here, there = token("here", "00u1"), token("there", "7")
    for first, second in ((here, certificate), (certificate, here), (here, there)):
        approval = server.submit(f"agent-{first.subject}-{second.subject}")
        server.decide(approval, first)
        assert reason_of(server.decide, approval, second) == "APPROVER_DECIDED_BEFORE"
        assert server.states(approval)[1] is ApprovalState.PENDING


def test_a_storm_of_equal_submissions_does_not_keep_people_from_deciding(
    server: Replica, database_url: str
) -> None:
    approval = server.submit("agent-1")
    over, refused = threading.Event(), threading.Event()
    reasons: set[str] = set()

    def storm() -> None:
        while not over.is_set():
            reason = storming(server, "agent-1")
            reasons.add(reason)
            if reason == "SUBMITTED_TOO_OFTEN":
                refused.set()

    with ThreadPoolExecutor(STORM) as pool:
        storms = [pool.submit(storm) for _ in range(STORM)]
        try:
            assert refused.wait(60)
            server.decide(approval, BOB)
        finally:
            over.set()
        for ended in storms:
            ended.result()
    assert server.states(approval) == (ActionState.APPROVED, ApprovalState.APPROVED)
    # Some of the storm may have met each other at the beginning.
    assert reasons <= {"", "SUBMITTED_TOO_OFTEN", "CONCURRENT_CHANGE"}


def test_whoever_joined_hears_it_again_however_often_others_submit(
    server: Replica, database_url: str
) -> None:
    approval = server.submit("agent-1")
    first = server.ask("agent-1", key="mine").response
    reasons = {storming(server, "agent-1") for _ in range(60)}
    assert reasons == {"", "SUBMITTED_TOO_OFTEN"}
    again = server.ask("agent-1", key="mine")
    assert (again.response, again.replayed) == (first, True)
    assert last_payload(database_url, approval.action_id)["type"] == APPROVAL_JOINED


def test_what_became_critical_in_quarantine_takes_a_code(server: Replica) -> None:
    ask_for(Effect.QUARANTINE, server)
    action_id = server.ask("agent-1").response.decode().split("|")[0]
    server.set_settings(TenantSettings(risk=RiskConfig(money=100)))
    made = call(OPERATOR, "ReleaseAction")
    answer = server.actions.release(made, TENANT, action_id, "", named)
    approval = server.approval(answer.response.decode().split("|")[2])
    assert approval.step_up
    assert reason_of(server.decide, approval, BOB) == "one_time_code"


def test_who_may_no_longer_act_for_the_user_does_not_start_what_was_approved(
    server: Replica,
) -> None:
    approval = server.submit("agent-1")
    server.decide(approval, BOB)
    for caller, reason in (
        (replace(AGENT, may_act_for_users=frozenset({"user-2"})), "USER_FORBIDDEN"),
        (replace(AGENT, agent_ids=frozenset({"agent-2"})), "AGENT_FORBIDDEN"),
    ):
        made = call(caller, "StartAction")
        refused = reason_of(server.executions.start, made, TENANT, approval.action_id, named)
        assert refused == reason
    assert server.states(approval) == (ActionState.APPROVED, ApprovalState.APPROVED)


def test_as_many_approvals_as_there_can_be_fit_the_log(server: Replica, database_url: str) -> None:
    people = [approver(f"{number:0>480}") for number in range(128)]
    stages = [
        Stage(
            "\U0001f600" * 64,
            required_approvals=16,
            sla_seconds=1,
            escalate_to=tuple(Approver("\U0001f600" * 500 + str(number)) for number in range(32)),
        )
        for _ in range(8)
    ]
    server.set_settings(default_of(*stages))
    approval = server.submit("agent-1")
    asked = last_payload(database_url, approval.action_id)["approval"]
    assert len(asked["stages"]) + asked["omittedStages"] == 8
    server.clock.shift = timedelta(seconds=2)
    report = server.escalations.escalate_due()
    assert (report.done, report.failures) == (1, ())
    escalated = last_payload(database_url, approval.action_id)["approval"]
    assert len(escalated["escalatedTo"]) + escalated["omittedTargets"] == 32
    for person in people:
        server.decide(approval, person)
    told = last_payload(database_url, approval.action_id)["approval"]
    assert len(told["decisions"]) + told["omittedDecisions"] == 128
    assert server.states(approval) == (ActionState.APPROVED, ApprovalState.APPROVED)
