"""How many heavy computations run at a time, and the memory that ready lattices may take.

Numerics take a core for as long as they last, and give way to nobody: only so many run at once, and
the rest wait their turn within their deadlines, each in the thread of its call. Where turns are
long, fewer may wait than there are threads, so that other calls find some.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from threading import BoundedSemaphore, Lock
from typing import Any, Generic, TypeVar

import numpy as np
import scipy.sparse as sp
from cachetools import LRUCache

from oars_grpc.core.lattice.progress import Proceed
from oars_grpc.errors import ResourceExhausted

# Between two looks at whether the caller still waits.
_LOOK_SECONDS = 0.05
_RETRY_MS = 2_000

Value = TypeVar("Value")
Key = tuple[str, str, str]


class HeavyWork:
    """Places for computations, and how many may wait for one.

    `retry_after_ms` is what those are told for whom there is no room.
    """

    def __init__(self, places: int, waiting: int, retry_after_ms: int = _RETRY_MS) -> None:
        self._places = BoundedSemaphore(places)
        self._waiting = BoundedSemaphore(waiting)
        self._retry_after_ms = retry_after_ms

    @contextmanager
    def place(self, proceed: Proceed) -> Iterator[None]:
        """A place until the context ends; `proceed` is asked while waiting for one.

        Raises:
            ResourceExhausted: too many wait already.
        """
        proceed(0.0)
        if not self._places.acquire(blocking=False):
            self._await_place(proceed)
        try:
            yield
        finally:
            self._places.release()

    def _await_place(self, proceed: Proceed) -> None:
        if not self._waiting.acquire(blocking=False):
            raise ResourceExhausted(
                "too many computations are waiting", retry_after_ms=self._retry_after_ms
            )
        try:
            while not self._places.acquire(timeout=_LOOK_SECONDS):
                proceed(0.0)
        finally:
            self._waiting.release()


class LatticeCache(Generic[Value]):
    """Ready lattices within a budget of bytes, the least recently used let go first.

    Each is made by one thread while the others that want it wait.
    """

    def __init__(self, budget_bytes: int, size_of: Callable[[Value], int]) -> None:
        self._lock = Lock()
        self._kept: LRUCache[Key, Value] = LRUCache(budget_bytes, getsizeof=size_of)
        self._size_of = size_of
        self._under_way: dict[Key, Future[Value]] = {}

    def get(self, key: Key, make: Callable[[], Value], proceed: Proceed) -> Value:
        """The value of a key; made if it is not kept."""
        while True:
            with self._lock:
                kept = self._kept.get(key)
                if kept is not None:
                    return kept
                making = self._under_way.get(key)
                if making is None:
                    making = self._under_way[key] = Future()
                    break
            if not _ended(making, proceed):
                continue  # its maker failed, for reasons that may be its own: an end of its call
            return making.result()
        try:
            made = make()
        except BaseException as error:
            making.set_exception(error)
            raise
        else:
            with self._lock:
                if self._size_of(made) <= self._kept.maxsize:
                    self._kept[key] = made
            making.set_result(made)
            return made
        finally:
            with self._lock:
                del self._under_way[key]

    @property
    def held_bytes(self) -> float:
        """How much it holds now."""
        return self._kept.currsize


def _ended(making: "Future[Any]", proceed: Proceed) -> bool:
    """Wait for another thread's value; whether there is one."""
    while True:
        proceed(0.0)
        try:
            return making.exception(timeout=_LOOK_SECONDS) is None
        except TimeoutError:
            continue


def bytes_of(value: object) -> int:
    """What the arrays of a value take, those of values within it too, each counted once."""
    return _bytes_of(value, set())


def _bytes_of(value: object, seen: set[int]) -> int:
    if id(value) in seen:
        return 0
    seen.add(id(value))
    if isinstance(value, np.ndarray):
        base = value.base if isinstance(value.base, np.ndarray) else value
        return _bytes_of(base, seen) if base is not value else int(value.nbytes)
    if sp.issparse(value):
        matrix: Any = value
        parts = (matrix.data, matrix.indices, matrix.indptr)
        return sum(_bytes_of(part, seen) for part in parts)
    if is_dataclass(value):
        return sum(_bytes_of(getattr(value, part.name), seen) for part in fields(value))
    return 0
