"""Private keys and compiled policies, kept in memory so that each is prepared once."""

from datetime import timedelta
from functools import lru_cache

from oars_grpc.core.keys import (
    NONCE_BYTES,
    SEED_BYTES,
    KeyState,
    SigningKey,
    StoredKey,
    TrustedKey,
    decrypt_signing_key,
    encrypt_seed,
    signing_key,
)
from oars_grpc.core.policy_document import CompiledPolicy, validate_document
from oars_grpc.core.ports import Chance, Clock
from oars_grpc.core.stored import StoredPolicy

# How far the clocks of replicas may stand apart, and how long a submission may be under way: around
# a rotation both keys are good for this long, or a receipt in flight would never verify.
WINDOW_GRACE = timedelta(minutes=5)
_CACHED_KEYS = 4096
_CACHED_POLICIES = 256


class Keyring:
    """Makes signing keys and opens stored ones under the key-encryption key."""

    def __init__(self, key_encryption_key: bytes, chance: Chance, clock: Clock) -> None:
        self._key_encryption_key = key_encryption_key
        self._chance = chance
        self._clock = clock
        self._opened = lru_cache(maxsize=_CACHED_KEYS)(self._open)

    def create(self, tenant_id: str) -> StoredKey:
        """A new active key; its window opens a grace before now."""
        seed = self._chance.random_bytes(SEED_BYTES)
        key, public = signing_key(seed)
        opens = self._clock.now() - WINDOW_GRACE
        trusted = TrustedKey(key.key_id, tenant_id, public, KeyState.ACTIVE, opens)
        nonce = self._chance.random_bytes(NONCE_BYTES)
        sealed = encrypt_seed(self._key_encryption_key, tenant_id, key.key_id, seed, nonce)
        return StoredKey(trusted, sealed)

    def open(self, stored: StoredKey) -> SigningKey:
        """The private key of a stored one."""
        return self._opened(stored)

    def _open(self, stored: StoredKey) -> SigningKey:
        return decrypt_signing_key(self._key_encryption_key, stored)


class PolicyShelf:
    """Compiled policies: a document never changes, so neither does what it compiles to."""

    def __init__(self) -> None:
        self._compiled = lru_cache(maxsize=_CACHED_POLICIES)(validate_document)

    def compiled(self, policy: StoredPolicy) -> CompiledPolicy:
        """The policy ready to evaluate."""
        return self._compiled(policy.document)
