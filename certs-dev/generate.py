"""Certificates for development: a short-lived authority, a server, a sidecar, a client per role.

Run `python certs-dev/generate.py --help`, or import `generate` and `CertificateAuthority`. The
profile is RFC 5280's; identities are SPIFFE ids in the URI subject alternative name.
"""

import argparse
import ipaddress
import json
import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

TRUST_DOMAIN = "spiffe://oars.dev"
ROLES = ("admin", "operator", "approver", "auditor", "agent", "gateway")
DEFAULT_TENANTS = ("tenant_alpha",)
DEFAULT_DAYS = 7
# These speak for the people behind a request; an approver or auditor is that person.
_ACT_FOR_USERS = frozenset({"admin", "operator", "agent", "gateway"})
_CLOCK_SKEW = timedelta(minutes=5)
_RENEW_BEFORE = timedelta(days=1)
_TRUSTED = "trusted-identities.json"


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    """A certificate with its private key, both PEM, and the SHA-256 of its DER in hex."""

    pem: bytes
    key_pem: bytes
    fingerprint_sha256: str


@dataclass(frozen=True, slots=True)
class CertificateAuthority:
    """An authority that signs end-entity certificates only."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def create(cls, common_name: str, days: int = DEFAULT_DAYS) -> Self:
        """A new self-signed authority that is valid for so many days from now."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        builder = _builder(common_name, _name(common_name), key.public_key())
        builder = builder.not_valid_before(now - _CLOCK_SKEW)
        builder = builder.not_valid_after(now + timedelta(days=days))
        builder = (
            builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage("key_cert_sign", "crl_sign"), critical=True)
            .add_extension(identifier, critical=False)
            .add_extension(_authority_identifier(identifier), critical=False)
        )
        return cls(builder.sign(key, hashes.SHA256()), key)

    @classmethod
    def load(cls, directory: Path) -> Self:
        """The authority that `generate` left in a directory."""
        key = serialization.load_pem_private_key((directory / "ca.key").read_bytes(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise TypeError(f"{directory / 'ca.key'} is not an elliptic-curve key")
        return cls(x509.load_pem_x509_certificate((directory / "ca.pem").read_bytes()), key)

    @property
    def pem(self) -> bytes:
        """The authority's certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """The authority's private key."""
        return _key_pem(self.key)

    def issue(
        self,
        name: str,
        *,
        uri: str | None = None,
        dns: Sequence[str] = (),
        ips: Sequence[str] = (),
        server: bool = False,
        client: bool = False,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
    ) -> IssuedCertificate:
        """A new key and its certificate; valid from now for as long as the authority is."""
        key = ec.generate_private_key(ec.SECP256R1())
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        authority = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
        builder = _builder(name, self.certificate.subject, key.public_key())
        builder = builder.not_valid_before(not_before or datetime.now(UTC) - _CLOCK_SKEW)
        builder = builder.not_valid_after(not_after or self.certificate.not_valid_after_utc)
        builder = (
            builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage("digital_signature"), critical=True)
            .add_extension(identifier, critical=False)
            .add_extension(_authority_identifier(authority.value), critical=False)
        )
        alternatives: list[x509.GeneralName] = [x509.DNSName(value) for value in dns]
        alternatives += [x509.IPAddress(ipaddress.ip_address(value)) for value in ips]
        alternatives += [x509.UniformResourceIdentifier(uri)] if uri is not None else []
        if alternatives:
            builder = builder.add_extension(
                x509.SubjectAlternativeName(alternatives), critical=False
            )
        usages = [ExtendedKeyUsageOID.SERVER_AUTH] if server else []
        usages += [ExtendedKeyUsageOID.CLIENT_AUTH] if client else []
        if usages:
            builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        certificate = builder.sign(self.key, hashes.SHA256())
        return IssuedCertificate(
            pem=certificate.public_bytes(serialization.Encoding.PEM),
            key_pem=_key_pem(key),
            fingerprint_sha256=certificate.fingerprint(hashes.SHA256()).hex(),
        )


def generate(
    out: Path,
    *,
    tenants: Sequence[str] = DEFAULT_TENANTS,
    days: int = DEFAULT_DAYS,
    force: bool = False,
) -> Path:
    """Put a complete set into `out` and return `out`.

    A complete set for the same tenants with more than a day left is kept, unless `force`.
    """
    if not force and _is_current(out, tenants):
        return out
    out.mkdir(parents=True, exist_ok=True)
    authority = CertificateAuthority.create("OARS development CA", days)
    issued = {
        "server": authority.issue(
            "server",
            uri=f"{TRUST_DOMAIN}/server",
            dns=["localhost"],
            ips=["127.0.0.1", "::1"],
            server=True,
        )
    }
    for name in ("sidecar", *ROLES):
        issued[name] = authority.issue(name, uri=f"{TRUST_DOMAIN}/{name}", client=True)
    # A crash between two files leaves a mixed set, which `_is_current` sees and the next run makes
    # anew: keys and certificates no longer match, or the list is the old one.
    _write(out / "ca.key", authority.key_pem, mode=0o600)
    _write(out / "ca.pem", authority.pem, mode=0o644)
    for name, certificate in issued.items():
        _write(out / f"{name}.key", certificate.key_pem, mode=0o600)
        _write(out / f"{name}.pem", certificate.pem, mode=0o644)
    fingerprints = {role: issued[role].fingerprint_sha256 for role in ROLES}
    _write(out / _TRUSTED, _trusted_identities(fingerprints, tenants), mode=0o644)
    return out


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description="Make a development CA, a server, a sidecar and one client certificate per "
        f"role ({', '.join(ROLES)}), and the {_TRUSTED} that lists the clients.",
        epilog="A set for the same tenants with more than a day left is kept. "
        "For development only: the keys are not encrypted.",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to put them")
    parser.add_argument(
        "--days",
        type=_positive,
        default=DEFAULT_DAYS,
        help="how long they are valid (default: %(default)s)",
    )
    parser.add_argument(
        "--tenant",
        action="append",
        dest="tenants",
        metavar="ID",
        help=f"tenant that the clients belong to; repeatable (default: {DEFAULT_TENANTS[0]})",
    )
    parser.add_argument("--force", action="store_true", help="make a new set in any case")
    options = parser.parse_args(arguments)
    tenants = options.tenants or DEFAULT_TENANTS
    kept = not options.force and _is_current(options.out, tenants)
    generate(options.out, tenants=tenants, days=options.days, force=not kept)
    print(f"{'kept' if kept else 'wrote'} the certificates in {options.out}")
    return 0


def _builder(
    common_name: str, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(_name(common_name))
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _authority_identifier(identifier: x509.SubjectKeyIdentifier) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def _key_usage(*allowed: str) -> x509.KeyUsage:
    usages = [
        *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
        *("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
    ]
    return x509.KeyUsage(**{usage: usage in allowed for usage in usages})


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _trusted_identities(fingerprints: Mapping[str, str], tenants: Sequence[str]) -> bytes:
    identities: list[dict[str, Any]] = []
    for role in ROLES:
        identity: dict[str, Any] = {
            "spiffeId": f"{TRUST_DOMAIN}/{role}",
            "fingerprintSha256": fingerprints[role],
            "serviceAccountId": f"sa_{role}",
            "role": role,
            "tenantIds": sorted(set(tenants)),
        }
        if role in _ACT_FOR_USERS:
            identity["mayActForUsers"] = ["*"]
        identities.append(identity)
    return (json.dumps(identities, indent=2) + "\n").encode()


def _is_current(out: Path, tenants: Sequence[str]) -> bool:
    """Whether `out` holds a set that `generate` would make for these tenants, not about to end."""
    try:
        authority = CertificateAuthority.load(out)
        fingerprints = {}
        pairs = {"ca": (authority.certificate, authority.key_pem)}
        for name in ("server", "sidecar", *ROLES):
            certificate = x509.load_pem_x509_certificate((out / f"{name}.pem").read_bytes())
            pairs[name] = (certificate, (out / f"{name}.key").read_bytes())
        for name, (certificate, key_pem) in pairs.items():
            certificate.verify_directly_issued_by(authority.certificate)
            key = serialization.load_pem_private_key(key_pem, None)
            left = certificate.not_valid_after_utc - datetime.now(UTC)
            if key.public_key() != certificate.public_key() or left <= _RENEW_BEFORE:
                return False
            fingerprints[name] = certificate.fingerprint(hashes.SHA256()).hex()
        return (out / _TRUSTED).read_bytes() == _trusted_identities(fingerprints, tenants)
    except (FileNotFoundError, ValueError, TypeError, InvalidSignature):
        return False  # missing, damaged or mixed: the answer is a new set


def _write(path: Path, content: bytes, *, mode: int) -> None:
    """Replace a file whole; its content is never readable under a wider mode."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
