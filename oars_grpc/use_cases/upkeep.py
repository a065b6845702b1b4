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
from oars_grpc.errors import Conflict, FailedPrecondition, ResourceExhausted, Unavailable
from oars_grpc.use_cases.action_change import ActionChanger, ApprovalChange
from oars_grpc.use_cases.keyring import Keyring
from oars_grpc.use_cases.recorder import Recorder

BATCH = 200
# A bound on one round, so that shutdown does not wait for a backlog.
BATCHES = 50
NOT_DUE = "NOT_DUE"


@dataclass(frozen=True, slots=True)
class ExpiryFailure:
    """An action that is due and could not be expired; the next round tries it again."""

    due: DueAction
    error: Exception


@dataclass(frozen=True, slots=True)
class ExpiryReport:
    """What one round of expiry did."""

    expired: int
    failures: tuple[ExpiryFailure, ...]


class Upkeep:
    """Rounds of background work."""

    def __init__(
        self, *, ledger: Ledger, store: UpkeepStore, keyring: Keyring, clock: Clock, chance: Chance
    ) -> None:
        self._store = store
        self._clock = clock
        self._changer = ActionChanger(ledger, keyring, clock, chance)

    def expire_due(self) -> ExpiryReport:
        """Expire all actions whose permit or wait is over.

        A fault of one action, such as a key of its tenant that does not decrypt, is reported and
        does not keep the others waiting.

        Raises:
            Unavailable, ResourceExhausted: the database; nothing else would succeed now either.
        """
        now = self._clock.now()
        expired = 0
        failures: list[ExpiryFailure] = []
        after: DueAction | None = None
        for _ in range(BATCHES):
            found = self._store.due_actions(now, after, BATCH)
            for due in found:
                try:
                    expired += self._expire(due)
                except (Unavailable, ResourceExhausted):
                    raise
                except Exception as error:  # noqa: BLE001 - reported, see above
                    failures.append(ExpiryFailure(due, error))
            if len(found) < BATCH:
                break
            after = found[-1]
        return ExpiryReport(expired, tuple(failures))

    def analyze_new_tables(self) -> int:
        """Let the store learn what its young tables hold, so that reading stays cheap; how many."""
        return self._store.analyze_new_tables()

    def purge_outcomes(self) -> int:
        """Forget idempotency outcomes past their time; how many."""
        now = self._clock.now()
        purged = 0
        for _ in range(BATCHES):
            count = self._store.purge_outcomes(now, BATCH)
            purged += count
            if count < BATCH:
                break
        return purged

    def _expire(self, due: DueAction) -> bool:
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
