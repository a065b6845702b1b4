"""Assembles the gRPC server: pipeline, services, health, reflection, ports, drain."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import grpc
from google.longrunning import operations_pb2_grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from oars_grpc.generated.oars.v1 import (
    action_pb2,
    action_pb2_grpc,
    approval_pb2,
    approval_pb2_grpc,
    approver_pb2,
    approver_pb2_grpc,
    control_pb2,
    control_pb2_grpc,
    evidence_pb2,
    evidence_pb2_grpc,
    lattice_pb2,
    lattice_pb2_grpc,
    policy_pb2,
    policy_pb2_grpc,
    receipt_pb2,
    receipt_pb2_grpc,
    retention_pb2,
    retention_pb2_grpc,
    tenant_pb2,
    tenant_pb2_grpc,
)
from oars_grpc.transport.action_servicer import ActionServicer
from oars_grpc.transport.admission import UPLOADS, BoundedPool, Pools, StreamPool
from oars_grpc.transport.approval_servicer import ApprovalServicer
from oars_grpc.transport.approver_servicer import ApproverServicer
from oars_grpc.transport.control_servicer import ControlServicer
from oars_grpc.transport.credentials import TlsFiles, add_port, add_socket_port, tls_credentials
from oars_grpc.transport.evidence_servicer import EvidenceServicer
from oars_grpc.transport.health import DrainableHealth, HealthProber
from oars_grpc.transport.lattice_servicer import LatticeServicer
from oars_grpc.transport.metrics import Metrics
from oars_grpc.transport.operations_servicer import OperationsServicer
from oars_grpc.transport.pipeline import Pipeline
from oars_grpc.transport.policy_servicer import PolicyServicer
from oars_grpc.transport.receipt_servicer import ReceiptServicer
from oars_grpc.transport.retention_servicer import RetentionServicer
from oars_grpc.transport.tenant_servicer import TenantServicer
from oars_grpc.use_cases.actions import Actions
from oars_grpc.use_cases.approval_lists import ApprovalLists
from oars_grpc.use_cases.approval_watch import ApprovalWatches
from oars_grpc.use_cases.approvals import Approvals
from oars_grpc.use_cases.approver_keys import ApproverKeys
from oars_grpc.use_cases.controls import Controls
from oars_grpc.use_cases.evidence import Evidence
from oars_grpc.use_cases.executions import Executions
from oars_grpc.use_cases.lattice_use_cases import LatticeUseCases
from oars_grpc.use_cases.legal_holds import LegalHolds
from oars_grpc.use_cases.log import Log
from oars_grpc.use_cases.policies import Policies
from oars_grpc.use_cases.receipts import Receipts
from oars_grpc.use_cases.replay import Replays
from oars_grpc.use_cases.second_factors import SecondFactors
from oars_grpc.use_cases.tenants import Tenants
from oars_grpc.use_cases.verification import ReceiptVerifier

MAXIMUM_MESSAGE_BYTES = 1024 * 1024
MAXIMUM_METADATA_BYTES = 32 * 1024
CONTROL_CALLS = 1024
# Certificates are checked in the handshake: connections do not live for ever.
CONNECTION_AGE_SECONDS = 30 * 60
# What a connection that has reached its age gives its longest watch beyond its time.
WATCH_MARGIN_SECONDS = 60
_SWEEP_SECONDS = 1.0

SERVICES = tuple(
    descriptor.services_by_name[name].full_name
    for descriptor, name in (
        (action_pb2.DESCRIPTOR, "ActionService"),
        (approval_pb2.DESCRIPTOR, "ApprovalService"),
        (approver_pb2.DESCRIPTOR, "ApproverService"),
        (control_pb2.DESCRIPTOR, "ControlService"),
        (evidence_pb2.DESCRIPTOR, "EvidenceService"),
        (lattice_pb2.DESCRIPTOR, "LatticeService"),
        (policy_pb2.DESCRIPTOR, "PolicyService"),
        (receipt_pb2.DESCRIPTOR, "ReceiptService"),
        (retention_pb2.DESCRIPTOR, "RetentionService"),
        (tenant_pb2.DESCRIPTOR, "TenantService"),
    )
)

OPERATIONS = "google.longrunning.Operations"

_OPTIONS = (
    # A second server on the same port would silently take part of the connections.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", MAXIMUM_MESSAGE_BYTES),
    ("grpc.max_metadata_size", MAXIMUM_METADATA_BYTES),
    ("grpc.max_connection_age_ms", CONNECTION_AGE_SECONDS * 1000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
)


@dataclass(frozen=True, slots=True)
class UseCases:
    """What the services call."""

    actions: Actions
    executions: Executions
    approvals: Approvals
    approval_lists: ApprovalLists
    approval_watches: ApprovalWatches
    second_factors: SecondFactors
    approver_keys: ApproverKeys
    controls: Controls
    evidence: Evidence
    policies: Policies
    replays: Replays
    receipts: Receipts
    holds: LegalHolds
    lattices: LatticeUseCases
    log: Log
    verifier: ReceiptVerifier
    tenants: Tenants


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """Threads and waiting places; `watch_seconds` is the longest watch."""

    worker_threads: int
    queued_rpcs: int
    streams: int
    watch_seconds: int


def connection_options(watch_seconds: int) -> tuple[tuple[str, int], ...]:
    """Options of the server whose longest watch is `watch_seconds`."""
    # A watch on a connection that has reached its age still gets its final event.
    grace = watch_seconds + WATCH_MARGIN_SECONDS
    return (*_OPTIONS, ("grpc.max_connection_age_grace_ms", grace * 1000))


class OarsServer:
    """The gRPC server, from start to drain."""

    def __init__(
        self,
        *,
        use_cases: UseCases,
        make_pipeline: Callable[[Pools], Pipeline],
        limits: ServerLimits,
        metrics: Metrics,
        probe: Callable[[], None],
    ) -> None:
        self._pools = Pools(
            calls=BoundedPool(limits.worker_threads, limits.queued_rpcs, "rpc"),
            lattices=BoundedPool(limits.worker_threads, limits.queued_rpcs, "lattice"),
            streams=StreamPool(limits.streams, "stream"),
        )
        self._draining = threading.Event()
        self._server = grpc.server(
            self._pools.calls,
            interceptors=[make_pipeline(self._pools)],
            options=connection_options(limits.watch_seconds),
            # Beyond the pools only health and refusals are under way.
            maximum_concurrent_rpcs=2 * (limits.worker_threads + limits.queued_rpcs)
            + limits.streams
            + UPLOADS
            + CONTROL_CALLS,
        )
        self._add_services(use_cases, limits, metrics)
        self._health = DrainableHealth()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (*SERVICES, OPERATIONS, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server
        )
        self._prober = HealthProber(self._health, SERVICES, probe, metrics)

    def _add_services(self, use_cases: UseCases, limits: ServerLimits, metrics: Metrics) -> None:
        server = self._server
        action_pb2_grpc.add_ActionServiceServicer_to_server(
            ActionServicer(
                use_cases.actions,
                use_cases.executions,
                metrics,
                limits.watch_seconds,
                self._draining,
            ),
            server,
        )
        approval_pb2_grpc.add_ApprovalServiceServicer_to_server(
            ApprovalServicer(
                use_cases.approvals,
                use_cases.approval_lists,
                use_cases.approval_watches,
                limits.watch_seconds,
                self._draining,
            ),
            server,
        )
        approver_pb2_grpc.add_ApproverServiceServicer_to_server(
            ApproverServicer(use_cases.second_factors, use_cases.approver_keys), server
        )
        control_pb2_grpc.add_ControlServiceServicer_to_server(
            ControlServicer(use_cases.controls), server
        )
        evidence_pb2_grpc.add_EvidenceServiceServicer_to_server(
            EvidenceServicer(use_cases.evidence, self._draining), server
        )
        lattice_pb2_grpc.add_LatticeServiceServicer_to_server(
            LatticeServicer(use_cases.lattices), server
        )
        operations_pb2_grpc.add_OperationsServicer_to_server(
            OperationsServicer(use_cases.lattices), server
        )
        policy_pb2_grpc.add_PolicyServiceServicer_to_server(
            PolicyServicer(use_cases.policies, use_cases.replays, self._draining), server
        )
        receipt_pb2_grpc.add_ReceiptServiceServicer_to_server(
            ReceiptServicer(use_cases.receipts, use_cases.log, use_cases.verifier), server
        )
        retention_pb2_grpc.add_RetentionServiceServicer_to_server(
            RetentionServicer(use_cases.holds), server
        )
        tenant_pb2_grpc.add_TenantServiceServicer_to_server(
            TenantServicer(use_cases.tenants, use_cases.log), server
        )

    def listen_tls(self, address: str, files: TlsFiles) -> int:
        """Listen with mutual TLS; the port that was taken (for an address with port 0)."""
        return add_port(self._server, address, tls_credentials(files))

    def listen_socket(self, address: str) -> None:
        """Listen on a Unix socket for the sidecar."""
        add_socket_port(self._server, address)

    def listen_insecure(self, address: str) -> int:
        """Listen without TLS: development only, on loopback."""
        return add_port(self._server, address, None)

    def start(self) -> None:
        """Serve."""
        self._prober.start()
        threading.Thread(target=self._sweep, name="sweep", daemon=True).start()
        self._server.start()

    def drain(self, seconds: float, lame_duck_seconds: float = 0) -> None:
        """Say NOT_SERVING, refuse new calls, end streams, let calls under way finish, stop.

        All within `seconds`. For `lame_duck_seconds` of them the server goes on serving, because
        balancers take that long to hear that they should send their calls elsewhere.
        """
        ends = time.monotonic() + seconds
        self._prober.drain()
        time.sleep(min(lame_duck_seconds, seconds))
        self._draining.set()
        self._health.end_watches()
        self._pools.conversations.end()
        stopped = self._server.stop(max(0.0, ends - time.monotonic()))
        while not stopped.wait(_SWEEP_SECONDS):
            self._pools.awaiting_request.cancel_overdue()
        self._pools.shutdown()

    def _sweep(self) -> None:
        """Free the threads that wait for requests which do not come."""
        while not self._draining.wait(_SWEEP_SECONDS):
            self._pools.awaiting_request.cancel_overdue()
