"""Private keys and compiled policies, kept in memory so that each is prepared once."""

from collections import OrderedDict
from concurrent.futures import Future
from datetime import timedelta
from functools import lru_cache
from threading import Lock

from oars_grpc.core.keys import (
    SEED_BYTES,
    KeyPurpose,
    KeyState,
    SigningKey,
    StoredKey,
    TrustedKey,
    decrypt_signing_key,
    encrypt_seed,
    signing_key,
)
from oars_grpc.core.policy import PolicyDocument
from oars_grpc.core.policy_document import CompiledPolicy, validate_document
from oars_grpc.core.ports import Chance, Clock
from oars_grpc.core.sealing import NONCE_BYTES
from oars_grpc.core.stored import StoredPolicy
from oars_grpc.errors import ResourceExhausted

# How far the clocks of replicas may stand apart, and how long a submission may be under way: around
# a rotation both keys are good for this long, or a receipt in flight would never verify.
WINDOW_GRACE = timedelta(minutes=5)
_CACHED_KEYS = 4096
# A compiled policy of the largest size takes some megabytes.
CACHED_POLICIES = 64
TRIAL_WAIT_SECONDS = 2.0
_TRIAL_RETRY_MS = 2_000


class Keyring:
    """Makes signing keys and opens stored ones under the key-encryption key."""

    def __init__(self, key_encryption_key: bytes, chance: Chance, clock: Clock) -> None:
        self._key_encryption_key = key_encryption_key
        self._chance = chance
        self._clock = clock
        self._opened = lru_cache(maxsize=_CACHED_KEYS)(self._open)

    def create(self, tenant_id: str, purpose: KeyPurpose = KeyPurpose.RECEIPT) -> StoredKey:
        """A new active key; its window opens a grace before now."""
        seed = self._chance.random_bytes(SEED_BYTES)
        key, public = signing_key(seed)
        opens = self._clock.now() - WINDOW_GRACE
        trusted = TrustedKey(key.key_id, tenant_id, public, KeyState.ACTIVE, opens, purpose=purpose)
        nonce = self._chance.random_bytes(NONCE_BYTES)
        sealed = encrypt_seed(self._key_encryption_key, trusted, seed, nonce)
        return StoredKey(trusted, sealed)

    def open(self, stored: StoredKey) -> SigningKey:
        """The private key of a stored one."""
        return self._opened(stored)

    def _open(self, stored: StoredKey) -> SigningKey:
        return decrypt_signing_key(self._key_encryption_key, stored)


class PolicyShelf:
    """Compiled policies: a document never changes, so neither does what it compiles to.

    They stand under the document's digest, which storage has verified: hashing whole documents
    would cost every submission what compiling is to be spared.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._compiled: OrderedDict[str, CompiledPolicy] = OrderedDict()  # least used first
        self._under_way: dict[str, Future[CompiledPolicy]] = {}
        self._trial = Lock()

    def found(self, digest: str) -> CompiledPolicy | None:
        """The policy of a document's digest, if it is still here."""
        with self._lock:
            found = self._compiled.get(digest)
            if found is not None:
                self._compiled.move_to_end(digest)
            return found

    def compiled(self, policy: StoredPolicy) -> CompiledPolicy:
        """The policy ready to evaluate; calls that meet a new document compile it once.

        Raises:
            ValueError: the policy comes from a list, without its document.
        """
        if policy.document is None:
            raise ValueError(f"the document of policy {policy.policy_id} was not read")
        with self._lock:
            found = self._compiled.get(policy.digest)
            if found is not None:
                self._compiled.move_to_end(policy.digest)
                return found
            awaited = self._under_way.get(policy.digest)
            if awaited is None:
                mine = self._under_way[policy.digest] = Future[CompiledPolicy]()
        if awaited is not None:
            return awaited.result()
        return self._compile(policy.digest, policy.document, mine)

    def tried(self, document: PolicyDocument) -> CompiledPolicy:
        """A document that a caller supplies, compiled but not kept.

        Compiling may take a second and holds the interpreter, so that whoever tries documents
        would slow every submission down: one at a time.

        Raises:
            InvalidArgument: with one violation for every field at fault.
            ResourceExhausted: others are being tried, and none of them has ended in time.
        """
        if not self._trial.acquire(timeout=TRIAL_WAIT_SECONDS):
            raise ResourceExhausted(
                "too many policy documents are being tried at once", retry_after_ms=_TRIAL_RETRY_MS
            )
        try:
            return validate_document(document)
        finally:
            self._trial.release()

    def _compile(
        self, digest: str, document: PolicyDocument, mine: Future[CompiledPolicy]
    ) -> CompiledPolicy:
        try:
            compiled = validate_document(document)
        except BaseException as error:
            with self._lock:
                del self._under_way[digest]
            mine.set_exception(error)  # or whoever waits would wait forever
            raise
        with self._lock:
            del self._under_way[digest]
            self._compiled[digest] = compiled
            if len(self._compiled) > CACHED_POLICIES:
                self._compiled.popitem(last=False)
        mine.set_result(compiled)
        return compiled
