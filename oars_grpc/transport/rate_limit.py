"""A limit on calls per identity, so that one caller cannot starve the others."""

import time

from limits import RateLimitItem, parse
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

from oars_grpc.errors import ResourceExhausted


class RateLimit:
    """At most `rate` (such as `500/second`) calls of each identity on this server."""

    def __init__(self, rate: str) -> None:
        self._item: RateLimitItem = parse(rate)
        self._limiter = FixedWindowRateLimiter(MemoryStorage())

    def check(self, subject: str) -> None:
        """Count one call.

        Raises:
            ResourceExhausted: over the limit; with the time until the window ends.
        """
        if not self._limiter.hit(self._item, subject):
            ends = self._limiter.get_window_stats(self._item, subject).reset_time
            raise ResourceExhausted(
                f"identity {subject} is over its rate of {self._item}",
                retry_after_ms=max(1, round((ends - time.time()) * 1000)),
            )
