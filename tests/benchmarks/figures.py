"""From measurements to figures: medians over the rounds, and ours in relation to the floor's."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Self

import grpc
import psutil

from tests.benchmarks.load import Measured

PERCENTILES = 100


@dataclass(frozen=True, slots=True)
class Figures:
    """One workload at one number of streams: medians over the rounds."""

    actions_per_second: float
    p50_ms: float
    p99_ms: float
    # Milliseconds of processor time for each action.
    server_cpu_ms: float
    postgres_cpu_ms: float
    client_cpu_ms: float
    actions: int

    @classmethod
    def of(cls, rounds: Sequence[Measured]) -> Self:
        """Of the rounds of one load."""
        for measured in rounds:
            if measured.actions < 2:
                raise ValueError("a round without actions: measure for longer")
        cuts = [quantiles(each.latencies_ms, n=PERCENTILES) for each in rounds]
        cpu = {
            part: median(each.cpu_seconds[part] * 1000 / each.actions for each in rounds)
            for part in ("server", "postgres", "client")
        }
        return cls(
            actions_per_second=median(each.actions / each.seconds for each in rounds),
            p50_ms=median(cut[49] for cut in cuts),
            p99_ms=median(cut[98] for cut in cuts),
            server_cpu_ms=cpu["server"],
            postgres_cpu_ms=cpu["postgres"],
            client_cpu_ms=cpu["client"],
            actions=sum(each.actions for each in rounds),
        )

    @property
    def cpu_ms(self) -> float:
        """Of server and Postgres: what a machine needs for one action."""
        return self.server_cpu_ms + self.postgres_cpu_ms

    def to_json(self) -> dict[str, float]:
        """Rounded for people."""
        return {name: round(value, 4) for name, value in asdict(self).items()}


def ratios(ours: Mapping[int, Figures], floor: Mapping[int, Figures]) -> dict[str, float]:
    """Our throughput as a part of the floor's, by streams."""
    return {
        str(streams): round(ours[streams].actions_per_second / floor[streams].actions_per_second, 4)
        for streams in ours
    }


def cpu_ratios(ours: Mapping[int, Figures], floor: Mapping[int, Figures]) -> dict[str, float]:
    """What our server and Postgres use for an action, in relation to the floor's."""
    return {
        str(streams): round(ours[streams].cpu_ms / floor[streams].cpu_ms, 4) for streams in ours
    }


def machine(directory: Path) -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "processor": _processor(),
        "cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(),
        "file_system": _file_system(directory),
        "python": platform.python_version(),
        "grpcio": grpc.__version__,
    }


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _file_system(directory: Path) -> str:
    mounted = [
        part
        for part in psutil.disk_partitions(all=True)
        if directory.resolve().is_relative_to(part.mountpoint)
    ]
    return str(max(mounted, key=lambda part: len(part.mountpoint)).fstype) if mounted else "unknown"
