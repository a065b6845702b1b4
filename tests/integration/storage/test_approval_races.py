"""What happens to one approval at the same instant on two replicas: one outcome, whole chains.

Both sides of a race are let go together, and each of them wins at times. A default run has two
hundred rounds of each; `pytest -m slow` has the thousand that look for what is rare.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta

import psycopg
import pytest

from oars_grpc.core.action import ActionState
from oars_grpc.core.approval import Approval, ApprovalState, Verdict
from oars_grpc.core.tenant import TenantSettings
from oars_grpc.core.workflow import Approver, Stage, Workflow
from oars_grpc.errors import OarsError
from tests.support.database import check_ledger, checked_log
from tests.support.factories import new_id
from tests.support.replicas import Replica, approver, replica

THOUSAND = pytest.param(1_000, marks=pytest.mark.slow)
BOB, CAROL = approver("bob"), approver("carol")
DENIED = (ActionState.DENIED, ApprovalState.REJECTED)
GRANTED = (ActionState.APPROVED, ApprovalState.APPROVED)
EXPIRED = (ActionState.EXPIRED, ApprovalState.EXPIRED)


@pytest.fixture
def pair(database_url: str) -> Iterator[tuple[Replica, Replica]]:
    with ExitStack() as stack:
        first, second = (stack.enter_context(replica(database_url)) for _ in range(2))
        yield first, second


class Race:
    """Two threads that run one piece of work each at the same instant, over and over."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(2)
        self._gate = threading.Barrier(2)

    def run(self, one: Callable[[], object], other: Callable[[], object]) -> list[str]:
        """The reason why each was refused; empty where it was not."""

        def side(work: Callable[[], object]) -> str:
            self._gate.wait(timeout=60)
            try:
                work()
            except OarsError as error:
                return error.reason
            return ""

        futures = [self._pool.submit(side, work) for work in (one, other)]
        return [future.result(timeout=60) for future in futures]


def types_of(url: str) -> dict[str, Counter[str]]:
    """The types of receipts of every action."""
    found: dict[str, Counter[str]] = {}
    with psycopg.connect(url) as connection:
        for action_id, type_ in connection.execute(
            "SELECT action_id, type FROM receipt WHERE action_id <> ''"
        ):
            found.setdefault(action_id, Counter())[type_.removeprefix("action.")] += 1
    return found


def decided(end: str, decisions: int = 1) -> Counter[str]:
    """The receipts of an action that people decided."""
    return Counter(
        {"requested": 1, "approval_required": 1, "approval_decided": decisions} | {end: 1}
    )


def check_whole(url: str) -> None:
    check_ledger(url)
    assert checked_log(url) == []


@pytest.mark.parametrize("rounds", [200, THOUSAND])
def test_two_approvers_at_one_instant_grant_once(
    pair: tuple[Replica, Replica], database_url: str, rounds: int
) -> None:
    """One approval suffices: the second comes too late, and is told so."""
    first, second = pair
    race, outcomes = Race(), Counter[tuple[str, ...]]()
    for number in range(rounds):
        approval = first.submit(new_id("act"))
        one, other = (first, second) if number % 2 else (second, first)
        refused = race.run(
            lambda one=one, a=approval: one.decide(a, BOB),  # type: ignore[misc]
            lambda other=other, a=approval: other.decide(a, CAROL),  # type: ignore[misc]
        )
        assert sorted(refused) == ["", "APPROVAL_NOT_PENDING"], refused
        outcomes[tuple(refused)] += 1
        assert first.states(approval) == GRANTED
        assert len(first.approval(approval.approval_id).decisions) == 1
    assert len(outcomes) == 2  # each side won at times
    found = types_of(database_url)
    assert len(found) == rounds
    assert all(types == decided("approved") for types in found.values())
    check_whole(database_url)


@pytest.mark.parametrize("rounds", [200, THOUSAND])
def test_approve_against_reject_never_yields_both(
    pair: tuple[Replica, Replica], database_url: str, rounds: int
) -> None:
    first, second = pair
    race, ends = Race(), Counter[tuple[ActionState, ApprovalState]]()
    asked: dict[str, str] = {}
    for number in range(rounds):
        approval = second.submit(new_id("act"))
        one, other = (first, second) if number % 2 else (second, first)
        refused = race.run(
            lambda one=one, a=approval: one.decide(a, BOB),  # type: ignore[misc]
            lambda other=other, a=approval: other.decide(a, CAROL, Verdict.REJECT),  # type: ignore[misc]
        )
        assert sorted(refused) == ["", "APPROVAL_NOT_PENDING"], refused
        states = first.states(approval)
        assert states == (GRANTED if refused[0] == "" else DENIED)
        ends[states] += 1
        asked[approval.action_id] = "approved" if states == GRANTED else "denied"
    assert set(ends) == {GRANTED, DENIED}
    found = types_of(database_url)
    assert {action_id: decided(end) for action_id, end in asked.items()} == found
    check_whole(database_url)


@pytest.mark.parametrize("rounds", [200, THOUSAND])
def test_the_same_decision_sent_twice_counts_once_and_is_answered_alike(
    pair: tuple[Replica, Replica], database_url: str, rounds: int
) -> None:
    """A retry under the same key, on another replica, while the first is under way."""
    first, second = pair
    race = Race()
    for number in range(rounds):
        approval = first.submit(new_id("act"))
        key = f"key-{number}"
        answers: list[bytes] = []

        def decide(
            side: Replica, a: Approval = approval, k: str = key, got: list[bytes] = answers
        ) -> None:
            got.append(side.decide(a, BOB, key=k).response)

        refused = race.run(lambda d=decide: d(first), lambda d=decide: d(second))  # type: ignore[misc]
        assert refused == ["", ""], refused
        assert len(set(answers)) == 1
        assert first.states(approval) == GRANTED
    assert all(types == decided("approved") for types in types_of(database_url).values())
    check_whole(database_url)


@pytest.mark.parametrize("rounds", [200, THOUSAND])
def test_expiry_against_decision_has_one_outcome(
    pair: tuple[Replica, Replica], database_url: str, rounds: int
) -> None:
    """The replica that expires is ahead of time; the other believes that there is some left."""
    first, second = pair
    second.clock.shift = timedelta(days=2)
    race, ends = Race(), Counter[tuple[ActionState, ApprovalState]]()
    asked: dict[str, Counter[str]] = {}
    for _ in range(rounds):
        approval = first.submit(new_id("act"))
        refused = race.run(
            lambda a=approval: first.decide(a, BOB, Verdict.REJECT),  # type: ignore[misc]
            second.upkeep.expire_due,
        )
        states = first.states(approval)
        assert states == (DENIED if refused[0] == "" else EXPIRED), refused
        assert refused[0] in {"", "APPROVAL_NOT_PENDING"}
        ends[states] += 1
        asked[approval.action_id] = (
            decided("denied")
            if states == DENIED
            else Counter({"requested": 1, "approval_required": 1, "expired": 1})
        )
    assert set(ends) == {DENIED, EXPIRED}
    assert types_of(database_url) == asked
    check_whole(database_url)


@pytest.mark.parametrize("rounds", [100, THOUSAND])
def test_of_identical_submissions_one_opens_an_approval_and_the_others_join_it(
    pair: tuple[Replica, Replica], database_url: str, rounds: int
) -> None:
    first, second = pair
    race = Race()
    for number in range(rounds):
        agent_id = new_id("act")
        answers: list[str] = []

        def ask(side: Replica, key: str, a: str = agent_id, got: list[str] = answers) -> None:
            got.append(side.ask(a, key).response.decode())

        refused = race.run(
            lambda a=ask, n=number: a(first, f"one-{n}"),  # type: ignore[misc]
            lambda a=ask, n=number: a(second, f"two-{n}"),  # type: ignore[misc]
        )
        assert refused == ["", ""], refused
        opened, joined = sorted(answers)
        assert joined == f"{opened}joined"
    found = types_of(database_url)
    assert len(found) == rounds
    expected = Counter({"requested": 1, "approval_required": 1, "approval_joined": 1})
    assert all(types == expected for types in found.values())
    check_whole(database_url)


@pytest.mark.parametrize("rounds", [100, THOUSAND])
def test_a_grant_is_used_by_one_of_two_starts(
    pair: tuple[Replica, Replica], database_url: str, rounds: int
) -> None:
    first, second = pair
    race = Race()
    for _ in range(rounds):
        approval = first.submit(new_id("act"))
        first.decide(approval, BOB)
        refused = race.run(
            lambda a=approval: first.start(a.action_id),  # type: ignore[misc]
            lambda a=approval: second.start(a.action_id),  # type: ignore[misc]
        )
        # The loser finds the action executing, or still approved and its grant used.
        assert min(refused) == ""
        assert max(refused) in {"INVALID_STATE_TRANSITION", "GRANT_NOT_AVAILABLE"}
        assert first.states(approval) == (ActionState.EXECUTING, ApprovalState.CONSUMED)
    expected = decided("approved") + Counter({"executing": 1})
    assert all(types == expected for types in types_of(database_url).values())
    check_whole(database_url)


def test_escalation_happens_once_whichever_replica_finds_it(
    pair: tuple[Replica, Replica], database_url: str
) -> None:
    first, second = pair
    stage = Stage(
        "slow",
        approvers=(Approver(BOB.subject),),
        sla_seconds=60,
        escalate_to=(Approver(CAROL.subject),),
    )
    first.set_settings(TenantSettings(workflows=(Workflow("default", (stage,)),)))
    approvals = [first.submit(new_id("act")) for _ in range(50)]
    for side in (first, second):
        side.clock.shift = timedelta(minutes=5)
    refused = Race().run(first.escalations.escalate_due, second.escalations.escalate_due)
    assert refused == ["", ""]
    found = types_of(database_url)
    assert all(found[a.action_id]["approval_escalated"] == 1 for a in approvals)
    for approval in approvals:
        assert second.decide(approval, CAROL).response.decode().split("|")[3] == "approved"
    check_whole(database_url)
