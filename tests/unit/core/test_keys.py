import base64
import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from oars_grpc.core.keys import (
    KeyState,
    StoredKey,
    TrustedKey,
    decrypt_signing_key,
    encrypt_seed,
    key_id_of,
    signing_key,
)
from oars_grpc.errors import ConfigurationError
from tests.support.factories import KEY_ENCRYPTION_KEY, SEED, make_stored_key

# RFC 8032 section 7.1, tests 1 and 2: seed, public key, message, signature.
RFC_8032 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
]
OPENS = datetime(2026, 1, 1, tzinfo=UTC)
CLOSES = OPENS + timedelta(days=90)
MOMENT = timedelta(microseconds=1)


@pytest.mark.parametrize(("seed", "public", "message", "signature"), RFC_8032)
def test_signatures_are_those_of_rfc_8032(
    seed: str, public: str, message: str, signature: str
) -> None:
    key, spki = signing_key(bytes.fromhex(seed))
    assert spki[-32:].hex() == public
    assert key.sign(bytes.fromhex(message)).hex() == signature


def test_the_key_id_is_that_of_the_der_that_openssl_writes() -> None:
    """RFC 8410 section 10.1 prints this public key; its DER is what `openssl pkey` writes."""
    der = base64.b64decode("MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=")
    assert key_id_of(der) == hashlib.sha256(der).hexdigest()[:16]
    # The wrapping is fixed by RFC 8410: a SEQUENCE of the OID 1.3.101.112 and a BIT STRING.
    _, spki = signing_key(SEED)
    assert spki[:12].hex() == "302a300506032b6570032100"
    assert len(spki) == 44


def make_key(state: KeyState = KeyState.ACTIVE, until: datetime | None = CLOSES) -> TrustedKey:
    key, spki = signing_key(SEED)
    return TrustedKey(key.key_id, "acme", spki, state, OPENS, until)


@pytest.mark.parametrize("state", [KeyState.ACTIVE, KeyState.RETIRED])
@pytest.mark.parametrize(
    ("moment", "refusal"),
    [
        (OPENS - MOMENT, "not yet valid"),
        (OPENS, ""),
        (CLOSES - MOMENT, ""),
        (CLOSES, "no longer valid"),
    ],
)
def test_a_key_counts_in_its_window_start_inclusive_end_exclusive(
    state: KeyState, moment: datetime, refusal: str
) -> None:
    found = make_key(state).refusal_at(moment)
    assert refusal in found if refusal and found else not refusal and found is None


def test_a_key_without_an_end_counts_for_ever() -> None:
    assert make_key(until=None).refusal_at(datetime.max.replace(tzinfo=UTC)) is None


def test_nothing_that_a_revoked_key_signed_counts_whenever_it_claims_to_be_signed() -> None:
    revoked = replace(make_key(KeyState.REVOKED), revoked_at=OPENS + timedelta(days=1))
    for moment in (OPENS, OPENS + timedelta(hours=1), OPENS + timedelta(days=2)):
        assert "was revoked at 2026-01-02" in (revoked.refusal_at(moment) or "")
    assert "was revoked" in (replace(revoked, revoked_at=None).refusal_at(OPENS) or "")


def test_a_stored_key_opens_under_its_key_encryption_key_and_signs() -> None:
    stored = make_stored_key()
    key = decrypt_signing_key(KEY_ENCRYPTION_KEY, stored)
    public = Ed25519PublicKey.from_public_bytes(stored.trusted.public_key[-32:])
    public.verify(key.sign(b"data"), b"data")
    assert key.key_id == stored.trusted.key_id


def test_the_seed_is_not_in_what_is_stored() -> None:
    assert SEED not in make_stored_key().encrypted_seed


def _moved(stored: StoredKey, **changes: Any) -> StoredKey:
    return replace(stored, trusted=replace(stored.trusted, **changes))


@pytest.mark.parametrize(
    "stored",
    [
        _moved(make_stored_key(), tenant_id="other"),
        _moved(make_stored_key(), key_id="0" * 16),
        replace(make_stored_key(), encrypted_seed=b""),
        replace(make_stored_key(), encrypted_seed=make_stored_key().encrypted_seed[:-1]),
        replace(make_stored_key(), encrypted_seed=make_stored_key().encrypted_seed + b"\x00"),
    ],
    ids=["other tenant", "other key id", "empty", "cut", "longer"],
)
def test_a_moved_or_cut_seed_does_not_open(stored: StoredKey) -> None:
    with pytest.raises(ConfigurationError, match="does not decrypt"):
        decrypt_signing_key(KEY_ENCRYPTION_KEY, stored)


def test_no_changed_byte_of_a_sealed_seed_goes_unnoticed() -> None:
    stored = make_stored_key()
    for position in range(len(stored.encrypted_seed)):
        changed = bytearray(stored.encrypted_seed)
        changed[position] ^= 1
        with pytest.raises(ConfigurationError, match="does not decrypt"):
            decrypt_signing_key(KEY_ENCRYPTION_KEY, replace(stored, encrypted_seed=bytes(changed)))


@pytest.mark.parametrize(
    "other", [bytes(32), KEY_ENCRYPTION_KEY[:16], KEY_ENCRYPTION_KEY[:31], b""]
)
def test_another_key_encryption_key_does_not_open_it(other: bytes) -> None:
    with pytest.raises(ConfigurationError, match="OARS_KEY_ENCRYPTION_KEY_FILE"):
        decrypt_signing_key(other, make_stored_key())


def test_a_seed_that_is_not_that_of_the_public_key_is_refused() -> None:
    """Sealed rightly, beside another public half: receipts would never verify."""
    stored = make_stored_key()
    trusted = stored.trusted
    sealed = encrypt_seed(KEY_ENCRYPTION_KEY, trusted, bytes(32), bytes(12))
    with pytest.raises(ConfigurationError, match="is not its own"):
        decrypt_signing_key(KEY_ENCRYPTION_KEY, StoredKey(trusted, sealed))


def test_refusals_do_not_show_key_material() -> None:
    with pytest.raises(ConfigurationError) as refused:
        decrypt_signing_key(bytes(32), make_stored_key())
    for secret in (SEED, KEY_ENCRYPTION_KEY):
        assert secret.hex() not in str(refused.value)
