"""Keys that approvers hold: which are taken, and that their holder agrees."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from oars_grpc.core.approver_key import (
    _ORDER_8,
    _P,
    _WEAK,
    is_possession_proven,
    parse_public_key,
    registration_message,
    registration_payload,
)
from oars_grpc.core.keys import key_id_of

PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = PRIVATE.public_key()
DER = PUBLIC.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
PEM = PUBLIC.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
SPKI_PREFIX = DER[:-32]


def test_der_and_pem_are_one_key() -> None:
    assert parse_public_key(DER) == parse_public_key(PEM) == parse_public_key(b"\n" + PEM) == DER


@pytest.mark.parametrize(
    "made",
    [
        ed448.Ed448PrivateKey.generate().public_key(),
        ec.generate_private_key(ec.SECP256R1()).public_key(),
        rsa.generate_private_key(65537, 2048).public_key(),
    ],
    ids=["ed448", "p256", "rsa"],
)
@pytest.mark.parametrize("encoding", [Encoding.DER, Encoding.PEM])
def test_other_kinds_of_keys_are_refused(
    made: ed448.Ed448PublicKey | ec.EllipticCurvePublicKey | rsa.RSAPublicKey, encoding: Encoding
) -> None:
    with pytest.raises(ValueError, match="not an Ed25519 key"):
        parse_public_key(made.public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        DER[:-1],
        DER + b"\x00",
        DER[12:],
        b"\x30\x81" + DER[1:],
        b"\x00" * 44,
        PEM[:-30],
        PRIVATE.private_bytes_raw(),
    ],
)
def test_what_is_no_key_or_another_spelling_of_one_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        parse_public_key(data)


def test_the_weak_points_are_those_whose_order_divides_eight() -> None:
    """By the curve's own equation, -x² + y² = 1 + d x² y² (RFC 8032, section 5.1)."""
    d = -121665 * pow(121666, -1, _P) % _P

    def x_squared(y: int) -> int:
        return (y * y - 1) * pow(d * y * y + 1, -1, _P) % _P

    # y = 0 doubles to (0, -1), and that to (0, 1): orders 4, 2, 1.
    assert x_squared(1) == x_squared(_P - 1) == 0
    assert x_squared(0) == _P - 1
    # Doubling gives y₂ = (y² + x²) / (1 - d x² y²): of an order 8 point y₂ = 0.
    for y in (_ORDER_8, _P - _ORDER_8):
        assert (y * y + x_squared(y)) % _P == 0
        assert pow(x_squared(y), (_P - 1) // 2, _P) == 1, "it is on the curve"
    assert {y % _P for y in _WEAK} == {0, 1, _P - 1, _ORDER_8, _P - _ORDER_8}


@pytest.mark.parametrize("y", sorted(_WEAK))
@pytest.mark.parametrize("sign", [0, 1])
def test_keys_under_which_signatures_prove_nothing_are_refused(y: int, sign: int) -> None:
    raw = (y | sign << 255).to_bytes(32, "little")
    with pytest.raises(ValueError, match="small order"):
        parse_public_key(SPKI_PREFIX + raw)


def test_the_registration_is_signed_for_one_tenant_subject_and_key() -> None:
    assert (
        registration_payload("acme", "spiffe://é", DER)
        == (
            f'{{"keyId":"{key_id_of(DER)}","subject":"spiffe://é","tenantId":"acme",'
            '"type":"urn:oars:approver-key-registration:v1"}'
        ).encode()
    )
    proof = PRIVATE.sign(registration_message("acme", "alice", DER))
    other = Ed25519PrivateKey.generate().public_key()
    other_der = other.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert is_possession_proven("acme", "alice", DER, proof)
    for tenant, subject, key, given in (
        ("globex", "alice", DER, proof),
        ("acme", "bob", DER, proof),
        ("acme", "alice", other_der, proof),
        ("acme", "alice", DER, bytes(64)),
        ("acme", "alice", DER, b""),
        ("acme", "alice", DER, PRIVATE.sign(registration_payload("acme", "alice", DER))),
    ):
        assert not is_possession_proven(tenant, subject, key, given)


def test_the_readme_says_how_a_registration_is_signed() -> None:
    readme = Path(__file__).parents[3] / "proto" / "README.md"
    text = readme.read_text()
    for named in (
        "urn:oars:approver-key-registration:v1",
        "application/vnd.oars.approver-key-registration+json",
    ):
        assert named in text
