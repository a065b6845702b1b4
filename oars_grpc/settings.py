"""The process's settings: read once from `OARS_*`, strictly, into one frozen value.

An unknown name is an error, so that a misspelt one is never silently a default. Secrets come as
paths of files. `SETTINGS` is the documentation: `oars serve --help` prints it.
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

from limits import parse

from oars_grpc.core.note import is_key_name
from oars_grpc.errors import ConfigurationError

PREFIX = "OARS_"
MODES = ("tls", "sidecar", "off")
ENVIRONMENTS = ("production", "development")
KEY_BYTES = 32
MAXIMUM_ORIGIN = 255

# Name: (default, meaning). An empty default means not set.
SETTINGS: Mapping[str, tuple[str, str]] = {
    "OARS_ENV": ("production", "production or development"),
    "OARS_MTLS_MODE": ("tls", "tls, sidecar, or (in development) off"),
    "OARS_LISTEN": ("127.0.0.1:7443", "host:port, or unix:/path in sidecar mode"),
    "OARS_TLS_CERTIFICATE_FILE": ("", "PEM chain of the server"),
    "OARS_TLS_PRIVATE_KEY_FILE": ("", "PEM private key of the server"),
    "OARS_TLS_CLIENT_CA_FILE": ("", "PEM authorities that client certificates must come from"),
    "OARS_TRUSTED_IDENTITIES_FILE": ("", "JSON list of the identities that may call; required"),
    "OARS_OIDC_FILE": ("", "JSON list of OIDC issuers whose bearer tokens people may use"),
    "OARS_SIDECAR_SPIFFE_ID": ("", "the sidecar's own identity, when it connects over TCP"),
    "OARS_DEVELOPMENT_IDENTITY": ("", "the trusted identity that every call has in mode off"),
    "OARS_KEY_ENCRYPTION_KEY_FILE": ("", "base64 of 32 bytes that encrypt keys; required"),
    "OARS_DATABASE_URL": ("", "postgresql://…; without it an embedded Postgres is started"),
    "OARS_DATABASE_PASSWORD_FILE": ("", "password for OARS_DATABASE_URL"),
    "OARS_MIGRATION_DATABASE_URL": ("", "URL of the schema's owner; default OARS_DATABASE_URL"),
    "OARS_DATA_DIRECTORY": ("oars-data", "where the embedded Postgres keeps its data"),
    "OARS_MIGRATE_ON_START": ("true", "whether serving migrates the schema first"),
    "OARS_DATABASE_POOL_SIZE": ("16", "connections to Postgres"),
    "OARS_STATEMENT_TIMEOUT_MS": ("5000", "longest statement"),
    "OARS_WORKER_THREADS": ("16", "rpcs served at a time, and as many of lattices"),
    "OARS_PROCESSOR": ("", "number of the processor to stay on, from 0; default: any"),
    "OARS_QUEUED_RPCS": ("256", "rpcs that may wait for a thread before more are refused"),
    "OARS_STREAMS": ("64", "watches served at a time"),
    "OARS_WATCH_SECONDS": ("300", "longest watch before its final event"),
    "OARS_RATE_LIMIT": ("2000/second", "calls of one identity on this server"),
    "OARS_DRAIN_SECONDS": ("20", "how long calls under way may take after SIGTERM"),
    "OARS_LAME_DUCK_SECONDS": ("5", "of these, how long new calls are served still"),
    "OARS_METRICS_LISTEN": ("127.0.0.1:9464", "host:port for Prometheus; off for none"),
    "OARS_LOG_ORIGIN": ("oars", "what log origins begin with: a name you own, kept for good"),
    "OARS_LATTICE_CACHE_MIB": ("512", "memory for lattices that are ready to be asked"),
    "OARS_LATTICE_COMPUTATIONS": ("1", "lattices settled or loaded for calls at a time"),
    "OARS_LATTICE_QUERIES": ("4", "questions to ready lattices computed at a time"),
    "OARS_EVIDENCE_SCORINGS": ("2", "actions whose evidence is scored at a time"),
    "OARS_LATTICE_THREADS": ("1", "threads of each computation on a lattice"),
    "OARS_UPKEEP_SECONDS": ("5", "pause between rounds of expiry and purging"),
    "OARS_LOG_LEVEL": ("info", "debug, info, warning or error"),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that `OARS_*` says; URLs and keys stay out of its text."""

    development: bool
    mtls_mode: str
    listen: str
    certificate_file: Path | None
    private_key_file: Path | None
    client_ca_file: Path | None
    trusted_identities_file: Path
    oidc_file: Path | None
    sidecar_spiffe_id: str
    development_identity: str
    key_encryption_key: bytes = field(repr=False)
    database_url: str = field(repr=False)
    migration_database_url: str = field(repr=False)
    data_directory: Path
    migrate_on_start: bool
    database_pool_size: int
    statement_timeout_ms: int
    worker_threads: int
    processor: int | None
    queued_rpcs: int
    streams: int
    watch_seconds: int
    rate_limit: str
    drain_seconds: int
    lame_duck_seconds: int
    metrics_listen: tuple[str, int] | None
    log_origin: str
    lattice_cache_mib: int
    lattice_computations: int
    lattice_queries: int
    evidence_scorings: int
    lattice_threads: int
    upkeep_seconds: int
    log_level: str


@dataclass(frozen=True, slots=True)
class DatabaseSettings:
    """Where the database is; all that a command needs that only reads it."""

    url: str = field(repr=False)
    data_directory: Path


def read_database_settings(environment: Mapping[str, str]) -> DatabaseSettings:
    """The settings of an environment that say where the database is.

    Raises:
        ConfigurationError: naming the variable at fault.
    """
    reader = _Reader(environment)
    return DatabaseSettings(
        url=reader.database_url("OARS_DATABASE_URL"),
        data_directory=Path(reader.text("OARS_DATA_DIRECTORY")),
    )


def read_settings(environment: Mapping[str, str]) -> Settings:
    """The settings of an environment.

    Raises:
        ConfigurationError: naming the variable at fault.
    """
    reader = _Reader(environment)
    development = reader.choice("OARS_ENV", ENVIRONMENTS) == "development"
    mode = reader.choice("OARS_MTLS_MODE", MODES)
    listen = reader.text("OARS_LISTEN")
    if mode == "off" and not development:
        raise ConfigurationError("OARS_MTLS_MODE=off is refused unless OARS_ENV=development")
    if mode == "off" and not _is_local(listen):
        raise ConfigurationError("OARS_MTLS_MODE=off listens on a loopback address only")
    on_socket = listen.startswith("unix:")
    if not on_socket and reader.address("OARS_LISTEN") is None:
        raise ConfigurationError("OARS_LISTEN must be host:port or unix:/path, not 'off'")
    if on_socket and mode == "tls":
        raise ConfigurationError("OARS_LISTEN: a Unix socket is for OARS_MTLS_MODE=sidecar")
    needs_tls = mode == "tls" or (mode == "sidecar" and not on_socket)
    if mode == "sidecar" and not on_socket:
        reader.required("OARS_SIDECAR_SPIFFE_ID")
    if mode == "off":
        reader.required("OARS_DEVELOPMENT_IDENTITY")
    url = reader.database_url("OARS_DATABASE_URL")
    return Settings(
        development=development,
        mtls_mode=mode,
        listen=listen,
        certificate_file=reader.file("OARS_TLS_CERTIFICATE_FILE", required=needs_tls),
        private_key_file=reader.file("OARS_TLS_PRIVATE_KEY_FILE", required=needs_tls),
        client_ca_file=reader.file("OARS_TLS_CLIENT_CA_FILE", required=needs_tls),
        trusted_identities_file=reader.required_file("OARS_TRUSTED_IDENTITIES_FILE"),
        oidc_file=reader.file("OARS_OIDC_FILE", required=False),
        sidecar_spiffe_id=reader.text("OARS_SIDECAR_SPIFFE_ID"),
        development_identity=reader.text("OARS_DEVELOPMENT_IDENTITY"),
        key_encryption_key=read_key_file(reader.required_file("OARS_KEY_ENCRYPTION_KEY_FILE")),
        database_url=url,
        migration_database_url=reader.database_url("OARS_MIGRATION_DATABASE_URL") or url,
        data_directory=Path(reader.text("OARS_DATA_DIRECTORY")),
        migrate_on_start=reader.choice("OARS_MIGRATE_ON_START", ("true", "false")) == "true",
        database_pool_size=reader.number("OARS_DATABASE_POOL_SIZE", 2, 500),
        statement_timeout_ms=reader.number("OARS_STATEMENT_TIMEOUT_MS", 100, 600_000),
        worker_threads=reader.number("OARS_WORKER_THREADS", 1, 500),
        processor=reader.optional_number("OARS_PROCESSOR", 0, 4095),
        queued_rpcs=reader.number("OARS_QUEUED_RPCS", 1, 100_000),
        streams=reader.number("OARS_STREAMS", 1, 10_000),
        watch_seconds=reader.number("OARS_WATCH_SECONDS", 1, 86_400),
        rate_limit=reader.rate("OARS_RATE_LIMIT"),
        drain_seconds=reader.number("OARS_DRAIN_SECONDS", 0, 3600),
        lame_duck_seconds=reader.number("OARS_LAME_DUCK_SECONDS", 0, 3600),
        metrics_listen=reader.address("OARS_METRICS_LISTEN"),
        log_origin=reader.origin("OARS_LOG_ORIGIN"),
        lattice_cache_mib=reader.number("OARS_LATTICE_CACHE_MIB", 1, 1_048_576),
        lattice_computations=reader.number("OARS_LATTICE_COMPUTATIONS", 1, 64),
        lattice_queries=reader.number("OARS_LATTICE_QUERIES", 1, 500),
        evidence_scorings=reader.number("OARS_EVIDENCE_SCORINGS", 1, 500),
        lattice_threads=reader.number("OARS_LATTICE_THREADS", 1, 64),
        upkeep_seconds=reader.number("OARS_UPKEEP_SECONDS", 1, 3600),
        log_level=reader.choice("OARS_LOG_LEVEL", ("debug", "info", "warning", "error")),
    )


def read_key_file(path: Path) -> bytes:
    """The 32 bytes of a key-encryption key file (base64, surrounding white space ignored).

    Raises:
        ConfigurationError: unreadable, or not 32 bytes in base64.
    """
    try:
        key = base64.b64decode(path.read_text(encoding="ascii").strip(), validate=True)
    except (OSError, UnicodeDecodeError, binascii.Error) as error:
        raise ConfigurationError(f"{path}: is not a file of base64") from error
    if len(key) != KEY_BYTES:
        raise ConfigurationError(f"{path}: holds {len(key)} bytes, not {KEY_BYTES}")
    return key


def _is_local(listen: str) -> bool:
    host = listen.rpartition(":")[0].strip("[]")
    return listen.startswith("unix:") or host in ("127.0.0.1", "::1", "localhost")


class _Reader:
    def __init__(self, environment: Mapping[str, str]) -> None:
        unknown = sorted(n for n in environment.keys() - SETTINGS if n.startswith(PREFIX))
        if unknown:
            raise ConfigurationError(f"{unknown[0]} is not a setting")
        self._environment = environment

    def text(self, name: str) -> str:
        return self._environment.get(name, "") or SETTINGS[name][0]

    def required(self, name: str) -> str:
        value = self.text(name)
        if not value:
            raise ConfigurationError(f"{name} is required: {SETTINGS[name][1]}")
        return value

    def choice(self, name: str, allowed: tuple[str, ...]) -> str:
        value = self.text(name)
        if value not in allowed:
            raise ConfigurationError(f"{name} must be one of {', '.join(allowed)}, not {value!r}")
        return value

    def number(self, name: str, minimum: int, maximum: int) -> int:
        value = self.text(name)
        digits = value.isascii() and value.isdecimal() and len(value) <= len(str(maximum))
        if not digits or not minimum <= int(value) <= maximum:
            raise ConfigurationError(f"{name} must be from {minimum} to {maximum}, not {value!r}")
        return int(value)

    def optional_number(self, name: str, minimum: int, maximum: int) -> int | None:
        return self.number(name, minimum, maximum) if self.text(name) else None

    def origin(self, name: str) -> str:
        value = self.text(name)
        if not is_key_name(value) or value.endswith("/") or len(value) > MAXIMUM_ORIGIN:
            raise ConfigurationError(
                f"{name} must be at most {MAXIMUM_ORIGIN} printable characters without spaces and"
                f" plus signs, and without a slash at the end, not {value!r}"
            )
        return value

    def rate(self, name: str) -> str:
        value = self.text(name)
        try:
            parse(value)
        except ValueError as error:
            raise ConfigurationError(f"{name} must be like 500/second, not {value!r}") from error
        return value

    def file(self, name: str, *, required: bool) -> Path | None:
        return self.required_file(name) if required or self.text(name) else None

    def required_file(self, name: str) -> Path:
        path = Path(self.required(name))
        if not path.is_file():
            raise ConfigurationError(f"{name}: there is no file {path}")
        return path

    def address(self, name: str) -> tuple[str, int] | None:
        value = self.text(name)
        if value == "off":
            return None
        host, _, port = value.rpartition(":")
        digits = port.isascii() and port.isdecimal() and len(port) <= 5
        if not host or not digits or int(port) > 65535:
            raise ConfigurationError(f"{name} must be host:port or off, not {value!r}")
        return host.strip("[]"), int(port)

    def database_url(self, name: str) -> str:
        url = self.text(name)
        if not url:
            return ""
        try:
            parts = urlsplit(url)
        except ValueError:  # its text and its context would show the password
            raise ConfigurationError(f"{name} is not a URL") from None
        if parts.scheme not in ("postgresql", "postgres", "postgresql+psycopg"):
            raise ConfigurationError(f"{name} must begin with postgresql://")
        password_file = self.file("OARS_DATABASE_PASSWORD_FILE", required=False)
        netloc = parts.netloc
        if password_file is not None:
            user, _, host = netloc.rpartition("@")
            if not user or ":" in user:
                raise ConfigurationError(f"{name} must name a user, and no password of its own")
            try:
                password = quote(password_file.read_text(encoding="utf-8").strip(), safe="")
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigurationError(f"{password_file}: is not a file of text") from error
            netloc = f"{user}:{password}@{host}"
        # With its slashes in any case: urlunsplit leaves them out before an empty host.
        rest = urlunsplit(parts._replace(scheme="", netloc=""))
        return f"postgresql://{netloc}{rest}"
