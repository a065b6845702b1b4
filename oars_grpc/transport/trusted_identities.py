"""The trusted-identities file: which verified certificates mean what.

A JSON list of objects:

    {"spiffeId" or "subject", "role", "tenantIds": [...],                      required
     "fingerprintSha256", "serviceAccountId", "agentIds": [...], "scopes": [...],
     "mayActForUsers": true | [...], "attributes": {...}}                      optional

Strict: an unknown field, a duplicate or a wrong type refuses the file. The server does not start
on a broken file; a broken change keeps the old one and says so loudly.
"""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from oars_grpc.core.identity import ANY_TENANT, PERSON_PREFIX, Principal, Role
from oars_grpc.core.tenant import TENANT_ID
from oars_grpc.errors import ConfigurationError, Unauthenticated
from oars_grpc.transport.forwarded import PeerCertificate
from oars_grpc.transport.reloading_file import ReloadingFile
from oars_grpc.transport.strict_json import strict_json

_FIELDS = {
    "spiffeId",
    "subject",
    "fingerprintSha256",
    "serviceAccountId",
    "role",
    "tenantIds",
    "agentIds",
    "scopes",
    "mayActForUsers",
    "attributes",
}
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_MAXIMUM_ENTRIES = 100_000


def parse_identities(text: str) -> Mapping[str, Principal]:
    """Principals by SPIFFE id or subject; `fingerprint_sha256` is empty where none is pinned.

    Raises:
        ConfigurationError: naming the entry and what is wrong with it.
    """
    try:
        entries = strict_json(text)
    except ValueError as error:
        raise ConfigurationError(f"not JSON: {error}") from error
    if not isinstance(entries, list) or len(entries) > _MAXIMUM_ENTRIES:
        raise ConfigurationError("must be a JSON list of identities")
    found: dict[str, Principal] = {}
    for position, entry in enumerate(entries):
        try:
            principal = _principal(entry)
        except ValueError as error:
            raise ConfigurationError(f"entry {position}: {error}") from error
        if principal.subject in found:
            raise ConfigurationError(f"entry {position}: {principal.subject} is listed twice")
        found[principal.subject] = principal
    return found


def _principal(entry: Any) -> Principal:
    if not isinstance(entry, dict):
        raise ValueError("must be an object")
    unknown = sorted(set(entry) - _FIELDS)
    if unknown:
        raise ValueError(f"unknown field {unknown[0]}")
    if ("spiffeId" in entry) == ("subject" in entry):
        raise ValueError("takes exactly one of spiffeId and subject")
    subject = _text(entry, "spiffeId" if "spiffeId" in entry else "subject")
    if "spiffeId" in entry and not subject.startswith("spiffe://"):
        raise ValueError("spiffeId must begin with spiffe://")
    if subject.startswith(PERSON_PREFIX):
        raise ValueError(f"subject must not begin with {PERSON_PREFIX}: that is a token's person")
    fingerprint = _text(entry, "fingerprintSha256", default="").lower().replace(":", "")
    if fingerprint and not _FINGERPRINT.fullmatch(fingerprint):
        raise ValueError("fingerprintSha256 must be 64 hex digits")
    role = _text(entry, "role")
    if role not in set(Role):
        raise ValueError(f"role must be one of {', '.join(Role)}")
    tenant_ids = _texts(entry, "tenantIds")
    for tenant_id in tenant_ids:
        wildcard = tenant_id == ANY_TENANT and role == Role.ADMIN
        if not wildcard and not TENANT_ID.fullmatch(tenant_id):
            raise ValueError(f"tenantIds: {tenant_id!r} is no tenant id ('*' is for admins)")
    return Principal(
        subject=subject,
        fingerprint_sha256=fingerprint,
        role=Role(role),
        tenant_ids=tenant_ids,
        service_account_id=_text(entry, "serviceAccountId", default=""),
        agent_ids=_texts(entry, "agentIds") if "agentIds" in entry else None,
        scopes=_texts(entry, "scopes") if "scopes" in entry else None,
        may_act_for_users=_users(entry),
        attributes=_attributes(entry.get("attributes", {})),
    )


def _users(entry: Mapping[str, Any]) -> frozenset[str] | None:
    """The users that an identity may act for: none unless it says so, None for any."""
    value = entry.get("mayActForUsers", False)
    if isinstance(value, bool):
        return None if value else frozenset()
    listed = _texts(entry, "mayActForUsers")
    return None if "*" in listed else listed


def _text(entry: Mapping[str, Any], name: str, default: str | None = None) -> str:
    value = entry.get(name, default)
    if not isinstance(value, str) or (value == "" and default is None):
        raise ValueError(f"{name} must be text")
    return value


def _texts(entry: Mapping[str, Any], name: str) -> frozenset[str]:
    value = entry.get(name)
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise ValueError(f"{name} must be a list of texts")
    return frozenset(value)


def _attributes(value: Any) -> Mapping[str, str]:
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise ValueError("attributes must be an object of texts")
    return value


@dataclass(frozen=True, slots=True)
class _Identities:
    """One reading of the file.

    `seen` has, by name, the identity as its certificate was seen last.
    """

    by_name: Mapping[str, Principal]
    seen: dict[str, Principal] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.by_name)


class TrustedIdentities:
    """The file's identities, read again when it changes; looked at no more than once a second."""

    def __init__(
        self,
        path: Path,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        on_reload: Callable[[bool], None] = lambda _ok: None,
    ) -> None:
        self._file = ReloadingFile(
            path,
            lambda text: _Identities(parse_identities(text)),
            what="trusted identities",
            monotonic=monotonic,
            on_reload=on_reload,
        )

    def principal(self, certificate: PeerCertificate) -> Principal:
        """Who a verified certificate stands for.

        Raises:
            Unauthenticated: it is not in the file, or the file pins another certificate.
        """
        identities = self._file.content()
        # A certificate with a SPIFFE id is that workload; its subject is decoration.
        name = certificate.spiffe_id or certificate.subject
        known = identities.by_name.get(name)
        if known is None:
            raise Unauthenticated(
                f"certificate {name or 'without a name'} is valid but is not a trusted identity",
                reason="IDENTITY_NOT_TRUSTED",
            )
        if known.fingerprint_sha256 not in ("", certificate.fingerprint_sha256):
            raise Unauthenticated(
                f"identity {name} is pinned to another certificate",
                reason="CERTIFICATE_NOT_PINNED",
            )
        seen = identities.seen.get(name)
        if seen is None or seen.fingerprint_sha256 != certificate.fingerprint_sha256:
            # Made once for each certificate: a call shows the one that the last one showed.
            seen = replace(known, fingerprint_sha256=certificate.fingerprint_sha256)
            identities.seen[name] = seen
        return seen

    def by_subject(self, subject: str) -> Principal:
        """The identity of a name, without a certificate: for development with TLS off.

        Raises:
            Unauthenticated: it is not in the file.
        """
        known = self._file.content().by_name.get(subject)
        if known is None:
            raise Unauthenticated(
                f"{subject} is not a trusted identity", reason="IDENTITY_NOT_TRUSTED"
            )
        return known
