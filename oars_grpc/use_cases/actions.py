"""Submits actions, follows them, and records what came of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from oars_grpc.core import ids
from oars_grpc.core.action import Action, ActionRequest, ActionState, Execution
from oars_grpc.core.approval import Approval, ApprovalState
from oars_grpc.core.call import Answer, Call, Encode
from oars_grpc.core.canonical import canonical_json, sha256_hex
from oars_grpc.core.decision import Decision, decide, decision_for_receipt
from oars_grpc.core.page_token import PageTokens, page_limit, take_page
from oars_grpc.core.policy import Effect
from oars_grpc.core.policy_document import CompiledPolicy
from oars_grpc.core.ports import Chance, Clock, Ledger
from oars_grpc.core.receipt import caller_json, format_time
from oars_grpc.core.stored import ActionFilter, Basis, StoredAction
from oars_grpc.errors import FailedPrecondition, PermissionDenied
from oars_grpc.use_cases.action_change import (
    OWN_ACTIONS_ONLY,
    ActionChanger,
    ActionOutcome,
    ApprovalChange,
    approval_json,
    check_visible,
    new_approval,
)
from oars_grpc.use_cases.keyring import Keyring, PolicyShelf
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
        clock: Clock,
        chance: Chance,
    ) -> None:
        self._ledger = ledger
        self._keyring = keyring
        self._policies = policies
        self._tokens = tokens
        self._clock = clock
        self._chance = chance
        self._changer = ActionChanger(ledger, keyring, clock, chance)

    def submit(self, call: Call, request: ActionRequest, encode: Encode[ActionOutcome]) -> Answer:
        """Decide an action and record it; answers only after the commit."""
        call.principal.check_tenant(request.tenant_id)
        call.principal.check_acts_as(request.agent_id, request.user_id)
        if request.execution is Execution.CONNECTOR:
            raise FailedPrecondition(
                f"no connector is configured for tool {request.resource.tool_id}",
                reason="CONNECTOR_NOT_CONFIGURED",
            )
        scope = call.scope(request.tenant_id)

        input_bytes = request.input_bytes()

        def attempt(basis: Basis) -> Plan | None:
            policy = self._compiled(basis)
            if policy is None:
                return None
            recorder = self._begin(call, request, input_bytes, basis)
            decision = decide(
                request,
                basis.policy.reference(),
                policy,
                basis.tenant.settings.risk,
                recorder.now,
                input_bytes=input_bytes,
            )
            approval = self._record_decision(recorder, decision, basis)
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

    def complete(
        self,
        call: Call,
        tenant_id: str,
        action_id: str,
        output: Mapping[str, Any] | None,
        error: str | None,
        encode: Encode[ActionOutcome],
    ) -> Answer:
        """Record the outcome that the action's own caller reports; `error` None means success."""
        output_digest = "" if output is None else sha256_hex(canonical_json(output))
        outcome = {
            "status": "succeeded" if error is None else "failed",
            "outputDigest": output_digest,
            "errorDigest": "" if error is None else sha256_hex(error.encode()),
        }
        state = ActionState.EXECUTED if error is None else ActionState.FAILED

        def step(recorder: Recorder, stored: StoredAction, _basis: Basis) -> None:
            if stored.action.request.caller.subject != call.principal.subject:
                raise PermissionDenied(
                    "only the caller that submitted an action reports its outcome",
                    reason="NOT_THE_CALLER",
                )
            # Upkeep will expire it within seconds; the answer must not hang on who comes first.
            ends = stored.action.expires_at
            if stored.action.state is ActionState.APPROVED and ends and recorder.now >= ends:
                raise FailedPrecondition(
                    f"the permit ended at {ends.isoformat()}", reason="PERMIT_EXPIRED"
                )
            detail = {
                "policy": stored.decision.policy.to_json(),
                "outcome": outcome,
                "reportedBy": caller_json(call.principal),
            }
            recorder.move(state, detail, output_digest=output_digest, error=error or "")

        return self._changer.run(call, call.tenants(tenant_id), action_id, step, encode)

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
        """Take an action out of quarantine; people then decide it."""

        def step(recorder: Recorder, stored: StoredAction, basis: Basis) -> ApprovalChange:
            approval = new_approval(recorder, basis, self._chance)
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

        return self._changer.run(call, call.tenants(tenant_id), action_id, step, encode)

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
        key = self._keyring.open(basis.signing_key)
        recorder = Recorder(action, key=key, chance=self._chance, now=now)
        recorder.note("action.requested", {"requestId": call.request_id})
        return recorder

    def _record_decision(
        self, recorder: Recorder, decision: Decision, basis: Basis
    ) -> Approval | None:
        """Take the state that the effect asks for."""
        settings = basis.tenant.settings
        permit_ends = recorder.now + timedelta(seconds=settings.permit_seconds)
        wait_ends = recorder.now + timedelta(seconds=settings.approval_seconds)
        detail: dict[str, Any] = {
            "policy": decision.policy.to_json(),
            "decision": decision_for_receipt(decision),
        }
        match decision.effect:
            case Effect.ALLOW:
                detail["permit"] = {"expiresAt": format_time(permit_ends)}
                recorder.move(ActionState.APPROVED, detail, expires_at=permit_ends)
            case Effect.APPROVE:
                approval = new_approval(recorder, basis, self._chance)
                detail["approval"] = approval_json(approval)
                recorder.move(
                    ActionState.APPROVAL_REQUIRED,
                    detail,
                    expires_at=approval.expires_at,
                    approval_id=approval.approval_id,
                )
                return approval
            case Effect.QUARANTINE:
                detail["quarantine"] = {"expiresAt": format_time(wait_ends)}
                recorder.move(ActionState.QUARANTINED, detail, expires_at=wait_ends)
            case Effect.DENY:
                recorder.move(ActionState.DENIED, detail)
        return None
