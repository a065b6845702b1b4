"""A whole OARS on one machine: Postgres, certificates, server, Envoy, and a tenant to begin with.

`oars dev`, `oars demo` and the tests all start it here. In the state directory:

    postgres/  certificates/  key-encryption-key  envoy/  server.log  connection.json
"""

import base64
import fcntl
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import grpc
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc

from oars_grpc.errors import ConfigurationError
from oars_grpc.local.bound_process import bound_to_this_process
from oars_grpc.local.bundle import load_script
from oars_grpc.local.envoy import Envoy, EnvoySettings
from oars_grpc.local.postgres import EmbeddedPostgres

TENANT = "tenant_alpha"
ROLES = ("admin", "operator", "approver", "auditor", "agent")
STARTED_IN_SECONDS = 60.0
DESCRIPTORS = Path(__file__).resolve().parent.parent / "generated" / "oars.v1.pb"


class LocalStack:
    """Starts everything in order, stops it in the reverse order."""

    def __init__(
        self,
        state: Path,
        *,
        port: int = 0,
        tenants: tuple[str, ...] = (TENANT,),
        postgres_settings: Mapping[str, str] | None = None,
        server_settings: Mapping[str, str] | None = None,
        replicas: int = 1,
    ) -> None:
        self._state = state.resolve()
        self._port = port or free_port()
        self._tenants = tenants
        self._postgres_settings = dict(postgres_settings or {})
        self._server_settings = dict(server_settings or {})
        self._replicas = replicas
        self._stack = ExitStack()
        # The servers end with the thread that spawned them, so one thread outlives them all.
        self._spawner = ThreadPoolExecutor(1, thread_name_prefix="servers")
        self.postgres = EmbeddedPostgres(self._state / "postgres", settings=self._postgres_settings)
        self.servers: list[subprocess.Popen[bytes]] = []
        self._sockets: list[Path] = []

    @property
    def certificates(self) -> Path:
        """Where certificates, keys and the trusted-identities file are."""
        return self._state / "certificates"

    @property
    def rest_url(self) -> str:
        """Base URL of the REST API."""
        return f"https://localhost:{self._port}"

    @property
    def grpc_target(self) -> str:
        """Target of the gRPC API, behind the same sidecar."""
        return f"localhost:{self._port}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Bring everything up; returns when a call through the sidecar succeeds.

        Raises:
            ConfigurationError: a part does not start, or another stack runs on this state.
        """
        self._state.mkdir(parents=True, exist_ok=True)
        self._lock_state()
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Drain the servers, stop Envoy and Postgres. The state stays."""
        (self._state / "connection.json").unlink(missing_ok=True)
        self._stack.close()
        self.servers.clear()

    def client(self, role: str, **options: Any) -> httpx.Client:
        """A REST client with the certificate of a role."""
        context = ssl.create_default_context(cafile=str(self.certificates / "ca.pem"))
        context.load_cert_chain(
            self.certificates / f"{role}.pem", self.certificates / f"{role}.key"
        )
        return httpx.Client(base_url=self.rest_url, verify=context, timeout=30.0, **options)

    def start_server(self, replica: int = 0) -> subprocess.Popen[bytes]:
        """Start the server of one replica (again, after it was killed)."""
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("OARS_")
        }
        environment |= self.server_environment(replica)
        log = (self._state / "server.log").open("ab")
        with log:
            server = self._spawner.submit(
                subprocess.Popen[bytes],
                bound_to_this_process([sys.executable, "-m", "oars_grpc.cli", "serve"]),
                env=environment,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for this process, which stops them in order
            ).result()
        self.servers[replica : replica + 1] = [server]
        return server

    def server_environment(self, replica: int) -> dict[str, str]:
        """The settings of one replica."""
        return {
            "OARS_ENV": "development",
            "OARS_MTLS_MODE": "sidecar",
            "OARS_LISTEN": f"unix:{self._sockets[replica]}",
            "OARS_TRUSTED_IDENTITIES_FILE": str(self.certificates / "trusted-identities.json"),
            "OARS_KEY_ENCRYPTION_KEY_FILE": str(self._key_file()),
            "OARS_DATABASE_URL": self.postgres.url,
            "OARS_METRICS_LISTEN": "127.0.0.1:0",
            "OARS_LAME_DUCK_SECONDS": "0",  # one machine: who stops it is not served elsewhere
            **self._server_settings,
        }

    def wait_until_healthy(self, seconds: float = STARTED_IN_SECONDS) -> None:
        """Wait until the sidecar reports healthy servers, and each of them does so itself.

        Raises:
            ConfigurationError: a server ended, or time ran out; with the end of its log.
        """
        ends = time.monotonic() + seconds
        with self.client("admin") as client:
            while True:
                if self._healthy(client) and all(map(serves, self._sockets)):
                    return
                ended = [server for server in self.servers if server.poll() is not None]
                if ended or time.monotonic() > ends:
                    raise ConfigurationError(f"the server did not become healthy:\n{self._log()}")
                time.sleep(0.1)

    @staticmethod
    def _healthy(client: httpx.Client) -> bool:
        try:
            return client.get("/healthz").status_code == httpx.codes.OK
        except httpx.TransportError:
            return False  # not listening yet

    def _lock_state(self) -> None:
        """Hold the state directory until the stack stops; the kernel lets go of it on death."""
        lock = (self._state / "stack.lock").open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise ConfigurationError(f"another stack runs on {self._state}") from None
        self._stack.callback(lock.close)

    def _start(self) -> None:
        self._stack.callback(self.postgres.stop)
        self.postgres.start()
        generate = load_script("certs-dev/generate.py").generate
        generate(self.certificates, tenants=self._tenants)
        self._stack.callback(self._stop_servers)
        sockets = Path(tempfile.mkdtemp(prefix="oars-"))  # short: socket paths hold 107 bytes
        self._stack.callback(shutil.rmtree, sockets, ignore_errors=True)
        self._sockets = [sockets / f"server-{number}.sock" for number in range(self._replicas)]
        for replica in range(self._replicas):
            self.start_server(replica)
        settings = EnvoySettings(
            listen_port=self._port,
            admin_port=free_port(),
            upstream_sockets=self._sockets,
            certificates=self.certificates,
            descriptor_set=DESCRIPTORS,
            access_log=self._state / "envoy" / "access.log",
        )
        envoy = Envoy(settings, self._state / "envoy")
        self._stack.callback(envoy.stop)
        envoy.start()
        self.wait_until_healthy()
        self._create_tenants()
        self._write_connection()

    def _stop_servers(self) -> None:
        for server in self.servers:
            server.terminate()
        for server in self.servers:
            try:
                server.wait(timeout=30)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()

    def _create_tenants(self) -> None:
        with self.client("admin") as client:
            for tenant in self._tenants:
                answer = client.post("/v1/tenants", json={"tenantId": tenant})
                if answer.status_code not in (httpx.codes.OK, httpx.codes.CONFLICT):
                    raise ConfigurationError(f"tenant {tenant} was not created: {answer.text}")

    def _write_connection(self) -> None:
        connection = {
            "rest_url": self.rest_url,
            "grpc_target": self.grpc_target,
            "ca_certificate": str(self.certificates / "ca.pem"),
            "tenant": self._tenants[0],
            "identities": {
                role: {
                    "certificate": str(self.certificates / f"{role}.pem"),
                    "private_key": str(self.certificates / f"{role}.key"),
                    "tenant": self._tenants[0],
                }
                for role in ROLES
            },
        }
        unfinished = self._state / "connection.json.unfinished"
        unfinished.write_text(json.dumps(connection, indent=2) + "\n", encoding="utf-8")
        unfinished.replace(self._state / "connection.json")  # whoever waits for it sees it whole

    def _key_file(self) -> Path:
        path = self._state / "key-encryption-key"
        if not path.exists():
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(base64.b64encode(os.urandom(32)) + b"\n")
        return path

    def _log(self) -> str:
        path = self._state / "server.log"
        return path.read_text(encoding="utf-8", errors="replace")[-3000:] if path.exists() else ""


def serves(listening: Path) -> bool:
    """Whether the server behind a socket calls itself healthy; one sidecar may hide several."""
    with grpc.insecure_channel(f"unix:{listening}") as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=2.0
            )
        except grpc.RpcError:
            return False  # not listening yet
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def free_port() -> int:
    """A TCP port of this machine that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
