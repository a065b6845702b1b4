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
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, ParamSpec

import grpc
import structlog

from oars_grpc.errors import ResourceExhausted

Arguments = ParamSpec("Arguments")

HEALTH = "/grpc.health.v1.Health/"
OVERLOADED_RETRY_MS = 1000
_LATTICES = "/oars.v1.LatticeService/"
_CONTROL_THREADS = 2
_HEALTH_THREADS = 16
_HEALTH_WAITING = 64
UPLOADS = 16  # each keeps a thread while its pieces come and are written
_OBSERVERS = 16  # health watches and reflection
_REQUEST_SECONDS = 10.0  # within which a request follows its headers
_SHARE = 4  # an identity has one place in so many of a pool of streams

_log = structlog.get_logger("oars.pools")


class _Submitted:
    """What `submit` gives for a call: grpcio asks of it only to be told of the end."""

    __slots__ = ("_callbacks", "_ended")

    def __init__(self) -> None:
        self._callbacks: list[Callable[[Any], object]] = []
        self._ended = False

    def add_done_callback(self, callback: Callable[[Any], object]) -> None:
        """Call back when the call has ended, at once if it has."""
        self._callbacks.append(callback)
        if self._ended:
            self._call_back()

    def end(self) -> None:
        """The call has ended."""
        self._ended = True
        self._call_back()

    def _call_back(self) -> None:
        # Both threads may come here at once. To take from a list is atomic: each is called once.
        while self._callbacks:
            try:
                callback = self._callbacks.pop()
            except IndexError:
                return
            callback(self)


class BoundedPool(ThreadPoolExecutor):
    """Threads that know when they and the waiting places before them are taken.

    An executor by name, since grpcio takes nothing else for the pool of a handler. Futures, which
    a server has no use for, would cost each call more than its request costs to read.
    """

    def __init__(self, threads: int, waiting: int, name: str) -> None:
        super().__init__(threads)
        self._threads_name = name
        self._threads_limit = threads
        self._places = threads + waiting
        self._taken = 0
        self._lock = threading.Lock()
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._started: list[threading.Thread] = []
        self._ended = False

    @property
    def full(self) -> bool:
        """Whether a further call should be refused."""
        return self._taken >= self._places

    def submit(  # type: ignore[override] # see the class: not a future
        self,
        fn: Callable[Arguments, object],
        /,
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> _Submitted:
        """Take a place until the call has ended.

        Raises:
            RuntimeError: the pool was shut down.
        """
        submitted = _Submitted()
        with self._lock:
            if self._ended:
                raise RuntimeError("cannot serve a call after shutdown")
            self._taken += 1
            if self._taken > len(self._started) < self._threads_limit:
                self._start_thread()

        def serve() -> None:
            try:
                fn(*args, **kwargs)
            except Exception:  # noqa: BLE001 - the thread serves on, whatever comes out of grpcio
                _log.exception("a call ended in an error that nothing had caught")
            finally:
                with self._lock:
                    self._taken -= 1
                submitted.end()

        self._calls.put(serve)
        return submitted

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - as executors have it
        """Serve what was submitted, then end the threads."""
        del cancel_futures  # what is submitted is under way
        with self._lock:
            self._ended = True
            started = list(self._started)
        for _ in started:
            self._calls.put(None)
        if wait:
            for thread in started:
                thread.join()

    def _start_thread(self) -> None:
        name = f"{self._threads_name}_{len(self._started)}"
        # A daemon: a server that failed to start has nobody to shut its pools down.
        thread = threading.Thread(target=self._serve_calls, name=name, daemon=True)
        self._started.append(thread)
        thread.start()

    def _serve_calls(self) -> None:
        while (serve := self._calls.get()) is not None:
            serve()
            del serve  # or the last call would be kept until the next one comes


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

    `lattices` is for calls that compute or wait for a turn to: they take no thread of the others.
    `observers` is for streams that tell of the server itself, `streams` for those of its rpcs,
    `uploads` for requests that come in pieces.
    """

    calls: BoundedPool
    lattices: BoundedPool
    streams: StreamPool
    uploads: StreamPool = field(default_factory=lambda: StreamPool(UPLOADS, "upload"))
    observers: StreamPool = field(default_factory=lambda: StreamPool(_OBSERVERS, "observer"))
    health: BoundedPool = field(
        default_factory=lambda: BoundedPool(_HEALTH_THREADS, _HEALTH_WAITING, "health")
    )
    control: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(_CONTROL_THREADS, thread_name_prefix="control")
    )
    awaiting_request: WaitingCalls = field(default_factory=WaitingCalls)
    conversations: WaitingCalls = field(default_factory=WaitingCalls)

    def serving(self, method: str) -> BoundedPool:
        """The pool of an rpc of one request and one answer."""
        # Health answers even when every other call waits: a busy server is not a dead one.
        if method.startswith(HEALTH):
            return self.health
        return self.lattices if method.startswith(_LATTICES) else self.calls

    def shutdown(self) -> None:
        """Wait for the calls under way and end the threads."""
        threads = (self.calls, self.lattices, self.streams, self.uploads, self.observers)
        for pool in (*threads, self.health, self.control):
            pool.shutdown(wait=True)
