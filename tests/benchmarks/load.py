"""The load generator: a process that keeps N calls in flight, each begun when the last has ended.

The stubs take and give bytes, calls are begun from the callback of the one before, and all share
one connection: of blocking threads, asyncio and callbacks, and of one to four connections, this
took the least processor time, which client, server and Postgres share. The same code drives OARS
and the floor.
"""

import itertools
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc

from tests.benchmarks.workloads import Action, Answer, Calls, Samples, action_of, check

_STARTED_WITHIN_SECONDS = 60.0
_ENDED_WITHIN_SECONDS = 60.0

CpuOf = Callable[[], Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Load:
    """What to do, by how many streams at a time, and for how long."""

    workload: str
    streams: int
    warm_up_seconds: float
    seconds: float
    samples: Samples
    # End after so many actions; `seconds` is then the longest that it may take.
    actions: int | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """One measurement: how long each action took, and what it cost."""

    seconds: float
    latencies_ms: Sequence[float]
    cpu_seconds: Mapping[str, float]

    @property
    def actions(self) -> int:
        return len(self.latencies_ms)


class _Stream:
    """One closed loop: begins an action when the one before has ended, until told to stop."""

    def __init__(self, action: Action, stopping: threading.Event, turns: Iterator[int]) -> None:
        self._action = action
        self._stopping = stopping
        self._turns = turns
        self._calls: Calls
        self._begin = 0.0
        self.actions: list[tuple[float, float]] = []
        self.last = b""
        self.error: BaseException | None = None
        self.ended = threading.Event()

    def start(self) -> None:
        """Begin the next action; or end, if there is none."""
        if self._stopping.is_set() or next(self._turns, None) is None:
            self._stopping.set()
            self.ended.set()
            return
        self._begin = time.perf_counter()
        self._calls = self._action()
        next(self._calls).add_done_callback(self._go_on)

    def _go_on(self, answered: Answer) -> None:
        """Called by the one thread of grpc that serves the connection."""
        try:
            self._take(answered.result())
        except Exception as error:  # noqa: BLE001 - grpc would log it; it belongs to who measures
            self.error = error
            self._stopping.set()
            self.ended.set()

    def _take(self, response: bytes) -> None:
        try:
            following = self._calls.send(response)
        except StopIteration:
            self.actions.append((self._begin, time.perf_counter()))
            self.last = response
            self.start()
        else:
            following.add_done_callback(self._go_on)


class LoadGenerator:
    """The generator's process, seen from the one that measures."""

    def __init__(self, address: str, certificates: Path, identity: str = "agent") -> None:
        self.address = address
        context = get_context("spawn")  # grpc does not survive a fork
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_generate, args=(address, certificates, identity, theirs), daemon=True
        )
        self._process.start()
        theirs.close()
        self._expect("ready", _STARTED_WITHIN_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pipe.close()
        self._process.join(_ENDED_WITHIN_SECONDS)

    def run(self, load: Load, cpu_of: CpuOf) -> Measured:
        """Put the load on and measure after its warm-up; `cpu_of` reads what others have used.

        Raises:
            RuntimeError: a call failed, or was not answered as the workload wants.
        """
        self._pipe.send(load)
        wait = load.warm_up_seconds + load.seconds + _ENDED_WITHIN_SECONDS
        self._expect("begin", wait)
        before = cpu_of()
        self._expect("end", wait)
        after = cpu_of()
        seconds, latencies, own = self._expect("measured", wait)
        used = {name: after[name] - before[name] for name in before}
        return Measured(seconds, latencies, used | {"client": own})

    def _expect(self, what: str, seconds: float) -> Any:
        if not self._pipe.poll(seconds):
            raise RuntimeError(f"the load generator did not say {what!r} for {seconds:.0f} s")
        said, value = self._pipe.recv()
        if said != what:
            raise RuntimeError(f"the load failed: {value}")
        return value


def _generate(address: str, certificates: Path, identity: str, parent: Connection) -> None:
    """The generator's own process: loads in, measurements out, until the parent lets go."""
    signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C is for the parent, which ends this one
    channel = open_channel(address, certificates, identity)
    grpc.channel_ready_future(channel).result(_STARTED_WITHIN_SECONDS)
    parent.send(("ready", None))
    while True:
        try:
            load = parent.recv()
        except EOFError:
            return
        try:
            parent.send(("measured", _put_on(load, channel, parent)))
        except Exception as error:  # noqa: BLE001 - whatever it is, the parent reports it
            parent.send(("failed", repr(error)))


def open_channel(address: str, certificates: Path, identity: str) -> grpc.Channel:
    """A connection of its own, over mutual TLS."""
    return grpc.secure_channel(
        address,
        grpc.ssl_channel_credentials(
            (certificates / "ca.pem").read_bytes(),
            (certificates / f"{identity}.key").read_bytes(),
            (certificates / f"{identity}.pem").read_bytes(),
        ),
        options=(("grpc.enable_retries", 0),),
    )


def _put_on(
    load: Load, channel: grpc.Channel, parent: Connection
) -> tuple[float, list[float], float]:
    stopping = threading.Event()
    turns = itertools.count() if load.actions is None else iter(range(load.actions))
    streams = [
        _Stream(action_of(load.workload, channel, load.samples), stopping, turns)
        for _ in range(load.streams)
    ]
    for stream in streams:
        stream.start()
    stopping.wait(load.warm_up_seconds)
    parent.send(("begin", None))
    begin, own = time.perf_counter(), time.process_time()
    stopping.wait(load.seconds)
    end, own = time.perf_counter(), time.process_time() - own
    parent.send(("end", None))
    stopping.set()
    for stream in streams:
        if not stream.ended.wait(_ENDED_WITHIN_SECONDS):
            raise TimeoutError("a call does not end")
        if stream.error is not None:
            raise stream.error
        if stream.actions:
            check(load.workload, stream.last)
    latencies = [
        (ended - began) * 1000
        for stream in streams
        for began, ended in stream.actions
        if begin <= ended <= end
    ]
    return end - begin, latencies, own
