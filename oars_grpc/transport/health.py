"""Health per service (`grpc.health.v1`): serving means that the database answered just now."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import grpc
import structlog
from grpc_health.v1 import health, health_pb2

from oars_grpc.errors import ResourceExhausted
from oars_grpc.transport.metrics import Metrics

PROBE_SECONDS = 1.0

_log = structlog.get_logger("oars.health")


class DrainableHealth(health.HealthServicer):
    """The health service, whose watches end when the server does."""

    def __init__(self) -> None:
        super().__init__()
        self._watchers_lock = threading.Lock()
        self._watchers: set[Any] = set()
        self._ended = False

    def Watch(  # noqa: N802 - named by the rpc
        self,
        request: health_pb2.HealthCheckRequest,
        context: grpc.ServicerContext,
        send_response_callback: Callable[..., Any] | None = None,
    ) -> Iterator[health_pb2.HealthCheckResponse]:
        """Send the status of a service now and at every change."""
        del send_response_callback  # without it grpcio's servicer answers with an iterator
        watcher = super().Watch(request, context)
        with self._watched(watcher):
            yield from watcher

    def end_watches(self) -> None:
        """Let the watches that there are, and all that follow, send what they have and end."""
        with self._watchers_lock:
            self._ended = True
            for watcher in self._watchers:
                watcher.close()

    @contextmanager
    def _watched(self, watcher: Any) -> Iterator[None]:
        with self._watchers_lock:
            self._watchers.add(watcher)
            if self._ended:
                watcher.close()
        try:
            yield
        finally:
            with self._watchers_lock:
                self._watchers.discard(watcher)


class HealthProber:
    """Probes the database once a second and tells the health service what it found."""

    def __init__(
        self,
        servicer: DrainableHealth,
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
