"""Signing keys: Ed25519 per tenant, with windows, and private keys encrypted at rest."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import lru_cache

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from oars_grpc.core.canonical import sha256_hex
from oars_grpc.core.sealing import seal, unseal
from oars_grpc.errors import ConfigurationError

ALGORITHM = "ed25519"
SEED_BYTES = 32


class KeyState(StrEnum):
    """Where a key stands."""

    ACTIVE = "active"
    RETIRED = "retired"
    REVOKED = "revoked"


class KeyPurpose(StrEnum):
    """What a key signs, and nothing else."""

    RECEIPT = "receipt"
    CHECKPOINT = "checkpoint"


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """A public key and the window [valid_from, valid_until) in which its signatures count.

    `trusted_log_size` is of a revoked key: receipts that the log is proven to have held below this
    index are still believed, because the log says so and not the key. `origin` is of a key that
    signs checkpoints: the log that it signs for, where a list of keys says so.
    """

    key_id: str
    tenant_id: str
    public_key: bytes
    state: KeyState
    valid_from: datetime
    valid_until: datetime | None = None
    revoked_at: datetime | None = None
    revocation_reason: str = ""
    purpose: KeyPurpose = KeyPurpose.RECEIPT
    trusted_log_size: int | None = None
    origin: str = ""

    def refusal_at(self, moment: datetime) -> str | None:
        """Why a signature made at `moment` does not count; None if it does.

        The moment is the signer's own claim. Whoever holds a revoked key can claim any time, so
        nothing that a revoked key signed is trusted on the key's word alone.
        """
        if self.state is KeyState.REVOKED:
            when = f" at {self.revoked_at.isoformat()}" if self.revoked_at else ""
            return f"key {self.key_id} was revoked{when}"
        return self.window_refusal_at(moment)

    def window_refusal_at(self, moment: datetime) -> str | None:
        """Why `moment` is not in the key's window; None if it is. Revocation is not judged."""
        if moment < self.valid_from:
            return f"key {self.key_id} was not yet valid at {moment.isoformat()}"
        if self.valid_until is not None and moment >= self.valid_until:
            return f"key {self.key_id} was no longer valid at {moment.isoformat()}"
        return None


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key as stored: the public half, and the private seed encrypted (nonce first)."""

    trusted: TrustedKey
    encrypted_seed: bytes


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key ready to sign."""

    key_id: str
    private_key: Ed25519PrivateKey

    def sign(self, data: bytes) -> bytes:
        """Ed25519 signature, 64 bytes."""
        return self.private_key.sign(data)


def key_id_of(public_key: bytes) -> str:
    """First 16 hex digits of SHA-256 over the DER SubjectPublicKeyInfo."""
    return sha256_hex(public_key)[:16]


@lru_cache(maxsize=1024)
def ed25519_key(der: bytes) -> Ed25519PublicKey:
    """The Ed25519 key of a DER SubjectPublicKeyInfo.

    Keys once read are kept, found by all of their bytes: 44 of them, for no other kind is kept.

    Raises:
        ValueError: it is another kind of key, or none.
        UnsupportedAlgorithm: it is of a kind that nobody here knows.
    """
    key = load_der_public_key(der)
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError("is not an Ed25519 key")
    return key


def signing_key(seed: bytes) -> tuple[SigningKey, bytes]:
    """The key of a 32-byte seed (RFC 8032) and its DER SubjectPublicKeyInfo."""
    private_key = Ed25519PrivateKey.from_private_bytes(seed)
    public = private_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return SigningKey(key_id_of(public), private_key), public


def _associated_data(trusted: TrustedKey) -> str:
    kind = "signing" if trusted.purpose is KeyPurpose.RECEIPT else trusted.purpose.value
    return f"oars {kind} key {trusted.tenant_id} {trusted.key_id}"


def encrypt_seed(
    key_encryption_key: bytes, trusted: TrustedKey, seed: bytes, nonce: bytes
) -> bytes:
    """AES-256-GCM of the seed, bound to its tenant, key id and purpose; the nonce comes first."""
    return seal(key_encryption_key, seed, _associated_data(trusted), nonce)


def decrypt_signing_key(key_encryption_key: bytes, stored: StoredKey) -> SigningKey:
    """The private key of a stored one.

    Raises:
        ConfigurationError: the key-encryption key is not the one it was encrypted under, or the
            stored bytes were moved from another tenant or key, or changed.
    """
    tenant_id, key_id = stored.trusted.tenant_id, stored.trusted.key_id
    associated = _associated_data(stored.trusted)
    try:
        seed = unseal(key_encryption_key, stored.encrypted_seed, associated)
    except ValueError as error:
        raise ConfigurationError(
            f"signing key {key_id} of tenant {tenant_id} does not decrypt: "
            "is OARS_KEY_ENCRYPTION_KEY_FILE the file it was created under?"
        ) from error
    key, public = signing_key(seed)
    if public != stored.trusted.public_key:
        raise ConfigurationError(f"signing key {key_id} of tenant {tenant_id} is not its own")
    return key
