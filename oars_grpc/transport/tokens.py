"""Bearer tokens: JSON Web Tokens (RFC 7519) as RFC 8725 would have them verified.

What a token's header says decides nothing. The issuer's entry in the OIDC file says which
algorithms there are, the issuer's own key says which of them it is for, and whatever points to
another key, another form or another rule is refused.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from jwt import PyJWS
from jwt.exceptions import PyJWTError

from oars_grpc.core.ports import Clock
from oars_grpc.errors import Unauthenticated
from oars_grpc.transport.json_keys import ALGORITHMS, MAXIMUM_KEY_ID, VerificationKey
from oars_grpc.transport.oidc_issuers import Issuer, OidcIssuers
from oars_grpc.transport.strict_json import strict_json

MAXIMUM_TOKEN_BYTES = 8192
_COMPACT = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")
# RFC 8725 section 3.11; a logout token or a security event is no proof of who calls.
_TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt"})
# Keys of the sender's own choice (RFC 8725 section 3.5), extensions, nesting, compression.
_REFUSED_HEADERS = frozenset(
    {"jwk", "jku", "x5u", "x5c", "crit", "b64", "cty", "zip", "enc", "epk", "p2s", "p2c"}
)
_LATEST = 253402300799  # the last second that a datetime can be


@dataclass(frozen=True, slots=True)
class VerifiedToken:
    """What a trusted issuer says of a person, and until when."""

    issuer: Issuer
    claims: Mapping[str, Any]
    expires_at: datetime


class TokenVerifier:
    """Verifies tokens of the issuers in the OIDC file."""

    def __init__(self, issuers: OidcIssuers, clock: Clock) -> None:
        self._issuers = issuers
        self._clock = clock
        self._signatures = PyJWS(algorithms=ALGORITHMS)

    def verify(self, token: str) -> VerifiedToken:
        """The claims of a token.

        Raises:
            Unauthenticated: it is malformed, forged, not meant for this server, or not valid now.
            Unavailable: the issuer's keys are out of reach.
        """
        header, claims = _parts(token)
        algorithm, key_id = _read_header(header)
        name = claims.get("iss")
        issuer = self._issuers.get(name) if isinstance(name, str) else None
        if issuer is None:
            raise Unauthenticated("the token's issuer is not trusted", reason="ISSUER_NOT_TRUSTED")
        if algorithm not in issuer.algorithms:
            raise refused(f"algorithm {algorithm} is not one of its issuer's")
        self._check_signature(token, issuer.keys.key(key_id), algorithm)
        if "events" in claims:  # RFC 8417 section 2.2, and OIDC back-channel logout
            raise refused("it tells of an event")
        _check_audience(issuer, claims.get("aud"))
        return VerifiedToken(issuer, claims, self._check_times(issuer, claims))

    def _check_signature(self, token: str, key: VerificationKey, algorithm: str) -> None:
        bound = key.bound.get(algorithm)
        if bound is None:
            raise refused(f"its key is not for algorithm {algorithm}")
        try:
            self._signatures.decode_complete(token, bound, [algorithm])
        except PyJWTError as error:
            raise refused("its signature is not that of its issuer") from error

    def _check_times(self, issuer: Issuer, claims: Mapping[str, Any]) -> datetime:
        """When the token ends; RFC 7519 section 4.1.4 to 4.1.6."""
        now, skew = self._clock.now().timestamp(), issuer.clock_skew_seconds
        expires, issued = _seconds(claims, "exp"), _seconds(claims, "iat")
        begins = _seconds(claims, "nbf") if "nbf" in claims else issued
        if issued > now + skew or begins > now + skew:
            raise refused("it is not valid yet")
        ends = min(expires, issued + issuer.maximum_age_seconds) + skew
        if now >= ends:
            raise Unauthenticated("the token has expired", reason="TOKEN_EXPIRED")
        return datetime.fromtimestamp(min(ends, _LATEST), UTC)


def refused(why: str) -> Unauthenticated:
    """The refusal of a token for what it says; nothing of it is repeated."""
    return Unauthenticated(f"the token is refused: {why}", reason="TOKEN_REFUSED")


def _malformed(why: str) -> Unauthenticated:
    return Unauthenticated(f"the token is malformed: {why}", reason="TOKEN_MALFORMED")


def _parts(token: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Header and claims, not yet believed."""
    if len(token) > MAXIMUM_TOKEN_BYTES:
        raise _malformed(f"it is longer than {MAXIMUM_TOKEN_BYTES} bytes")
    if token.count(".") == 4:
        raise _malformed("encrypted tokens are not accepted")
    found = _COMPACT.fullmatch(token)
    if found is None:
        raise _malformed("it is not a signed token in compact form")
    header, claims, signature = found.groups()
    _decoded(signature)
    return _object(header), _object(claims)


def _decoded(part: str) -> bytes:
    """The bytes of base64url without padding, of which there is one spelling only."""
    try:
        decoded = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except (binascii.Error, ValueError) as error:
        raise _malformed("it is not base64url") from error
    if base64.urlsafe_b64encode(decoded).rstrip(b"=") != part.encode("ascii"):
        raise _malformed("it is not base64url")
    return decoded


def _object(part: str) -> Mapping[str, Any]:
    try:
        value = strict_json(_decoded(part))
    except ValueError as error:
        raise _malformed("header and claims must be JSON, each member given once") from error
    if not isinstance(value, dict):
        raise _malformed("header and claims must be JSON objects")
    return value


def _read_header(header: Mapping[str, Any]) -> tuple[str, str | None]:
    """The algorithm and the key that a header names."""
    unwelcome = sorted(_REFUSED_HEADERS & set(header))
    if unwelcome:
        raise refused(f"header {unwelcome[0]} is not accepted")
    kind = header.get("typ")
    if not isinstance(kind, str) or kind.lower() not in _TYPES:
        raise refused("its typ must be JWT or at+jwt")
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise refused(f"its algorithm must be one of {', '.join(ALGORITHMS)}")
    key_id = header.get("kid")
    if "kid" in header and not (isinstance(key_id, str) and 0 < len(key_id) <= MAXIMUM_KEY_ID):
        raise refused(f"its kid must be text of at most {MAXIMUM_KEY_ID} characters")
    return algorithm, key_id


def _check_audience(issuer: Issuer, audience: Any) -> None:
    listed = [audience] if isinstance(audience, str) else audience
    if not isinstance(listed, list) or not all(isinstance(item, str) for item in listed):
        raise refused("its aud must be text or a list of texts")
    if issuer.audiences.isdisjoint(listed):
        raise refused("it is meant for another audience")


def _seconds(claims: Mapping[str, Any], name: str) -> float:
    """A NumericDate; NaN and infinity are no JSON, but 1e999 is."""
    value: Any = claims.get(name)
    if type(value) not in (int, float) or not 0 <= value <= _LATEST:  # a bool is an int, too
        raise refused(f"its {name} must be a time in seconds")
    return float(value)
