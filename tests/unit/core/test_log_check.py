"""The check of a log by itself: what it keeps in memory, and how far it follows a broken tree."""

import tracemalloc
from collections.abc import Iterator, Sequence
from dataclasses import replace

from oars_grpc.core.leaf_check import InspectedLeaf, Link
from oars_grpc.core.log_check import Tally, check_log
from oars_grpc.core.merkle import EMPTY, TILE_HEIGHT, append
from oars_grpc.core.receipt_terms import terms_of
from oars_grpc.core.stored_log import (
    ActionEnd,
    LeafRow,
    StoredHead,
    StoredLeaf,
    StoredLog,
    StoredNode,
)
from tests.support.factories import append_receipt, make_action, make_stored_key

KEY = make_stored_key().trusted


def make_leaves(actions: int, receipts: int = 2) -> list[StoredLeaf]:
    """The leaves of some actions, one whole chain after the other."""
    leaves: list[StoredLeaf] = []
    for _ in range(actions):
        action, chain = make_action(), []
        for _ in range(receipts):
            action, receipt = append_receipt(action)
            chain.append(receipt)
        end = ActionEnd(action.last_sequence, action.last_receipt_digest)
        for receipt in chain:
            envelope = receipt.envelope
            row = LeafRow(
                receipt_id=receipt.receipt_id,
                action_id=receipt.action_id,
                sequence=receipt.sequence,
                type=receipt.type,
                key_id=receipt.key_id,
                signature=envelope.signatures[0].sig,
                receipt_digest=envelope.digest(),
                previous_receipt_digest=receipt.previous_receipt_digest,
                leaf_hash=envelope.leaf_hash(),
                recorded_at=receipt.recorded_at,
                terms=terms_of(envelope.payload),
            )
            leaves.append(StoredLeaf(len(leaves), row, envelope.payload, action_end=end))
    return leaves


def make_log(leaves: Sequence[StoredLeaf]) -> StoredLog:
    tree, completed = append(EMPTY, [leaf.row.leaf_hash for leaf in leaves if leaf.row])
    nodes = [StoredNode(each.height // TILE_HEIGHT, each.index, root) for each, root in completed]
    return StoredLog("acme", StoredHead(tree.size, tree.to_bytes()), [KEY], [leaves], nodes, [], [])


LEAVES = make_leaves(6)
LOG = make_log(LEAVES)


def test_a_whole_log_is_whole() -> None:
    tally = Tally()
    assert list(check_log(LOG, tally=tally)) == []
    assert tally.leaves == len(LEAVES)


def test_an_empty_log_is_whole() -> None:
    assert list(check_log(make_log([]))) == []


def test_one_missing_leaf_is_not_said_of_everything_behind_it() -> None:
    found = list(check_log(replace(LOG, pages=[LEAVES[:4], LEAVES[5:]])))
    assert [(each.kind, each.leaf_index) for each in found] == [
        ("leaf_index", 4),
        ("chain", 5),
    ]


def test_a_second_receipt_at_an_index_is_found() -> None:
    found = list(check_log(replace(LOG, pages=[[*LEAVES[:3], LEAVES[2], *LEAVES[3:]]])))
    assert (found[0].kind, found[0].leaf_index) == ("leaf_index", 2)
    assert "second" in found[0].detail


def test_a_changed_signature_is_not_looked_at_where_signatures_are_skipped() -> None:
    row = LEAVES[3].row
    assert row is not None
    forged = replace(LEAVES[3], row=replace(row, signature=bytes(64)))
    log = replace(LOG, pages=[[*LEAVES[:3], forged, *LEAVES[4:]]])
    assert [(each.kind, each.leaf_index) for each in check_log(log)] == [("signature", 3)]
    assert list(check_log(log, signatures=False)) == []


def test_a_receipt_of_another_tenant_is_not_one_of_this() -> None:
    found = list(check_log(replace(LOG, tenant_id="globex", keys=[KEY])))
    assert found[0].kind == "column"
    assert "tenant acme" in found[0].detail


def test_a_finished_chain_is_forgotten() -> None:
    """Nothing but the frontier grows with a log whose chains are whole."""
    actions = 10_000
    size = 2 * actions
    leaf = bytes(32)
    tree, completed = append(EMPTY, [leaf] * size)
    nodes = (StoredNode(each.height // TILE_HEIGHT, each.index, root) for each, root in completed)
    held: list[int] = []

    def inspected(_pages: object) -> Iterator[list[InspectedLeaf]]:
        for number in range(actions):
            end = ActionEnd(2, f"{number}-2")
            links = [
                Link(f"act_{number}", sequence, previous, f"{number}-{sequence}", end)
                for sequence, previous in ((1, ""), (2, f"{number}-1"))
            ]
            yield [
                InspectedLeaf(2 * number + place, "", leaf, link, ())
                for place, link in enumerate(links)
            ]
            if number in (1_000, actions - 1):
                held.append(tracemalloc.get_traced_memory()[0])

    log = StoredLog("acme", StoredHead(size, tree.to_bytes()), [], [], nodes, [], [])
    tracemalloc.start()
    try:
        assert list(check_log(log, inspect=inspected)) == []
    finally:
        tracemalloc.stop()
    # An entry for each of the 9,000 actions between the two would be a megabyte and more.
    assert held[1] - held[0] < 100_000
