"""Escalates what approvers have left lying: a loop that several replicas share.

Each escalation is a compare-and-set on the approval, so that one replica wins, and the others find
nothing left to do.
"""

from dataclasses import dataclass

from oars_grpc.core.approval import Approval, escalate_approval
from oars_grpc.core.ports import Chance, Clock, Ledger, UpkeepStore
from oars_grpc.core.receipt import APPROVAL_ESCALATED, SYSTEM, format_time
from oars_grpc.core.stored import Basis, DueEscalation, StoredAction
from oars_grpc.errors import Conflict, FailedPrecondition, ResourceExhausted, Unavailable
from oars_grpc.use_cases.action_change import ActionChanger, ApprovalChange
from oars_grpc.use_cases.keyring import Keyring
from oars_grpc.use_cases.recorder import Recorder
from oars_grpc.use_cases.upkeep import BATCH, BATCHES, NOT_DUE


@dataclass(frozen=True, slots=True)
class EscalationFailure:
    """An approval that is overdue and could not be escalated; the next round tries it again."""

    due: DueEscalation
    error: Exception


@dataclass(frozen=True, slots=True)
class EscalationReport:
    """What one round of escalation did."""

    escalated: int
    failures: tuple[EscalationFailure, ...]


class Escalations:
    """Rounds of escalation."""

    def __init__(
        self, *, ledger: Ledger, store: UpkeepStore, keyring: Keyring, clock: Clock, chance: Chance
    ) -> None:
        self._ledger = ledger
        self._store = store
        self._clock = clock
        self._changer = ActionChanger(ledger, keyring, clock, chance)

    def escalate_due(self) -> EscalationReport:
        """Escalate all stages that are past their time; as `Upkeep.expire_due` treats faults."""
        now = self._clock.now()
        done = 0
        failures: list[EscalationFailure] = []
        after: DueEscalation | None = None
        for _ in range(BATCHES):
            found = self._store.due_escalations(now, after, BATCH)
            for due in found:
                try:
                    done += self._escalate(due)
                except (Unavailable, ResourceExhausted):
                    raise
                except Exception as error:  # noqa: BLE001 - reported; the others must not wait
                    failures.append(EscalationFailure(due, error))
            if len(found) < BATCH:
                break
            after = found[-1]
        return EscalationReport(done, tuple(failures))

    def _escalate(self, due: DueEscalation) -> bool:
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

        try:
            self._changer.run_in_tenant(
                due.tenant_id, due.action_id, None, step, lambda _outcome: b""
            )
        except Conflict:
            return False  # others are changing it; the next round looks again
        except FailedPrecondition as error:
            if error.reason == NOT_DUE:
                return False  # somebody else moved it first
            raise
        return True


def _escalation_json(approval: Approval) -> dict[str, object]:
    under_way = approval.stages[approval.current_stage]
    ended = approval.escalates_at
    return {
        "approvalId": approval.approval_id,
        "actionDigest": approval.action_digest,
        "stage": approval.current_stage,
        "stageName": under_way.stage.name,
        "overdueSince": "" if ended is None else format_time(ended),
        "escalatedTo": [target.to_json() for target in under_way.stage.escalate_to],
    }
