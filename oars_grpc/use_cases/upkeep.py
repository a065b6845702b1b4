"""What runs by itself: permits and waits that end, outcomes that are forgotten."""

from oars_grpc.core.action import ActionState
from oars_grpc.core.approval import ApprovalState
from oars_grpc.core.ports import Chance, Clock, Ledger, UpkeepStore
from oars_grpc.core.receipt import SYSTEM, format_time
from oars_grpc.core.stored import Basis, DueAction, StoredAction
from oars_grpc.errors import FailedPrecondition
from oars_grpc.use_cases.action_change import ActionChanger, ApprovalChange
from oars_grpc.use_cases.keyring import Keyring
from oars_grpc.use_cases.recorder import Recorder
from oars_grpc.use_cases.rounds import NOT_DUE, RoundReport, purge_all, run_round


class Upkeep:
    """Rounds of background work."""

    def __init__(
        self, *, ledger: Ledger, store: UpkeepStore, keyring: Keyring, clock: Clock, chance: Chance
    ) -> None:
        self._store = store
        self._clock = clock
        self._changer = ActionChanger(ledger, keyring, clock, chance)

    def expire_due(self) -> RoundReport[DueAction]:
        """Expire all actions whose permit or wait is over."""
        now = self._clock.now()
        return run_round(
            lambda after, limit: self._store.due_actions(now, after, limit), self._expire
        )

    def analyze_new_tables(self) -> int:
        """Let the store learn what its young tables hold, so that reading stays cheap; how many."""
        return self._store.analyze_new_tables()

    def purge_outcomes(self) -> int:
        """Forget idempotency outcomes past their time; how many."""
        now = self._clock.now()
        return purge_all(lambda limit: self._store.purge_outcomes(now, limit))

    def _expire(self, due: DueAction) -> None:
        def step(recorder: Recorder, stored: StoredAction, _basis: Basis) -> ApprovalChange | None:
            ends = stored.action.expires_at
            if ends is None or ends > recorder.now:
                raise FailedPrecondition("no longer due", reason=NOT_DUE)
            detail = {
                "policy": stored.decision.policy.to_json(),
                "expiry": {"expiresAt": format_time(ends), "by": SYSTEM},
            }
            recorder.move(ActionState.EXPIRED, detail)
            return self._changer.closed_approval(stored, ApprovalState.EXPIRED)

        self._changer.run_in_tenant(due.tenant_id, due.action_id, None, step, lambda _outcome: b"")
