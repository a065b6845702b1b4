"""Escalates what approvers have left lying: a loop that several replicas share."""

from oars_grpc.core.approval import Approval, escalate_approval
from oars_grpc.core.decision import first_within
from oars_grpc.core.ports import Chance, Clock, Ledger, UpkeepStore
from oars_grpc.core.receipt import APPROVAL_ESCALATED, SYSTEM, format_time
from oars_grpc.core.stored import Basis, DueEscalation, StoredAction
from oars_grpc.use_cases.action_change import ActionChanger, ApprovalChange
from oars_grpc.use_cases.keyring import Keyring
from oars_grpc.use_cases.recorder import Recorder
from oars_grpc.use_cases.rounds import RoundReport, run_round


class Escalations:
    """Rounds of escalation."""

    def __init__(
        self, *, ledger: Ledger, store: UpkeepStore, keyring: Keyring, clock: Clock, chance: Chance
    ) -> None:
        self._ledger = ledger
        self._store = store
        self._clock = clock
        self._changer = ActionChanger(ledger, keyring, clock, chance)

    def escalate_due(self) -> RoundReport[DueEscalation]:
        """Escalate all stages that are past their time."""
        now = self._clock.now()
        return run_round(
            lambda after, limit: self._store.due_escalations(now, after, limit), self._escalate
        )

    def _escalate(self, due: DueEscalation) -> None:
        def step(recorder: Recorder, stored: StoredAction, _basis: Basis) -> ApprovalChange:
            approval = self._ledger.find_approval([due.tenant_id], due.approval_id)
            if approval is None:
                raise RuntimeError(f"approval {due.approval_id} is missing")
            escalated = escalate_approval(approval, recorder.now)
            recorder.note(
                APPROVAL_ESCALATED,
                {
                    "policy": stored.decision.policy.to_json(),
                    "approval": _escalation_json(approval),
                    "escalation": {"at": format_time(recorder.now), "by": SYSTEM},
                },
            )
            return ApprovalChange(escalated, approval.version)

        self._changer.run_in_tenant(due.tenant_id, due.action_id, None, step, lambda _outcome: b"")


# All the targets that there can be, in plain letters; the receipt must fit the log.
_TARGETS_BYTES = 20_480


def _escalation_json(approval: Approval) -> dict[str, object]:
    under_way = approval.stages[approval.current_stage]
    ended = approval.escalates_at
    targets = [target.to_json() for target in under_way.stage.escalate_to]
    told = first_within(targets, _TARGETS_BYTES)
    return {
        "approvalId": approval.approval_id,
        "actionDigest": approval.action_digest,
        "stage": approval.current_stage,
        "stageName": under_way.stage.name,
        "overdueSince": "" if ended is None else format_time(ended),
        "escalatedTo": told,
        "omittedTargets": len(targets) - len(told),
    }
