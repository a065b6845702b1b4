"""Who calls: the verified certificate behind an rpc, in each of the three modes.

tls      the server verified the client's certificate in the handshake
sidecar  Envoy did; the server believes `x-forwarded-client-cert` from the sidecar alone: over a
         Unix socket that only the sidecar can open, or over TLS with the sidecar's certificate
off      development only: every call is one configured identity
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Protocol

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256

from oars_grpc.core.identity import Principal
from oars_grpc.core.ports import Clock
from oars_grpc.errors import Unauthenticated
from oars_grpc.transport.forwarded import HEADER, PeerCertificate, parse_forwarded
from oars_grpc.transport.trusted_identities import TrustedIdentities

Metadata = Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Identified:
    """Who calls, and when that ends; None where nothing but the connection ends it."""

    principal: Principal
    ends_at: datetime | None = None


class Authenticator(Protocol):
    """Finds the identity behind a call."""

    def principal(self, context: grpc.ServicerContext, metadata: Metadata) -> Principal:
        """The caller.

        Raises:
            Unauthenticated: nobody that OARS trusts.
        """


@lru_cache(maxsize=4096)
def _read_certificate(pem: bytes) -> tuple[PeerCertificate, datetime]:
    """The certificate of a PEM and when it ends; cached by its bytes, never by the peer address."""
    body = b"".join(line for line in pem.splitlines() if not line.startswith(b"-----"))
    certificate = x509.load_der_x509_certificate(base64.b64decode(body))
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except x509.ExtensionNotFound:
        uris = []
    spiffe = [uri for uri in uris if uri.startswith("spiffe://")]
    if len(spiffe) > 1:  # X.509-SVID section 2: exactly one URI names the workload
        raise Unauthenticated("the certificate has two SPIFFE ids", reason="AMBIGUOUS_IDENTITY")
    return (
        PeerCertificate(
            certificate.fingerprint(SHA256()).hex(),
            certificate.subject.rfc4514_string(),
            spiffe[0] if spiffe else "",
        ),
        certificate.not_valid_after_utc,
    )


def _tls_certificate(context: grpc.ServicerContext, clock: Clock) -> PeerCertificate:
    pem = context.auth_context().get("x509_pem_cert")
    if not pem:
        raise Unauthenticated("no client certificate", reason="NO_CLIENT_CERTIFICATE")
    certificate, ends = _read_certificate(pem[0])
    # The handshake checked this once; a connection may outlive its certificate.
    if clock.now().astimezone(UTC) >= ends:
        raise Unauthenticated("the client certificate has expired", reason="CERTIFICATE_EXPIRED")
    return certificate


class TlsAuthenticator:
    """Mode `tls`."""

    def __init__(self, identities: TrustedIdentities, clock: Clock) -> None:
        self._identities = identities
        self._clock = clock

    def principal(self, context: grpc.ServicerContext, metadata: Metadata) -> Principal:
        """The identity of the certificate shown in the handshake."""
        if HEADER in metadata:
            raise Unauthenticated(
                f"{HEADER} is not accepted from clients", reason="FORWARDED_IDENTITY_REFUSED"
            )
        return self._identities.principal(_tls_certificate(context, self._clock))


class SidecarAuthenticator:
    """Mode `sidecar`."""

    def __init__(self, identities: TrustedIdentities, clock: Clock, sidecar_id: str) -> None:
        self._identities = identities
        self._clock = clock
        self._sidecar_id = sidecar_id

    def principal(self, context: grpc.ServicerContext, metadata: Metadata) -> Principal:
        """The identity that the sidecar verified."""
        kind = context.auth_context().get("transport_security_type", [b""])[0]
        if kind != b"local":
            peer = _tls_certificate(context, self._clock)
            if not self._sidecar_id or peer.spiffe_id != self._sidecar_id:
                raise Unauthenticated(
                    f"only the sidecar may call this port; {HEADER} is not believed",
                    reason="FORWARDED_IDENTITY_REFUSED",
                )
        return self._identities.principal(parse_forwarded(list(metadata.get(HEADER, ()))))


class DevelopmentAuthenticator:
    """Mode `off`: every caller is one configured identity."""

    def __init__(self, identities: TrustedIdentities, subject: str) -> None:
        self._identities = identities
        self._subject = subject

    def principal(self, context: grpc.ServicerContext, metadata: Metadata) -> Principal:
        """The configured identity."""
        del context, metadata
        return self._identities.by_subject(self._subject)
