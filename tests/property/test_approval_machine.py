"""The state machine of an approval against a model that is written apart from it.

The model knows neither stages nor digests as objects: it keeps who has approved, in which stage,
and says of every event whether it must be taken and where everything stands afterwards.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from oars_grpc.core.approval import (
    Approval,
    ApprovalDecision,
    ApprovalState,
    Verdict,
    close_approval,
    consume_grant,
    decide_approval,
    escalate_approval,
    open_approval,
    release_grant,
)
from oars_grpc.core.approver import check_approver, check_pending, check_turn, may_decide
from oars_grpc.core.identity import Principal, Role
from oars_grpc.core.workflow import Approver, Stage, StageMode, Workflow, plan_workflows
from oars_grpc.errors import OarsError
from tests.support.factories import NOW, make_action, make_principal, make_request

NAMES = ("ann", "bob", "cy", "dee", "asker")
PEOPLE = {
    name: make_principal(
        f"spiffe://example/{name}",
        role=Role.ADMIN if name == "dee" else Role.APPROVER,
        service_account_id="",
    )
    for name in NAMES
}
ACTION = make_action(make_request(caller=replace(PEOPLE["asker"], role=Role.AGENT)))


def meant(approver: Approver, name: str) -> bool:
    """Whether an entry of a stage means a person, in the words of the specification."""
    if approver.role is not None:
        return (approver.role is Role.ADMIN) == (name == "dee")
    return approver.principal == f"spiffe://example/{name}"


some_approvers = st.lists(
    st.sampled_from(
        [Approver(PEOPLE[name].subject) for name in NAMES]
        + [Approver(role=Role.ADMIN), Approver(role=Role.APPROVER)]
    ),
    unique=True,
    max_size=4,
).map(tuple)


@st.composite
def stages(draw: st.DrawFn) -> Stage:
    approvers = draw(some_approvers)
    serial = bool(approvers) and draw(st.booleans())
    most = min(3, len(approvers)) if serial else 3
    sla = draw(st.sampled_from([0, 60, 600]))
    return Stage(
        "stage",
        StageMode.SERIAL if serial else StageMode.PARALLEL,
        draw(st.integers(1, most)),
        approvers,
        sla,
        draw(some_approvers) if sla else (),
    )


class ApprovalMachine(RuleBasedStateMachine):
    """Events in any order, on the approval and on the model."""

    approval: Approval
    now: datetime

    @initialize(plan=st.lists(stages(), min_size=1, max_size=3), lasts=st.sampled_from([300, 5000]))
    def open(self, plan: list[Stage], lasts: int) -> None:
        workflow = Workflow("default", tuple(plan), expires_seconds=lasts)
        self.now = NOW
        self.approval = open_approval(
            approval_id="apr_1",
            action=ACTION,
            policy_digest="p" * 64,
            display_digest="d" * 64,
            plan=plan_workflows([""], [workflow]),
            approval_seconds=lasts,
            step_up=False,
            released_by=(),
            now=NOW,
        )
        # The model.
        self.plan, self.ends = plan, NOW + timedelta(seconds=lasts)
        self.state, self.version = "pending", 1
        self.granted: list[list[str]] = [[] for _ in plan]
        self.at = 0
        self.began, self.escalated = NOW, False
        self.uses = self.given_back = 0

    def takes(self, name: str) -> bool:
        """Whether the model takes a decision of a person now."""
        if self.state != "pending" or self.now >= self.ends or name == "asker":
            return False
        if any(name in names for names in self.granted):
            return False
        stage = self.plan[self.at]
        if self.escalated and any(meant(target, name) for target in stage.escalate_to):
            return True
        if not stage.approvers:
            return True
        if stage.mode is StageMode.SERIAL:
            return meant(stage.approvers[len(self.granted[self.at])], name)
        return any(meant(approver, name) for approver in stage.approvers)

    @rule(seconds=st.integers(1, 400))
    def wait(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @rule(name=st.sampled_from(NAMES), verdict=st.sampled_from(Verdict))
    def decide(self, name: str, verdict: Verdict) -> None:
        person, taken = PEOPLE[name], self.takes(name)
        assert may_decide(self.approval, person, self.now) == taken
        if not self._tries(lambda: self._decided(person, verdict)):
            assert not taken
            return
        assert taken
        self.version += 1
        if verdict is Verdict.REJECT:
            self.state = "rejected"
            return
        self.granted[self.at].append(name)
        if len(self.granted[self.at]) == self.plan[self.at].required_approvals:
            self.at, self.began, self.escalated = self.at + 1, self.now, False
            if self.at == len(self.plan):
                self.state = "approved"

    def _decided(self, person: Principal, verdict: Verdict) -> Approval:
        check_pending(self.approval, person, self.now)
        check_approver(self.approval, person)
        check_turn(self.approval, person)
        stage = self.approval.current_stage
        decision = ApprovalDecision(person.subject, verdict, "", self.now, stage)
        return decide_approval(self.approval, decision)

    @rule()
    def escalate(self) -> None:
        due = self.state == "pending" and not self.escalated and self.plan[self.at].sla_seconds
        due = due and self.now >= self.began + timedelta(seconds=self.plan[self.at].sla_seconds)
        assert self._tries(lambda: escalate_approval(self.approval, self.now)) == bool(due)
        if due:
            self.escalated = True
            self.version += 1

    @precondition(lambda self: self.state in ("pending", "approved"))
    @rule(state=st.sampled_from([ApprovalState.EXPIRED, ApprovalState.CANCELED]))
    def close(self, state: ApprovalState) -> None:
        self.approval = close_approval(self.approval, state)
        self.state, self.version = state.value, self.version + 1

    @rule()
    def start(self) -> None:
        taken = self._tries(lambda: consume_grant(self.approval))
        assert taken == (self.state == "approved")
        if taken:
            self.state, self.version, self.uses = "consumed", self.version + 1, self.uses + 1

    @rule()
    def give_back(self) -> None:
        taken = self._tries(lambda: release_grant(self.approval))
        assert taken == (self.state == "consumed" and self.given_back < 3)
        if taken:
            self.state, self.version, self.uses = "approved", self.version + 1, self.uses - 1
            self.given_back += 1

    def _tries(self, work: Callable[[], Approval]) -> bool:
        try:
            self.approval = work()
        except OarsError:
            return False
        return True

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "state"):
            return
        assert (self.approval.state.value, self.approval.version) == (self.state, self.version)
        assert self.approval.current_stage == self.at
        assert self.uses in (0, 1)
        people = [decision.approver for decision in self.approval.decisions]
        assert len(people) == len(set(people))
        assert PEOPLE["asker"].subject not in people
        if self.state in ("approved", "consumed"):
            assert all(
                len(names) == stage.required_approvals
                for names, stage in zip(self.granted, self.plan, strict=True)
            )


ApprovalMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40)
TestApproval = ApprovalMachine.TestCase
