"""Listening ports: TLS with client certificates read again when they change, or a Unix socket."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import grpc
import structlog
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificate

from oars_grpc.errors import ConfigurationError

_log = structlog.get_logger("oars.tls")


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Where certificate, key and client authorities lie."""

    certificate: Path
    private_key: Path
    client_ca: Path

    def read(self) -> tuple[bytes, bytes, bytes]:
        """Key, certificate chain and client authorities, as they are now.

        Raises:
            ConfigurationError: unreadable, or key and certificate do not belong together.
        """
        try:
            key, chain = self.private_key.read_bytes(), self.certificate.read_bytes()
            authorities = self.client_ca.read_bytes()
            private = load_pem_private_key(key, None)
            certificate = load_pem_x509_certificate(chain)
            load_pem_x509_certificate(authorities)
        except (OSError, ValueError, TypeError) as error:
            raise ConfigurationError(f"TLS files: {error}") from error
        if private.public_key() != certificate.public_key():
            raise ConfigurationError(f"{self.private_key} is not the key of {self.certificate}")
        return key, chain, authorities


def tls_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Credentials that require client certificates and follow the files.

    gRPC asks for every new connection; a change that does not load keeps what was there before.
    """
    current = files.read()

    def configuration(
        parts: tuple[bytes, bytes, bytes],
    ) -> grpc.ServerCertificateConfiguration:
        key, chain, authorities = parts
        return grpc.ssl_server_certificate_configuration([(key, chain)], authorities)

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal current
        try:
            parts = files.read()
        except ConfigurationError as error:
            _log.error("certificates not reloaded, the old ones stay", error=error.message)
            return None
        if parts == current:
            return None
        current = parts
        _log.info("certificates reloaded")
        return configuration(parts)

    # The stubs leave out that None means unchanged.
    fetcher = cast("Callable[[], grpc.ServerCertificateConfiguration]", fetch)
    return grpc.dynamic_ssl_server_credentials(
        configuration(current), fetcher, require_client_authentication=True
    )


def add_socket_port(server: grpc.Server, address: str) -> None:
    """Listen on `unix:/path`: whoever can open it is believed, so only the owner's account can.

    Raises:
        ConfigurationError: the directory lets others in.
    """
    path = Path(address.removeprefix("unix:"))
    mode = path.parent.stat().st_mode
    if mode & 0o022:
        raise ConfigurationError(f"{path.parent} is writable by others than its owner")
    path.unlink(missing_ok=True)  # left behind by a server that was killed
    before = os.umask(0o177)
    try:
        local = grpc.local_server_credentials(grpc.LocalConnectionType.UDS)
        server.add_secure_port(address, local)
    finally:
        os.umask(before)
