"""The world as it is: the clock and the operating system's randomness."""

import os
import threading
import time
from datetime import UTC, datetime
from struct import Struct

from oars_grpc.core.ids import format_number

_CHANCES = Struct("512Q")


class SystemClock:
    """The system clock."""

    def now(self) -> datetime:
        """The time in UTC."""
        return datetime.now(UTC)


class SystemChance:
    """Ids by UUIDv7 (RFC 9562), bytes from the operating system."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last_tick = 0
        # To ask the system lets other threads take the interpreter: asked for many ids at once.
        self._chances: list[int] = []

    def new_id(self, prefix: str) -> str:
        """A new id; monotonic within the process.

        The 12 bits after the milliseconds are their fraction (RFC 9562 section 6.2, method 3), so
        that four million ids a second stay true to the clock. A whole millisecond for each id, as
        libraries take it, would have the ids of a busy server run ahead of time by hours.
        """
        with self._lock:
            tick = max(time.time_ns() * 4096 // 1_000_000, self._last_tick + 1)
            self._last_tick = tick
            if not self._chances:
                self._chances.extend(_CHANCES.unpack(os.urandom(_CHANCES.size)))
            chance = self._chances.pop() >> 2
        milliseconds, fraction = tick >> 12, tick & 4095
        value = milliseconds << 80 | 7 << 76 | fraction << 64 | 0b10 << 62 | chance
        return format_number(prefix, value)

    def random_bytes(self, count: int) -> bytes:
        """Bytes that nobody can guess."""
        return os.urandom(count)
