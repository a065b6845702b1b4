"""What the processes under measurement use: processor time and memory."""

from collections.abc import Mapping
from contextlib import suppress

import psutil


class ProcessorTimes:
    """Seconds of processor time by part: the server's one process, all processes of Postgres."""

    def __init__(self, server_pid: int, postgres_pid: int) -> None:
        self._server = psutil.Process(server_pid)
        self._postgres = psutil.Process(postgres_pid)

    def __call__(self) -> Mapping[str, float]:
        times = self._server.cpu_times()
        return {"server": times.user + times.system, "postgres": self._postgres_seconds()}

    def _postgres_seconds(self) -> float:
        """Of the postmaster, of its children, and of those that have ended."""
        times = self._postgres.cpu_times()
        seconds = times.user + times.system + times.children_user + times.children_system
        for child in self._postgres.children(recursive=True):
            # One that ended between these two lines is counted the next time, with the dead.
            with suppress(psutil.NoSuchProcess):
                own = child.cpu_times()
                seconds += own.user + own.system
        return float(seconds)


def resident_bytes(pid: int) -> int:
    """Memory that a process has in RAM."""
    return int(psutil.Process(pid).memory_info().rss)
