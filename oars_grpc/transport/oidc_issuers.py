"""The OIDC file: whose bearer tokens are believed, and how far.

A JSON list of objects, one for each issuer; `deploy/README.md` explains the members:

    {"issuer", "audiences": [...], "jwksFile" or "jwksUrl", "roleMapping": {...},
     "tenantIds": [...]}                                                      required
     "jwksCaFile", "algorithms": [...], "subjectClaim", "roleClaim", "roles": [...],
     "rolePrecedence": [...], "tenantClaim", "scopeClaim", "aliasClaims": [...],
     "attributeClaims": [...], "clockSkewSeconds", "maxTokenAgeSeconds", "carriers": [...]}

Strict, as the trusted-identities file is.
"""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from oars_grpc.core.identity import Role
from oars_grpc.core.tenant import TENANT_ID
from oars_grpc.errors import ConfigurationError
from oars_grpc.transport.json_keys import ALGORITHMS
from oars_grpc.transport.key_fetch import fetch_text
from oars_grpc.transport.key_sources import FileKeys, KeySource, UrlKeys
from oars_grpc.transport.oidc_fields import ClaimPath, Fields
from oars_grpc.transport.reloading_file import ReloadingFile
from oars_grpc.transport.strict_json import strict_json

_FIELDS = {
    "issuer",
    "audiences",
    "jwksFile",
    "jwksUrl",
    "jwksCaFile",
    "algorithms",
    "subjectClaim",
    "roleClaim",
    "roleMapping",
    "roles",
    "rolePrecedence",
    "tenantClaim",
    "tenantIds",
    "scopeClaim",
    "aliasClaims",
    "attributeClaims",
    "clockSkewSeconds",
    "maxTokenAgeSeconds",
    "carriers",
}
_ISSUER = re.compile(r"https?://[!-~]+")
# With a subject of 255 characters, a person's name still fits wherever principals are named.
_MAXIMUM_ISSUER = 250
_MAXIMUM_ISSUERS = 100
_DEFAULT_ALGORITHMS = ["RS256", "ES256"]
_DEFAULT_ROLES = [Role.OPERATOR.value, Role.APPROVER.value, Role.AUDITOR.value]
_DEFAULT_ALIASES = ["email", "preferred_username"]
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Issuer:
    """An issuer of tokens, and the bounds of what they can say."""

    name: str
    audiences: frozenset[str]
    algorithms: frozenset[str]
    keys: KeySource
    subject_claim: str
    role_claim: ClaimPath
    role_mapping: Mapping[str, Role]
    role_precedence: tuple[Role, ...]
    tenant_ids: frozenset[str]
    tenant_claim: ClaimPath | None
    scope_claim: ClaimPath | None
    alias_claims: tuple[str, ...]
    attribute_claims: tuple[str, ...]
    clock_skew_seconds: int
    maximum_age_seconds: int
    carriers: frozenset[str]


@dataclass(frozen=True, slots=True)
class KeyLocation:
    """Where an issuer's keys are; one of `file` and `url`."""

    issuer: str
    file: Path | None
    url: str
    authorities: Path | None


def parse_issuers(
    text: str, directory: Path, open_keys: Callable[[KeyLocation], KeySource], *, development: bool
) -> Mapping[str, Issuer]:
    """Issuers by name; paths in the file are relative to `directory`.

    Raises:
        ConfigurationError: naming the entry and what is wrong with it.
    """
    try:
        entries = strict_json(text)
    except ValueError as error:
        raise ConfigurationError(f"not JSON: {error}") from error
    if not isinstance(entries, list) or len(entries) > _MAXIMUM_ISSUERS:
        raise ConfigurationError(f"must be a JSON list of at most {_MAXIMUM_ISSUERS} issuers")
    found: dict[str, Issuer] = {}
    for position, entry in enumerate(entries):
        try:
            issuer = _issuer(entry, directory, open_keys, development=development)
        except ConfigurationError as error:
            raise ConfigurationError(f"issuer {position}: {error.message}") from error
        if issuer.name in found:
            raise ConfigurationError(f"issuer {position}: {issuer.name} is listed twice")
        found[issuer.name] = issuer
    return found


class OidcIssuers:
    """The file's issuers, read again when it changes."""

    def __init__(
        self,
        path: Path,
        *,
        development: bool = False,
        monotonic: Callable[[], float] = time.monotonic,
        on_reload: Callable[[bool], None] = lambda _ok: None,
        on_fetch: Callable[[bool], None] = lambda _ok: None,
    ) -> None:
        self._directory = path.parent
        self._development = development
        self._monotonic = monotonic
        self._on_reload = on_reload
        self._on_fetch = on_fetch
        # Of the file as it is: a change elsewhere in it must not forget keys that were fetched.
        self._sources: Mapping[KeyLocation, UrlKeys] = {}
        self._file = ReloadingFile(
            path, self._parse, what="OIDC issuers", monotonic=monotonic, on_reload=on_reload
        )

    def get(self, name: str) -> Issuer | None:
        """The issuer of exactly this name."""
        return self._file.content().get(name)

    def _parse(self, text: str) -> Mapping[str, Issuer]:
        sources: dict[KeyLocation, UrlKeys] = {}

        def open_keys(location: KeyLocation) -> KeySource:
            what = f"keys of {location.issuer}"
            if location.file is not None:
                return FileKeys(
                    location.file, what=what, monotonic=self._monotonic, on_reload=self._on_reload
                )
            sources[location] = self._sources.get(location) or self._url_keys(location, what)
            return sources[location]

        found = parse_issuers(text, self._directory, open_keys, development=self._development)
        self._sources = sources
        for source in sources.values():
            source.begin()  # a wrong URL is heard of now, not with the first token
        return found

    def _url_keys(self, location: KeyLocation, what: str) -> UrlKeys:
        def fetch() -> str:
            through_proxies = urlsplit(location.url).hostname not in _LOOPBACK
            return fetch_text(location.url, location.authorities, through_proxies=through_proxies)

        return UrlKeys(fetch, what=what, monotonic=self._monotonic, on_fetch=self._on_fetch)


def _issuer(
    entry: Any,
    directory: Path,
    open_keys: Callable[[KeyLocation], KeySource],
    *,
    development: bool,
) -> Issuer:
    if not isinstance(entry, dict):
        raise ConfigurationError("must be an object")
    unknown = sorted(set(entry) - _FIELDS)
    if unknown:
        raise ConfigurationError(f"unknown field {unknown[0]}")
    fields = Fields(entry)
    name = fields.text("issuer")
    _check_url("issuer", name, development=development)
    if not _ISSUER.fullmatch(name) or len(name) > _MAXIMUM_ISSUER:
        raise ConfigurationError(f"issuer must be a URL of at most {_MAXIMUM_ISSUER} characters")
    algorithms = fields.texts("algorithms", _DEFAULT_ALGORITHMS, allowed=ALGORITHMS)
    roles = fields.roles("roles", _DEFAULT_ROLES)
    mapping = fields.mapping("roleMapping")
    for role in mapping.values():
        if role not in roles:
            raise ConfigurationError(f"roleMapping: {role.value} is not among this issuer's roles")
    tenant_ids = fields.texts("tenantIds")
    for tenant_id in tenant_ids:
        if not TENANT_ID.fullmatch(tenant_id):
            raise ConfigurationError(f"tenantIds: {tenant_id!r} is no tenant id")
    return Issuer(
        name=name,
        audiences=frozenset(fields.texts("audiences")),
        algorithms=frozenset(algorithms),
        keys=open_keys(_location(fields, name, directory, development=development)),
        subject_claim=fields.text("subjectClaim", "sub"),
        role_claim=fields.path("roleClaim", ("roles",)),
        role_mapping=mapping,
        role_precedence=fields.roles("rolePrecedence", []),
        tenant_ids=frozenset(tenant_ids),
        tenant_claim=fields.path("tenantClaim", ()) or None,
        scope_claim=fields.path("scopeClaim", ()) or None,
        alias_claims=fields.texts("aliasClaims", _DEFAULT_ALIASES),
        attribute_claims=fields.texts("attributeClaims", []),
        clock_skew_seconds=fields.number("clockSkewSeconds", 30, 0, 120),
        maximum_age_seconds=fields.number("maxTokenAgeSeconds", 3600, 60, 86_400),
        carriers=frozenset(fields.texts("carriers", [])),
    )


def _location(fields: Fields, issuer: str, directory: Path, *, development: bool) -> KeyLocation:
    file, url = fields.text("jwksFile", ""), fields.text("jwksUrl", "")
    if bool(file) == bool(url):
        raise ConfigurationError("takes exactly one of jwksFile and jwksUrl")
    authorities = fields.text("jwksCaFile", "")
    if url:
        _check_url("jwksUrl", url, development=development)
    elif authorities:
        raise ConfigurationError("jwksCaFile is for jwksUrl")
    if authorities and not (directory / authorities).is_file():
        raise ConfigurationError(f"jwksCaFile: there is no file {directory / authorities}")
    return KeyLocation(
        issuer,
        directory / file if file else None,
        url,
        directory / authorities if authorities else None,
    )


def _check_url(field: str, url: str, *, development: bool) -> None:
    """Only what cannot be changed on its way; without what would make two names of one thing."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigurationError(f"{field} is not a URL") from error
    if parts.scheme != "https" and not (
        parts.scheme == "http" and development and host in _LOOPBACK
    ):
        raise ConfigurationError(
            f"{field} must begin with https:// (http:// is for this machine, in development)"
        )
    if not host or port == 0 or "@" in parts.netloc or "#" in url:
        raise ConfigurationError(f"{field} must have a host, and no user or fragment")
    if field == "issuer" and "?" in url:
        raise ConfigurationError("issuer must have no query")
