"""A limit on calls per identity, so that one caller cannot starve the others."""

import math
import time
from dataclasses import dataclass
from threading import Lock

from limits import RateLimitItem, parse

from oars_grpc.errors import ResourceExhausted

_MANY = 10_000


@dataclass(slots=True)
class _Window:
    ends: float
    calls: int


class RateLimit:
    """At most `rate` (such as `500/second`) calls of each identity on this server.

    Windows are fixed and begin with a call. A store that expires entries would cost each call more
    than this; those of people, whom an issuer may have many of, are put away when there are many.
    """

    def __init__(self, rate: str) -> None:
        self._item: RateLimitItem = parse(rate)
        self._seconds = self._item.get_expiry()
        self._lock = Lock()
        self._windows: dict[str, _Window] = {}
        self._next_sweep = _MANY

    def check(self, subject: str) -> None:
        """Count one call.

        Raises:
            ResourceExhausted: over the limit; with the time until the window ends.
        """
        self._take(subject, 1, self._item.amount)

    def count(self, subject: str) -> None:
        """Count one call that is refused whatever the limit says."""
        self._take(subject, 1, math.inf)

    def check_before(self, subject: str) -> None:
        """Refuse the next call of who has none left, and count none.

        Raises:
            ResourceExhausted: at the limit; with the time until the window ends.
        """
        self._take(subject, 0, self._item.amount - 1)

    def _take(self, subject: str, calls: int, most: float) -> None:
        now = time.monotonic()
        with self._lock:
            window = self._windows.get(subject)
            if window is None or now >= window.ends:
                if window is None and len(self._windows) >= self._next_sweep:
                    self._forget_ended(now)
                window = self._windows[subject] = _Window(now + self._seconds, 0)
            window.calls += calls
            over = window.calls > most
        if over:
            raise ResourceExhausted(
                f"identity {subject} is over its rate of {self._item}",
                retry_after_ms=max(1, round((window.ends - now) * 1000)),
            )

    def _forget_ended(self, now: float) -> None:
        self._windows = {
            subject: window for subject, window in self._windows.items() if now < window.ends
        }
        # Twice what is left: seldom enough to cost a call next to nothing.
        self._next_sweep = max(_MANY, 2 * len(self._windows))
