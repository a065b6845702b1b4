"""The world as it is: the clock and the operating system's randomness."""

import os
from datetime import UTC, datetime

import uuid6

from oars_grpc.core.ids import format_id


class SystemClock:
    """The system clock."""

    def now(self) -> datetime:
        """The time in UTC."""
        return datetime.now(UTC)


class SystemChance:
    """Ids by UUIDv7 (RFC 9562), bytes from the operating system."""

    def new_id(self, prefix: str) -> str:
        """A new id; monotonic within the process."""
        return format_id(prefix, uuid6.uuid7())

    def random_bytes(self, count: int) -> bytes:
        """Bytes that nobody can guess."""
        return os.urandom(count)
