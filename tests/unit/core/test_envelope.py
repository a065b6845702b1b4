import base64
import hashlib
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from oars_grpc.core.envelope import (
    PAYLOAD_TYPE,
    Envelope,
    Signature,
    envelope_from_json,
    pre_authentication_encoding,
    sign_payload,
    signature_verifies,
)
from oars_grpc.core.keys import ed25519_key, signing_key
from tests.support.factories import SEED

KEY, PUBLIC = signing_key(SEED)
ENVELOPE = sign_payload(b'{"a":1}', KEY)


def test_the_published_vector_of_dsse_has_its_encoding() -> None:
    """secure-systems-lab/dsse, protocol.md, test vectors."""
    assert (
        pre_authentication_encoding("http://example.com/HelloWorld", b"hello world")
        == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_lengths_are_of_bytes_not_of_characters() -> None:
    assert (
        pre_authentication_encoding("é", "ö€".encode())
        == b"DSSEv1 2 \xc3\xa9 5 \xc3\xb6\xe2\x82\xac"
    )


def test_type_and_payload_cannot_trade_places() -> None:
    encoded = {
        pre_authentication_encoding("a", b"b c"),
        pre_authentication_encoding("a b", b"c"),
        pre_authentication_encoding("a 3 b", b"c"),
        pre_authentication_encoding("", b"a b c"),
    }
    assert len(encoded) == 4


def test_a_signed_payload_verifies_under_its_key_alone() -> None:
    (signature,) = ENVELOPE.signatures
    assert (ENVELOPE.payload_type, signature.keyid) == (PAYLOAD_TYPE, KEY.key_id)
    assert signature_verifies(ENVELOPE, signature, PUBLIC)
    assert not signature_verifies(ENVELOPE, signature, signing_key(bytes(32))[1])


def test_what_is_no_ed25519_key_verifies_nothing() -> None:
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    p256 = other.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    for public in (b"", b"garbage", PUBLIC[:-1], PUBLIC[12:], p256):
        assert not signature_verifies(ENVELOPE, ENVELOPE.signatures[0], public)


@pytest.mark.parametrize("signature", [b"", b"x", bytes(64), bytes(65)])
def test_what_is_no_signature_does_not_verify(signature: bytes) -> None:
    assert not signature_verifies(ENVELOPE, Signature(KEY.key_id, signature), PUBLIC)


def test_a_payload_type_that_utf_8_cannot_carry_does_not_verify() -> None:
    odd = Envelope("\ud800", ENVELOPE.payload, ENVELOPE.signatures)
    assert not signature_verifies(odd, odd.signatures[0], PUBLIC)


def test_digest_and_leaf_hash_are_what_the_specification_says() -> None:
    assert ENVELOPE.digest() == hashlib.sha256(b'{"a":1}').hexdigest()
    signed = b"DSSEv1 28 application/vnd.in-toto+json 7 " + b'{"a":1}'
    assert ENVELOPE.leaf_hash() == hashlib.sha256(b"\x00" + signed).digest()


def test_the_json_form_is_the_standards_and_is_read_back() -> None:
    written = ENVELOPE.to_json()
    assert written == {
        "payloadType": "application/vnd.in-toto+json",
        "payload": "eyJhIjoxfQ==",
        "signatures": [
            {"keyid": KEY.key_id, "sig": base64.b64encode(ENVELOPE.signatures[0].sig).decode()}
        ],
    }
    assert envelope_from_json(written) == ENVELOPE


def test_the_transcoders_snake_case_is_read_too_and_a_key_id_may_be_missing() -> None:
    written = ENVELOPE.to_json()
    written["payload_type"] = written.pop("payloadType")
    del written["signatures"][0]["keyid"]
    assert envelope_from_json(written) == Envelope(
        PAYLOAD_TYPE, ENVELOPE.payload, (Signature("", ENVELOPE.signatures[0].sig),)
    )


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"signatures": None}, "signatures: must be a list"),
        ({"signatures": {}}, "signatures: must be a list"),
        ({"signatures": ["x"]}, "signatures[0]: must be an object"),
        ({"signatures": [{"keyid": 7, "sig": ""}]}, "signatures[0]: must be an object"),
        ({"signatures": [{"keyid": "k"}]}, "signatures[0].sig: must be base64 text"),
        ({"signatures": [{"keyid": "k", "sig": "?"}]}, "signatures[0].sig: is not base64"),
        ({"payloadType": None}, "payloadType: must be text"),
        ({"payload": None}, "payload: must be base64 text"),
        ({"payload": 7}, "payload: must be base64 text"),
        ({"payload": "eyJhIjoxfQ"}, "payload: is not base64"),  # no padding
        ({"payload": "eyJhIjoxfR=="}, "payload: is not canonical base64"),  # unused bits set
        ({"payload": "eyJh\nIjoxfQ=="}, "payload: is not base64"),
        ({"payload": "-_-_"}, "payload: is not base64"),  # the other alphabet
        ({"payload": "é==="}, "payload: is not base64"),
    ],
)
def test_any_other_json_is_refused_by_name(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError) as refused:
        envelope_from_json(ENVELOPE.to_json() | changes)
    assert str(refused.value).startswith(named)


def test_a_key_that_is_kept_verifies_for_no_other_bytes() -> None:
    signature = ENVELOPE.signatures[0]
    for _ in range(2):
        assert signature_verifies(ENVELOPE, signature, PUBLIC)
    for place in range(len(PUBLIC)):
        changed = bytearray(PUBLIC)
        changed[place] ^= 1
        assert not signature_verifies(ENVELOPE, signature, bytes(changed))
    assert not signature_verifies(ENVELOPE, signature, PUBLIC + b"\0")
    assert signature_verifies(ENVELOPE, signature, PUBLIC)


def test_only_keys_of_the_one_kind_are_kept() -> None:
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    encoded = other.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    for refused in (encoded, encoded[:-1], b""):
        before = ed25519_key.cache_info().currsize
        with pytest.raises(ValueError, match=r"."):
            ed25519_key(refused)
        assert ed25519_key.cache_info().currsize == before
