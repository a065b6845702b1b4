"""Follows one action through one call: every transition leaves its receipt."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from oars_grpc.core import ids
from oars_grpc.core.action import Action, ActionState, after_receipt, check_transition
from oars_grpc.core.approval import Approval
from oars_grpc.core.call import Answer, IdempotencyScope, StoredOutcome, replay
from oars_grpc.core.decision import Decision
from oars_grpc.core.keys import SigningKey
from oars_grpc.core.ports import Chance, Ledger
from oars_grpc.core.receipt import Receipt, write_receipt
from oars_grpc.core.stored import Basis, Change, Committed, Replayed, StoredAction
from oars_grpc.errors import (
    Conflict,
    FailedPrecondition,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
)
from oars_grpc.use_cases.bases import Bases

IDEMPOTENCY_LIFETIME = timedelta(hours=24)
# A call that loses a race reads again and decides anew; more than a few losses in a row is a storm.
# The first attempt may rest on a basis that was out of date before it began.
_ATTEMPTS = 6


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
        approval_id: str | None = None,
        output_digest: str | None = None,
        error: str | None = None,
    ) -> None:
        """Enter a state and write `action.<state>`; what is None stays as it is with the action."""
        check_transition(self.action.state, state)
        action = self.action
        self._note(
            f"action.{state.value}",
            detail,
            state,
            expires_at,
            action.approval_id if approval_id is None else approval_id,
            action.output_digest if output_digest is None else output_digest,
            action.error if error is None else error,
        )

    def note(self, type_: str, detail: Mapping[str, Any]) -> None:
        """Write a receipt without a transition."""
        action = self.action
        self._note(
            type_,
            detail,
            action.state,
            action.expires_at,
            action.approval_id,
            action.output_digest,
            action.error,
        )

    def _note(
        self,
        type_: str,
        detail: Mapping[str, Any],
        state: ActionState,
        expires_at: datetime | None,
        approval_id: str,
        output_digest: str,
        error: str,
    ) -> None:
        receipt = write_receipt(
            receipt_id=self._chance.new_id(ids.RECEIPT),
            action=self.action,
            type_=type_,
            detail=detail,
            now=self.now,
            key=self._key,
        )
        self.receipts = (*self.receipts, receipt)
        self.action = after_receipt(
            self.action,
            version=self._expected_version + 1,
            at=self.now,
            sequence=receipt.sequence,
            receipt_digest=receipt.envelope.digest(),
            state=state,
            expires_at=expires_at,
            approval_id=approval_id,
            output_digest=output_digest,
            error=error,
        )

    def finish(
        self,
        decision: Decision,
        *,
        approval: Approval | None = None,
        expected_approval_version: int = 0,
        expected_revision: int,
    ) -> Change:
        """What the call changes; the action's version counts calls, not transitions.

        It commits only while the tenant's basis is of `expected_revision`: no action is allowed by
        a policy, and no receipt signed by a key, that was already replaced.
        """
        if not self.receipts:  # else the first of them has raised it
            version = self._expected_version + 1
            self.action = replace(self.action, version=version, updated_at=self.now)
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
    ledger: Ledger,
    bases: Bases,
    tenant_id: str,
    scope: IdempotencyScope | None,
    attempt: Callable[[Basis], Plan | None],
    *,
    fresh: bool = False,
) -> Answer:
    """Plan and commit; again from the start when the action, or what it rests on, moved underneath.

    The first attempt rests on the kept basis, if there is one and it will do: an attempt that needs
    a basis just read answers None, and with `fresh` there is no other. Nothing is answered before
    the commit has returned (promise 1).

    Raises:
        Conflict: lost the race several times in a row.
    """
    basis = None if fresh else bases.kept(tenant_id)
    for _ in range(_ATTEMPTS):
        if basis is None:
            basis = bases.read(tenant_id, scope)
            if basis.outcome is not None and scope is not None:
                return replay(basis.outcome, scope)
        try:
            plan = attempt(basis)
        except (FailedPrecondition, NotFound, PermissionDenied, ResourceExhausted):
            # The call that this one repeats may have committed meanwhile, and made the state what
            # the attempt objects to: its outcome was committed along, so it is there to be read.
            if scope is None:
                raise
            outcome = bases.read(tenant_id, scope).outcome
            if outcome is None:
                raise
            return replay(outcome, scope)
        basis = None  # whatever comes of this attempt, the next one begins with what is so then
        if plan is None:
            continue
        (result,) = ledger.commit([_with_outcome(plan, scope)])
        if isinstance(result, Committed):
            return Answer(plan.response)
        if isinstance(result, Replayed) and scope is not None:
            return replay(result.outcome, scope)
    raise Conflict("the action is being changed by several calls at once; read it and try again")


def _with_outcome(plan: Plan, scope: IdempotencyScope | None) -> Change:
    if scope is None:
        return plan.change
    now = plan.change.stored.action.updated_at
    outcome = StoredOutcome(scope, plan.response, now, now + IDEMPOTENCY_LIFETIME)
    return replace(plan.change, outcome=outcome)
