"""The trusted-identities file: which verified certificates mean what.

A JSON list of objects:

    {"spiffeId" or "subject", "role", "tenantIds": [...],                      required
     "fingerprintSha256", "serviceAccountId", "agentIds": [...], "scopes": [...],
     "mayActForUsers": true | [...], "attributes": {...}}                      optional

Strict: an unknown field, a duplicate or a wrong type refuses the file. The server does not start
on a broken file; a broken change keeps the old one and says so loudly.
"""

import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog

from oars_grpc.core.identity import ANY_TENANT, Principal, Role
from oars_grpc.core.tenant import TENANT_ID
from oars_grpc.errors import ConfigurationError, Unauthenticated
from oars_grpc.transport.forwarded import PeerCertificate

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
_RECHECK_SECONDS = 1.0

_log = structlog.get_logger("oars.identities")


def parse_identities(text: str) -> Mapping[str, Principal]:
    """Principals by SPIFFE id or subject; `fingerprint_sha256` is empty where none is pinned.

    Raises:
        ConfigurationError: naming the entry and what is wrong with it.
    """
    try:
        entries = json.loads(text, object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
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


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a member is given twice")
    return value


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


class TrustedIdentities:
    """The file's identities, read again when it changes; looked at no more than once a second."""

    def __init__(
        self,
        path: Path,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        on_reload: Callable[[bool], None] = lambda _ok: None,
    ) -> None:
        self._path = path
        self._monotonic = monotonic
        self._on_reload = on_reload
        self._lock = threading.Lock()
        self._signature = self._stat()
        self._identities = self._read()
        # By name: an entry of the file, and the identity as its certificate was seen last.
        self._seen: dict[str, tuple[Principal, Principal]] = {}
        self._next_check = monotonic() + _RECHECK_SECONDS

    def principal(self, certificate: PeerCertificate) -> Principal:
        """Who a verified certificate stands for.

        Raises:
            Unauthenticated: it is not in the file, or the file pins another certificate.
        """
        self._refresh()
        # A certificate with a SPIFFE id is that workload; its subject is decoration.
        name = certificate.spiffe_id or certificate.subject
        known = self._identities.get(name)
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
        return self._with_fingerprint(known, certificate.fingerprint_sha256)

    def by_subject(self, subject: str) -> Principal:
        """The identity of a name, without a certificate: for development with TLS off.

        Raises:
            Unauthenticated: it is not in the file.
        """
        self._refresh()
        known = self._identities.get(subject)
        if known is None:
            raise Unauthenticated(
                f"{subject} is not a trusted identity", reason="IDENTITY_NOT_TRUSTED"
            )
        return known

    def _refresh(self) -> None:
        if self._monotonic() < self._next_check or not self._lock.acquire(blocking=False):
            return
        try:
            self._next_check = self._monotonic() + _RECHECK_SECONDS
            signature = self._stat()
            if signature == self._signature:
                return
            self._signature = signature  # a broken file is reported once, not every second
            self._identities = self._read()
            self._seen.clear()
        except ConfigurationError as error:
            _log.error("trusted identities not reloaded, the old ones stay", error=error.message)
            self._on_reload(False)
        else:
            _log.info("trusted identities reloaded", count=len(self._identities))
            self._on_reload(True)
        finally:
            self._lock.release()

    def _stat(self) -> tuple[int, int, int]:
        try:
            status = self._path.stat()
        except OSError as error:
            raise ConfigurationError(f"{self._path}: {error.strerror}") from error
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _read(self) -> Mapping[str, Principal]:
        try:
            return parse_identities(self._path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{self._path}: {error}") from error
        except ConfigurationError as error:
            raise ConfigurationError(f"{self._path}: {error.message}") from error

    def _with_fingerprint(self, known: Principal, fingerprint: str) -> Principal:
        """The identity with the fingerprint of the certificate that was really shown."""
        seen = self._seen.get(known.subject)
        if seen is None or seen[0] is not known or seen[1].fingerprint_sha256 != fingerprint:
            # Made once for each certificate: a call shows the one that the last one showed.
            seen = self._seen[known.subject] = (
                known,
                replace(known, fingerprint_sha256=fingerprint),
            )
        return seen[1]
