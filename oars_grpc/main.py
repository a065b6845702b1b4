"""The only place that wires: settings in, a running service out."""

from contextlib import ExitStack

import structlog
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from prometheus_client import CollectorRegistry, start_http_server

from oars_grpc.background import run_in_background, upkeep_jobs
from oars_grpc.core.page_token import PageTokens
from oars_grpc.errors import ConfigurationError, FailedPrecondition, NotFound
from oars_grpc.local.postgres import EmbeddedPostgres
from oars_grpc.process import catch_signals, stay_on, wait_for_signal
from oars_grpc.settings import Settings
from oars_grpc.storage.appender import CoalescingLedger
from oars_grpc.storage.controls import PostgresControlStore
from oars_grpc.storage.engine import open_engine, ping
from oars_grpc.storage.evidence_store import PostgresEvidenceStore
from oars_grpc.storage.log_store import PostgresLogStore
from oars_grpc.storage.receipts import PostgresReceiptStore
from oars_grpc.storage.registry import PostgresRegistryStore
from oars_grpc.storage.retention import PostgresHoldStore
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
from oars_grpc.use_cases.control_tags import ControlTags
from oars_grpc.use_cases.controls import Controls
from oars_grpc.use_cases.events import EventWriter
from oars_grpc.use_cases.evidence import Evidence
from oars_grpc.use_cases.keyring import Keyring, PolicyShelf
from oars_grpc.use_cases.legal_holds import LegalHolds
from oars_grpc.use_cases.log import Log
from oars_grpc.use_cases.policies import Policies
from oars_grpc.use_cases.receipts import Receipts
from oars_grpc.use_cases.retention import Retention
from oars_grpc.use_cases.signed_logs import SignedLogs
from oars_grpc.use_cases.tenants import Tenants
from oars_grpc.use_cases.upkeep import Upkeep
from oars_grpc.use_cases.verification import ReceiptVerifier

_log = structlog.get_logger("oars")


def run_migrations(settings: Settings) -> None:
    """Bring the schema up to date, on the embedded Postgres where no URL is given."""
    with ExitStack() as stack:
        _, migration_url = _database(settings, stack)
        migrate(migration_url)


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then drain: calls under way finish, nothing is lost."""
    signals = catch_signals()
    with ExitStack() as stack:
        start(settings, stack)
        wait_for_signal(signals)
        _log.info("draining", seconds=settings.drain_seconds)


def start(settings: Settings, stack: ExitStack) -> OarsServer:
    """Start everything; `stack` stops it in the reverse order."""
    url, migration_url = _database(settings, stack)
    if settings.processor is not None:
        stay_on(settings.processor)  # before any thread, and after Postgres, which may go anywhere
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
    receipts, log_store = PostgresReceiptStore(engine), PostgresLogStore(engine)
    logs = SignedLogs(
        store=log_store, registry=registry, keyring=keyring, prefix=settings.log_origin
    )
    controls = PostgresControlStore(engine)
    tags = ControlTags(controls)
    handed_out = Receipts(store=receipts, tags=tags, ledger=ledger, tokens=tokens)
    log = Log(store=log_store, receipts=receipts, logs=logs)
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
        controls=Controls(
            registry=registry,
            store=controls,
            tags=tags,
            events=EventWriter(keyring),
            tokens=tokens,
            clock=clock,
            chance=chance,
        ),
        evidence=Evidence(
            store=PostgresEvidenceStore(engine),
            log_store=log_store,
            logs=logs,
            keyring=keyring,
            clock=clock,
        ),
        policies=Policies(
            registry=registry,
            ledger=ledger,
            policies=shelf,
            tokens=tokens,
            clock=clock,
            chance=chance,
        ),
        receipts=handed_out,
        holds=LegalHolds(
            registry=registry,
            store=PostgresHoldStore(engine),
            keyring=keyring,
            tokens=tokens,
            clock=clock,
            chance=chance,
        ),
        log=log,
        verifier=ReceiptVerifier(
            store=receipts, receipts=handed_out, log=log, log_prefix=settings.log_origin
        ),
        tenants=Tenants(
            registry=registry,
            keyring=keyring,
            tokens=tokens,
            clock=clock,
            chance=chance,
            log_prefix=settings.log_origin,
        ),
    )
    upkeep = Upkeep(
        ledger=ledger,
        store=PostgresUpkeepStore(engine),
        keyring=keyring,
        clock=clock,
        chance=chance,
    )
    retention = Retention(registry=registry, keyring=keyring, clock=clock, chance=chance)
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
    jobs = upkeep_jobs(upkeep=upkeep, tags=tags, retention=retention, metrics=metrics)
    run_in_background(jobs, settings.upkeep_seconds, stack)
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
