"""Listening ports: TLS with client certificates read again when they change, or a Unix socket."""

import os
import socket
import stat
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import grpc
import structlog
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import Certificate, load_pem_x509_certificates

from oars_grpc.errors import ConfigurationError

_BEGIN = b"-----BEGIN CERTIFICATE-----"

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
            ConfigurationError: unreadable, any certificate of them malformed, or key and
                certificate do not belong together.
        """
        try:
            key, chain = self.private_key.read_bytes(), self.certificate.read_bytes()
            authorities = self.client_ca.read_bytes()
            private = load_pem_private_key(key, None)
            certificate = _certificates(self.certificate, chain)[0]
            _certificates(self.client_ca, authorities)
        except (OSError, ValueError, TypeError) as error:
            raise ConfigurationError(f"TLS files: {error}") from error
        if private.public_key() != certificate.public_key():
            raise ConfigurationError(f"{self.private_key} is not the key of {self.certificate}")
        return key, chain, authorities


def _certificates(path: Path, pem: bytes) -> list[Certificate]:
    """All certificates of a file: TLS would leave out, without a word, what it cannot read.

    Raises:
        ValueError: one is malformed, or there is none.
    """
    try:
        found = load_pem_x509_certificates(pem)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if len(found) != pem.count(_BEGIN):  # the reader skips a block without an end
        raise ValueError(f"{path}: one of its certificates is cut off")
    return found


def _warn_of_expired(files: TlsFiles, chain: bytes, authorities: bytes) -> None:
    """Say which certificates make handshakes fail, though they may be all that there is."""
    now = datetime.now(UTC)
    for path, pem in ((files.certificate, chain), (files.client_ca, authorities)):
        for certificate in load_pem_x509_certificates(pem):
            begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
            if not begins <= now < ends:
                _log.warning(
                    "a certificate has expired or is not valid yet",
                    file=str(path),
                    subject=certificate.subject.rfc4514_string(),
                    not_before=begins.isoformat(),
                    not_after=ends.isoformat(),
                )


def tls_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Credentials that require client certificates and follow the files.

    gRPC asks for every new connection; a change that does not load keeps what was there before.
    """
    current = files.read()
    _warn_of_expired(files, *current[1:])

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
        _warn_of_expired(files, *parts[1:])
        return configuration(parts)

    # The stubs leave out that None means unchanged.
    fetcher = cast("Callable[[], grpc.ServerCertificateConfiguration]", fetch)
    return grpc.dynamic_ssl_server_credentials(
        configuration(current), fetcher, require_client_authentication=True
    )


def add_port(server: grpc.Server, address: str, credentials: grpc.ServerCredentials | None) -> int:
    """Listen on an address, without TLS where there are no credentials; the port that was taken.

    Raises:
        ConfigurationError: somebody else listens there, or there is no such address.
    """
    try:
        if credentials is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, credentials)
    except RuntimeError as error:  # all that grpcio says, for whatever cause
        raise ConfigurationError(
            f"cannot listen on {address}: it is in use, or not an address of this machine"
        ) from error


def add_socket_port(server: grpc.Server, address: str) -> None:
    """Listen on `unix:/path`: whoever can open it is believed, so only the owner's account can.

    Raises:
        ConfigurationError: the directory lets others in, or something else is at the path.
    """
    path = Path(address.removeprefix("unix:"))
    try:
        directory = path.parent.stat()
    except OSError as error:
        raise ConfigurationError(f"{path.parent}: {error.strerror}") from error
    # Whoever may write there, and the directory's owner, could put a socket of their own here.
    if directory.st_mode & 0o022:
        raise ConfigurationError(f"{path.parent} is writable by others than its owner")
    if directory.st_uid not in (0, os.geteuid()):
        raise ConfigurationError(f"{path.parent} belongs to another user (uid {directory.st_uid})")
    _remove_left_behind(path)
    before = os.umask(0o177)
    try:
        add_port(server, address, grpc.local_server_credentials(grpc.LocalConnectionType.UDS))
    finally:
        os.umask(before)


def _remove_left_behind(path: Path) -> None:
    """Remove the socket of a server that was killed; never that of one that lives, or a file."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigurationError(f"{path} exists and is not a socket")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
    raise ConfigurationError(f"another server listens on {path}")
