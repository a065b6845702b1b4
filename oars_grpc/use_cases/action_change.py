"""Changes an action that exists: load, let a step record what happens, commit, or try again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from oars_grpc.core import ids
from oars_grpc.core.action import Action
from oars_grpc.core.approval import Approval, ApprovalState, close_approval
from oars_grpc.core.call import Answer, Call, Encode, IdempotencyScope
from oars_grpc.core.decision import Decision
from oars_grpc.core.identity import Principal, Role
from oars_grpc.core.ports import Chance, Clock, Ledger
from oars_grpc.core.receipt import Receipt, format_time
from oars_grpc.core.stored import Basis, StoredAction
from oars_grpc.errors import NotFound
from oars_grpc.use_cases.bases import Bases
from oars_grpc.use_cases.keyring import Keyring
from oars_grpc.use_cases.recorder import Plan, Recorder, commit_plan

# Roles that see only what they submitted themselves.
OWN_ACTIONS_ONLY = frozenset({Role.AGENT, Role.GATEWAY})
REQUIRED_APPROVALS = 1


@dataclass(frozen=True, slots=True)
class ActionOutcome:
    """What a call made of an action: the answer to the caller before it is encoded."""

    action: Action
    decision: Decision
    receipts: tuple[Receipt, ...]
    approval: Approval | None = None


@dataclass(frozen=True, slots=True)
class ApprovalChange:
    """An approval after the change, and the stored version that it replaces (0: none)."""

    approval: Approval
    expected_version: int


# Records what happens to the action; answers with the approval that changes along with it.
Step = Callable[[Recorder, StoredAction, Basis], ApprovalChange | None]


def check_visible(
    principal: Principal, stored: StoredAction | None, action_id: str
) -> StoredAction:
    """The action, if the caller may know of it.

    Raises:
        NotFound: no such action in the caller's tenants, or it is somebody else's.
    """
    if stored is not None:
        own = stored.action.request.caller.subject == principal.subject
        if own or principal.role not in OWN_ACTIONS_ONLY:
            return stored
    raise NotFound(f"action {action_id} is not found", reason="ACTION_NOT_FOUND")


def approval_json(approval: Approval) -> dict[str, Any]:
    """What a receipt says about the approval that an action waits for."""
    return {
        "approvalId": approval.approval_id,
        "requiredApprovals": approval.required_approvals,
        "expiresAt": format_time(approval.expires_at),
    }


def new_approval(recorder: Recorder, basis: Basis, chance: Chance) -> Approval:
    """A pending approval, bound to the action by its digest."""
    return Approval(
        approval_id=chance.new_id(ids.APPROVAL),
        tenant_id=basis.tenant.tenant_id,
        action_id=recorder.action.action_id,
        action_digest=recorder.action.action_digest,
        policy_digest=basis.policy.digest,
        state=ApprovalState.PENDING,
        required_approvals=REQUIRED_APPROVALS,
        decisions=(),
        created_at=recorder.now,
        expires_at=recorder.now + timedelta(seconds=basis.tenant.settings.approval_seconds),
        version=1,
    )


class ActionChanger:
    """Runs steps on stored actions."""

    def __init__(self, ledger: Ledger, keyring: Keyring, clock: Clock, chance: Chance) -> None:
        self.bases = Bases(ledger, clock)
        self._ledger = ledger
        self._keyring = keyring
        self._clock = clock
        self._chance = chance

    def run(
        self,
        call: Call,
        tenant_ids: Sequence[str],
        action_id: str,
        step: Step,
        encode: Encode[ActionOutcome],
    ) -> Answer:
        """Change an action on behalf of a caller who may see it."""
        found = self._ledger.find_action(tenant_ids, action_id)
        stored = check_visible(call.principal, found, action_id)
        tenant_id = stored.action.request.tenant_id
        scope = call.scope(tenant_id)
        return self.run_in_tenant(tenant_id, action_id, scope, step, encode, found=stored)

    def run_in_tenant(
        self,
        tenant_id: str,
        action_id: str,
        scope: IdempotencyScope | None,
        step: Step,
        encode: Encode[ActionOutcome],
        found: StoredAction | None = None,
    ) -> Answer:
        """Change an action of a known tenant; `found` is the action if it was just read."""
        just_read = found

        def attempt(basis: Basis) -> Plan:
            nonlocal just_read
            stored = just_read or self._ledger.find_action([tenant_id], action_id)
            just_read = None
            if stored is None:
                raise NotFound(f"action {action_id} is not found", reason="ACTION_NOT_FOUND")
            recorder = Recorder(
                stored.action,
                key=self._keyring.open(basis.signing_key),
                chance=self._chance,
                now=self._clock.now(),
            )
            changed = step(recorder, stored, basis)
            change = recorder.finish(
                stored.decision,
                approval=changed.approval if changed else None,
                expected_approval_version=changed.expected_version if changed else 0,
                expected_revision=basis.revision,
            )
            approval = changed.approval if changed else None
            outcome = ActionOutcome(recorder.action, stored.decision, recorder.receipts, approval)
            return Plan(change, encode(outcome))

        return commit_plan(self._ledger, self.bases, tenant_id, scope, attempt)

    def closed_approval(self, stored: StoredAction, state: ApprovalState) -> ApprovalChange | None:
        """The action's pending approval, ended along with the action; None if it has none."""
        action = stored.action
        if not action.approval_id:
            return None
        approval = self._ledger.find_approval([action.request.tenant_id], action.approval_id)
        if approval is None or approval.state is not ApprovalState.PENDING:
            return None
        return ApprovalChange(close_approval(approval, state), approval.version)
