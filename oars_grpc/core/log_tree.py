"""Proofs out of the rows that a store keeps of a log, each verified before it is given away.

The head of a log holds the frontier that every commit has carried forward; the rows hold leaf
hashes and roots of whole tiles. Roots and proofs are computed from the rows and must lead to the
head's root, so that neither can be changed without the other: SHA-256 permits no second tree under
one root (RFC 9162 section 2.1).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from oars_grpc.core.envelope import PAYLOAD_TYPE, Envelope
from oars_grpc.core.log import HashRange, Leaf, LogFault
from oars_grpc.core.merkle import (
    HASH_BYTES,
    TILE_HEIGHT,
    Frontier,
    ProofPlan,
    Subtree,
    fold,
    full_root,
    parts,
    plan_consistency,
    plan_inclusion,
    verify_consistency,
    verify_inclusion,
)


def hash_range(subtree: Subtree) -> HashRange:
    """The stored hashes that a full subtree's root is folded from, at most 128 of them."""
    level, above = divmod(subtree.height, TILE_HEIGHT)
    return HashRange(level, subtree.index << above, 1 << above)


def subtree_root(wanted: HashRange, stored: bytes) -> bytes:
    """The root over the hashes of a range.

    Raises:
        LogFault: some of them are not there.
    """
    if len(stored) != wanted.count * HASH_BYTES:
        raise LogFault(f"{wanted} has {len(stored)} bytes of hashes")
    return full_root(stored)


def needed(head: Frontier, sizes: Iterable[int], plans: Iterable[ProofPlan]) -> list[Subtree]:
    """The subtrees that roots at the sizes, and proofs of the plans, are made of."""
    found = {subtree for plan in plans for group in plan for subtree in group}
    for size in sizes:
        found.update(parts(0, size))
        # A root of the past is believed only as one that the present root continues.
        found.update(subtree for group in plan_consistency(size, head.size) for subtree in group)
    return sorted(found)


@dataclass(frozen=True, slots=True)
class LogTree:
    """A tenant's log as its head has it, with the roots of those of its subtrees that were read.

    `known` are roots by size that were established before.
    """

    tenant_id: str
    head: Frontier
    subtrees: Mapping[Subtree, bytes]
    known: Mapping[int, bytes] = field(default_factory=dict)

    def frontier(self, size: int) -> Frontier:
        """The frontier that the log had at a size; its root is the one that the head continues.

        Raises:
            LogFault: head and rows contradict each other.
        """
        frontier = Frontier(size, tuple(self.subtrees[subtree] for subtree in parts(0, size)))
        proof = fold(plan_consistency(size, self.head.size), self.subtrees)
        root, head_root = frontier.root(), self.head.root()
        if not verify_consistency(size, self.head.size, root, head_root, proof):
            raise self._fault(f"{size} leaves do not lead to the head of {self.head.size}")
        return frontier

    def root(self, size: int) -> bytes:
        """The root that the log had at a size.

        Raises:
            LogFault: head and rows contradict each other, or what was known.
        """
        known = self.known.get(size)
        if known is None:
            return self.frontier(size).root()
        if size == self.head.size and known != self.head.root():
            raise self._fault(f"the head of {size} leaves has another root than it had")
        return known

    def inclusion(self, leaf: bytes, index: int, size: int) -> tuple[bytes, ...]:
        """The inclusion proof of a leaf hash in the log of a size.

        Raises:
            LogFault: it does not verify.
        """
        proof = fold(plan_inclusion(index, size), self.subtrees)
        if not verify_inclusion(leaf, index, size, proof, self.root(size)):
            raise self._fault(f"the proof of leaf {index} among {size} does not verify")
        return tuple(proof)

    def consistency(self, old: int, new: int) -> tuple[bytes, ...]:
        """The consistency proof between two sizes.

        Raises:
            LogFault: it does not verify.
        """
        proof = fold(plan_consistency(old, new), self.subtrees)
        if not verify_consistency(old, new, self.root(old), self.root(new), proof):
            raise self._fault(f"the proof from {old} leaves to {new} does not verify")
        return tuple(proof)

    def _fault(self, contradiction: str) -> LogFault:
        return LogFault(f"log of tenant {self.tenant_id}: {contradiction}")


def leaf_derived(leaf: Leaf) -> bool:
    """Whether a leaf's hash is that of its payload; false where retention has erased the payload.

    Raises:
        LogFault: it is another one's.
    """
    if leaf.payload is None:
        return False
    if Envelope(PAYLOAD_TYPE, leaf.payload, ()).leaf_hash() != leaf.hash:
        raise LogFault(f"leaf {leaf.index} is not the hash of its payload")
    return True


def check_run(leaves: Sequence[Leaf], first: int, count: int) -> None:
    """Refuse a run of leaves with gaps.

    Raises:
        LogFault: they are not exactly those from `first` on.
    """
    if [leaf.index for leaf in leaves] != list(range(first, first + count)):
        raise LogFault(f"not all of the {count} leaves from {first} on are stored")
