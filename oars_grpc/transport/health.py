"""Health per service (`grpc.health.v1`): serving means that the database answered just now."""

import threading
from collections.abc import Callable, Sequence

import structlog
from grpc_health.v1 import health, health_pb2

from oars_grpc.errors import ResourceExhausted
from oars_grpc.transport.metrics import Metrics

PROBE_SECONDS = 1.0

_log = structlog.get_logger("oars.health")


class HealthProber:
    """Probes the database once a second and tells the health service what it found."""

    def __init__(
        self,
        servicer: health.HealthServicer,
        services: Sequence[str],
        probe: Callable[[], None],
        metrics: Metrics,
    ) -> None:
        self._servicer = servicer
        self._services = ("", *services)
        self._probe = probe
        self._metrics = metrics
        self._stopping = threading.Event()
        self._healthy: bool | None = None
        self._thread = threading.Thread(target=self._run, name="health", daemon=True)

    def start(self) -> None:
        """Probe once, then go on in the background."""
        self._look()
        self._thread.start()

    def drain(self) -> None:
        """Say NOT_SERVING for good, so that balancers send no more calls."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        self._servicer.enter_graceful_shutdown()

    def _run(self) -> None:
        while not self._stopping.wait(PROBE_SECONDS):
            self._look()

    def _look(self) -> None:
        try:
            self._probe()
        except ResourceExhausted:
            return  # every connection is at work: no sign that the database is away
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
            self._report(healthy=False, error=str(error))
        else:
            self._report(healthy=True)

    def _report(self, *, healthy: bool, error: str = "") -> None:
        self._metrics.database_up.set(healthy)
        if healthy == self._healthy:
            return
        self._healthy = healthy
        serving = health_pb2.HealthCheckResponse.SERVING
        status = serving if healthy else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in self._services:
            self._servicer.set(service, status)
        if healthy:
            _log.info("serving")
        else:
            _log.error("not serving: the database does not answer", error=error)
