"""Inclusion proofs of leaves in their order, each folded from what its neighbours use too.

Within a page all subtrees are folded from the page's own leaf hashes, once; what lies beyond it,
the same for all leaves of a tile, is looked up once and kept: of a range of n leaves that is about
n / 128 hashes.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from oars_grpc.core.checkpoint import Checkpoint, InclusionProof
from oars_grpc.core.log import LogFault
from oars_grpc.core.merkle import (
    Frontier,
    Subtree,
    fold,
    node_hash,
    parts,
    plan_consistency,
    plan_inclusion,
    verify_consistency,
)

# The roots of full subtrees of the log.
LookUp = Callable[[Collection[Subtree]], Mapping[Subtree, bytes]]


class ProofMaker:
    """Makes what leads to one checkpoint of a log."""

    def __init__(self, last: Checkpoint, look_up: LookUp) -> None:
        self._last = last
        self._look_up = look_up
        self._beyond: dict[Subtree, bytes] = {}

    def frontier(self, first: Checkpoint) -> Frontier:
        """The frontier of an earlier tree.

        Raises:
            LogFault: it does not have the root of the checkpoint.
        """
        wanted = parts(0, first.size)
        roots = self._look_up(wanted) if wanted else {}
        frontier = Frontier(first.size, tuple(roots[subtree] for subtree in wanted))
        if frontier.root() != first.root:
            raise LogFault(f"the rows do not lead to the root of the checkpoint of {first.size}")
        return frontier

    def consistency(self, first: Checkpoint) -> tuple[bytes, ...]:
        """The proof that the tree continues an earlier one.

        Raises:
            LogFault: it does not verify.
        """
        last = self._last
        plan = plan_consistency(first.size, last.size)
        used = {subtree for group in plan for subtree in group}
        proof = tuple(fold(plan, self._look_up(used) if used else {}))
        if not verify_consistency(first.size, last.size, first.root, last.root, proof):
            raise LogFault(f"the proof from {first.size} leaves to {last.size} does not verify")
        return proof

    def proofs(self, first: int, leaves: Sequence[bytes]) -> Iterator[InclusionProof]:
        """The proofs of the leaf hashes from the index `first` on, each verified.

        Raises:
            LogFault: one does not lead to the root.
        """
        size = self._last.size
        plans = [plan_inclusion(index, size) for index in range(first, first + len(leaves))]
        within = subtrees_of(first, leaves)
        used = {subtree for plan in plans for group in plan for subtree in group}
        missing = used - within.keys() - self._beyond.keys()
        if missing:
            self._beyond.update(self._look_up(missing))
        hashes = {**self._beyond, **within}
        for position, plan in enumerate(plans):
            proof = InclusionProof(first + position, tuple(fold(plan, hashes)))
            if not proof.shows(leaves[position], self._last):
                raise LogFault(f"the proof of leaf {proof.leaf_index} among {size} does not verify")
            yield proof


def subtrees_of(first: int, leaves: Sequence[bytes]) -> dict[Subtree, bytes]:
    """The roots of all full subtrees that lie within the leaf hashes from `first` on."""
    row = {first + position: leaf for position, leaf in enumerate(leaves)}
    found: dict[Subtree, bytes] = {}
    height = 0
    while row:
        found.update({Subtree(height, index): hash_ for index, hash_ in row.items()})
        row = {
            index >> 1: node_hash(hash_, row[index + 1])
            for index, hash_ in row.items()
            if not index & 1 and index + 1 in row
        }
        height += 1
    return found
