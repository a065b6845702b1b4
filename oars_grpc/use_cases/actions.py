"""Submits actions, follows them, and records what came of them."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from oars_grpc.core import ids
from oars_grpc.core.action import (
    Action,
    ActionRequest,
    ActionState,
    Execution,
    check_transition,
)
from oars_grpc.core.action_evidence import ActionEvidence, listed_items
from oars_grpc.core.approval import ApprovalState
from oars_grpc.core.call import Answer, Call, Encode
from oars_grpc.core.canonical import sha256_hex
from oars_grpc.core.decision import decide
from oars_grpc.core.lattice.progress import Proceed, keep_going
from oars_grpc.core.page_token import PageTokens, page_limit, take_page
from oars_grpc.core.policy import Effect
from oars_grpc.core.policy_document import CompiledPolicy
from oars_grpc.core.ports import Chance, Clock, Ledger
from oars_grpc.core.receipt import APPROVAL_JOINED, caller_json
from oars_grpc.core.risk import RiskTier
from oars_grpc.core.stored import ActionFilter, Basis, StoredAction
from oars_grpc.errors import FailedPrecondition
from oars_grpc.use_cases.action_change import (
    OWN_ACTIONS_ONLY,
    ActionChanger,
    ActionOutcome,
    ApprovalChange,
    check_not_too_often,
    check_visible,
)
from oars_grpc.use_cases.grants import approval_json, decide_now, new_approval, plan_of
from oars_grpc.use_cases.grounding import Grounding
from oars_grpc.use_cases.keyring import Keyring, PolicyShelf
from oars_grpc.use_cases.policy_answer import record_decision
from oars_grpc.use_cases.recorder import Plan, Recorder, commit_plan


@dataclass(frozen=True, slots=True)
class ActionPage:
    """One page of a listing."""

    actions: tuple[StoredAction, ...]
    next_page_token: str


class Actions:
    """The action service."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        keyring: Keyring,
        policies: PolicyShelf,
        tokens: PageTokens,
        grounding: Grounding,
        clock: Clock,
        chance: Chance,
    ) -> None:
        self._ledger = ledger
        self._keyring = keyring
        self._policies = policies
        self._tokens = tokens
        self._grounding = grounding
        self._clock = clock
        self._chance = chance
        self._changer = ActionChanger(ledger, keyring, clock, chance)

    def submit(
        self,
        call: Call,
        request: ActionRequest,
        encode: Encode[ActionOutcome],
        evidence: ActionEvidence | None = None,
        proceed: Proceed = keep_going,
    ) -> Answer:
        """Decide an action and record it; answers only after the commit.

        Evidence is scored once, after the caller's rights are known and before anything is locked;
        `proceed` is called now and then meanwhile, and stops it by raising.
        """
        call.principal.check_tenant(request.tenant_id)
        call.principal.check_acts_as(request.agent_id, request.user_id)
        if request.execution is Execution.CONNECTOR:
            raise FailedPrecondition(
                f"no connector is configured for tool {request.resource.tool_id}",
                reason="CONNECTOR_NOT_CONFIGURED",
            )
        scope = call.scope(request.tenant_id)

        input_bytes = request.input_bytes()
        grounded = self._grounding.lazily(request, evidence, proceed)

        def attempt(basis: Basis) -> Plan | None:
            policy = self._compiled(basis)
            if policy is None:
                return None
            asked = grounded()
            recorder = self._begin(call, asked, input_bytes, basis)
            decision = decide(
                asked,
                basis.policy.reference(),
                policy,
                basis.tenant.settings.risk,
                recorder.now,
                input_bytes=input_bytes,
            )
            if decision.effect is Effect.APPROVE:
                joined = self._join(call, recorder, basis, encode)
                if joined is not None:
                    return joined
            approval = record_decision(recorder, decision, policy, basis, self._chance)
            change = recorder.finish(decision, approval=approval, expected_revision=basis.revision)
            outcome = ActionOutcome(recorder.action, decision, recorder.receipts, approval)
            return Plan(change, encode(outcome))

        return commit_plan(self._ledger, self._changer.bases, request.tenant_id, scope, attempt)

    def get(self, call: Call, tenant_id: str, action_id: str) -> StoredAction:
        """One action of the caller's tenants."""
        stored = self._ledger.find_action(call.tenants(tenant_id), action_id)
        return check_visible(call.principal, stored, action_id)

    def list(
        self,
        call: Call,
        tenant_id: str,
        which: ActionFilter,
        page_size: int,
        page_token: str,
        weigh: Callable[[StoredAction], int],
    ) -> ActionPage:
        """A page of the tenant's actions, newest first."""
        tenant = call.tenant(tenant_id)
        limit = page_limit(page_size)
        if call.principal.role in OWN_ACTIONS_ONLY:
            which = ActionFilter(which.state, which.agent_id, call.principal.subject)
        listing = f"actions {tenant} {which}"
        before = self._tokens.read(listing, page_token)
        found = self._ledger.list_actions(tenant, which, before, limit + 1)
        page, more = take_page(found, limit, weigh)
        token = self._tokens.issue(listing, page[-1].action.action_id) if more else ""
        return ActionPage(page, token)

    def cancel(
        self,
        call: Call,
        tenant_id: str,
        action_id: str,
        reason: str,
        encode: Encode[ActionOutcome],
    ) -> Answer:
        """Withdraw an action and the approval that it waits for."""

        def step(recorder: Recorder, stored: StoredAction, _basis: Basis) -> ApprovalChange | None:
            detail = {
                "policy": stored.decision.policy.to_json(),
                "canceledBy": caller_json(call.principal),
                "reason": reason,
            }
            recorder.move(ActionState.CANCELED, detail)
            return self._changer.closed_approval(stored, ApprovalState.CANCELED)

        return self._changer.run(call, call.tenants(tenant_id), action_id, step, encode)

    def release(
        self,
        call: Call,
        tenant_id: str,
        action_id: str,
        reason: str,
        encode: Encode[ActionOutcome],
    ) -> Answer:
        """Take an action out of quarantine; people then decide it, and not who released it.

        Who they are is for the policy that is published now to say.
        """

        def step(recorder: Recorder, stored: StoredAction, basis: Basis) -> ApprovalChange:
            check_transition(stored.action.state, ActionState.APPROVAL_REQUIRED)
            action = self._changer.with_input(stored.action)
            if action is None:
                raise FailedPrecondition("the input was erased", reason="INPUT_ERASED")
            decision, document = decide_now(action.request, self._policies, basis, recorder.now)
            if decision.effect is Effect.DENY:
                raise FailedPrecondition(
                    f"policy denies this action now: {decision.evaluation.explanation}",
                    reason="POLICY_DENIES",
                )
            plan = plan_of(decision, document, basis)
            shown = (action, stored.decision)
            approval = new_approval(
                recorder,
                basis,
                shown,
                plan,
                self._chance,
                released_by=tuple(sorted(call.principal.names())),
                critical=decision.risk.tier is RiskTier.CRITICAL,
            )
            detail = {
                "policy": stored.decision.policy.to_json(),
                "approval": approval_json(approval),
                "releasedBy": caller_json(call.principal),
                "reason": reason,
            }
            recorder.move(
                ActionState.APPROVAL_REQUIRED,
                detail,
                expires_at=approval.expires_at,
                approval_id=approval.approval_id,
            )
            return ApprovalChange(approval, 0)

        tenants = call.tenants(tenant_id)
        return self._changer.run(call, tenants, action_id, step, encode, fresh=True)

    def _join(
        self, call: Call, recorder: Recorder, basis: Basis, encode: Encode[ActionOutcome]
    ) -> Plan | None:
        """The plan of joining the same action where it waits already; None where none does.

        A storm of retries is one question to people, and one grant.
        """
        asked = recorder.action
        tenant_id = asked.request.tenant_id
        pending = self._ledger.find_pending(
            tenant_id, asked.action_digest, basis.policy.digest, recorder.now
        )
        if pending is None:
            return None
        stored = self._ledger.find_action([tenant_id], pending.action_id)
        if stored is None or stored.action.state is not ActionState.APPROVAL_REQUIRED:
            return None  # decided between the two looks
        check_not_too_often(stored.action, recorder.now)
        again = self._recorder(stored.action, basis, recorder.now)
        detail = {
            "policy": stored.decision.policy.to_json(),
            "approval": {"approvalId": pending.approval_id, "actionDigest": asked.action_digest},
            "joinedBy": caller_json(call.principal),
        }
        again.note(APPROVAL_JOINED, detail)
        change = again.finish(stored.decision, expected_revision=basis.revision)
        outcome = ActionOutcome(again.action, stored.decision, again.receipts, pending, joined=True)
        return Plan(change, encode(outcome))

    def _compiled(self, basis: Basis) -> CompiledPolicy | None:
        """The policy of a basis; None where that is a kept one and the policy was put away."""
        if basis.policy.document is None:
            return self._policies.found(basis.policy.digest)
        return self._policies.compiled(basis.policy)

    def _begin(
        self, call: Call, request: ActionRequest, input_bytes: bytes, basis: Basis
    ) -> Recorder:
        now = self._clock.now()
        input_digest = sha256_hex(input_bytes)
        action = Action(
            action_id=self._chance.new_id(ids.ACTION),
            request=request,
            state=ActionState.REQUESTED,
            input_digest=input_digest,
            action_digest=request.digest(input_digest),
            created_at=now,
            updated_at=now,
            version=0,
            last_sequence=0,
            last_receipt_digest="",
        )
        recorder = self._recorder(action, basis, now)
        detail: dict[str, Any] = {"requestId": call.request_id}
        if request.evidence is not None and request.evidence.detail is not None:
            detail |= listed_items(request.evidence.detail)
        recorder.note("action.requested", detail)
        return recorder

    def _recorder(self, action: Action, basis: Basis, now: datetime) -> Recorder:
        key = self._keyring.open(basis.signing_key)
        return Recorder(action, key=key, chance=self._chance, now=now)
