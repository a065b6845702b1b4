"""The only place that wires: settings in, a running service out."""

import logging
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from queue import Empty, SimpleQueue

import structlog
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from prometheus_client import CollectorRegistry, start_http_server

from oars_grpc.core.page_token import PageTokens
from oars_grpc.errors import ConfigurationError, FailedPrecondition, NotFound, OarsError
from oars_grpc.local.postgres import EmbeddedPostgres
from oars_grpc.settings import Settings
from oars_grpc.storage.appender import CoalescingLedger
from oars_grpc.storage.engine import open_engine, ping
from oars_grpc.storage.receipts import PostgresReceiptStore
from oars_grpc.storage.registry import PostgresRegistryStore
from oars_grpc.storage.schema import migrate
from oars_grpc.storage.upkeep import PostgresUpkeepStore
from oars_grpc.system import SystemChance, SystemClock
from oars_grpc.transport.admission import Pools
from oars_grpc.transport.credentials import TlsFiles
from oars_grpc.transport.identity import (
    Authenticator,
    DevelopmentAuthenticator,
    SidecarAuthenticator,
    TlsAuthenticator,
)
from oars_grpc.transport.metrics import Metrics
from oars_grpc.transport.pipeline import Pipeline
from oars_grpc.transport.rate_limit import RateLimit
from oars_grpc.transport.server import OarsServer, ServerLimits, UseCases
from oars_grpc.transport.trusted_identities import TrustedIdentities
from oars_grpc.use_cases.actions import Actions
from oars_grpc.use_cases.approvals import Approvals
from oars_grpc.use_cases.keyring import Keyring, PolicyShelf
from oars_grpc.use_cases.policies import Policies
from oars_grpc.use_cases.receipts import Receipts
from oars_grpc.use_cases.tenants import Tenants
from oars_grpc.use_cases.upkeep import Upkeep

_SIGNAL_SECONDS = 0.5

_log = structlog.get_logger("oars")


def configure_logging(level: str) -> None:
    """JSON lines on standard error; bodies, headers and keys are never logged."""
    structlog.configure(
        processors=[
            structlog.stdlib.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def run_migrations(settings: Settings) -> None:
    """Bring the schema up to date, on the embedded Postgres where no URL is given."""
    with ExitStack() as stack:
        _, migration_url = _database(settings, stack)
        migrate(migration_url)


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then drain: calls under way finish, nothing is lost."""
    # A handler may interrupt the very wait for it; of all queues and events only this one's put may
    # be called there.
    signals: SimpleQueue[int] = SimpleQueue()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _frame: signals.put(received))
    with ExitStack() as stack:
        start(settings, stack)
        _wait_for_signal(signals)
        _log.info("draining", seconds=settings.drain_seconds)


def _wait_for_signal(signals: "SimpleQueue[int]") -> None:
    """Wait until a handler has put a signal.

    A signal that reaches another thread, or just before the wait begins, does not end the wait, and
    handlers run in this thread alone: it wakes now and then to let them.
    """
    while True:
        try:
            signals.get(timeout=_SIGNAL_SECONDS)
        except Empty:
            continue
        return


def start(settings: Settings, stack: ExitStack) -> OarsServer:
    """Start everything; `stack` stops it in the reverse order."""
    url, migration_url = _database(settings, stack)
    if settings.migrate_on_start:
        migrate(migration_url)
    engine = open_engine(
        url,
        pool_size=settings.database_pool_size,
        statement_timeout_ms=settings.statement_timeout_ms,
        lock_timeout_ms=settings.statement_timeout_ms,
        application_name="oars",
    )
    stack.callback(engine.dispose)

    clock, chance = SystemClock(), SystemChance()
    metrics = Metrics(_metrics_registry(settings, stack))
    ledger, registry = CoalescingLedger(engine), PostgresRegistryStore(engine)
    stack.callback(ledger.close)  # after the drain: whoever is being answered still commits
    keyring = Keyring(settings.key_encryption_key, chance, clock)
    shelf, tokens = PolicyShelf(), PageTokens(_derived(settings, b"oars page tokens"))
    use_cases = UseCases(
        actions=Actions(
            ledger=ledger,
            keyring=keyring,
            policies=shelf,
            tokens=tokens,
            clock=clock,
            chance=chance,
        ),
        approvals=Approvals(
            ledger=ledger, keyring=keyring, tokens=tokens, clock=clock, chance=chance
        ),
        policies=Policies(
            registry=registry,
            ledger=ledger,
            policies=shelf,
            tokens=tokens,
            clock=clock,
            chance=chance,
        ),
        receipts=Receipts(store=PostgresReceiptStore(engine), ledger=ledger, tokens=tokens),
        tenants=Tenants(
            registry=registry, keyring=keyring, tokens=tokens, clock=clock, chance=chance
        ),
    )
    upkeep = Upkeep(
        ledger=ledger,
        store=PostgresUpkeepStore(engine),
        keyring=keyring,
        clock=clock,
        chance=chance,
    )
    authenticator = _authenticator(settings, metrics, clock)

    def make_pipeline(pools: Pools) -> Pipeline:
        return Pipeline(
            authenticator=authenticator,
            rate_limit=RateLimit(settings.rate_limit),
            chance=chance,
            metrics=metrics,
            pools=pools,
        )

    server = OarsServer(
        use_cases=use_cases,
        make_pipeline=make_pipeline,
        limits=ServerLimits(
            settings.worker_threads, settings.queued_rpcs, settings.streams, settings.watch_seconds
        ),
        metrics=metrics,
        probe=lambda: ping(engine),
    )
    address = _listen(settings, server)
    _check_key_encryption_key(registry, ledger, keyring)
    _run_upkeep(upkeep, settings.upkeep_seconds, metrics, stack)
    server.start()
    stack.callback(server.drain, settings.drain_seconds, settings.lame_duck_seconds)
    _log.info("listening", address=address, mode=settings.mtls_mode)
    return server


def _database(settings: Settings, stack: ExitStack) -> tuple[str, str]:
    """URL for serving and URL for migrating; starts the embedded Postgres if there is none."""
    if settings.database_url:
        return settings.database_url, settings.migration_database_url
    _log.warning("no OARS_DATABASE_URL: embedded Postgres", directory=str(settings.data_directory))
    postgres = stack.enter_context(EmbeddedPostgres(settings.data_directory))
    return postgres.url, postgres.url


def _derived(settings: Settings, purpose: bytes) -> bytes:
    """A secret of its own for each purpose, the same on every replica (RFC 5869)."""
    return HKDF(SHA256(), 32, salt=None, info=purpose).derive(settings.key_encryption_key)


def _check_key_encryption_key(
    registry: PostgresRegistryStore, ledger: CoalescingLedger, keyring: Keyring
) -> None:
    """Open one signing key: under a wrong key-encryption key no submission would succeed.

    Raises:
        ConfigurationError: it does not open.
    """
    for tenant in registry.list_tenants(None, "", 1):
        try:
            basis = ledger.basis(tenant.tenant_id, None)
        except (NotFound, FailedPrecondition) as error:
            _log.warning("the key-encryption key was not tried", error=error.message)
        else:
            keyring.open(basis.signing_key)


def _metrics_registry(settings: Settings, stack: ExitStack) -> CollectorRegistry:
    registry = CollectorRegistry()
    if settings.metrics_listen is not None:
        host, port = settings.metrics_listen
        try:
            http, thread = start_http_server(port, addr=host, registry=registry)
        except OSError as error:
            raise ConfigurationError(
                f"OARS_METRICS_LISTEN: cannot listen on {host}:{port}: {error.strerror}"
            ) from error
        stack.callback(thread.join)
        stack.callback(http.server_close)
        stack.callback(http.shutdown)
        _log.info("metrics", address=f"{host}:{http.server_port}")
    return registry


def _authenticator(settings: Settings, metrics: Metrics, clock: SystemClock) -> Authenticator:
    identities = TrustedIdentities(
        settings.trusted_identities_file,
        on_reload=lambda ok: metrics.identity_reloads.labels("ok" if ok else "refused").inc(),
    )
    if settings.mtls_mode == "tls":
        return TlsAuthenticator(identities, clock)
    if settings.mtls_mode == "sidecar":
        return SidecarAuthenticator(identities, clock, settings.sidecar_spiffe_id)
    return DevelopmentAuthenticator(identities, settings.development_identity)


def _listen(settings: Settings, server: OarsServer) -> str:
    """Listen where the settings say; the address, with the port taken where they leave it open."""
    if settings.listen.startswith("unix:"):
        server.listen_socket(settings.listen)
        return settings.listen
    if settings.mtls_mode == "off":
        port = server.listen_insecure(settings.listen)
    else:
        files = settings.certificate_file, settings.private_key_file, settings.client_ca_file
        certificate, key, authorities = files
        if certificate is None or key is None or authorities is None:
            raise ConfigurationError("TLS needs certificate, private key and client CA files")
        port = server.listen_tls(settings.listen, TlsFiles(certificate, key, authorities))
    return f"{settings.listen.rpartition(':')[0]}:{port}"


def _run_upkeep(upkeep: Upkeep, pause: float, metrics: Metrics, stack: ExitStack) -> None:
    """Run rounds of upkeep in the background until the stack unwinds."""
    stopping = threading.Event()

    def expire() -> None:
        report = upkeep.expire_due()
        metrics.expired_actions.inc(report.expired)
        metrics.expiry_failures.inc(len(report.failures))
        for failure in report.failures:
            _log.error(
                "an action could not be expired",
                tenant_id=failure.due.tenant_id,
                action_id=failure.due.action_id,
                error=repr(failure.error),
            )

    def purge() -> None:
        metrics.purged_outcomes.inc(upkeep.purge_outcomes())

    def rounds() -> None:
        while not stopping.wait(pause):
            for job in (expire, purge):
                try:
                    job()
                except OarsError as error:
                    _log.warning("upkeep failed, next round follows", error=error.message)
                except Exception:  # noqa: BLE001 - a fault of one round must not end all rounds
                    _log.exception("upkeep failed, next round follows")

    thread = threading.Thread(target=rounds, name="upkeep", daemon=True)
    thread.start()
    stop: Callable[[], None] = stopping.set
    stack.callback(thread.join)
    stack.callback(stop)
