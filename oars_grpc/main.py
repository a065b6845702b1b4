"""The only place that wires: settings in, a running service out."""

from contextlib import ExitStack

import structlog
from prometheus_client import CollectorRegistry, start_http_server
from threadpoolctl import threadpool_limits

from oars_grpc.assembly import Assembly, assemble
from oars_grpc.background import build_in_background, run_in_background
from oars_grpc.core.lattice.threads import limit_threads
from oars_grpc.errors import ConfigurationError, FailedPrecondition, NotFound
from oars_grpc.local.postgres import EmbeddedPostgres
from oars_grpc.process import catch_signals, spare_collector, stay_on, wait_for_signal
from oars_grpc.settings import Settings
from oars_grpc.storage.engine import open_engine, ping
from oars_grpc.storage.schema import migrate
from oars_grpc.system import SystemChance, SystemClock
from oars_grpc.transport.admission import Pools
from oars_grpc.transport.bearer import BearerAuthenticator
from oars_grpc.transport.credentials import TlsFiles
from oars_grpc.transport.identity import (
    Authenticator,
    DevelopmentAuthenticator,
    SidecarAuthenticator,
    TlsAuthenticator,
)
from oars_grpc.transport.metrics import Metrics
from oars_grpc.transport.oidc_issuers import OidcIssuers
from oars_grpc.transport.pipeline import Pipeline
from oars_grpc.transport.rate_limit import RateLimit
from oars_grpc.transport.server import OarsServer, ServerLimits
from oars_grpc.transport.tokens import TokenVerifier
from oars_grpc.transport.trusted_identities import TrustedIdentities

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
        spare_collector()
        wait_for_signal(signals)
        _log.info("draining", seconds=settings.drain_seconds)


def start(settings: Settings, stack: ExitStack) -> OarsServer:
    """Start everything; `stack` stops it in the reverse order."""
    url, migration_url = _database(settings, stack)
    if settings.processor is not None:
        stay_on(settings.processor)  # before any thread, and after Postgres, which may go anywhere
    if settings.migrate_on_start:
        migrate(migration_url)
    # For good: whatever thread computes, the rpcs keep the other cores.
    # Lattices take threads of their own, each a matrix product by itself: a BLAS that keeps a core
    # waiting for its next product would be in the way of all else.
    threadpool_limits(1)
    limit_threads(settings.lattice_threads)
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
    assembly = assemble(settings, engine, metrics, clock, chance, stack)
    rate_limit = RateLimit(settings.rate_limit)
    authenticator = BearerAuthenticator(
        _authenticator(settings, metrics, clock),
        _token_verifier(settings, metrics, clock),
        rate_limit,
    )

    def make_pipeline(pools: Pools) -> Pipeline:
        return Pipeline(
            authenticator=authenticator,
            rate_limit=rate_limit,
            chance=chance,
            metrics=metrics,
            pools=pools,
        )

    server = OarsServer(
        use_cases=assembly.use_cases,
        make_pipeline=make_pipeline,
        limits=ServerLimits(
            settings.worker_threads, settings.queued_rpcs, settings.streams, settings.watch_seconds
        ),
        metrics=metrics,
        probe=lambda: ping(engine),
    )
    address = _listen(settings, server)
    _check_key_encryption_key(assembly)
    run_in_background(assembly.jobs, settings.upkeep_seconds, stack)
    build_in_background(assembly.builder, stack)
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


def _check_key_encryption_key(assembly: Assembly) -> None:
    """Open one signing key: under a wrong key-encryption key no submission would succeed.

    Raises:
        ConfigurationError: it does not open.
    """
    for tenant in assembly.registry.list_tenants(None, "", 1):
        try:
            basis = assembly.ledger.basis(tenant.tenant_id, None)
        except (NotFound, FailedPrecondition) as error:
            _log.warning("the key-encryption key was not tried", error=error.message)
        else:
            assembly.keyring.open(basis.signing_key)


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


def _token_verifier(
    settings: Settings, metrics: Metrics, clock: SystemClock
) -> TokenVerifier | None:
    """What verifies the tokens of people; None where no issuer is trusted."""
    if settings.oidc_file is None:
        return None
    issuers = OidcIssuers(
        settings.oidc_file,
        development=settings.development,
        on_reload=lambda ok: metrics.oidc_reloads.labels("ok" if ok else "refused").inc(),
        on_fetch=lambda ok: metrics.key_fetches.labels("ok" if ok else "failed").inc(),
    )
    return TokenVerifier(issuers, clock)


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
