"""How many calls the server takes at a time, by kind.

grpcio counts calls of all kinds together and refuses without telling when to come back. Here a
call is refused by its own kind, so that watches never take the places of other calls, and health
answers whatever the load is. Streams keep their places for long: each identity has a share of
them, so that none shuts the others out.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

import grpc

from oars_grpc.errors import ResourceExhausted

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

OVERLOADED_RETRY_MS = 1000
_CONTROL_THREADS = 2
_HEALTH_THREADS = 16
_HEALTH_WAITING = 64
_OBSERVERS = 16  # health watches and reflection
_REQUEST_SECONDS = 10.0  # within which a request follows its headers
_SHARE = 4  # an identity has one place in so many of a pool of streams


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


class StreamPool(BoundedPool):
    """A thread for each open stream, of which one identity gets no more than its share."""

    def __init__(self, streams: int, name: str) -> None:
        super().__init__(streams, 0, name)
        self._share = max(1, streams // _SHARE)
        self._open: Counter[str] = Counter()

    @contextmanager
    def place_of(self, subject: str) -> Iterator[None]:
        """Count one more stream of an identity while it is open.

        Raises:
            ResourceExhausted: the identity has as many open as it may.
        """
        with self._lock:
            if self._open[subject] >= self._share:
                raise ResourceExhausted(
                    f"identity {subject} has {self._share} such streams open, as many as it may",
                    retry_after_ms=OVERLOADED_RETRY_MS,
                )
            self._open[subject] += 1
        try:
            yield
        finally:
            with self._lock:
                self._open[subject] -= 1
                if not self._open[subject]:
                    del self._open[subject]  # or every identity ever seen would be kept


class WaitingCalls:
    """Calls that wait for what their clients send, which may never come."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._since: dict[grpc.ServicerContext, float] = {}
        self._ended = False

    @contextmanager
    def including(self, context: grpc.ServicerContext) -> Iterator[None]:
        """Count a call among them meanwhile."""
        with self._lock:
            self._since[context] = time.monotonic()
            ended = self._ended
        try:
            if ended:
                _cancel(context)
            yield
        finally:
            with self._lock:
                del self._since[context]

    def end(self) -> None:
        """Cancel these and all that follow."""
        with self._lock:
            self._ended = True
            for context in self._since:
                _cancel(context)

    def cancel_overdue(self) -> None:
        """Cancel those that have waited for longer than a request takes to come."""
        before = time.monotonic() - _REQUEST_SECONDS
        with self._lock:
            for context, since in self._since.items():
                if since < before:
                    _cancel(context)


def _cancel(context: grpc.ServicerContext) -> None:
    cancel: Callable[[], None] = context.cancel  # the stubs leave its type out
    cancel()


@dataclass(frozen=True, slots=True)
class Pools:
    """A pool for each kind of call; `control` refuses, which takes no time.

    `observers` is for streams that tell of the server itself, `streams` for those of its rpcs.
    """

    calls: BoundedPool
    streams: StreamPool
    observers: StreamPool = field(default_factory=lambda: StreamPool(_OBSERVERS, "observer"))
    health: BoundedPool = field(
        default_factory=lambda: BoundedPool(_HEALTH_THREADS, _HEALTH_WAITING, "health")
    )
    control: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(_CONTROL_THREADS, thread_name_prefix="control")
    )
    awaiting_request: WaitingCalls = field(default_factory=WaitingCalls)
    conversations: WaitingCalls = field(default_factory=WaitingCalls)

    def shutdown(self) -> None:
        """Wait for the calls under way and end the threads."""
        for pool in (self.calls, self.streams, self.observers, self.health, self.control):
            pool.shutdown(wait=True)
