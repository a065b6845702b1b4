"""Parts of one computation side by side, in threads beside the caller's.

NumPy, SciPy and hashlib let go of the interpreter while they compute, so that two threads keep two
cores at work. What the parts are does not depend on how many threads there are, and each part is
computed as it would be alone: no result shows their number.
"""

from _thread import LockType, allocate_lock, start_new_thread
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from oars_grpc.core.lattice.progress import Proceed, between, keep_going

Result = TypeVar("Result")
Part = Callable[[Proceed], Result]

# Values over which a second thread wins more than it takes to start one.
_WORTH_A_THREAD = 1 << 16
# Between two looks of a caller who has nothing left to do at whether it is to stop.
_LOOK_SECONDS = 0.05


@dataclass(slots=True)
class _Limit:
    threads: int = 1


# Of the whole process, as the number of threads of its matrix products is.
_LIMIT = _Limit()


def limit_threads(count: int) -> int:
    """Let every computation from now on take so many threads, the caller's own included.

    Returns how many it was before.
    """
    if count < 1:
        raise ValueError(f"a computation takes at least one thread, not {count}")
    before, _LIMIT.threads = _LIMIT.threads, count
    return before


def side_by_side(
    parts: Sequence[Part[Result]], values: int, proceed: Proceed = keep_going
) -> list[Result]:
    """What all parts return, in their order; `values` is how many numbers they pass over.

    The caller's thread takes parts too, and it alone asks `proceed`. If that raises, or a part
    does, the others stop when they next ask theirs; no thread outlives the call.
    """
    team = _Team(parts)
    threads = min(_LIMIT.threads, len(parts)) if values >= _WORTH_A_THREAD else 1
    ends: list[LockType] = []
    try:
        ends.extend(team.start_helper() for _ in range(threads - 1))
        team.work(proceed)
        for end in ends:
            while not end.acquire(timeout=_LOOK_SECONDS):
                proceed(1.0)
            end.release()
    except BaseException as fault:  # noqa: BLE001 - raised again, once the helpers have ended
        team.faults.append(fault)
    for end in ends:
        end.acquire()
    return team.results()


class _Abandoned(Exception):
    """Another part has failed: what this one would find is of no use any more."""


class _Team(Generic[Result]):
    """What the threads share: each takes the next part that none has taken."""

    def __init__(self, parts: Sequence[Part[Result]]) -> None:
        self._count = len(parts)
        self._waiting = deque(enumerate(parts))
        self._found: dict[int, Result] = {}
        self.faults: list[BaseException] = []  # the first is the cause of the others

    def work(self, proceed: Proceed) -> None:
        """Compute parts until none waits or one has failed."""

        def look(share: float, /) -> None:
            if self.faults:
                raise _Abandoned
            proceed(share)

        while not self.faults:
            try:
                place, part = self._waiting.popleft()
            except IndexError:
                return
            self._found[place] = part(between(look, place / self._count, (place + 1) / self._count))

    def start_helper(self) -> LockType:
        """Work in another thread as well; the lock is free when that ends."""
        end = allocate_lock()
        end.acquire()
        # Not `Thread`: its `start` waits until the new thread has run, as long as many parts take.
        start_new_thread(self._help, (end,))
        return end

    def _help(self, end: LockType) -> None:
        try:
            self.work(keep_going)
        except BaseException as fault:  # noqa: BLE001 - raised again, in the caller's thread
            self.faults.append(fault)
        finally:
            end.release()

    def results(self) -> list[Result]:
        """What was found, or the first fault."""
        if self.faults:
            raise self.faults[0]
        return [self._found[place] for place in range(self._count)]
