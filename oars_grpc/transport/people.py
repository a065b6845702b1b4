"""Who the person of a verified token is: within the bounds of issuer and carrier, never beyond."""

import base64
import hmac
import re
from collections.abc import Mapping
from typing import Any

from oars_grpc.core.identity import ANY_TENANT, PERSON_PREFIX, Principal, Role
from oars_grpc.errors import PermissionDenied, Unauthenticated
from oars_grpc.transport.oidc_fields import ClaimPath
from oars_grpc.transport.oidc_issuers import Issuer
from oars_grpc.transport.tokens import VerifiedToken, refused

# OIDC Core section 2: at most 255 ASCII characters, case-sensitive.
_SUBJECT = re.compile(r"[!-~](?:[ -~]{0,253}[!-~])?")
_MAXIMUM_TEXT = 255
_UNATTENDED = frozenset({Role.AGENT, Role.GATEWAY})


def person(token: VerifiedToken, carrier: Principal) -> Principal:
    """The principal of a call that `carrier` brought with a person's token.

    Raises:
        Unauthenticated: the carrier may not bring it, or it names nobody.
        PermissionDenied: it gives no role, several, or no tenant that the carrier belongs to.
    """
    issuer, claims = token.issuer, token.claims
    _check_carrier(issuer, carrier)
    _check_binding(claims, carrier)
    return Principal(
        subject=f"{PERSON_PREFIX}{issuer.name}#{_subject(issuer, claims)}",
        fingerprint_sha256=carrier.fingerprint_sha256,
        role=_role(issuer, claims),
        tenant_ids=_tenants(issuer, claims, carrier),
        agent_ids=frozenset(),
        scopes=_scopes(issuer, claims),
        may_act_for_users=frozenset(),
        attributes=_attributes(issuer, claims),
        carried_by=carrier.subject,
        aliases=_aliases(issuer, claims),
    )


def _check_carrier(issuer: Issuer, carrier: Principal) -> None:
    """An agent that came by somebody's token must not gain by it: only a listed one may carry."""
    if issuer.carriers:
        trusted = carrier.subject in issuer.carriers
    else:
        trusted = carrier.role not in _UNATTENDED
    if not trusted:
        raise Unauthenticated(
            f"identity {carrier.subject} may not carry tokens of this issuer",
            reason="CARRIER_NOT_TRUSTED",
        )


def _check_binding(claims: Mapping[str, Any], carrier: Principal) -> None:
    """A token bound to a key is good in its holder's hands alone (RFC 8705 section 3)."""
    if "cnf" not in claims:
        return
    thumbprint = base64.urlsafe_b64encode(bytes.fromhex(carrier.fingerprint_sha256)).rstrip(b"=")
    match claims["cnf"]:
        case {"x5t#S256": str(bound), **others} if not others:
            if hmac.compare_digest(bound.encode(), thumbprint):
                return
    raise refused("it is bound to another key than that of the client certificate")


def _subject(issuer: Issuer, claims: Mapping[str, Any]) -> str:
    value = claims.get(issuer.subject_claim)
    if not isinstance(value, str) or not _SUBJECT.fullmatch(value):
        raise refused(f"its {issuer.subject_claim} must be at most 255 printable ASCII characters")
    if issuer.subject_claim == "email" and claims.get("email_verified") is not True:
        raise refused("its email was not verified")
    return value


def _role(issuer: Issuer, claims: Mapping[str, Any]) -> Role:
    mapped = {
        issuer.role_mapping[value]
        for value in _values(claims, issuer.role_claim)
        if value in issuer.role_mapping
    }
    if len(mapped) > 1:
        # Two roles are not one larger role, and whichever were taken could be the wrong one.
        if not mapped <= set(issuer.role_precedence):
            raise PermissionDenied(
                "the token gives several roles, which its issuer's rolePrecedence does not order",
                reason="ROLE_AMBIGUOUS",
            )
        return next(role for role in issuer.role_precedence if role in mapped)
    if not mapped:
        raise PermissionDenied("the token gives no role", reason="ROLE_FORBIDDEN")
    return mapped.pop()


def _tenants(issuer: Issuer, claims: Mapping[str, Any], carrier: Principal) -> frozenset[str]:
    tenants = issuer.tenant_ids
    if issuer.tenant_claim is not None:
        tenants &= _values(claims, issuer.tenant_claim)
    if ANY_TENANT not in carrier.tenant_ids:
        tenants &= carrier.tenant_ids
    if not tenants:
        raise PermissionDenied(
            "the token, its issuer and its carrier have no tenant in common",
            reason="TENANT_FORBIDDEN",
        )
    return tenants


def _scopes(issuer: Issuer, claims: Mapping[str, Any]) -> frozenset[str] | None:
    if issuer.scope_claim is None:
        return None
    # RFC 8693 section 4.2 has one text with spaces, others a list.
    listed = _values(claims, issuer.scope_claim)
    return frozenset(scope for value in listed for scope in value.split(" ") if scope)


def _aliases(issuer: Issuer, claims: Mapping[str, Any]) -> frozenset[str]:
    """The names that an action's `user_id` may have for the person; unverified ones count too."""
    names = (issuer.subject_claim, "sub", *issuer.alias_claims)
    texts = {claims[name] for name in names if isinstance(claims.get(name), str)} - {""}
    return frozenset(texts | {f"user:{text}" for text in texts})


def _attributes(issuer: Issuer, claims: Mapping[str, Any]) -> Mapping[str, str]:
    return {
        name: claims[name]
        for name in issuer.attribute_claims
        if isinstance(claims.get(name), str)
        and len(claims[name]) <= _MAXIMUM_TEXT
        and not (name == "email" and claims.get("email_verified") is False)
    }


def _values(claims: Mapping[str, Any], path: ClaimPath) -> frozenset[str]:
    """The texts of a claim that is one or a list of them; none where it is anything else."""
    value: Any = claims
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    listed = value if isinstance(value, list) else [value]
    return frozenset(item for item in listed if isinstance(item, str))
