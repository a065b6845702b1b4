import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from oars_grpc.errors import ConfigurationError
from oars_grpc.transport.json_keys import parse_key_set
from tests.support.tokens import SigningKey

ES, EDDSA, RSA = (SigningKey.new(name, name.lower()) for name in ("ES256", "EdDSA", "RS256"))


def parsed(*entries: Any) -> dict[str | None, set[str]]:
    """The algorithms of each key, by its id."""
    found = parse_key_set(json.dumps({"keys": list(entries)}))
    return {key.key_id: set(key.bound) for key in found.keys}


def problem(*entries: Any) -> str:
    with pytest.raises(ConfigurationError) as refused:
        parsed(*entries)
    return refused.value.message


def test_a_key_verifies_what_its_type_and_its_alg_allow() -> None:
    assert parsed(ES.jwk(), EDDSA.jwk(), RSA.jwk()) == {
        "es256": {"ES256"},
        "eddsa": {"EdDSA"},
        "rs256": {"RS256"},
    }
    assert parsed(RSA.jwk(alg=None)) == {"rs256": {"RS256", "PS256"}}
    assert parsed(RSA.jwk(alg="PS256")) == {"rs256": {"PS256"}}
    assert parsed(ES.jwk(alg=None, use=None, kid=None)) == {None: {"ES256"}}
    assert parsed(ES.jwk(key_ops=["verify"])) == {"es256": {"ES256"}}


@pytest.mark.parametrize(
    "other",
    [
        ES.jwk(kid="x", use="enc"),
        ES.jwk(kid="x", key_ops=["sign"]),
        ES.jwk(kid="x", alg="ES384"),
        ES.jwk(kid="x", alg="RS256"),
        ES.jwk(kid="x", alg="none"),
        RSA.jwk(kid="x", alg="HS256"),
        RSA.jwk(kid="x", alg="RSA-OAEP"),
        RSA.jwk(kid="x", alg=["RS256"]),
        ES.jwk(kid="x", crv="P-521"),
        EDDSA.jwk(kid="x", crv="Ed448"),
        {"kid": "x", "kty": "unheard-of"},
    ],
    ids=[f"{number}" for number in range(11)],
)
def test_keys_for_something_else_are_passed_over(other: dict[str, Any]) -> None:
    assert parsed(other, ES.jwk()) == {"es256": {"ES256"}}
    assert problem(other) == "has no key that verifies signatures"


def small_rsa(bits: int, exponent: int = 65537) -> dict[str, Any]:
    key = rsa.generate_private_key(exponent, bits).public_key()
    return {**RSAAlgorithm.to_jwk(key, as_dict=True), "kid": "s", "key_ops": ["verify"]}


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"}, "private or secret key"),
        ({**ES.jwk(), "d": "AAAA"}, "private or secret key"),
        ({**RSA.jwk(), "p": "AQ"}, "private or secret key"),
        ("x", "must be an object"),
        (None, "must be an object"),
        (ES.jwk(kid=1), "kid must be text"),
        (ES.jwk(kid=""), "kid must be text"),
        (ES.jwk(kid="x" * 257), "kid must be text"),
        (ES.jwk(kty=1), "kty and crv must be text"),
        (ES.jwk(crv=["P-256"]), "kty and crv must be text"),
        (ES.jwk(key_ops="verify"), "key_ops must be a list"),
        (ES.jwk(x=None), "key 0: "),
        (ES.jwk(x="AAAA"), "key 0: "),
        (ES.jwk(x=ES.jwk()["y"]), "key 0: "),  # not on the curve
        (EDDSA.jwk(x="AAAA"), "key 0: "),
        (RSA.jwk(n=None), "key 0: "),
        (RSA.jwk(e="AA"), "key 0: "),
        (small_rsa(1024), "an RSA key of 1024 bits"),
        ({**RSA.jwk(), "e": "A" * 42 + "B"}, "key 0: "),
    ],
    ids=[f"{number}" for number in range(19)],
)
def test_a_wrong_key_refuses_the_set(entry: Any, said: str) -> None:
    message = problem(entry)
    assert message.startswith("key 0: ")
    assert said in message


def test_an_id_is_one_key() -> None:
    other = SigningKey.new("ES256", "es256")
    assert problem(ES.jwk(), other.jwk()) == "key 1: another key has the same kid"
    assert problem(ES.jwk(kid=None), other.jwk(kid=None)) == "key 1: another key has the same kid"
    # One that is for encryption is no key here.
    assert parsed(ES.jwk(), other.jwk(use="enc")) == {"es256": {"ES256"}}


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{}", "null", '{"keys": {}}', '{"keys": []}', '{"keys": [], "keys": []}'),
        *("[" * 9999, json.dumps({"keys": [ES.jwk()] * 101})),
    ],
    ids=lambda text: text[:20],
)
def test_a_text_that_is_no_key_set_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_key_set(text)


def test_a_token_without_an_id_means_a_key_only_where_there_is_one() -> None:
    one = parse_key_set(json.dumps({"keys": [ES.jwk()]}))
    two = parse_key_set(json.dumps({"keys": [ES.jwk(), RSA.jwk()]}))
    assert one.find(None) is one.find("es256") is one.keys[0]
    assert two.find(None) is None
    assert one.find("ES256") is None
