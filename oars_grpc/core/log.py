"""The log of a tenant as its readers see it: what a store gives, and what is handed out of it.

A store keeps the leaf hashes, one row each, and the root of every full subtree of 256, 256^2 …
leaves. `core/log_tree.py` makes proofs of these.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from oars_grpc.core.checkpoint import Checkpoint, InclusionProof, checkpoint_verifier, log_origin
from oars_grpc.core.keys import KeyPurpose, StoredKey, TrustedKey
from oars_grpc.core.merkle import Frontier


class LogFault(Exception):
    """What is stored of a log contradicts itself: no caller's fault, and no proof for anyone.

    Not an `OarsError`: a caller learns no more than that there was an internal error, while the
    text goes to the operator's log as an error.
    """


@dataclass(frozen=True, slots=True)
class HashRange:
    """Consecutive stored hashes: leaf hashes at level 0, above it roots of 256^level leaves."""

    level: int
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class LogHead:
    """A log as it stands, and the key that signs its checkpoints; None where it has none yet."""

    frontier: Frontier
    checkpoint_key: StoredKey | None


@dataclass(frozen=True, slots=True)
class Leaf:
    """A leaf with the payload that it was made of; None where retention has erased that."""

    index: int
    hash: bytes
    payload: bytes | None


@dataclass(frozen=True, slots=True)
class ReceiptLeaf:
    """The leaf of a receipt, with whose it is."""

    tenant_id: str
    caller_subject: str
    leaf: Leaf


class LogStore(Protocol):
    """Reads logs. What lies below a size once read never changes: leaves are append-only."""

    def head(self, tenant_id: str) -> LogHead | None:
        """The log as it stands; None if there is no such tenant."""

    def hashes(self, tenant_id: str, ranges: Sequence[HashRange]) -> Sequence[bytes]:
        """For each range its hashes one after the other, as far as they are stored."""

    def leaves(self, tenant_id: str, first: int, count: int) -> Sequence[Leaf]:
        """At most `count` leaves from the index `first` on, in order."""

    def leaf_of(self, tenant_ids: Sequence[str], receipt_id: str) -> ReceiptLeaf | None:
        """The leaf of a receipt, if it belongs to one of the tenants."""


@dataclass(frozen=True, slots=True)
class SignedCheckpoint:
    """A checkpoint and the signed note that says so."""

    checkpoint: Checkpoint
    note: str


@dataclass(frozen=True, slots=True)
class ReceiptProof:
    """Where a receipt stands in the log of a checkpoint; `text` is all of it as a tlog-proof."""

    leaf_hash: bytes
    inclusion: InclusionProof
    signed: SignedCheckpoint
    text: str


@dataclass(frozen=True, slots=True)
class ConsistencyProof:
    """That the log of one checkpoint continues that of an earlier one."""

    earlier: SignedCheckpoint
    later: SignedCheckpoint
    hashes: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class CompletenessBegin:
    """Between which checkpoints a completeness proof lies, and the frontier that it begins with."""

    earlier: SignedCheckpoint
    later: SignedCheckpoint
    frontier: Frontier


@dataclass(frozen=True, slots=True)
class CompletenessLeaves:
    """Leaf hashes in order, from the index `first` on."""

    first: int
    hashes: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class CompletenessEnd:
    """The proof is whole: how many receipts it spans, and of how many the payload is erased."""

    receipts: int
    erased: int


CompletenessEvent = CompletenessBegin | CompletenessLeaves | CompletenessEnd


def vkey_of(prefix: str, key: TrustedKey) -> str:
    """The C2SP verifier key of a key that signs checkpoints; empty for every other."""
    if key.purpose is not KeyPurpose.CHECKPOINT:
        return ""
    return checkpoint_verifier(log_origin(prefix, key.tenant_id), key.public_key).vkey()
