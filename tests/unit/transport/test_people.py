from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from oars_grpc.core.identity import Principal, Role
from oars_grpc.errors import PermissionDenied, Unauthenticated
from oars_grpc.transport.oidc_issuers import Issuer, OidcIssuers
from oars_grpc.transport.people import person
from oars_grpc.transport.tokens import VerifiedToken
from tests.support.tokens import ISSUER, OidcFiles, base64url, issuer_entry

PORTAL = Principal("spiffe://x/portal", "ab" * 32, Role.AUDITOR, frozenset({"acme", "beta"}))


def issuer(directory: Path, **changes: Any) -> Issuer:
    files = OidcFiles(directory)
    files.write(issuer_entry(**changes))
    found = OidcIssuers(files.path).get(ISSUER)
    assert found is not None
    return found


class Issuing:
    """Tokens of an issuer, already verified."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.entry: dict[str, Any] = {}

    def person(self, carrier: Principal = PORTAL, **claims: Any) -> Principal:
        found = {"sub": "alice", "roles": ["oars-approvers"], **claims}
        found = {name: value for name, value in found.items() if value is not ...}
        now = datetime(2026, 3, 1, tzinfo=UTC)
        return person(VerifiedToken(issuer(self.directory, **self.entry), found, now), carrier)

    def refusal(self, carrier: Principal = PORTAL, **claims: Any) -> str:
        with pytest.raises((Unauthenticated, PermissionDenied)) as refused:
            self.person(carrier, **claims)
        return refused.value.reason


@pytest.fixture
def issuing(tmp_path: Path) -> Issuing:
    return Issuing(tmp_path)


def test_a_person_has_the_name_of_issuer_and_subject_and_the_rights_of_neither_alone(
    issuing: Issuing,
) -> None:
    assert issuing.person(email="a@example.com") == Principal(
        subject=f"oidc:{ISSUER}#alice",
        fingerprint_sha256=PORTAL.fingerprint_sha256,
        role=Role.APPROVER,
        tenant_ids=frozenset({"acme"}),
        agent_ids=frozenset(),
        scopes=None,
        may_act_for_users=frozenset(),
        carried_by="spiffe://x/portal",
        aliases=frozenset({"alice", "user:alice", "a@example.com", "user:a@example.com"}),
    )


def test_two_persons_never_have_one_name(issuing: Issuing) -> None:
    """The first # divides: an issuer has none, and what a subject has stays in the subject."""
    found = issuing.person(sub=f"x#{ISSUER}#alice").subject
    assert found.removeprefix("oidc:").partition("#") == (ISSUER, "#", f"x#{ISSUER}#alice")
    assert issuing.person(sub="Alice").subject != issuing.person().subject


@pytest.mark.parametrize(
    "subject",
    [
        *(..., None, "", 1, ["alice"], " alice", "alice ", "al\nice", "alice\x00", "a" * 256),
        *("\u0430lice", "alice\u200b", "\u0661", "al\u0131ce"),
    ],
)
def test_a_subject_is_printable_ascii(issuing: Issuing, subject: Any) -> None:
    assert issuing.refusal(sub=subject) == "TOKEN_REFUSED"


@pytest.mark.parametrize("subject", ["a", "a" * 255, "CN=Alice, O=x", "auth0|5f7", "../../x", "#"])
def test_any_printable_subject_is_a_name(issuing: Issuing, subject: str) -> None:
    assert issuing.person(sub=subject).subject == f"oidc:{ISSUER}#{subject}"


def test_another_claim_may_name_the_person_and_an_email_only_if_verified(issuing: Issuing) -> None:
    issuing.entry = {"subjectClaim": "email"}
    alice: dict[str, Any] = {"email": "a@example.com", "sub": "77"}
    assert issuing.person(**alice, email_verified=True).subject == f"oidc:{ISSUER}#a@example.com"
    assert "77" in issuing.person(**alice, email_verified=True).aliases
    for verified in (False, "true", 1, None, ...):
        assert issuing.refusal(**alice, email_verified=verified) == "TOKEN_REFUSED"


@pytest.mark.parametrize(
    ("roles", "role"),
    [
        ("oars-approvers", "approver"),
        (["oars-auditors", "others"], "auditor"),
        (["oars-approvers", "oars-approvers"], "approver"),
        (["oars-approvers", "oars-auditors"], "ROLE_AMBIGUOUS"),
        (["approver"], "ROLE_FORBIDDEN"),
        (["OARS-APPROVERS"], "ROLE_FORBIDDEN"),
        ("oars-approvers oars-auditors", "ROLE_FORBIDDEN"),
        ("oars-approvers,", "ROLE_FORBIDDEN"),
        ([["oars-approvers"]], "ROLE_FORBIDDEN"),
        ({"oars-approvers": True}, "ROLE_FORBIDDEN"),
        ([], "ROLE_FORBIDDEN"),
        (None, "ROLE_FORBIDDEN"),
        (..., "ROLE_FORBIDDEN"),
        (["admin", "agent", "gateway"], "ROLE_FORBIDDEN"),
    ],
)
def test_the_role_is_what_the_file_makes_of_the_claim(
    issuing: Issuing, roles: Any, role: str
) -> None:
    if role.isupper():
        assert issuing.refusal(roles=roles) == role
    else:
        assert issuing.person(roles=roles).role == role


def test_several_roles_are_one_where_the_file_orders_them_all(issuing: Issuing) -> None:
    issuing.entry = {"rolePrecedence": ["auditor", "approver"]}
    assert issuing.person(roles=["oars-approvers", "oars-auditors"]).role == "auditor"
    issuing.entry = {"rolePrecedence": ["auditor"]}
    assert issuing.refusal(roles=["oars-approvers", "oars-auditors"]) == "ROLE_AMBIGUOUS"


def test_a_role_may_be_within_objects(issuing: Issuing) -> None:
    issuing.entry = {"roleClaim": ["realm_access", "roles"]}
    nested: dict[str, Any] = {"realm_access": {"roles": ["oars-auditors"]}, "roles": ...}
    assert issuing.person(**nested).role == "auditor"
    # A claim whose name only looks like the way there is not it.
    dotted: dict[str, Any] = {"realm_access.roles": ["oars-auditors"], "roles": ...}
    assert issuing.refusal(**dotted) == "ROLE_FORBIDDEN"
    assert issuing.refusal(realm_access=["roles"]) == "ROLE_FORBIDDEN"


@pytest.mark.parametrize(
    ("tenants", "carrier", "found"),
    [
        (["acme"], {"acme"}, {"acme"}),
        ("acme", {"acme"}, {"acme"}),
        (["acme", "beta"], {"acme", "gamma"}, {"acme"}),
        (["acme", "beta", "gamma"], {"*"}, {"acme", "beta"}),
        (["gamma"], {"*"}, None),
        (["*"], {"*"}, None),
        (["beta"], {"acme"}, None),
        (["ACME"], {"acme"}, None),
        ("acme beta", {"acme", "beta"}, None),
        ([], {"acme"}, None),
        (..., {"acme"}, None),
        ({"acme": 1}, {"acme"}, None),
    ],
)
def test_tenants_are_those_of_issuer_token_and_carrier_together(
    issuing: Issuing, tenants: Any, carrier: set[str], found: set[str] | None
) -> None:
    issuing.entry = {"tenantIds": ["acme", "beta"], "tenantClaim": "tenants"}
    portal = Principal("spiffe://x/portal", "ab" * 32, Role.ADMIN, frozenset(carrier))
    if found is None:
        assert issuing.refusal(portal, tenants=tenants) == "TENANT_FORBIDDEN"
    else:
        assert issuing.person(portal, tenants=tenants).tenant_ids == found


def test_without_a_tenant_claim_the_issuer_speaks_for_its_tenants(issuing: Issuing) -> None:
    assert issuing.person(tenants=["beta"]).tenant_ids == {"acme"}


@pytest.mark.parametrize("role", list(Role))
def test_agents_and_gateways_carry_tokens_only_where_they_are_listed(
    issuing: Issuing, role: Role
) -> None:
    carrier = Principal("spiffe://x/c", "ab" * 32, role, frozenset({"acme"}))
    if role in (Role.AGENT, Role.GATEWAY):
        assert issuing.refusal(carrier) == "CARRIER_NOT_TRUSTED"
    else:
        assert issuing.person(carrier).carried_by == "spiffe://x/c"
    issuing.entry = {"carriers": ["spiffe://x/portal"]}
    assert issuing.refusal(carrier) == "CARRIER_NOT_TRUSTED"
    issuing.entry = {"carriers": ["spiffe://x/c"]}
    assert issuing.person(carrier).carried_by == "spiffe://x/c"


def test_a_bound_token_is_good_over_its_certificate_alone(issuing: Issuing) -> None:
    thumbprint = base64url(bytes.fromhex("ab" * 32))
    assert issuing.person(cnf={"x5t#S256": thumbprint}).role == "approver"
    for other in (
        {"x5t#S256": base64url(bytes(32))},
        {"x5t#S256": thumbprint, "jkt": "x"},
        {"x5t#S256": thumbprint + "="},
        {"x5t#S256": [thumbprint]},
        {"x5t#S256": "\u0661"},
        {"jkt": thumbprint},
        {},
        None,
        thumbprint,
    ):
        assert issuing.refusal(cnf=other) == "TOKEN_REFUSED"


def test_scopes_are_the_tokens_where_the_file_names_the_claim(issuing: Issuing) -> None:
    assert issuing.person(scope="approvals:read").scopes is None
    issuing.entry = {"scopeClaim": "scope"}
    both = frozenset({"approvals:read", "actions:read"})
    for scope in ("approvals:read actions:read", ["approvals:read", "actions:read"]):
        assert issuing.person(scope=scope).scopes == both
    others: tuple[Any, ...] = (..., None, "", {}, 1)
    for nothing in others:
        assert issuing.person(scope=nothing).scopes == frozenset()


def test_attributes_are_the_claims_that_the_file_names(issuing: Issuing) -> None:
    issuing.entry = {"attributeClaims": ["email", "team", "age"]}
    claims: dict[str, Any] = {"email": "a@example.com", "team": "desk", "age": 7, "other": "x"}
    assert issuing.person(**claims).attributes == {"email": "a@example.com", "team": "desk"}
    assert issuing.person(**claims, email_verified=False).attributes == {"team": "desk"}
    assert issuing.person(team="x" * 256).attributes == {}
