"""Human decisions about actions that wait for them."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from oars_grpc.core.action import ActionState
from oars_grpc.core.approval import (
    Approval,
    ApprovalDecision,
    ApprovalState,
    Verdict,
    asking_side,
    decide_approval,
)
from oars_grpc.core.approver import check_approver, check_pending, check_turn
from oars_grpc.core.call import Answer, Call, Encode, replay
from oars_grpc.core.decision import first_within
from oars_grpc.core.display import approval_display, display_digest
from oars_grpc.core.grant import grant_payload, signed_grant_json
from oars_grpc.core.identity import Principal
from oars_grpc.core.ports import Chance, Clock, Ledger
from oars_grpc.core.receipt import APPROVAL_DECIDED, caller_json, format_time
from oars_grpc.core.step_up import StepUp
from oars_grpc.core.stored import Basis, StoredAction
from oars_grpc.core.workflow import APPROVING_ROLES
from oars_grpc.errors import FailedPrecondition, InvalidArgument, NotFound, PermissionDenied
from oars_grpc.use_cases.action_change import ActionChanger, ActionOutcome, ApprovalChange
from oars_grpc.use_cases.approver_keys import ApproverKeys
from oars_grpc.use_cases.keyring import Keyring
from oars_grpc.use_cases.recorder import Recorder
from oars_grpc.use_cases.second_factors import SecondFactors


@dataclass(frozen=True, slots=True)
class Answered:
    """What an approver sends: the verdict, what it was shown, and what it proves besides.

    `one_time_code` and `signed_grant` (a DSSE envelope as JSON) are empty where none is given.
    """

    verdict: Verdict
    reason: str
    action_digest: str
    display_digest: str
    one_time_code: str = ""
    signed_grant: bytes = b""


@dataclass(frozen=True, slots=True)
class ShownApproval:
    """An approval, what its approvers are shown, and what the caller would sign to approve it.

    `display` is None where the input was erased, and for those who may not decide.
    """

    approval: Approval
    display: bytes | None
    grant_payload: bytes


class Approvals:
    """The approval service."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        keyring: Keyring,
        second_factors: SecondFactors,
        approver_keys: ApproverKeys,
        clock: Clock,
        chance: Chance,
    ) -> None:
        self._ledger = ledger
        self._second_factors = second_factors
        self._approver_keys = approver_keys
        self._clock = clock
        self._changer = ActionChanger(ledger, keyring, clock, chance)

    def get(self, call: Call, tenant_id: str, approval_id: str) -> Approval:
        """One approval of the caller's tenants."""
        approval = self._ledger.find_approval(call.tenants(tenant_id), approval_id)
        if approval is None:
            raise NotFound(f"approval {approval_id} is not found", reason="APPROVAL_NOT_FOUND")
        return approval

    def show(self, call: Call, tenant_id: str, approval_id: str) -> ShownApproval:
        """One approval with all that an approver needs to see."""
        approval = self.get(call, tenant_id, approval_id)
        display = self._display(self._action_of(approval))
        digest = approval.display_digest or (display_digest(display) if display else "")
        payload = _grant_payload(approval, call.principal, Verdict.APPROVE, digest)
        # It holds the input, which is for those who answer, and for nobody who only looks on.
        answers = call.principal.role in APPROVING_ROLES
        return ShownApproval(approval, display if answers else None, payload)

    def decide(
        self,
        call: Call,
        tenant_id: str,
        approval_id: str,
        answered: Answered,
        encode: Encode[ActionOutcome],
    ) -> Answer:
        """Record one principal's decision; the last one needed moves the action."""
        found = self.get(call, tenant_id, approval_id)
        scope = call.scope(found.tenant_id)
        if scope is not None:
            # A code counts once: whoever repeats a call must not be asked for another.
            outcome = self._changer.bases.read(found.tenant_id, scope).outcome
            if outcome is not None:
                return replay(outcome, scope)
        # What can be refused without the code costs none.
        digest = self._check(call.principal, found, self._action_of(found), answered)
        self._signed_grant(call.principal, found, answered, digest)
        try:
            step_up = self._step_up(call.principal, found, answered)
        except PermissionDenied:
            # The call that this one repeats may have used the code meanwhile, and committed.
            if scope is None:
                raise
            outcome = self._changer.bases.read(found.tenant_id, scope).outcome
            if outcome is None:
                raise
            return replay(outcome, scope)

        def step(recorder: Recorder, stored: StoredAction, basis: Basis) -> ApprovalChange:
            # Read again inside the attempt: what the decision is compared with must be current.
            approval = self.get(call, found.tenant_id, approval_id)
            digest = self._check(call.principal, approval, stored, answered)
            grant = self._signed_grant(call.principal, approval, answered, digest)
            decision = ApprovalDecision(
                approver=call.principal.subject,
                verdict=answered.verdict,
                reason=answered.reason,
                decided_at=recorder.now,
                stage=approval.current_stage,
                service_account_id=call.principal.service_account_id,
                carried_by=call.principal.carried_by,
                time_step=0 if step_up is None else step_up.time_step,
                key_id="" if grant is None else grant["keyId"],
                aliases=tuple(sorted(call.principal.aliases)),
            )
            decided = decide_approval(approval, decision)
            detail = {
                "policy": stored.decision.policy.to_json(),
                "approval": _decision_json(approval, decision, call.principal, digest)
                | ({} if step_up is None else {"stepUp": step_up.to_json()})
                | ({} if grant is None else {"grant": grant}),
            }
            recorder.note(APPROVAL_DECIDED, detail)
            _move(recorder, stored, decided, basis)
            return ApprovalChange(decided, approval.version)

        return self._changer.run_in_tenant(found.tenant_id, found.action_id, scope, step, encode)

    def _check(
        self, approver: Principal, approval: Approval, stored: StoredAction, answered: Answered
    ) -> str:
        """Refuse a decision that must not count; the digest of what is to be shown otherwise."""
        check_pending(approval, approver, self._clock.now())
        check_approver(approval, approver, asking_side(stored.action))
        check_turn(approval, approver)
        if answered.action_digest != approval.action_digest:
            raise FailedPrecondition(
                "the decision is about another action than this approval is bound to",
                reason="ACTION_DIGEST_MISMATCH",
            )
        digest = approval.display_digest
        if not digest:  # of before approvals were bound to what is shown
            display = self._display(stored)
            digest = display_digest(display) if display else ""
        if answered.display_digest != digest:
            raise FailedPrecondition(
                "the approver was shown something else than this approval is bound to",
                reason="DISPLAY_DIGEST_MISMATCH",
            )
        approves = answered.verdict is Verdict.APPROVE
        if approves and approval.signed_grants and not answered.signed_grant:
            raise InvalidArgument.of("signed_grant", "is required by the workflow")
        return digest

    def _step_up(
        self, approver: Principal, approval: Approval, answered: Answered
    ) -> StepUp | None:
        """Use up the code that was given along; None where none is needed nor given."""
        if not answered.one_time_code:
            if answered.verdict is Verdict.APPROVE and approval.step_up:
                raise InvalidArgument.of("one_time_code", "is required to approve this action")
            return None
        return self._second_factors.burn(
            approval.tenant_id, approver.subject, answered.one_time_code
        )

    def _signed_grant(
        self, approver: Principal, approval: Approval, answered: Answered, digest: str
    ) -> dict[str, Any] | None:
        """The grant that was signed, as the receipt keeps it."""
        if not answered.signed_grant:
            return None
        expected = _grant_payload(approval, approver, answered.verdict, digest)
        return signed_grant_json(
            self._approver_keys.check(
                approval.tenant_id, approver.subject, answered.signed_grant, expected
            )
        )

    def _action_of(self, approval: Approval) -> StoredAction:
        stored = self._ledger.find_action([approval.tenant_id], approval.action_id)
        if stored is None:
            raise RuntimeError(f"the action of approval {approval.approval_id} is missing")
        return stored

    def _display(self, stored: StoredAction) -> bytes | None:
        action = self._changer.with_input(stored.action)
        return None if action is None else approval_display(action, stored.decision)


def _grant_payload(approval: Approval, approver: Principal, verdict: Verdict, digest: str) -> bytes:
    return grant_payload(
        tenant_id=approval.tenant_id,
        approval_id=approval.approval_id,
        action_id=approval.action_id,
        action_digest=approval.action_digest,
        policy_digest=approval.policy_digest,
        display_digest=digest,
        approver=approver.subject,
        verdict=verdict.value,
        stage=approval.current_stage,
    )


def _decision_json(
    approval: Approval, decision: ApprovalDecision, approver: Principal, digest: str
) -> dict[str, Any]:
    """What the receipt of a decision says about it."""
    return {
        "approvalId": approval.approval_id,
        "actionDigest": approval.action_digest,
        "policyDigest": approval.policy_digest,
        "displayDigest": digest,
        "stage": decision.stage,
        "approver": caller_json(approver),
        "carriedBy": decision.carried_by,
        "verdict": decision.verdict.value,
        "reason": decision.reason,
        "decidedAt": format_time(decision.decided_at),
    }


# Each decision has a receipt of its own before; this one lists what fits the log.
_DECISIONS_BYTES = 20_480


def _move(recorder: Recorder, stored: StoredAction, approval: Approval, basis: Basis) -> None:
    """Take the action where the approval, if it is decided now, sends it."""
    decisions = [
        {
            "approver": decision.approver,
            "verdict": decision.verdict.value,
            "stage": decision.stage,
            "decidedAt": format_time(decision.decided_at),
        }
        for decision in approval.decisions
    ]
    listed = first_within(decisions, _DECISIONS_BYTES)
    detail = {
        "policy": stored.decision.policy.to_json(),
        "approval": {
            "approvalId": approval.approval_id,
            "actionDigest": approval.action_digest,
            "decisions": listed,
            "omittedDecisions": len(decisions) - len(listed),
        },
    }
    if approval.state is ApprovalState.APPROVED:
        ends = recorder.now + timedelta(seconds=basis.tenant.settings.permit_seconds)
        permit = {"permit": {"expiresAt": format_time(ends)}}
        recorder.move(ActionState.APPROVED, detail | permit, expires_at=ends)
    elif approval.state is ApprovalState.REJECTED:
        recorder.move(ActionState.DENIED, detail)
