"""Changes an action that exists: load, let a step record what happens, commit, or try again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import orjson

from oars_grpc.core.action import Action
from oars_grpc.core.action_evidence import EvidenceDetail
from oars_grpc.core.approval import Approval, ApprovalState, close_approval
from oars_grpc.core.call import Answer, Call, Encode, IdempotencyScope
from oars_grpc.core.canonical import sha256_hex
from oars_grpc.core.decision import Decision
from oars_grpc.core.identity import Principal, Role
from oars_grpc.core.ports import Chance, Clock, Ledger
from oars_grpc.core.receipt import Receipt
from oars_grpc.core.stored import Basis, StoredAction
from oars_grpc.errors import NotFound, ResourceExhausted
from oars_grpc.use_cases.bases import Bases
from oars_grpc.use_cases.keyring import Keyring
from oars_grpc.use_cases.recorder import Plan, Recorder, commit_plan

# Roles that see only what they submitted themselves.
OWN_ACTIONS_ONLY = frozenset({Role.AGENT, Role.GATEWAY})
# Each join changes the action, and people decide it by compare-and-set: whoever keeps submitting
# must leave them time for it, and not fill the log.
_RECEIPTS_AT_ONCE, _BETWEEN_JOINS = 40, timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class ActionOutcome:
    """What a call made of an action: the answer to the caller before it is encoded."""

    action: Action
    decision: Decision
    receipts: tuple[Receipt, ...]
    approval: Approval | None = None
    joined: bool = False


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


def check_not_too_often(action: Action, now: datetime) -> None:
    """Refuse to join an action once more that was just joined, after the first few times.

    Raises:
        ResourceExhausted: it was changed less than a second ago.
    """
    quiet = now - action.updated_at
    if action.last_sequence >= _RECEIPTS_AT_ONCE and quiet < _BETWEEN_JOINS:
        raise ResourceExhausted(
            f"action {action.action_id} waits already; it is submitted too often",
            retry_after_ms=_BETWEEN_JOINS // timedelta(milliseconds=1),
            reason="SUBMITTED_TOO_OFTEN",
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
        *,
        fresh: bool = False,
    ) -> Answer:
        """Change an action on behalf of a caller who may see it."""
        found = self._ledger.find_action(tenant_ids, action_id)
        stored = check_visible(call.principal, found, action_id)
        tenant_id = stored.action.request.tenant_id
        scope = call.scope(tenant_id)
        return self.run_in_tenant(
            tenant_id, action_id, scope, step, encode, found=stored, fresh=fresh
        )

    def run_in_tenant(
        self,
        tenant_id: str,
        action_id: str,
        scope: IdempotencyScope | None,
        step: Step,
        encode: Encode[ActionOutcome],
        found: StoredAction | None = None,
        *,
        fresh: bool = False,
    ) -> Answer:
        """Change an action of a known tenant; `found` is the action if it was just read.

        With `fresh` the step is given a basis that was just read, with its policy's document.
        """
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

        return commit_plan(self._ledger, self.bases, tenant_id, scope, attempt, fresh=fresh)

    def with_input(self, action: Action) -> Action | None:
        """A stored action with its input and the detail of its evidence; None if erased.

        Raises:
            RuntimeError: the stored input is not the one that was asked about.
        """
        found = self._ledger.find_body(action.request.tenant_id, action.action_id)
        if found is None:
            return None
        if sha256_hex(found.input) != action.input_digest:
            raise RuntimeError(f"the stored input of {action.action_id} does not have its digest")
        request = replace(action.request, input=orjson.loads(found.input))
        if request.evidence is not None:
            detail = EvidenceDetail.from_bytes(found.evidence)
            request = replace(request, evidence=replace(request.evidence, detail=detail))
        return replace(action, request=request)

    def approval_of(self, stored: StoredAction) -> Approval | None:
        """The approval that the action waits for or was approved by."""
        action = stored.action
        if not action.approval_id:
            return None
        return self._ledger.find_approval([action.request.tenant_id], action.approval_id)

    def closed_approval(self, stored: StoredAction, state: ApprovalState) -> ApprovalChange | None:
        """The approval that is pending or unused, ended along with its action; None without one."""
        approval = self.approval_of(stored)
        if approval is None or approval.state not in {
            ApprovalState.PENDING,
            ApprovalState.APPROVED,
        }:
            return None
        return ApprovalChange(close_approval(approval, state), approval.version)
