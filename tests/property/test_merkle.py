"""The Merkle tree against the recursive definitions of RFC 9162, sections 2.1.1 to 2.1.4.

The reference below is the standard's text in Python, slow and obvious; nothing of it is shared with
the code under test but SHA-256.
"""

import hashlib
from collections.abc import Iterator
from functools import cache
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from oars_grpc.core.merkle import (
    EMPTY,
    EMPTY_ROOT,
    TILE_HEIGHT,
    Frontier,
    Subtree,
    append,
    fold,
    leaf_hash,
    parts,
    plan_consistency,
    plan_inclusion,
    verify_consistency,
    verify_inclusion,
)

# Trees of up to this size are tried at every index and every older size.
SMALL = 40
LARGE = 70_000  # beyond one tile of tiles, 256 * 256


def entry(index: int) -> bytes:
    return b"entry %d" % index


def split(count: int) -> int:
    """The largest power of two smaller than `count`."""
    power = 1
    while power * 2 < count:
        power *= 2
    return power


@cache
def tree_hash(start: int, end: int) -> bytes:
    """MTH over the entries [start, end), section 2.1.1."""
    if start == end:
        return hashlib.sha256(b"").digest()
    if end - start == 1:
        return hashlib.sha256(b"\x00" + entry(start)).digest()
    middle = start + split(end - start)
    return hashlib.sha256(b"\x01" + tree_hash(start, middle) + tree_hash(middle, end)).digest()


def path(index: int, start: int, end: int) -> list[bytes]:
    """PATH(m, D_n), section 2.1.3.1."""
    if end - start == 1:
        return []
    middle = start + split(end - start)
    if index < middle:
        return [*path(index, start, middle), tree_hash(middle, end)]
    return [*path(index, middle, end), tree_hash(start, middle)]


def subproof(old: int, start: int, end: int, *, whole: bool) -> list[bytes]:
    """SUBPROOF(m, D_n, b), section 2.1.4.1."""
    if start + old == end:
        return [] if whole else [tree_hash(start, end)]
    width = split(end - start)
    middle = start + width
    if old <= width:
        return [*subproof(old, start, middle, whole=whole), tree_hash(middle, end)]
    return [*subproof(old - width, middle, end, whole=False), tree_hash(start, middle)]


def consistency(old: int, new: int) -> list[bytes]:
    return subproof(old, 0, new, whole=True) if 0 < old < new else []


def grown(size: int) -> Frontier:
    return append(EMPTY, (leaf_hash(entry(index)) for index in range(size)))[0]


class Hashes(dict[Subtree, bytes]):
    """Roots of subtrees as they are asked for, by the recursive definition."""

    def __missing__(self, subtree: Subtree) -> bytes:
        start = subtree.index << subtree.height
        return tree_hash(start, start + (1 << subtree.height))


def inclusion_proof(index: int, size: int) -> list[bytes]:
    return fold(plan_inclusion(index, size), Hashes())


def consistency_proof(old: int, new: int) -> list[bytes]:
    return fold(plan_consistency(old, new), Hashes())


def test_the_roots_of_all_small_trees_are_the_standards() -> None:
    assert EMPTY.root() == EMPTY_ROOT == tree_hash(0, 0)
    for size in range(600):
        assert grown(size).root() == tree_hash(0, size), size


def test_all_inclusion_proofs_of_small_trees_are_the_standards() -> None:
    for size in range(1, SMALL + 1):
        root = tree_hash(0, size)
        for index in range(size):
            proof = inclusion_proof(index, size)
            assert proof == path(index, 0, size)
            assert verify_inclusion(leaf_hash(entry(index)), index, size, proof, root)


def test_all_consistency_proofs_of_small_trees_are_the_standards() -> None:
    for new in range(SMALL + 1):
        for old in range(new + 1):
            proof = consistency_proof(old, new)
            assert proof == consistency(old, new)
            assert verify_consistency(old, new, tree_hash(0, old), tree_hash(0, new), proof)


# The sizes around whole tiles, and tiles of tiles, are where levels meet.
SIZES = st.one_of(
    st.integers(1, 2000),
    st.sampled_from([255, 256, 257, 511, 512, 513, 65_535, 65_536, 65_537]),
    st.integers(60_000, LARGE),
)


@settings(max_examples=60, deadline=None)
@given(SIZES, st.data())
def test_inclusion_proofs_of_larger_trees_are_the_standards(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    proof = inclusion_proof(index, size)
    assert proof == path(index, 0, size)
    assert verify_inclusion(leaf_hash(entry(index)), index, size, proof, tree_hash(0, size))


@settings(max_examples=60, deadline=None)
@given(SIZES, st.data())
@example(65_537, None)
def test_consistency_proofs_of_larger_trees_are_the_standards(
    new: int, data: st.DataObject | None
) -> None:
    old = 65_536 if data is None else data.draw(st.integers(0, new))
    proof = consistency_proof(old, new)
    assert proof == consistency(old, new)
    assert verify_consistency(old, new, tree_hash(0, old), tree_hash(0, new), proof)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 300), max_size=12))
def test_appending_in_batches_is_appending_one_by_one(batches: list[int]) -> None:
    """And what it says was completed are the roots of exactly the tiles that now are full."""
    frontier, completed, at = EMPTY, [], 0
    for count in batches:
        leaves = (leaf_hash(entry(index)) for index in range(at, at + count))
        frontier, tiles = append(frontier, leaves)
        completed += tiles
        at += count
    assert frontier == grown(at)
    assert frontier.root() == tree_hash(0, at)
    assert list(frontier.hashes) == [Hashes()[subtree] for subtree in parts(0, at)]
    assert Frontier.from_bytes(at, frontier.to_bytes()) == frontier
    full = [Subtree(TILE_HEIGHT, index) for index in range(at >> TILE_HEIGHT)]
    assert completed == [(subtree, Hashes()[subtree]) for subtree in full]


def test_a_tile_of_tiles_is_completed_by_its_last_leaf() -> None:
    almost = grown(65_535)
    _, completed = append(almost, [leaf_hash(entry(65_535))])
    assert completed == [
        (Subtree(8, 255), tree_hash(65_280, 65_536)),
        (Subtree(16, 0), tree_hash(0, 65_536)),
    ]


@given(st.integers(0, 10**12), st.integers(0, 10**6))
def test_parts_cover_a_range_with_aligned_subtrees_from_left_to_right(
    start: int, length: int
) -> None:
    at = start
    found = parts(start, start + length)
    for subtree in found:
        assert subtree.index << subtree.height == at
        at += 1 << subtree.height
    assert at == start + length
    # No two neighbours are halves of one subtree: there are no fewer.
    for left, right in pairwise(found):
        assert left.height != right.height or left.index & 1


def mutations(proof: list[bytes]) -> Iterator[list[bytes]]:
    """Proofs that differ from a good one in one way each."""
    for at in range(len(proof)):
        yield proof[:at] + proof[at + 1 :]
        yield [*proof[:at], proof[at], *proof[at:]]
        yield [*proof[:at], bytes([proof[at][0] ^ 1]) + proof[at][1:], *proof[at + 1 :]]
        yield [*proof[:at], proof[at][:-1], *proof[at + 1 :]]
    for at in range(len(proof) - 1):
        yield [*proof[:at], proof[at + 1], proof[at], *proof[at + 2 :]]
    yield [*proof, bytes(32)]
    yield [bytes(32), *proof]
    if proof:
        yield []


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 700), st.data())
def test_no_changed_inclusion_proof_verifies(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    leaf, root, proof = leaf_hash(entry(index)), tree_hash(0, size), path(index, 0, size)
    for changed in mutations(proof):
        assert not verify_inclusion(leaf, index, size, changed, root)
    for other in {*range(max(0, index - 3), min(size, index + 4)), 0, size - 1} - {index}:
        assert not verify_inclusion(leaf, other, size, proof, root)
    for outside in (-1, size, size + 1):
        assert not verify_inclusion(leaf, outside, size, proof, root)
    # A proof for a size is none for a size where the path is longer or turns elsewhere; where both
    # agree, the root still differs.
    for other in (size - 1, size + 1, 2 * size):
        assert not verify_inclusion(leaf, index, other, proof, tree_hash(0, other))
    assert not verify_inclusion(leaf_hash(entry(size)), index, size, proof, root)
    assert not verify_inclusion(leaf, index, size, proof, tree_hash(0, size + 1))
    assert not verify_inclusion(leaf[:-1], index, size, proof, root)


@settings(max_examples=150, deadline=None)
@given(st.integers(2, 700), st.data())
def test_no_changed_consistency_proof_verifies(new: int, data: st.DataObject) -> None:
    old = data.draw(st.integers(1, new - 1))
    old_root, new_root = tree_hash(0, old), tree_hash(0, new)
    proof = consistency(old, new)
    for changed in mutations(proof):
        assert not verify_consistency(old, new, old_root, new_root, changed)
    for wrong in (tree_hash(0, new + 1), bytes(32), old_root[:-1], new_root[:-1]):
        assert not verify_consistency(old, new, wrong, new_root, proof)
        assert not verify_consistency(old, new, old_root, wrong, proof)
    assert not verify_consistency(new, old, new_root, old_root, proof)
    assert not verify_consistency(old, new, new_root, old_root, proof)
    for other in (old - 1, old + 1):
        root = tree_hash(0, other)
        if other < new:
            assert not verify_consistency(other, new, root, new_root, proof)
    for other in (new - 1, new + 1):
        if other > old:
            assert not verify_consistency(old, other, old_root, tree_hash(0, other), proof)


def test_the_empty_proof_shows_only_what_needs_none() -> None:
    one, two = tree_hash(0, 1), tree_hash(0, 2)
    assert verify_inclusion(one, 0, 1, [], one)
    assert not verify_inclusion(one, 0, 2, [], two)
    assert not verify_inclusion(one, 0, 0, [], EMPTY_ROOT)
    assert verify_consistency(2, 2, two, two, [])
    assert not verify_consistency(2, 2, two, one, [])
    assert not verify_consistency(1, 2, one, two, [])
    assert verify_consistency(0, 0, EMPTY_ROOT, EMPTY_ROOT, [])
    assert verify_consistency(0, 2, EMPTY_ROOT, two, [])
    assert not verify_consistency(0, 2, one, two, [])
    assert not verify_consistency(0, 0, EMPTY_ROOT, two, [])
    assert not verify_consistency(0, 2, EMPTY_ROOT, two, [bytes(32)])


def test_a_node_is_no_leaf() -> None:
    """The domains are apart: the children of a node, as an entry, hash to something else."""
    left, right = tree_hash(0, 1), tree_hash(1, 2)
    assert leaf_hash(left + right) != tree_hash(0, 2)
    assert not verify_inclusion(leaf_hash(left + right), 0, 1, [], tree_hash(0, 2))


@pytest.mark.parametrize(("index", "size"), [(0, 0), (-1, 3), (3, 3), (9, 3)])
def test_there_is_no_plan_for_a_leaf_that_is_not_there(index: int, size: int) -> None:
    with pytest.raises(ValueError, match="has no leaf"):
        plan_inclusion(index, size)


@pytest.mark.parametrize(("old", "new"), [(-1, 3), (4, 3)])
def test_there_is_no_plan_from_a_larger_tree(old: int, new: int) -> None:
    with pytest.raises(ValueError, match="does not continue"):
        plan_consistency(old, new)


@pytest.mark.parametrize(
    ("size", "data"), [(1, b""), (0, bytes(32)), (3, bytes(32)), (1, bytes(31)), (-1, b"")]
)
def test_a_frontier_has_one_hash_for_each_bit_of_its_size(size: int, data: bytes) -> None:
    with pytest.raises(ValueError):
        Frontier.from_bytes(size, data)
