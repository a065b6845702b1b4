"""Rounds of what time alone does: all that is due, in batches, whatever the trouble of one.

Several replicas may run them at once: each piece of work is a compare-and-set, so that one wins and
the others find nothing left to do.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from oars_grpc.errors import Conflict, FailedPrecondition, ResourceExhausted, Unavailable

BATCH = 200
# A bound on one round, so that shutdown does not wait for a backlog.
BATCHES = 50
NOT_DUE = "NOT_DUE"

Due = TypeVar("Due")
# What was due at a moment, after the last one that was found; at most so many.
Find = Callable[[Due | None, int], Sequence[Due]]


@dataclass(frozen=True, slots=True)
class RoundFailure(Generic[Due]):
    """What is due and could not be done; the next round tries it again."""

    due: Due
    error: Exception


@dataclass(frozen=True, slots=True)
class RoundReport(Generic[Due]):
    """What one round did."""

    done: int
    failures: tuple[RoundFailure[Due], ...]


def run_round(find: Find[Due], work: Callable[[Due], object]) -> RoundReport[Due]:
    """Do all that is due.

    A fault of one, such as a key of its tenant that does not decrypt, is reported and does not keep
    the others waiting. What somebody else has moved first (`NOT_DUE`), or is changing now, is left
    alone.

    Raises:
        Unavailable, ResourceExhausted: the database; nothing else would succeed now either.
    """
    done = 0
    failures: list[RoundFailure[Due]] = []
    after: Due | None = None
    for _ in range(BATCHES):
        found = find(after, BATCH)
        for due in found:
            try:
                done += _is_done(work, due)
            except (Unavailable, ResourceExhausted):
                raise
            except Exception as error:  # noqa: BLE001 - reported, see above
                failures.append(RoundFailure(due, error))
        if len(found) < BATCH:
            break
        after = found[-1]
    return RoundReport(done, tuple(failures))


def _is_done(work: Callable[[Due], object], due: Due) -> bool:
    try:
        work(due)
    except Conflict:
        return False
    except FailedPrecondition as error:
        if error.reason == NOT_DUE:
            return False
        raise
    return True


def purge_all(purge: Callable[[int], int]) -> int:
    """Remove batch after batch of what is over; how many."""
    purged = 0
    for _ in range(BATCHES):
        count = purge(BATCH)
        purged += count
        if count < BATCH:
            break
    return purged
