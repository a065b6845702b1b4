"""People who call through REST: a bearer token on top of a verified client certificate.

The certificate says which service carries the call; the token says on whose behalf. The person is
the principal, and only rpcs that are for people (`transport/access.py`) take one. Everywhere else
an `authorization` header is refused: to ignore it would serve the call as somebody else.

A call whose token is refused counts as one of the certificate's. While that is over its rate no
token that it carries is looked at: verifying a signature takes more than a refusal.
"""

import re

import grpc
import structlog

from oars_grpc.core.identity import Principal
from oars_grpc.errors import OarsError, Unauthenticated
from oars_grpc.transport.access import ACCESS
from oars_grpc.transport.identity import Authenticator, Identified, Metadata
from oars_grpc.transport.people import person
from oars_grpc.transport.rate_limit import RateLimit
from oars_grpc.transport.tokens import TokenVerifier

HEADER = "authorization"
# RFC 6750 section 2.1; the scheme in any case (RFC 9110 section 11.1), one space.
_BEARER = re.compile(r"bearer ([A-Za-z0-9._~+/=-]+)", re.IGNORECASE | re.ASCII)

_log = structlog.get_logger("oars.bearer")


class BearerAuthenticator:
    """Finds the certificate's identity by another authenticator, and the token's person."""

    def __init__(
        self, certificates: Authenticator, tokens: TokenVerifier | None, rate_limit: RateLimit
    ) -> None:
        self._certificates = certificates
        self._tokens = tokens
        self._rate_limit = rate_limit

    def identify(
        self, method: str, context: grpc.ServicerContext, metadata: Metadata
    ) -> Identified:
        """Who calls an rpc, and until when that is known.

        Raises:
            Unauthenticated: nobody that OARS trusts, or a token where none is taken.
            PermissionDenied: the token's person has no role or no tenant here.
            ResourceExhausted: the certificate, whose tokens were refused, is over its rate.
            Unavailable: the keys of the token's issuer are out of reach.
        """
        carrier = self._certificates.principal(context, metadata)
        if HEADER not in metadata:
            return Identified(carrier)
        self._rate_limit.check_before(carrier.subject)
        try:
            return self._person(method, carrier, metadata)
        except OarsError as error:
            self._rate_limit.count(carrier.subject)
            # The line of the rpc has no caller then; this one says whom the token came from.
            _log.warning("bearer refused", carrier=carrier.subject, reason=error.reason)
            raise

    def _person(self, method: str, carrier: Principal, metadata: Metadata) -> Identified:
        access = ACCESS.get(method)
        if self._tokens is None or access is None or not access.people:
            rpc = method.rpartition("/")[2]
            why = f"{rpc} takes none" if self._tokens else "this server takes none"
            raise Unauthenticated(
                f"an {HEADER} header is not accepted: {why}", reason="BEARER_NOT_ACCEPTED"
            )
        values = metadata[HEADER]
        found = _BEARER.fullmatch(values[0]) if len(values) == 1 else None
        if found is None:
            raise Unauthenticated(
                f"{HEADER} must be given once, as: Bearer, a space, the token",
                reason="TOKEN_MALFORMED",
            )
        token = self._tokens.verify(found.group(1))
        return Identified(person(token, carrier), token.expires_at)
