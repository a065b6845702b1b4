"""Starts approved actions, and records what came of them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from oars_grpc.core.action import ActionState, check_transition
from oars_grpc.core.approval import Approval, ApprovalState, consume_grant, release_grant
from oars_grpc.core.call import Answer, Call, Encode
from oars_grpc.core.canonical import canonical_json, sha256_hex
from oars_grpc.core.decision import Decision, decision_for_receipt
from oars_grpc.core.policy import Effect
from oars_grpc.core.ports import Chance, Clock, Ledger
from oars_grpc.core.receipt import caller_json
from oars_grpc.core.stored import Basis, StoredAction
from oars_grpc.errors import FailedPrecondition, PermissionDenied
from oars_grpc.use_cases.action_change import ActionChanger, ActionOutcome, ApprovalChange
from oars_grpc.use_cases.grants import decide_now, is_covered, plan_of
from oars_grpc.use_cases.keyring import Keyring, PolicyShelf
from oars_grpc.use_cases.recorder import Recorder


class Executions:
    """The part of the action service that is about carrying actions out."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        keyring: Keyring,
        policies: PolicyShelf,
        clock: Clock,
        chance: Chance,
    ) -> None:
        self._policies = policies
        self._changer = ActionChanger(ledger, keyring, clock, chance)

    def start(
        self, call: Call, tenant_id: str, action_id: str, encode: Encode[ActionOutcome]
    ) -> Answer:
        """Begin the execution of an approved action, if policy still agrees, and use its grant up.

        The policy that is published now decides, and the commit refuses if it is not any more: the
        decision, the use of the grant and the start are one transaction.
        """
        decisions: list[Decision] = []

        def step(recorder: Recorder, stored: StoredAction, basis: Basis) -> ApprovalChange | None:
            _check_caller(call, stored)
            # Who may act for whom can have changed while people made up their minds.
            call.principal.check_acts_as(
                stored.action.request.agent_id, stored.action.request.user_id
            )
            check_transition(stored.action.state, ActionState.EXECUTING)
            _check_permit(recorder, stored)
            approval = self._changer.approval_of(stored)
            used = None if approval is None else consume_grant(approval)
            decision, covered = self._decide_again(call, recorder, stored, basis, approval)
            decisions.append(decision)
            detail: dict[str, Any] = {
                "policy": decision.policy.to_json(),
                "startedBy": caller_json(call.principal),
            }
            if approval is not None:
                detail["approval"] = {
                    "approvalId": approval.approval_id,
                    "actionDigest": approval.action_digest,
                    "policyDigest": approval.policy_digest,
                    "displayDigest": approval.display_digest,
                }
            if not covered:
                # Stricter than what was decided or approved: the grant ends unused.
                detail["decision"] = decision_for_receipt(decision)
                recorder.move(ActionState.DENIED, detail)
                return self._changer.closed_approval(stored, ApprovalState.CANCELED)
            detail["reevaluation"] = {
                "effect": decision.effect.value,
                "decidingRules": list(decision.evaluation.deciding)[:_MAXIMUM_RULES],
                "decisionDigest": decision_for_receipt(decision)["decisionDigest"],
            }
            # A start without effect leaves the permit as it was.
            recorder.move(ActionState.EXECUTING, detail, expires_at=stored.action.expires_at)
            if approval is None or used is None:
                return None
            return ApprovalChange(used, approval.version)

        def write(outcome: ActionOutcome) -> bytes:
            return encode(replace(outcome, decision=decisions[-1]))

        tenants = call.tenants(tenant_id)
        return self._changer.run(call, tenants, action_id, step, write, fresh=True)

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
            _check_caller(call, stored)
            _check_permit(recorder, stored)
            if stored.action.state is ActionState.APPROVED and stored.action.approval_id:
                raise FailedPrecondition(
                    "people approved this action: StartAction uses their grant before it is carried"
                    " out",
                    reason="EXECUTION_NOT_STARTED",
                )
            detail = {
                "policy": stored.decision.policy.to_json(),
                "outcome": outcome,
                "reportedBy": caller_json(call.principal),
            }
            recorder.move(state, detail, output_digest=output_digest, error=error or "")

        return self._changer.run(call, call.tenants(tenant_id), action_id, step, encode)

    def withdraw_start(
        self,
        call: Call,
        tenant_id: str,
        action_id: str,
        error: str,
        encode: Encode[ActionOutcome],
    ) -> Answer:
        """Record that a start failed before any effect: the permit stands, the grant is back."""

        def step(recorder: Recorder, stored: StoredAction, _basis: Basis) -> ApprovalChange | None:
            _check_caller(call, stored)
            check_transition(stored.action.state, ActionState.APPROVED)
            approval = self._changer.approval_of(stored)
            released = None if approval is None else release_grant(approval)
            detail: dict[str, Any] = {
                "policy": stored.decision.policy.to_json(),
                "outcome": {
                    "status": "not_started",
                    "outputDigest": "",
                    "errorDigest": sha256_hex(error.encode()),
                },
                "reportedBy": caller_json(call.principal),
            }
            if approval is not None:
                detail["approval"] = {
                    "approvalId": approval.approval_id,
                    "actionDigest": approval.action_digest,
                }
            recorder.move(ActionState.APPROVED, detail, expires_at=stored.action.expires_at)
            if approval is None or released is None:
                return None
            return ApprovalChange(released, approval.version)

        return self._changer.run(call, call.tenants(tenant_id), action_id, step, encode)

    def _decide_again(
        self,
        call: Call,
        recorder: Recorder,
        stored: StoredAction,
        basis: Basis,
        approval: Approval | None,
    ) -> tuple[Decision, bool]:
        """What policy says now, of the caller as it is now, and whether that is covered."""
        action = self._changer.with_input(stored.action)
        if action is None:
            raise FailedPrecondition("the input was erased", reason="INPUT_ERASED")
        request = replace(action.request, caller=call.principal)
        decision, document = decide_now(request, self._policies, basis, recorder.now)
        asks = decision.effect in {Effect.APPROVE, Effect.QUARANTINE}
        plan = plan_of(decision, document, basis) if asks and approval else None
        return decision, is_covered(stored.decision.effect, approval, decision, plan)


# A policy may have a thousand rules that decide; the digest stands for all of them.
_MAXIMUM_RULES = 50


def _check_caller(call: Call, stored: StoredAction) -> None:
    if stored.action.request.caller.subject != call.principal.subject:
        raise PermissionDenied(
            "only the caller that submitted an action carries it out and reports its outcome",
            reason="NOT_THE_CALLER",
        )


def _check_permit(recorder: Recorder, stored: StoredAction) -> None:
    # Upkeep will expire it within seconds; the answer must not hang on who comes first.
    ends = stored.action.expires_at
    if stored.action.state is ActionState.APPROVED and ends and recorder.now >= ends:
        raise FailedPrecondition(f"the permit ended at {ends.isoformat()}", reason="PERMIT_EXPIRED")
