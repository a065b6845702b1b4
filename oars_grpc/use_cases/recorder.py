"""Follows one action through one call: every transition leaves its receipt."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from oars_grpc.core import ids
from oars_grpc.core.action import Action, ActionState, check_transition
from oars_grpc.core.approval import Approval
from oars_grpc.core.call import Answer, IdempotencyScope, StoredOutcome, replay
from oars_grpc.core.decision import Decision
from oars_grpc.core.keys import SigningKey
from oars_grpc.core.ports import Chance, Ledger
from oars_grpc.core.receipt import Receipt, write_receipt
from oars_grpc.core.stored import Change, Committed, Replayed, StoredAction
from oars_grpc.errors import Conflict, FailedPrecondition, NotFound, PermissionDenied

IDEMPOTENCY_LIFETIME = timedelta(hours=24)
# A call that loses a race reads again and decides anew; more than a few losses in a row is a storm.
_ATTEMPTS = 5


class Recorder:
    """Moves an action along the state table and collects the receipts of the way."""

    def __init__(self, action: Action, *, key: SigningKey, chance: Chance, now: datetime) -> None:
        self.action = action
        self.now = now
        self.receipts: tuple[Receipt, ...] = ()
        self._expected_version = action.version
        self._key = key
        self._chance = chance

    def move(
        self,
        state: ActionState,
        detail: Mapping[str, Any],
        *,
        expires_at: datetime | None = None,
        **fields: Any,
    ) -> None:
        """Enter a state and write `action.<state>`; `fields` replace fields of the action."""
        check_transition(self.action.state, state)
        self.action = replace(
            self.action, state=state, updated_at=self.now, expires_at=expires_at, **fields
        )
        self.note(f"action.{state.value}", detail)

    def note(self, type_: str, detail: Mapping[str, Any]) -> None:
        """Write a receipt without a transition."""
        receipt = write_receipt(
            receipt_id=self._chance.new_id(ids.RECEIPT),
            action=self.action,
            type_=type_,
            detail=detail,
            now=self.now,
            key=self._key,
        )
        self.receipts = (*self.receipts, receipt)
        self.action = replace(
            self.action,
            last_sequence=receipt.sequence,
            last_receipt_digest=receipt.envelope.digest(),
        )

    def finish(
        self,
        decision: Decision,
        *,
        approval: Approval | None = None,
        expected_approval_version: int = 0,
        expected_revision: int | None = None,
    ) -> Change:
        """What the call changes; the action's version counts calls, not transitions.

        With `expected_revision` the change commits only while the tenant's basis is of that
        revision: no action is allowed by a policy that was already replaced.
        """
        self.action = replace(self.action, version=self._expected_version + 1, updated_at=self.now)
        return Change(
            stored=StoredAction(self.action, decision),
            expected_action_version=self._expected_version,
            receipts=self.receipts,
            approval=approval,
            expected_approval_version=expected_approval_version,
            expected_revision=expected_revision,
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """A change ready to commit and the response that it earns."""

    change: Change
    response: bytes


def commit_plan(
    ledger: Ledger, scope: IdempotencyScope | None, attempt: Callable[[], Plan | Answer]
) -> Answer:
    """Plan and commit; again from the start when the action moved underneath.

    Nothing is answered before the commit has returned (promise 1).

    Raises:
        Conflict: lost the race several times in a row.
    """
    for _ in range(_ATTEMPTS):
        try:
            plan = attempt()
        except (FailedPrecondition, NotFound, PermissionDenied):
            # The call that this one repeats may have committed meanwhile, and made the state what
            # the attempt objects to: its outcome was committed along, so it is there to be read.
            if scope is None:
                raise
            outcome = ledger.basis(scope.tenant_id, scope).outcome
            if outcome is None:
                raise
            return replay(outcome, scope)
        if isinstance(plan, Answer):
            return plan
        change = plan.change
        if scope is not None:
            now = change.stored.action.updated_at
            outcome = StoredOutcome(scope, plan.response, now, now + IDEMPOTENCY_LIFETIME)
            change = replace(change, outcome=outcome)
        (result,) = ledger.commit([change])
        if isinstance(result, Committed):
            return Answer(plan.response)
        if isinstance(result, Replayed) and scope is not None:
            return replay(result.outcome, scope)
    raise Conflict("the action is being changed by several calls at once; read it and try again")
