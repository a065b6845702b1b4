"""How long a watch lasts, and how often it looks."""

import threading
import time

import grpc

from oars_grpc.transport.current_call import identity_seconds_left

# How often a watch looks, and how long before the deadline it ends with its final event.
WATCH_INTERVAL_SECONDS = 0.25
WATCH_MARGIN_SECONDS = 0.5


class WatchTime:
    """The time of one watch: what the server grants, the caller's deadline and identity allow."""

    def __init__(
        self, context: grpc.ServicerContext, watch_seconds: float, draining: threading.Event
    ) -> None:
        lasts = watch_seconds
        for remaining in (context.time_remaining(), identity_seconds_left()):
            if remaining is not None:
                lasts = min(lasts, remaining - WATCH_MARGIN_SECONDS)
        self._ends = time.monotonic() + lasts
        self._draining = draining

    def is_over(self) -> bool:
        """Whether the final event is due, or the server is being replaced."""
        return time.monotonic() >= self._ends or self._draining.is_set()

    def wait(self) -> None:
        """Until it is time for the next look."""
        self._draining.wait(WATCH_INTERVAL_SECONDS)
