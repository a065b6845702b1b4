r"""The Merkle tree of a log (RFC 9162 section 2.1): append, roots, proofs and their verification.

A tree over n leaves is read as its *subtrees*, full ones of 2^height leaves each:

    height 2        n2,0                      size 7 = 4 + 2 + 1
                 /        \                   frontier: n2,0  n1,2  n0,6
    height 1    n1,0      n1,1      n1,2
               /   \     /   \     /   \
    height 0  l0   l1   l2   l3   l4   l5   l6

The frontier, one hash for each set bit of the size, is all that appending takes. Proofs are made of
hashes of full subtrees: which ones is arithmetic, looking them up is the store's part.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

HASH_BYTES = 32
LEAF_PREFIX = b"\x00"  # section 2.1.1: leaves and nodes are hashed in different domains
NODE_PREFIX = b"\x01"
EMPTY_ROOT = hashlib.sha256().digest()
TILE_HEIGHT = 8
TILE_WIDTH = 1 << TILE_HEIGHT
# From so many hashes on, finding a root costs less than computing it.
_KEPT_BYTES = 16 * HASH_BYTES


@dataclass(frozen=True, slots=True, order=True)
class Subtree:
    """The full subtree over the leaves [index * 2^height, (index + 1) * 2^height)."""

    height: int
    index: int


@dataclass(frozen=True, slots=True)
class Frontier:
    """The roots of the full subtrees that a tree is made of, largest first."""

    size: int
    hashes: tuple[bytes, ...]

    def __post_init__(self) -> None:
        if self.size < 0 or len(self.hashes) != self.size.bit_count():
            raise ValueError(f"a tree of {self.size} leaves has not {len(self.hashes)} full parts")

    def root(self) -> bytes:
        """The tree's root hash, 32 bytes."""
        if not self.hashes:
            return EMPTY_ROOT
        root = self.hashes[-1]
        for left in reversed(self.hashes[:-1]):
            root = node_hash(left, root)
        return root

    def to_bytes(self) -> bytes:
        """The hashes one after the other, 32 bytes each."""
        return b"".join(self.hashes)

    @staticmethod
    def from_bytes(size: int, data: bytes) -> "Frontier":
        """The inverse of `to_bytes`.

        Raises:
            ValueError: these are not the hashes of a tree of that size.
        """
        if len(data) % HASH_BYTES:
            raise ValueError("a frontier is made of whole hashes")
        hashes = tuple(data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES))
        return Frontier(size, hashes)


EMPTY = Frontier(0, ())


def leaf_hash(entry: bytes) -> bytes:
    """Hash of a leaf, 32 bytes."""
    return hashlib.sha256(LEAF_PREFIX + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of an interior node, 32 bytes."""
    return hashlib.sha256(NODE_PREFIX + left + right).digest()


def full_root(hashes: bytes) -> bytes:
    """The root over as many hashes as a full tree has, given one after the other."""
    return _kept_root(hashes) if len(hashes) >= _KEPT_BYTES else _fold_pairs(hashes)


def _fold_pairs(hashes: bytes) -> bytes:
    while len(hashes) > HASH_BYTES:
        # Hundreds of nodes for a proof: `node_hash` would cost more than what it hashes.
        pairs = range(0, len(hashes), 2 * HASH_BYTES)
        hashes = b"".join(
            [
                hashlib.sha256(NODE_PREFIX + hashes[at : at + 2 * HASH_BYTES]).digest()
                for at in pairs
            ]
        )
    return hashes


# Found by all of the hashes that a root is over: of others, one bit of them apart, it is computed.
# Proofs of neighbours share these hashes, and all proofs of a log those at its end.
_kept_root = lru_cache(maxsize=2048)(_fold_pairs)


def append(
    frontier: Frontier, leaves: Iterable[bytes]
) -> tuple[Frontier, list[tuple[Subtree, bytes]]]:
    """The frontier after the leaf hashes, and the tile roots that they completed.

    A tile root is that of a full subtree of 256, 256^2 … leaves: what a store keeps of the tree
    beside the leaf hashes themselves. Costs about one node hash for each leaf.
    """
    hashes, size = list(frontier.hashes), frontier.size
    completed: list[tuple[Subtree, bytes]] = []
    for leaf in leaves:
        hash_, height, index = leaf, 0, size
        while index & 1:  # a left sibling of the same height waits on the frontier
            hash_ = node_hash(hashes.pop(), hash_)
            height, index = height + 1, index >> 1
            if height % TILE_HEIGHT == 0:
                completed.append((Subtree(height, index), hash_))
        hashes.append(hash_)
        size += 1
    return Frontier(size, tuple(hashes)), completed


def parts(start: int, end: int) -> list[Subtree]:
    """The fewest full subtrees that cover the leaves [start, end), from left to right."""
    found = []
    while start < end:
        # As high as both the alignment of the start and the length allow.
        height = (end - start).bit_length() - 1
        if start:
            height = min(height, (start & -start).bit_length() - 1)
        found.append(Subtree(height, start >> height))
        start += 1 << height
    return found


# What a proof is made of: for each hash of the proof, the full subtrees that it is folded from.
ProofPlan = Sequence[Sequence[Subtree]]


def plan_inclusion(index: int, size: int) -> ProofPlan:
    """The plan of the inclusion proof (section 2.1.3.1), from the leaf's sibling upwards.

    Raises:
        ValueError: the tree has no such leaf.
    """
    if not 0 <= index < size:
        raise ValueError(f"a tree of {size} leaves has no leaf {index}")
    return [parts(start, end) for start, end in reversed(_siblings(index, size))]


def plan_consistency(old: int, new: int) -> ProofPlan:
    """The plan of the consistency proof (section 2.1.4.1) between two sizes.

    It is empty where the trees are the same or the old one is empty.

    Raises:
        ValueError: the new tree is the smaller one.
    """
    if not 0 <= old <= new:
        raise ValueError(f"a tree of {new} leaves does not continue one of {old}")
    if old in (0, new):
        return []
    # The old tree ends in a full subtree that the new one has too; the proof starts from it.
    last = parts(0, old)[-1]
    start = last.index << last.height
    ranges = [(s, e) for s, e in _siblings(start, new) if e <= start or s >= old]
    seed = [] if start == 0 else [[last]]
    return [*seed, *(parts(s, e) for s, e in reversed(ranges))]


def _siblings(index: int, size: int) -> list[tuple[int, int]]:
    """The leaf ranges beside the path from the root to a leaf, from the root downwards."""
    start, end = 0, size
    siblings = []
    while end - start > 1:
        split = start + (1 << ((end - start - 1).bit_length() - 1))
        if index < split:
            siblings.append((split, end))
            end = split
        else:
            siblings.append((start, split))
            start = split
    return siblings


def fold(plan: ProofPlan, hashes: Mapping[Subtree, bytes]) -> list[bytes]:
    """The hashes of a proof, from those of the subtrees of its plan."""
    proof = []
    for group in plan:
        folded = hashes[group[-1]]
        for subtree in reversed(group[:-1]):
            folded = node_hash(hashes[subtree], folded)
        proof.append(folded)
    return proof


def verify_inclusion(
    leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes
) -> bool:
    """Whether the proof shows the leaf hash at the index of the tree (section 2.1.3.2)."""
    if not 0 <= index < size or not _are_hashes((leaf, root, *proof)):
        return False
    at, last = index, size - 1
    computed = leaf
    for sibling in proof:
        if last == 0:
            return False
        if at & 1 or at == last:
            computed = node_hash(sibling, computed)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            computed = node_hash(computed, sibling)
        at, last = at >> 1, last >> 1
    return last == 0 and computed == root


def verify_consistency(
    old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]
) -> bool:
    """Whether the proof shows that the new tree continues the old one (section 2.1.4.2).

    The empty tree is continued by every tree: there the proof is empty and its root the known one.
    """
    if not 0 <= old <= new or not _are_hashes((old_root, new_root, *proof)):
        return False
    if old in (0, new):
        known_root = new_root if old else EMPTY_ROOT
        return not proof and old_root == known_root and (new > 0 or new_root == EMPTY_ROOT)
    if not proof:
        return False
    return _climb(old, new, proof, old_root) == (old_root, new_root)


def _climb(
    old: int, new: int, proof: Sequence[bytes], old_root: bytes
) -> tuple[bytes, bytes] | None:
    """The roots of the old and the new tree as the proof has them; None where it does not fit."""
    path = list(proof)
    if old & (old - 1) == 0:  # a full tree is itself the first hash
        path.insert(0, old_root)
    at, last = old - 1, new - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    of_old = of_new = path[0]
    for sibling in path[1:]:
        if last == 0:
            return None
        if at & 1 or at == last:
            of_old, of_new = node_hash(sibling, of_old), node_hash(sibling, of_new)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            of_new = node_hash(of_new, sibling)
        at, last = at >> 1, last >> 1
    return (of_old, of_new) if last == 0 else None


def _are_hashes(values: Iterable[bytes]) -> bool:
    return all(len(value) == HASH_BYTES for value in values)
