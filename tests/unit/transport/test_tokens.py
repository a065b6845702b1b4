"""Every way in which a token is wrong, and the few in which it is right."""

import json
import struct
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from oars_grpc.errors import OarsError, Unauthenticated
from oars_grpc.transport.oidc_issuers import OidcIssuers
from oars_grpc.transport.tokens import MAXIMUM_TOKEN_BYTES, TokenVerifier, VerifiedToken
from tests.support.tokens import (
    AUDIENCE,
    ISSUER,
    OidcFiles,
    SigningKey,
    base64url,
    issuer_entry,
    key_set,
    segment,
    signed,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECONDS = int(NOW.timestamp())
OTHER = "https://other.example.com"
# Made once: an RSA key takes a moment.
ES, EDDSA, ES384 = (
    SigningKey.new("ES256", "es"),
    SigningKey.new("EdDSA", "ed"),
    SigningKey.new("ES384"),
)
RSA = SigningKey.new("RS256", "rsa")
STRANGER = SigningKey.new("ES256", "es")


class StandingClock:
    def __init__(self) -> None:
        self.time = NOW

    def now(self) -> datetime:
        return self.time


def claims(**changes: Any) -> dict[str, Any]:
    found = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "alice",
        "iat": SECONDS - 10,
        "exp": SECONDS + 300,
        **changes,
    }
    return {name: value for name, value in found.items() if value is not ...}


class Verifying:
    """A verifier of two issuers, with keys of every kind."""

    def __init__(self, directory: Path) -> None:
        self.files = OidcFiles(directory, ES)
        self.clock = StandingClock()
        self.configure()

    def configure(self, **changes: Any) -> None:
        everything = ["RS256", "ES256", "EdDSA"]
        self.files.write(
            issuer_entry(**{"algorithms": everything, "maxTokenAgeSeconds": 3600, **changes}),
            issuer_entry(issuer=OTHER, jwksFile="other.json"),
        )
        self.files.write_keys(ES, EDDSA, RSA)
        # The other issuer has a key of the same id.
        self.files.write_keys(STRANGER, name="other.json")
        self.verifier = TokenVerifier(OidcIssuers(self.files.path), self.clock)

    def keys(self, text: str) -> None:
        (self.files.directory / "jwks.json").write_text(text)
        self.verifier = TokenVerifier(OidcIssuers(self.files.path), self.clock)

    def verify(self, token: str) -> VerifiedToken:
        return self.verifier.verify(token)

    def accepts(self, token: str) -> bool:
        return self.verify(token).issuer.name == ISSUER

    def refusal(self, token: str) -> tuple[str, str]:
        with pytest.raises(Unauthenticated) as refused:
            self.verify(token)
        return refused.value.reason, refused.value.message


@pytest.fixture
def verifying(tmp_path: Path) -> Verifying:
    return Verifying(tmp_path)


@pytest.mark.parametrize("key", [ES, EDDSA, RSA], ids=["ES256", "EdDSA", "RS256"])
@pytest.mark.parametrize("kind", ["JWT", "jwt", "at+jwt", "application/at+jwt"])
def test_an_honest_token_is_believed_until_it_ends(
    verifying: Verifying, key: SigningKey, kind: str
) -> None:
    found = verifying.verify(key.token(claims(), typ=kind))
    assert found.claims == claims()
    assert found.issuer.name == ISSUER
    assert found.expires_at == NOW + timedelta(seconds=330)  # exp and the clock skew


def test_unknown_harmless_headers_do_no_harm(verifying: Verifying) -> None:
    assert verifying.accepts(ES.token(claims(), x5t="abc", ver="2"))


def hmac_with_public_key(pem: bytes, algorithm: str = "HS256") -> str:
    """The classic confusion: the public key, which everybody has, taken as an HMAC secret."""
    import hashlib
    import hmac

    content = f"{segment({'typ': 'JWT', 'alg': algorithm, 'kid': 'rsa'})}.{segment(claims())}"
    return f"{content}.{base64url(hmac.new(pem, content.encode(), hashlib.sha256).digest())}"


def unsigned(algorithm: str, signature: str = "") -> str:
    return (
        f"{segment({'typ': 'JWT', 'alg': algorithm, 'kid': 'es'})}.{segment(claims())}.{signature}"
    )


def flipped(token: str) -> str:
    head, _, signature = token.rpartition(".")
    return f"{head}.{'B' if signature[0] == 'A' else 'A'}{signature[1:]}"


FORGED: dict[str, Callable[[], str]] = {
    "alg none": lambda: unsigned("none", "AA"),
    "alg None": lambda: unsigned("None", "AA"),
    "alg NONE with a good signature": lambda: signed(
        {"typ": "JWT", "alg": "NONE", "kid": "es"}, claims(), ES.private, "ES256"
    ),
    "HS256 with the public key": lambda: hmac_with_public_key(RSA.public_pem()),
    "HS512 named": lambda: hmac_with_public_key(RSA.public_pem(), "HS512"),
    "RS256 named, HMAC made": lambda: hmac_with_public_key(RSA.public_pem(), "RS256"),
    "no alg": lambda: ES.token(claims(), alg=None),
    "alg is a list": lambda: ES.token(claims(), alg=["ES256"]),
    "alg in another case": lambda: ES.token(claims(), alg="es256"),
    "PS256 which the issuer does not allow": lambda: RSA.token(claims(), algorithm="PS256"),
    "PS256 made, RS256 named": lambda: RSA.token(claims(), algorithm="PS256", alg="RS256"),
    "ES256 key, RS256 named": lambda: ES.token(claims(), alg="RS256"),
    "RSA token with the kid of an EC key": lambda: RSA.token(claims(), kid="es"),
    "ES384 made, ES256 named": lambda: ES384.token(claims(), alg="ES256", kid="es"),
    "ES384": lambda: ES384.token(claims(), kid="es"),
    "a key of another curve": lambda: signed(
        {"typ": "JWT", "alg": "ES256", "kid": "es"}, claims(), ES384.private, "ES384"
    ),
    "another key with this kid": lambda: STRANGER.token(claims()),
    "a changed signature": lambda: flipped(ES.token(claims())),
    "claims of another token": lambda: ".".join(
        [
            ES.token(claims()).split(".")[0],
            segment(claims(sub="bob")),
            ES.token(claims()).split(".")[2],
        ]
    ),
    "no kid with several keys": lambda: ES.token(claims(), kid=None),
    "a kid that nobody has": lambda: ES.token(claims(), kid="k2"),
    "a kid that is a path": lambda: ES.token(claims(), kid="../../../../dev/null"),
    "a kid that is a query": lambda: ES.token(claims(), kid="x' UNION SELECT 'es"),
    "a kid with a NUL": lambda: ES.token(claims(), kid="es\x00"),
    "a kid that is a number": lambda: ES.token(claims(), kid=1),
    "a kid that is a list": lambda: ES.token(claims(), kid=["es"]),
    "an empty kid": lambda: ES.token(claims(), kid=""),
    "a long kid": lambda: ES.token(claims(), kid="e" * 257),
    "a key of its own": lambda: STRANGER.token(claims(), jwk=STRANGER.jwk()),
    "an honest signature and a key of its own": lambda: ES.token(claims(), jwk=ES.jwk()),
    "a URL of keys": lambda: ES.token(claims(), jku="https://evil.example/jwks"),
    "a URL of certificates": lambda: ES.token(claims(), x5u="https://evil.example/x"),
    "certificates of its own": lambda: ES.token(claims(), x5c=["AAAA"]),
    "critical extensions": lambda: ES.token(claims(), crit=["exp"], exp=1),
    "an empty list of critical extensions": lambda: ES.token(claims(), crit=[]),
    "an unencoded payload": lambda: ES.token(claims(), b64=False),
    "a nested token": lambda: ES.token(claims(), cty="JWT"),
    "a compressed token": lambda: ES.token(claims(), zip="DEF"),
    "no typ": lambda: ES.token(claims(), typ=None),
    "a logout token": lambda: ES.token(claims(), typ="logout+jwt"),
    "a proof of possession": lambda: ES.token(claims(), typ="dpop+jwt"),
    "a typ that is no text": lambda: ES.token(claims(), typ=1),
    "an event": lambda: ES.token(claims(events={"backchannel-logout": {}})),
    "another audience": lambda: ES.token(claims(aud="other")),
    "an audience that begins like ours": lambda: ES.token(claims(aud=AUDIENCE + "-beta")),
    "the beginning of ours": lambda: ES.token(claims(aud=AUDIENCE[:-1])),
    "ours in another case": lambda: ES.token(claims(aud=AUDIENCE.upper())),
    "ours within a text": lambda: ES.token(claims(aud=f"other {AUDIENCE}")),
    "a list of other audiences": lambda: ES.token(claims(aud=["a", "b"])),
    "no audiences": lambda: ES.token(claims(aud=[])),
    "an audience that is an object": lambda: ES.token(claims(aud={AUDIENCE: True})),
    "an audience within a list": lambda: ES.token(claims(aud=[[AUDIENCE]])),
    "no aud": lambda: ES.token(claims(aud=...)),
    "no exp": lambda: ES.token(claims(exp=...)),
    "exp as text": lambda: ES.token(claims(exp=str(SECONDS + 300))),
    "exp true": lambda: ES.token(claims(exp=True)),
    "exp null": lambda: ES.token(claims(exp=None)),
    "exp without end": lambda: ES.token(
        json.dumps(claims(exp=0)).replace('"exp": 0', '"exp": 1e999').encode()
    ),
    "exp beyond all calendars": lambda: ES.token(claims(exp=10**15)),
    "no iat": lambda: ES.token(claims(iat=...)),
    "iat in the future": lambda: ES.token(claims(iat=SECONDS + 31)),
    "iat in the future, though valid": lambda: ES.token(claims(iat=SECONDS + 31, nbf=SECONDS - 31)),
    "not valid yet": lambda: ES.token(claims(nbf=SECONDS + 31)),
    "nbf as text": lambda: ES.token(claims(nbf="0")),
    "nbf null": lambda: ES.token(claims(nbf=None)),
}


@pytest.mark.parametrize("make", FORGED.values(), ids=FORGED)
def test_a_wrong_token_is_refused(verifying: Verifying, make: Callable[[], str]) -> None:
    reason, message = verifying.refusal(make())
    assert reason == "TOKEN_REFUSED", message
    assert "alice" not in message


@pytest.mark.parametrize(
    "issuer",
    [
        ISSUER + "/",
        ISSUER.upper(),
        ISSUER + "#",
        ISSUER + "/../",
        " " + ISSUER,
        "http" + ISSUER.removeprefix("https"),
        ISSUER.replace("e", "\u0435"),  # Cyrillic
        "",
        None,
        [ISSUER],
        1,
        ...,
    ],
)
def test_an_issuer_is_named_exactly(verifying: Verifying, issuer: Any) -> None:
    reason, _ = verifying.refusal(ES.token(claims(iss=issuer)))
    assert reason == "ISSUER_NOT_TRUSTED"


def test_issuers_do_not_vouch_for_each_other_though_their_keys_have_one_id(
    verifying: Verifying,
) -> None:
    assert verifying.verify(STRANGER.token(claims(iss=OTHER))).issuer.name == OTHER
    assert verifying.refusal(ES.token(claims(iss=OTHER)))[0] == "TOKEN_REFUSED"
    assert verifying.refusal(STRANGER.token(claims()))[0] == "TOKEN_REFUSED"
    # Its algorithms are its own, too.
    assert verifying.refusal(EDDSA.token(claims(iss=OTHER), kid="es"))[0] == "TOKEN_REFUSED"


def test_a_token_ends_with_its_time_its_age_and_a_little_skew(verifying: Verifying) -> None:
    token = ES.token(claims())
    for seconds, ended in ((329, False), (330, True), (10_000, True)):
        verifying.clock.time = NOW + timedelta(seconds=seconds)
        if ended:
            assert verifying.refusal(token)[0] == "TOKEN_EXPIRED"
        else:
            assert verifying.accepts(token)
    verifying.clock.time = NOW
    verifying.configure(maxTokenAgeSeconds=60, clockSkewSeconds=0)
    assert verifying.verify(ES.token(claims(iat=SECONDS - 59))).expires_at == NOW + timedelta(
        seconds=1
    )
    assert verifying.refusal(ES.token(claims(iat=SECONDS - 60)))[0] == "TOKEN_EXPIRED"
    assert verifying.refusal(ES.token(claims(exp=SECONDS)))[0] == "TOKEN_EXPIRED"
    assert verifying.refusal(ES.token(claims(exp=0)))[0] == "TOKEN_EXPIRED"
    assert verifying.refusal(ES.token(claims(iat=SECONDS + 1)))[0] == "TOKEN_REFUSED"


def test_times_may_have_fractions(verifying: Verifying) -> None:
    found = verifying.verify(ES.token(claims(exp=SECONDS + 0.5, iat=SECONDS - 0.25)))
    assert found.expires_at == NOW + timedelta(seconds=30.5)


def test_one_of_several_audiences_suffices(verifying: Verifying) -> None:
    assert verifying.accepts(ES.token(claims(aud=["other", AUDIENCE])))
    verifying.configure(audiences=["a", "b"])
    assert verifying.accepts(ES.token(claims(aud="b")))
    assert verifying.refusal(ES.token(claims()))[0] == "TOKEN_REFUSED"


def test_a_token_without_kid_means_the_only_key(verifying: Verifying) -> None:
    verifying.keys(key_set(ES))
    assert verifying.accepts(ES.token(claims(), kid=None))
    assert verifying.refusal(STRANGER.token(claims(), kid=None))[0] == "TOKEN_REFUSED"
    # A key without an id is not the key of every id.
    verifying.keys(json.dumps({"keys": [ES.jwk(kid=None)]}))
    assert verifying.accepts(ES.token(claims(), kid=None))
    assert verifying.refusal(ES.token(claims(), kid="es"))[0] == "TOKEN_REFUSED"


def test_a_key_verifies_what_it_says_it_is_for(verifying: Verifying) -> None:
    verifying.configure(algorithms=["RS256", "PS256"])
    token = RSA.token(claims(), algorithm="PS256")
    verifying.keys(json.dumps({"keys": [RSA.jwk(alg=None)]}))
    assert verifying.accepts(token)
    assert verifying.accepts(RSA.token(claims()))
    verifying.keys(json.dumps({"keys": [RSA.jwk()]}))
    assert verifying.refusal(token) == (
        "TOKEN_REFUSED",
        "the token is refused: its key is not for algorithm PS256",
    )


def test_what_a_key_could_verify_the_issuer_must_allow(verifying: Verifying) -> None:
    verifying.configure(algorithms=["RS256"])
    verifying.keys(json.dumps({"keys": [RSA.jwk(alg=None), EDDSA.jwk(), ES.jwk()]}))
    assert verifying.accepts(RSA.token(claims()))
    for token in (
        RSA.token(claims(), algorithm="PS256"),
        EDDSA.token(claims()),
        ES.token(claims()),
    ):
        assert "is not one of its issuer's" in verifying.refusal(token)[1]


MALFORMED: dict[str, Callable[[], str]] = {
    "nothing": lambda: "",
    "dots": lambda: "..",
    "one part": lambda: "abc",
    "two parts": lambda: ES.token(claims()).rpartition(".")[0],
    "no signature": lambda: unsigned("none"),
    "four parts": lambda: ES.token(claims()) + ".AAAA",
    "an encrypted token": lambda: ".".join(
        [segment({"alg": "dir", "enc": "A256GCM"}), "", "A", "A", "A"]
    ),
    "a space within": lambda: ES.token(claims()).replace(".", " .", 1),
    "a line break at the end": lambda: ES.token(claims()) + "\n",
    "padding": lambda: ES.token(claims()) + "=",
    "ordinary base64": lambda: ES.token(claims()).replace("-", "+").replace("_", "/") + "+/",
    "digits of another script": lambda: ES.token(claims()) + "\u0661",
    "letters of another script": lambda: "\u0435" + ES.token(claims())[1:],
    "bits beyond the last byte": lambda: f"{segment({'alg': 'ES256'})}.{segment(claims())}.AB",
    "a length that base64 has not": lambda: f"{segment({'alg': 'ES256'})}.{segment(claims())}.A",
    "a header that is no JSON": lambda: f"{segment(b'{')}.{segment(claims())}.AA",
    "a header that is a list": lambda: f"{segment([])}.{segment(claims())}.AA",
    "a header that is no UTF-8": lambda: f"{segment(bytes([0xFF]))}.{segment(claims())}.AA",
    "a member twice in the header": lambda: signed(
        b'{"typ":"JWT","alg":"none","alg":"ES256","kid":"es"}', claims(), ES.private, "ES256"
    ),
    "claims that are no object": lambda: ES.token(b"[]"),
    "claims that are text": lambda: ES.token(b'"x"'),
    "an issuer twice": lambda: ES.token(
        json.dumps(claims()).replace("{", f'{{"iss": "{OTHER}", ', 1).encode()
    ),
    "a subject twice, one encoded": lambda: ES.token(
        json.dumps(claims()).replace("{", '{"s\\u0075b": "bob", ', 1).encode()
    ),
    "NaN": lambda: ES.token(json.dumps(claims()).replace("{", '{"x": NaN, ', 1).encode()),
    "nested deeply": lambda: ES.token(b"[" * 5000),
    "an endless number": lambda: ES.token(b'{"x": ' + b"1" * 5000 + b"}"),
    "large": lambda: ES.token(claims(x="a" * MAXIMUM_TOKEN_BYTES)),
    "binary": lambda: struct.pack("40B", *range(40)).decode(),
}


@pytest.mark.parametrize("make", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_token_is_refused(verifying: Verifying, make: Callable[[], str]) -> None:
    reason, message = verifying.refusal(make())
    assert reason == "TOKEN_MALFORMED", message


def test_a_token_of_just_the_largest_size_is_read(verifying: Verifying) -> None:
    def of(length: int) -> str:
        return ES.token(claims(x="a" * length))

    fits = max(range(5000, 6500), key=lambda n: (len(of(n)) <= MAXIMUM_TOKEN_BYTES, n))
    assert MAXIMUM_TOKEN_BYTES - 3 < len(of(fits)) <= MAXIMUM_TOKEN_BYTES
    assert verifying.accepts(of(fits))
    assert verifying.refusal(of(fits + 3))[0] == "TOKEN_MALFORMED"


def test_nothing_but_a_refusal_comes_out_of_damaged_tokens(verifying: Verifying) -> None:
    """Every byte of a token, changed to what base64url has, and every cut."""
    token = ES.token(claims())
    damaged = [
        token[:at] + ("A" if token[at] != "A" else "Q") + token[at + 1 :]
        for at in range(len(token))
    ]
    for text in (*damaged, *(token[:at] for at in range(len(token)))):
        with pytest.raises(OarsError):
            verifying.verify(text)


def test_a_small_key_cannot_even_be_configured(verifying: Verifying) -> None:
    from oars_grpc.errors import ConfigurationError

    small = SigningKey("s", "RS256", rsa.generate_private_key(65537, 1024))
    with pytest.raises(ConfigurationError, match="1024 bits"):
        verifying.keys(key_set(small))
