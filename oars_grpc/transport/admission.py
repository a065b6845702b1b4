"""How many calls the server takes at a time, by kind.

grpcio counts calls of all kinds together and refuses without telling when to come back. Here a
call is refused by its own kind, so that watches never take the places of other calls, and health
answers whatever the load is.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_CONTROL_THREADS = 2


class BoundedPool(ThreadPoolExecutor):
    """Threads that know when they and the waiting places before them are taken."""

    def __init__(self, threads: int, waiting: int, name: str) -> None:
        super().__init__(threads, thread_name_prefix=name)
        self._places = threads + waiting
        self._taken = 0
        self._lock = threading.Lock()

    @property
    def full(self) -> bool:
        """Whether a further call should be refused."""
        return self._taken >= self._places

    def submit(
        self,
        fn: Callable[Arguments, Result],
        /,
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Future[Result]:
        """Take a place until the call has ended."""
        future = super().submit(fn, *args, **kwargs)
        with self._lock:
            self._taken += 1
        future.add_done_callback(self._release)
        return future

    def _release(self, _: object) -> None:
        with self._lock:
            self._taken -= 1


@dataclass(frozen=True, slots=True)
class Pools:
    """A pool for each kind of call; `control` answers health and refuses, which takes no time."""

    calls: BoundedPool
    streams: BoundedPool
    control: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(_CONTROL_THREADS, thread_name_prefix="control")
    )

    def shutdown(self) -> None:
        """Wait for the calls under way and end the threads."""
        for pool in (self.calls, self.streams, self.control):
            pool.shutdown(wait=True)
