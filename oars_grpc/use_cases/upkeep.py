"""What runs by itself: permits and waits that end, outcomes that are forgotten.

Several replicas may run this at once: each expiry is a compare-and-set on the action, so one wins
and the others find nothing left to do.
"""

from dataclasses import dataclass

from oars_grpc.core.action import ActionState
from oars_grpc.core.approval import ApprovalState
from oars_grpc.core.ports import Chance, Clock, Ledger, UpkeepStore
from oars_grpc.core.receipt import SYSTEM, format_time
from oars_grpc.core.stored import Basis, DueAction, StoredAction
from oars_grpc.errors import Conflict, FailedPrecondition
from oars_grpc.use_cases.action_change import ActionChanger, ApprovalChange
from oars_grpc.use_cases.keyring import Keyring
from oars_grpc.use_cases.recorder import Recorder

BATCH = 200


@dataclass(frozen=True, slots=True)
class UpkeepReport:
    """What one round did."""

    expired_actions: int
    purged_outcomes: int


class Upkeep:
    """One round of background work at a time."""

    def __init__(
        self, *, ledger: Ledger, store: UpkeepStore, keyring: Keyring, clock: Clock, chance: Chance
    ) -> None:
        self._store = store
        self._clock = clock
        self._changer = ActionChanger(ledger, keyring, clock, chance)

    def run_once(self) -> UpkeepReport:
        """Expire what is due and forget outcomes past their time, at most one batch of each."""
        now = self._clock.now()
        due = self._store.due_actions(now, BATCH)
        expired = sum(self._expire(action) for action in due)
        return UpkeepReport(expired, self._store.purge_outcomes(now, BATCH))

    def _expire(self, due: DueAction) -> bool:
        def step(recorder: Recorder, stored: StoredAction, _basis: Basis) -> ApprovalChange | None:
            ends = stored.action.expires_at
            if ends is None or ends > recorder.now:
                raise FailedPrecondition("no longer due", reason="NOT_DUE")
            detail = {
                "policy": stored.decision.policy.to_json(),
                "expiry": {"expiresAt": format_time(ends), "by": SYSTEM},
            }
            recorder.move(ActionState.EXPIRED, detail)
            return self._changer.closed_approval(stored, ApprovalState.EXPIRED)

        try:
            self._changer.run_in_tenant(
                due.tenant_id, due.action_id, None, step, lambda _outcome: b""
            )
        except (FailedPrecondition, Conflict):
            return False  # somebody else moved the action first: not ours to expire any more
        return True
