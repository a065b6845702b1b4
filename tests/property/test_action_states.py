"""Any path through the states leaves one receipt a fact, in one unbroken chain."""

import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.strategies import sampled_from

from oars_grpc.core.action import TERMINAL_STATES, Action, ActionState
from oars_grpc.core.envelope import Envelope
from oars_grpc.core.receipt import APPROVAL_DECIDED, Receipt
from oars_grpc.core.verification import CheckResult, Surroundings, verify_receipt
from oars_grpc.errors import FailedPrecondition
from oars_grpc.use_cases.recorder import Recorder
from tests.support.factories import (
    NOW,
    make_action,
    make_decision,
    make_signing_key,
    make_stored_key,
    new_id,
)
from tests.support.transitions import ALLOWED

TRUSTED = make_stored_key().trusted
DECISION = make_decision()


class Ids:
    """The part of chance that a recorder uses."""

    def new_id(self, prefix: str) -> str:
        return new_id(prefix)

    def random_bytes(self, count: int) -> bytes:
        raise AssertionError("a recorder makes nothing secret")


class OneAction(RuleBasedStateMachine):
    """An action through any number of calls; the model is the list of facts that happened."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.facts: list[str] = []
        self.chain: list[Receipt] = []
        self.calls = 0
        self.action: Action
        self.recorder: Recorder

    @initialize()
    def submit(self) -> None:
        self.action = make_action(state=ActionState.REQUESTED, version=0)
        self._begin()
        self.recorder.note("action.requested", {})
        self.facts.append("action.requested")

    def _begin(self) -> None:
        self.now += timedelta(seconds=1)
        self.recorder = Recorder(self.action, key=make_signing_key(), chance=Ids(), now=self.now)

    @property
    def state(self) -> ActionState:
        return self.recorder.action.state

    @rule(following=sampled_from(ActionState))
    def move(self, following: ActionState) -> None:
        before = self.recorder.action, self.recorder.receipts
        if (self.state.value, following.value) in ALLOWED:
            self.recorder.move(following, {"step": len(self.facts)}, output_digest="")
            assert self.state is following
            self.facts.append(f"action.{following.value}")
        else:
            with pytest.raises(FailedPrecondition) as refused:
                self.recorder.move(following, {"step": len(self.facts)}, output_digest="")
            assert refused.value.reason == "INVALID_STATE_TRANSITION"
            assert (self.recorder.action, self.recorder.receipts) == before

    @rule()
    @precondition(lambda self: self.state is ActionState.APPROVAL_REQUIRED)
    def note_a_decision(self) -> None:
        before = self.state
        self.recorder.note(APPROVAL_DECIDED, {"approval": {"verdict": "approve"}})
        assert self.state is before
        self.facts.append(APPROVAL_DECIDED)

    @rule()
    def commit(self) -> None:
        """The call ends; the next one starts from what was stored."""
        change = self.recorder.finish(DECISION, expected_revision=1)
        assert change.expected_action_version == self.calls
        self.calls += 1
        assert change.stored.action.version == self.calls
        self.action = change.stored.action
        self.chain += change.receipts
        self._begin()

    @invariant()
    def a_receipt_per_fact_and_none_without(self) -> None:
        assert [receipt.type for receipt in self._receipts()] == self.facts

    @invariant()
    def the_chain_is_unbroken(self) -> None:
        receipts = self._receipts()
        assert [receipt.sequence for receipt in receipts] == [*range(1, len(receipts) + 1)]
        before: Envelope | None = None
        for receipt in receipts[-2:]:
            first_of_two = before is None and receipt.sequence > 1
            found = verify_receipt(receipt.envelope, [TRUSTED], Surroundings(previous=before))
            expected = CheckResult.NOT_CHECKED if first_of_two else CheckResult.PASSED
            assert (found.valid, found.checks[3].result) == (True, expected)
            before = receipt.envelope
        if receipts:
            assert self.recorder.action.last_sequence == len(receipts)
            assert self.recorder.action.last_receipt_digest == receipts[-1].envelope.digest()

    @invariant()
    def the_last_transition_names_the_state(self) -> None:
        states = [fact for fact in self.facts if fact != APPROVAL_DECIDED]
        assert not states or states[-1] == f"action.{self.state.value}"
        assert not any(fact.removeprefix("action.") in TERMINAL_STATES for fact in states[:-1])

    def _receipts(self) -> list[Receipt]:
        return [*self.chain, *self.recorder.receipts]

    def teardown(self) -> None:
        recorded: list[dict[str, Any]] = [
            json.loads(receipt.envelope.payload)["predicate"] for receipt in self._receipts()
        ]
        times = [predicate["recordedAt"] for predicate in recorded]
        assert times == sorted(times)
        assert len({predicate["receiptId"] for predicate in recorded}) == len(recorded)


OneAction.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
test_any_path_leaves_one_receipt_a_fact = OneAction.TestCase
