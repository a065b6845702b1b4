"""Whether a piece of a log is all there: every leaf between two checkpoints leads to the second.

The frontier of the tree at the first checkpoint, grown by the leaf hashes in their order, has the
root of the second, or something was left out, added or changed. What was shown to be all there
needs no inclusion proofs of its own: a receipt's place follows from its position.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from oars_grpc.core.inclusion import ANY_LOG, LogTrust, VerifiedCheckpoint, verify_checkpoint
from oars_grpc.core.keys import TrustedKey
from oars_grpc.core.merkle import EMPTY, HASH_BYTES, Frontier, append
from oars_grpc.core.note import Note


@dataclass(frozen=True, slots=True)
class LogRange:
    """What is claimed: where the range begins, and the checkpoint that it ends with.

    `begin` None is the beginning of the log; `frontier` are the roots of the full subtrees of the
    tree at `begin`, largest first.
    """

    tenant_id: str
    begin: Note | None
    frontier: tuple[bytes, ...]
    end: Note


@dataclass(frozen=True, slots=True)
class VerifiedRange:
    """The leaves [first_index, end.checkpoint.size) are all there."""

    first_index: int
    end: VerifiedCheckpoint


def verify_range(
    claimed: LogRange,
    leaves: Iterable[bytes],
    keys: Sequence[TrustedKey],
    log: LogTrust = ANY_LOG,
) -> VerifiedRange:
    """The range, once its leaf hashes have been shown to be all of it.

    Raises:
        ValueError: they are not, and why.
    """
    end = verify_checkpoint(claimed.end, claimed.tenant_id, keys, log)
    frontier = _frontier(claimed, end, keys, log)
    first, size = frontier.size, end.checkpoint.size
    if size < first:
        raise ValueError(f"the log ends at {size}, before the range begins at {first}")
    if any(len(hash_) != HASH_BYTES for hash_ in frontier.hashes):
        raise ValueError("the frontier is not made of SHA-256 hashes")
    grown, _ = append(frontier, _checked(leaves, size - first))
    if grown.size != size:
        raise ValueError(f"{size - grown.size} of the {size - first} leaves are missing")
    if grown.root() != end.checkpoint.root:
        raise ValueError("the leaves do not lead to the root of the checkpoint")
    return VerifiedRange(first, end)


def _frontier(
    claimed: LogRange, end: VerifiedCheckpoint, keys: Sequence[TrustedKey], log: LogTrust
) -> Frontier:
    if claimed.begin is None:
        if claimed.frontier:
            raise ValueError("the beginning of a log has no frontier")
        return EMPTY
    begin = verify_checkpoint(claimed.begin, claimed.tenant_id, keys, log).checkpoint
    if begin.origin != end.checkpoint.origin:
        raise ValueError("the checkpoints are of two logs")
    frontier = Frontier(begin.size, claimed.frontier)
    if frontier.root() != begin.root:
        raise ValueError(
            "the frontier does not have the root of the checkpoint that it begins with"
        )
    return frontier


def _checked(leaves: Iterable[bytes], count: int) -> Iterable[bytes]:
    """The leaves, as long as they can be leaves of the range."""
    for position, leaf in enumerate(leaves):
        if position >= count:
            raise ValueError(f"there are more than the {count} leaves of the range")
        if len(leaf) != HASH_BYTES:
            raise ValueError(f"leaf {position} is not a SHA-256 hash")
        yield leaf
