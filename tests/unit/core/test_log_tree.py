"""Trees put together from the rows of a store, here one in memory."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from oars_grpc.core.envelope import PAYLOAD_TYPE, Envelope
from oars_grpc.core.log import HashRange, Leaf, LogFault
from oars_grpc.core.log_tree import (
    LogTree,
    check_run,
    hash_range,
    leaf_derived,
    needed,
    subtree_root,
)
from oars_grpc.core.merkle import (
    EMPTY,
    EMPTY_ROOT,
    TILE_HEIGHT,
    Frontier,
    ProofPlan,
    Subtree,
    append,
    leaf_hash,
    plan_consistency,
    plan_inclusion,
    verify_consistency,
    verify_inclusion,
)

LEAVES = [leaf_hash(b"%d" % number) for number in range(700)]
HEAD, NODES = append(EMPTY, LEAVES)
ROWS = {(0, index): leaf for index, leaf in enumerate(LEAVES)} | {
    (tile.height // TILE_HEIGHT, tile.index): root for tile, root in NODES
}


def stored(wanted: HashRange) -> bytes:
    places = range(wanted.first, wanted.first + wanted.count)
    return b"".join(ROWS.get((wanted.level, place), b"") for place in places)


def tree(sizes: Sequence[int], plan: ProofPlan = (), head: Frontier = HEAD) -> LogTree:
    wanted = needed(head, sizes, [plan])
    roots = {one: subtree_root(hash_range(one), stored(hash_range(one))) for one in wanted}
    return LogTree("acme", head, roots)


@pytest.mark.parametrize(
    ("subtree", "rows"),
    [
        (Subtree(0, 9), HashRange(0, 9, 1)),
        (Subtree(3, 2), HashRange(0, 16, 8)),
        (Subtree(7, 1), HashRange(0, 128, 128)),
        (Subtree(8, 1), HashRange(1, 1, 1)),
        (Subtree(9, 1), HashRange(1, 2, 2)),
        (Subtree(15, 3), HashRange(1, 384, 128)),
        (Subtree(16, 5), HashRange(2, 5, 1)),
        (Subtree(20, 0), HashRange(2, 0, 16)),
    ],
)
def test_a_subtree_is_folded_from_rows_of_the_level_below(
    subtree: Subtree, rows: HashRange
) -> None:
    assert hash_range(subtree) == rows


def test_a_missing_row_is_a_fault() -> None:
    wanted = HashRange(0, 0, 2)
    assert subtree_root(wanted, stored(wanted)) == append(EMPTY, LEAVES[:2])[0].root()
    for rows in (b"", LEAVES[0], stored(wanted) + LEAVES[2], stored(wanted)[:-1]):
        with pytest.raises(LogFault):
            subtree_root(wanted, rows)


@pytest.mark.parametrize("count", [1, 2, 8, 16, 64, 128])
def test_a_root_that_is_kept_is_that_of_no_other_hashes(count: int) -> None:
    wanted = HashRange(0, 0, count)
    rows = stored(wanted)
    root = append(EMPTY, LEAVES[:count])[0].root()
    for _ in range(2):
        assert subtree_root(wanted, rows) == root
    for place in range(0, len(rows), 31):
        changed = bytearray(rows)
        changed[place] ^= 1
        assert subtree_root(wanted, bytes(changed)) != root
    assert subtree_root(wanted, rows) == root


def test_every_root_of_the_past_is_that_of_the_log_then() -> None:
    for size in (0, 1, 2, 3, 255, 256, 257, 511, 512, 699, 700):
        assert tree([size]).root(size) == append(EMPTY, LEAVES[:size])[0].root()
        assert tree([size]).frontier(size) == append(EMPTY, LEAVES[:size])[0]
    assert tree([0], head=EMPTY).root(0) == EMPTY_ROOT


def test_proofs_verify_against_roots_made_elsewhere() -> None:
    for size in (1, 2, 256, 257, 700):
        root = append(EMPTY, LEAVES[:size])[0].root()
        for index in {0, size // 2, size - 1}:
            proof = tree([size], plan_inclusion(index, size)).inclusion(LEAVES[index], index, size)
            assert verify_inclusion(LEAVES[index], index, size, proof, root)
        for old in (1, 255, 256, 257, 700):
            if old <= size:
                old_root = append(EMPTY, LEAVES[:old])[0].root()
                between = tree([old, size], plan_consistency(old, size)).consistency(old, size)
                assert verify_consistency(old, size, old_root, root, between)


def test_a_head_that_the_rows_do_not_lead_to_is_a_fault() -> None:
    other = append(EMPTY, [leaf_hash(b"other"), *LEAVES[1:]])[0]
    for size in (0, 1, 5, 256, 699, 700):
        found = tree([size], head=other)
        if size == 0:  # which every log continues
            assert found.root(0) == EMPTY_ROOT
            continue
        with pytest.raises(LogFault, match="log of tenant acme: "):
            found.root(size)


def test_a_proof_of_another_leaf_is_a_fault() -> None:
    found = tree([700], plan_inclusion(3, 700))
    with pytest.raises(LogFault, match="leaf 3 among 700"):
        found.inclusion(LEAVES[4], 3, 700)


def test_a_known_root_is_believed_but_not_against_the_head() -> None:
    found = replace(tree([], plan_inclusion(3, 600)), known={600: tree([600]).root(600)})
    assert found.inclusion(LEAVES[3], 3, 600)
    with pytest.raises(LogFault, match="another root than it had"):
        replace(found, known={700: bytes(32)}).root(700)


def test_a_leaf_is_derived_from_its_payload_or_counted_as_erased() -> None:
    payload = b'{"_type":"x"}'
    hash_ = Envelope(PAYLOAD_TYPE, payload, ()).leaf_hash()
    assert leaf_derived(Leaf(4, hash_, payload))
    assert not leaf_derived(Leaf(4, hash_, None))
    for wrong in (Leaf(4, bytes(32), payload), Leaf(4, hash_, payload + b" "), Leaf(4, hash_, b"")):
        with pytest.raises(LogFault, match="leaf 4"):
            leaf_derived(wrong)


def test_a_run_of_leaves_has_no_gaps() -> None:
    leaves = [Leaf(index, bytes(32), None) for index in range(5, 9)]
    check_run(leaves, 5, 4)
    for run in (leaves[1:], leaves[:-1], [*leaves[:1], *leaves[2:]], leaves[::-1], []):
        with pytest.raises(LogFault, match="not all of the 4 leaves from 5 on"):
            check_run(run, 5, 4)
