from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from oars_grpc.core.identity import Principal, Role
from oars_grpc.errors import PermissionDenied, ResourceExhausted, Unauthenticated
from oars_grpc.transport.access import ACCESS
from oars_grpc.transport.bearer import BearerAuthenticator
from oars_grpc.transport.identity import Metadata
from oars_grpc.transport.oidc_issuers import OidcIssuers
from oars_grpc.transport.rate_limit import RateLimit
from oars_grpc.transport.tokens import TokenVerifier, VerifiedToken
from tests.support.tokens import ISSUER, OidcFiles, SigningKey, default_claims

CARRIER = Principal("spiffe://x/portal", "ab" * 32, Role.AUDITOR, frozenset({"acme"}))
READ = "/oars.v1.ApprovalService/GetApproval"
KEY = SigningKey.new("ES256")
CONTEXT: Any = None  # only the certificate's authenticator looks at it


class SystemTime:
    def now(self) -> datetime:
        return datetime.now(UTC)


class Certificates:
    """Stands for the authenticator of a mode."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def principal(self, context: Any, metadata: Metadata) -> Principal:
        if self.error is not None:
            raise self.error
        return CARRIER


@pytest.fixture
def tokens(tmp_path: Path) -> TokenVerifier:
    return TokenVerifier(OidcIssuers(OidcFiles(tmp_path, KEY).write()), SystemTime())


@pytest.fixture
def authenticator(tokens: TokenVerifier) -> BearerAuthenticator:
    return BearerAuthenticator(Certificates(), tokens, RateLimit("1000/hour"))


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises((Unauthenticated, PermissionDenied)) as refused:
        call()
    return refused.value.reason


def test_without_a_token_the_certificate_is_the_identity(
    authenticator: BearerAuthenticator,
) -> None:
    found = authenticator.identify("/oars.v1.ActionService/SubmitAction", CONTEXT, {})
    assert (found.principal, found.ends_at) == (CARRIER, None)


def test_with_a_token_the_person_is_and_only_while_the_token_lasts(
    authenticator: BearerAuthenticator,
) -> None:
    claims = default_claims()
    metadata = {"authorization": [f"Bearer {KEY.token(claims)}"]}
    found = authenticator.identify(READ, CONTEXT, metadata)
    assert found.principal.subject == f"oidc:{ISSUER}#alice"
    assert found.principal.carried_by == CARRIER.subject
    assert found.ends_at == datetime.fromtimestamp(claims["exp"], UTC) + timedelta(seconds=30)


def test_a_token_does_not_stand_in_for_a_certificate(tokens: TokenVerifier) -> None:
    nobody = Unauthenticated("no client certificate", reason="NO_CLIENT_CERTIFICATE")
    authenticator = BearerAuthenticator(Certificates(nobody), tokens, RateLimit("1000/hour"))
    metadata = {"authorization": [f"Bearer {KEY.token()}"]}
    assert refusal(lambda: authenticator.identify(READ, CONTEXT, metadata)) == nobody.reason


@pytest.mark.parametrize("method", [*sorted(ACCESS), "/oars.v1.PolicyService/Nope", ""])
def test_tokens_are_for_the_rpcs_of_people(authenticator: BearerAuthenticator, method: str) -> None:
    metadata = {"authorization": [f"Bearer {KEY.token()}"]}
    if method in ACCESS and ACCESS[method].people:
        assert authenticator.identify(method, CONTEXT, metadata).principal.carried_by
    else:
        found = refusal(lambda: authenticator.identify(method, CONTEXT, metadata))
        assert found == "BEARER_NOT_ACCEPTED"


def test_people_read_and_answer_and_nothing_else() -> None:
    """Written here a second time, on purpose: what the table must not give away by a slip."""
    for method, access in ACCESS.items():
        service, _, name = method.removeprefix("/oars.v1.").partition("/")
        reads = name.startswith(("Get", "List", "Watch", "Verify", "Prove"))
        if service == "ApprovalService":
            assert access.people, method
        elif service in ("ActionService", "ReceiptService"):
            assert access.people is reads, method
        elif access.people:
            # An approver's own second factor and keys; what a policy says or would have done.
            assert service in ("ApproverService", "PolicyService"), method
            assert service == "ApproverService" or not access.mutating, method
        assert not (access.people and access.roles is None), method


def test_where_no_issuer_is_trusted_every_authorization_is_refused() -> None:
    authenticator = BearerAuthenticator(Certificates(), None, RateLimit("1000/hour"))
    for value in (f"Bearer {KEY.token()}", "Basic YTpi", ""):
        metadata = {"authorization": [value]}
        with pytest.raises(Unauthenticated) as refused:
            authenticator.identify(READ, CONTEXT, metadata)
        assert refused.value.reason == "BEARER_NOT_ACCEPTED"


@pytest.mark.parametrize(
    "wrong",
    [
        "{}",
        "Bearer",
        "Bearer ",
        "Bearer{}",
        "Bearer  {}",
        " Bearer {}",
        "Bearer\t{}",
        "Bearer {} ",
        "Bearer {}\n",
        "Bearer {}, Bearer {}",
        "Bearer {};x=1",
        "Bearer\u00a0{}",
        "\uff22earer {}",  # a full-width B
        "Token {}",
        "Basic {}",
        "DPoP {}",
        "",
    ],
)
def test_the_header_has_one_form(authenticator: BearerAuthenticator, wrong: str) -> None:
    metadata = {"authorization": [wrong.replace("{}", KEY.token())]}
    found = refusal(lambda: authenticator.identify(READ, CONTEXT, metadata))
    assert found == "TOKEN_MALFORMED"


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR"])
def test_the_scheme_has_any_case(authenticator: BearerAuthenticator, scheme: str) -> None:
    metadata = {"authorization": [f"{scheme} {KEY.token()}"]}
    assert authenticator.identify(READ, CONTEXT, metadata).principal.carried_by


def test_two_headers_are_refused_though_they_agree(authenticator: BearerAuthenticator) -> None:
    value = f"Bearer {KEY.token()}"
    for values in ([value, value], [value, ""], []):
        with pytest.raises(Unauthenticated) as refused:
            authenticator.identify(READ, CONTEXT, {"authorization": values})
        assert refused.value.reason == "TOKEN_MALFORMED"


def test_a_refusal_is_logged_with_the_carrier_and_without_the_token(
    authenticator: BearerAuthenticator, capsys: pytest.CaptureFixture[str]
) -> None:
    token = KEY.token(default_claims(aud="other"))
    metadata = {"authorization": [f"Bearer {token}"]}
    assert refusal(lambda: authenticator.identify(READ, CONTEXT, metadata)) == "TOKEN_REFUSED"
    logged = capsys.readouterr().out
    assert CARRIER.subject in logged
    assert not any(part in logged for part in token.split("."))


def test_refused_tokens_use_up_the_rate_of_who_carries_them(
    tokens: TokenVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified = []
    verify = tokens.verify

    def counted(token: str) -> VerifiedToken:
        verified.append(token)
        return verify(token)

    monkeypatch.setattr(tokens, "verify", counted)
    limit = RateLimit("3/hour")
    authenticator = BearerAuthenticator(Certificates(), tokens, limit)
    forged = {"authorization": [f"Bearer {KEY.token(default_claims(aud='other'))}"]}
    sound = {"authorization": [f"Bearer {KEY.token()}"]}
    for _ in range(3):
        assert authenticator.identify(READ, CONTEXT, sound).principal.carried_by
        assert refusal(lambda: authenticator.identify(READ, CONTEXT, forged)) == "TOKEN_REFUSED"
    for metadata in (forged, sound):
        with pytest.raises(ResourceExhausted) as refused:
            authenticator.identify(READ, CONTEXT, metadata)
        assert CARRIER.subject in refused.value.message
    assert len(verified) == 6  # nothing is computed for who is over the rate
    with pytest.raises(ResourceExhausted):
        limit.check(CARRIER.subject)
