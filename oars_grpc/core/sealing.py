"""Secrets at rest: AES-256-GCM under the key-encryption key; the nonce comes first.

The associated data says whose secret it is, so that sealed bytes which are moved to another row do
not open there.
"""

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

NONCE_BYTES = 12


def seal(key_encryption_key: bytes, secret: bytes, associated: str, nonce: bytes) -> bytes:
    """Encrypt a secret for what `associated` names; the nonce is never used twice."""
    return nonce + AESGCM(key_encryption_key).encrypt(nonce, secret, associated.encode())


def unseal(key_encryption_key: bytes, sealed: bytes, associated: str) -> bytes:
    """The inverse of `seal`.

    Raises:
        ValueError: another key, another owner, or changed bytes.
    """
    nonce, ciphertext = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
    try:
        return AESGCM(key_encryption_key).decrypt(nonce, ciphertext, associated.encode())
    except InvalidTag as error:
        raise ValueError("does not decrypt") from error
