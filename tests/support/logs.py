"""A log of receipts in memory, with its own reading of RFC 9162: proofs to verify, and to forge."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from oars_grpc.core.checkpoint import (
    Checkpoint,
    InclusionProof,
    add_signatures,
    format_proof,
    log_origin,
    sign_checkpoint,
)
from oars_grpc.core.envelope import Envelope
from oars_grpc.core.keys import KeyPurpose, KeyState, SigningKey, TrustedKey, signing_key
from oars_grpc.core.note import COSIGNATURE, Note, Verifier, cosign_note, raw_public_key
from tests.support.factories import TENANT

PREFIX = "log.example"
CHECKPOINT_SEED = bytes(range(64, 96))


def checkpoint_key(
    tenant_id: str = TENANT, seed: bytes = CHECKPOINT_SEED, **changes: Any
) -> TrustedKey:
    """The active key that signs a tenant's checkpoints."""
    key, public = signing_key(seed)
    trusted = TrustedKey(
        key.key_id,
        tenant_id,
        public,
        KeyState.ACTIVE,
        datetime(2026, 1, 1, tzinfo=UTC),
        purpose=KeyPurpose.CHECKPOINT,
    )
    return replace(trusted, **changes)


class MemoryLog:
    """The leaves of a log, and a key that signs for it."""

    def __init__(
        self,
        leaves: Sequence[bytes],
        origin: str = log_origin(PREFIX, TENANT),
        seed: bytes = CHECKPOINT_SEED,
    ) -> None:
        self.leaves = list(leaves)
        self.origin = origin
        self.key: SigningKey = signing_key(seed)[0]

    def checkpoint(self, size: int | None = None) -> Checkpoint:
        size = len(self.leaves) if size is None else size
        return Checkpoint(self.origin, size, root(self.leaves[:size]))

    def note(self, size: int | None = None, *witnesses: "Witness") -> Note:
        note = sign_checkpoint(self.checkpoint(size), self.key)
        return add_signatures(note, [w.cosign(note.text) for w in witnesses])

    def proof(self, index: int, size: int | None = None, *witnesses: "Witness") -> str:
        """The tlog-proof of a leaf."""
        size = len(self.leaves) if size is None else size
        inclusion = InclusionProof(index, tuple(path(index, self.leaves[:size])))
        return format_proof(inclusion, self.note(size, *witnesses))

    def consistency(self, old: int, new: int) -> list[bytes]:
        return subproof(old, self.leaves[:new], whole=True)

    def frontier(self, size: int) -> tuple[bytes, ...]:
        """Roots of the full subtrees, largest first."""
        found, start = [], 0
        for height in reversed(range(size.bit_length())):
            if size >> height & 1:
                found.append(root(self.leaves[start : start + (1 << height)]))
                start += 1 << height
        return tuple(found)


class Witness:
    """Somebody who cosigns checkpoints."""

    def __init__(self, name: str, seed: bytes) -> None:
        self.name = name
        self.private = Ed25519PrivateKey.from_private_bytes(seed)
        self.verifier = Verifier(name, COSIGNATURE, raw_public_key(signing_key(seed)[1]))

    def cosign(self, text: str) -> Any:
        return cosign_note(text, self.name, self.private, 1_770_000_000)


def log_of(envelopes: Sequence[Envelope], before: int = 0, after: int = 0) -> MemoryLog:
    """A log of receipts among other leaves."""
    others = [hashlib.sha256(b"leaf %d" % n).digest() for n in range(before + after)]
    leaves = [envelope.leaf_hash() for envelope in envelopes]
    return MemoryLog([*others[:before], *leaves, *others[before:]])


def node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def _split(count: int) -> int:
    """The largest power of two below the count."""
    return 1 << (count - 1).bit_length() - 1


def root(leaves: Sequence[bytes]) -> bytes:
    """RFC 9162 section 2.1.1, word for word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = _split(len(leaves))
    return node(root(leaves[:k]), root(leaves[k:]))


def path(index: int, leaves: Sequence[bytes]) -> list[bytes]:
    """RFC 9162 section 2.1.3.1, word for word."""
    if len(leaves) == 1:
        return []
    k = _split(len(leaves))
    if index < k:
        return [*path(index, leaves[:k]), root(leaves[k:])]
    return [*path(index - k, leaves[k:]), root(leaves[:k])]


def subproof(size: int, leaves: Sequence[bytes], *, whole: bool) -> list[bytes]:
    """RFC 9162 section 2.1.4.1, word for word."""
    if size == len(leaves):
        return [] if whole else [root(leaves)]
    k = _split(len(leaves))
    if size <= k:
        return [*subproof(size, leaves[:k], whole=whole), root(leaves[k:])]
    return [*subproof(size - k, leaves[k:], whole=False), root(leaves[:k])]
