"""Human decisions about actions that wait for them."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from oars_grpc.core.action import ActionState
from oars_grpc.core.approval import (
    Approval,
    ApprovalState,
    Verdict,
    check_approver,
    decide_approval,
)
from oars_grpc.core.call import Answer, Call, Encode
from oars_grpc.core.page_token import PageTokens, page_limit, take_page
from oars_grpc.core.ports import Chance, Clock, Ledger
from oars_grpc.core.receipt import APPROVAL_DECIDED, caller_json, format_time
from oars_grpc.core.stored import ApprovalFilter, Basis, StoredAction
from oars_grpc.errors import FailedPrecondition, NotFound
from oars_grpc.use_cases.action_change import ActionChanger, ActionOutcome, ApprovalChange
from oars_grpc.use_cases.keyring import Keyring
from oars_grpc.use_cases.recorder import Recorder


@dataclass(frozen=True, slots=True)
class ApprovalPage:
    """One page of a listing."""

    approvals: tuple[Approval, ...]
    next_page_token: str


class Approvals:
    """The approval service."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        keyring: Keyring,
        tokens: PageTokens,
        clock: Clock,
        chance: Chance,
    ) -> None:
        self._ledger = ledger
        self._tokens = tokens
        self._changer = ActionChanger(ledger, keyring, clock, chance)

    def get(self, call: Call, tenant_id: str, approval_id: str) -> Approval:
        """One approval of the caller's tenants."""
        approval = self._ledger.find_approval(call.tenants(tenant_id), approval_id)
        if approval is None:
            raise NotFound(f"approval {approval_id} is not found", reason="APPROVAL_NOT_FOUND")
        return approval

    def list(
        self,
        call: Call,
        tenant_id: str,
        which: ApprovalFilter,
        page_size: int,
        page_token: str,
        weigh: Callable[[Approval], int],
    ) -> ApprovalPage:
        """A page of the tenant's approvals, newest first."""
        tenant = call.tenant(tenant_id)
        limit = page_limit(page_size)
        listing = f"approvals {tenant} {which}"
        before = self._tokens.read(listing, page_token)
        found = self._ledger.list_approvals(tenant, which, before, limit + 1)
        page, more = take_page(found, limit, weigh)
        token = self._tokens.issue(listing, page[-1].approval_id) if more else ""
        return ApprovalPage(page, token)

    def decide(
        self,
        call: Call,
        tenant_id: str,
        approval_id: str,
        verdict: Verdict,
        reason: str,
        action_digest: str,
        encode: Encode[ActionOutcome],
    ) -> Answer:
        """Record one principal's decision; the last one needed moves the action."""
        found = self.get(call, tenant_id, approval_id)

        def step(recorder: Recorder, stored: StoredAction, basis: Basis) -> ApprovalChange:
            # Read again inside the attempt: what the decision is compared with must be current.
            approval = self.get(call, found.tenant_id, approval_id)
            check_approver(call.principal, stored.action)
            if action_digest != approval.action_digest:
                raise FailedPrecondition(
                    "the decision is about another action than this approval is bound to",
                    reason="ACTION_DIGEST_MISMATCH",
                )
            decided = decide_approval(approval, call.principal, verdict, reason, recorder.now)
            detail = {
                "policy": stored.decision.policy.to_json(),
                "approval": {
                    "approvalId": approval_id,
                    "actionDigest": approval.action_digest,
                    "approver": caller_json(call.principal),
                    "verdict": verdict.value,
                    "reason": reason,
                    "decidedAt": format_time(recorder.now),
                },
            }
            recorder.note(APPROVAL_DECIDED, detail)
            self._move(recorder, stored, decided, basis)
            return ApprovalChange(decided, approval.version)

        return self._changer.run_in_tenant(
            found.tenant_id, found.action_id, call.scope(found.tenant_id), step, encode
        )

    @staticmethod
    def _move(recorder: Recorder, stored: StoredAction, approval: Approval, basis: Basis) -> None:
        """Take the action where the approval, if it is decided now, sends it."""
        detail = {
            "policy": stored.decision.policy.to_json(),
            "approval": {
                "approvalId": approval.approval_id,
                "actionDigest": approval.action_digest,
                "decisions": [
                    {
                        "approver": decision.approver,
                        "verdict": decision.verdict.value,
                        "decidedAt": format_time(decision.decided_at),
                    }
                    for decision in approval.decisions
                ],
            },
        }
        if approval.state is ApprovalState.APPROVED:
            ends = recorder.now + timedelta(seconds=basis.tenant.settings.permit_seconds)
            permit = {"permit": {"expiresAt": format_time(ends)}}
            recorder.move(ActionState.APPROVED, detail | permit, expires_at=ends)
        elif approval.state is ApprovalState.REJECTED:
            recorder.move(ActionState.DENIED, detail)
