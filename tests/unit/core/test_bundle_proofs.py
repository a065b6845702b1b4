"""Proofs of pages are the proofs of the tree, whatever the pages."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oars_grpc.core.bundle_proofs import ProofMaker, subtrees_of
from oars_grpc.core.checkpoint import Checkpoint
from oars_grpc.core.log import LogFault
from oars_grpc.core.merkle import EMPTY, Subtree, append, fold, plan_inclusion

LEAVES = [hashlib.sha256(bytes([number])).digest() for number in range(70)]
KNOWN = subtrees_of(0, LEAVES)


def checkpoint(size: int) -> Checkpoint:
    return Checkpoint("log", size, append(EMPTY, LEAVES[:size])[0].root())


@given(size=st.integers(1, 70), page=st.integers(1, 20), data=st.data())
@settings(max_examples=60, deadline=None)
def test_every_page_gives_the_proofs_of_the_tree(size: int, page: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, size - 1))
    looked_up: list[Subtree] = []

    def look_up(wanted: object) -> dict[Subtree, bytes]:
        assert isinstance(wanted, set)
        looked_up.extend(wanted)
        return {subtree: KNOWN[subtree] for subtree in wanted}

    maker = ProofMaker(checkpoint(size), look_up)
    found = [
        proof
        for start in range(first, size, page)
        for proof in maker.proofs(start, LEAVES[start : min(size, start + page)])
    ]
    assert [proof.leaf_index for proof in found] == list(range(first, size))
    for proof in found:
        assert list(proof.hashes) == fold(plan_inclusion(proof.leaf_index, size), KNOWN)
    assert len(looked_up) == len(set(looked_up))  # nothing is asked for twice


def test_hashes_that_do_not_lead_to_the_root_make_no_proof() -> None:
    wrong = ProofMaker(checkpoint(64), lambda wanted: dict.fromkeys(wanted, bytes(32)))
    with pytest.raises(LogFault, match="leaf 0 among 64"):
        list(wrong.proofs(0, LEAVES[:4]))
    with pytest.raises(LogFault, match="the proof from 3"):
        wrong.consistency(checkpoint(3))
    with pytest.raises(LogFault, match="the checkpoint of 3"):
        wrong.frontier(checkpoint(3))


@pytest.mark.parametrize(("old", "new"), [(0, 0), (0, 5), (1, 70), (32, 64), (33, 70), (70, 70)])
def test_frontier_and_consistency_of_any_two_sizes(old: int, new: int) -> None:
    maker = ProofMaker(checkpoint(new), lambda wanted: {each: KNOWN[each] for each in wanted})
    assert maker.frontier(checkpoint(old)).root() == checkpoint(old).root
    assert isinstance(maker.consistency(checkpoint(old)), tuple)
