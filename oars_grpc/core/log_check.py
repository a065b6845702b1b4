"""The check of a log, as of a file system: what storage holds, derived anew and compared.

Leaves are read once, in their order, and the tree is grown over them. What stays in memory is the
frontier, one small entry for each chain whose end has not been seen, and the ranges of what was
erased. Problems come out in the order of the log, so that the first one is the first thing that is
wrong; after a gap in the leaves the tree is not followed further, for all of it would differ.

What this cannot find: a log whose tail was removed together with the actions and the head, and a
log that was written anew under its own keys. Only a checkpoint that somebody else kept finds those.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from oars_grpc.core.checkpoint import Checkpoint
from oars_grpc.core.keys import key_id_of
from oars_grpc.core.leaf_check import InspectedLeaf, Link, inspect_page
from oars_grpc.core.merkle import EMPTY, TILE_HEIGHT, Frontier, append
from oars_grpc.core.receipt import NO_ACTION
from oars_grpc.core.stored_log import (
    Problem,
    ProblemKind,
    StoredHead,
    StoredLeaf,
    StoredLog,
    StoredNode,
)

# Turns pages of leaves into inspected ones, in their order; several at a time if it likes.
Inspect = Callable[[Iterable[Sequence[StoredLeaf]]], Iterable[Sequence[InspectedLeaf]]]


@dataclass(slots=True)
class Tally:
    """What a check has counted so far."""

    leaves: int = 0
    erased: int = 0
    unvouched: int = 0
    tree: Frontier | None = EMPTY


@dataclass(slots=True)
class _Chain:
    sequence: int
    digest: str
    leaf_index: int
    receipt_id: str
    is_of_action: bool


def check_log(
    log: StoredLog,
    *,
    checkpoints: Sequence[Checkpoint] = (),
    signatures: bool = True,
    inspect: Inspect | None = None,
    tally: Tally | None = None,
) -> Iterator[Problem]:
    """Everything that is wrong with a tenant's log, in order; nothing if it is whole.

    Args:
        log: what storage holds.
        checkpoints: of this log, saved earlier, their signatures verified by the caller.
        signatures: whether to verify the signatures of receipts.
        inspect: how pages are inspected; by default one after the other, here.
        tally: where to count.
    """
    for key in log.keys:
        if key.key_id != key_id_of(key.public_key):
            detail = f"key {key.key_id} is stored with the public key of another"
            yield Problem(ProblemKind.KEY, log.tenant_id, detail)
    check = _LogCheck(log, checkpoints, tally or Tally())
    pages = log.pages
    inspected = (
        inspect(pages)
        if inspect
        else map(
            partial(inspect_page, tenant_id=log.tenant_id, keys=log.keys, signatures=signatures),
            pages,
        )
    )
    for page in inspected:
        for leaf in page:
            yield from check.leaf(leaf)
    yield from check.end()
    for action_id in log.lone_actions:
        detail = f"action {action_id} has no receipt in the log"
        yield Problem(ProblemKind.ACTION, log.tenant_id, detail)
    for approval_id in log.lone_approvals:
        detail = f"approval {approval_id} is of an action that does not exist"
        yield Problem(ProblemKind.APPROVAL, log.tenant_id, detail)


@dataclass(slots=True)
class _LogCheck:
    log: StoredLog
    checkpoints: Sequence[Checkpoint]
    tally: Tally
    _next: int = 0  # the leaf index that must come now
    _chains: dict[str, _Chain] = field(default_factory=dict)
    # Leaves without payload, and those that events record as erased, as ranges from and to.
    _erased: list[list[int]] = field(default_factory=list)
    _recorded: list[tuple[int, int]] = field(default_factory=list)
    _nodes: Iterator[StoredNode] = field(init=False)
    _node: StoredNode | None = field(init=False)
    _saved: list[Checkpoint] = field(init=False)

    def __post_init__(self) -> None:
        self._nodes = iter(self.log.nodes)
        self._node = next(self._nodes, None)
        # Descending, so that the next one is the last; an empty log is continued by every one.
        larger = [saved for saved in self.checkpoints if saved.size > 0]
        self._saved = sorted(larger, key=lambda saved: saved.size, reverse=True)

    def leaf(self, leaf: InspectedLeaf) -> Iterator[Problem]:
        """What is wrong up to this leaf."""
        if leaf.leaf_index > self._next:
            yield self._gap(self._next, leaf.leaf_index)
        elif leaf.leaf_index < self._next and leaf.leaf_hash is not None:
            self.tally.tree = None
            yield self._problem(ProblemKind.LEAF_INDEX, "there is a second receipt", leaf)
        self._next = max(self._next, leaf.leaf_index + 1)
        head = self.log.head
        if leaf.leaf_hash is not None:
            self.tally.leaves += 1
            if head is not None and leaf.leaf_index >= head.size:
                detail = f"is beyond the end of the log, whose head says {head.size} leaves"
                yield self._problem(ProblemKind.LEAF_INDEX, detail, leaf)
        yield from leaf.problems
        self._recorded.extend(leaf.erases)
        if leaf.erased:
            self.tally.erased += 1
            if self._erased and self._erased[-1][1] == leaf.leaf_index - 1:
                self._erased[-1][1] = leaf.leaf_index
            else:
                self._erased.append([leaf.leaf_index, leaf.leaf_index])
        self.tally.unvouched += leaf.unvouched
        if leaf.link is not None:
            yield from self._follow(leaf.link, leaf)
        yield from self._grow(leaf.leaf_hash)

    def end(self) -> Iterator[Problem]:
        """What is wrong once all leaves were seen."""
        head = self.log.head
        if head is None:
            yield self._problem(ProblemKind.HEAD, "the tenant has no head of a log")
        elif self._next < head.size:
            yield self._gap(self._next, head.size)
        yield from self._superfluous_nodes(None)
        if head is not None:
            yield from self._frontier_problems(head)
        for saved in reversed(self._saved):
            yield self._unreached(saved)
        yield from self._unrecorded_erasures()
        for action_id, chain in self._chains.items():
            if chain.is_of_action:
                yield Problem(
                    ProblemKind.ACTION,
                    self.log.tenant_id,
                    f"the chain of action {action_id} ends after receipt {chain.sequence},"
                    " and the action says that there are more",
                    chain.leaf_index,
                    chain.receipt_id,
                )

    def _gap(self, start: int, end: int) -> Problem:
        self.tally.tree = None
        last = f" (and all up to leaf {end - 1})" if end - start > 1 else ""
        detail = f"the receipt is missing{last}"
        return Problem(ProblemKind.LEAF_INDEX, self.log.tenant_id, detail, start)

    def _problem(
        self, kind: ProblemKind, detail: str, leaf: InspectedLeaf | None = None
    ) -> Problem:
        index, receipt_id = (leaf.leaf_index, leaf.receipt_id) if leaf else (None, "")
        return Problem(kind, self.log.tenant_id, detail, index, receipt_id)

    def _follow(self, link: Link, leaf: InspectedLeaf) -> Iterator[Problem]:
        """Check a leaf against its chain so far, and against the end that its action names."""
        of = f"action {link.action_id}" if link.action_id != NO_ACTION else "the tenant's events"
        before = self._chains.pop(link.action_id, None)
        sequence, digest = (before.sequence, before.digest) if before else (0, "")
        if link.sequence != sequence + 1:
            detail = f"is number {link.sequence} of {of}, and number {sequence + 1} was to come"
            yield self._problem(ProblemKind.CHAIN, detail, leaf)
        elif link.previous_digest != digest:
            detail = f"is not chained to receipt {sequence} of {of}"
            yield self._problem(ProblemKind.CHAIN, detail, leaf)
        end = link.action_end
        if link.action_id != NO_ACTION:
            if end is None and before is None:
                yield self._problem(ProblemKind.ACTION, f"{of} does not exist", leaf)
            elif end is not None and link.sequence >= end.sequence:
                if (link.sequence, link.digest) != (end.sequence, end.receipt_digest):
                    detail = f"is not the one that {of} ends with, number {end.sequence}"
                    yield self._problem(ProblemKind.ACTION, detail, leaf)
                return  # the chain is whole: nothing of it needs to be remembered
        self._chains[link.action_id] = _Chain(
            link.sequence, link.digest, leaf.leaf_index, leaf.receipt_id, end is not None
        )

    def _grow(self, leaf_hash: bytes | None) -> Iterator[Problem]:
        """Let the tree grow by a leaf; compare the nodes that it completes, and saved roots."""
        if self.tally.tree is None or leaf_hash is None:
            self.tally.tree = None
            return
        self.tally.tree, completed = append(self.tally.tree, [leaf_hash])
        for subtree, hash_ in completed:
            expected = StoredNode(subtree.height // TILE_HEIGHT, subtree.index, hash_)
            yield from self._superfluous_nodes(expected)
            yield from self._compare_node(expected)
        while self._saved and self._saved[-1].size <= self.tally.tree.size:
            saved = self._saved.pop()
            if self.tally.tree.root() != saved.root:
                detail = f"at size {saved.size} the log no longer has the root of the checkpoint"
                yield self._problem(ProblemKind.CHECKPOINT, detail)

    def _superfluous_nodes(self, up_to: StoredNode | None) -> Iterator[Problem]:
        """Stored nodes before an expected one; all of them where nothing more is expected."""
        while self._node is not None and (
            up_to is None or self._node.completed_at < up_to.completed_at
        ):
            node, self._node = self._node, next(self._nodes, None)
            if self.tally.tree is not None:
                yield self._node_problem(node, "is not of the tree")

    def _compare_node(self, expected: StoredNode) -> Iterator[Problem]:
        node = self._node
        if node is None or node.completed_at != expected.completed_at:
            yield self._node_problem(expected, "is missing")
            return
        self._node = next(self._nodes, None)
        if node.hash != expected.hash:
            yield self._node_problem(node, "does not follow from its leaves")

    def _node_problem(self, node: StoredNode, what: str) -> Problem:
        detail = f"node {node.position} of level {node.level} {what}"
        return self._problem(ProblemKind.NODE, detail)

    def _frontier_problems(self, head: StoredHead) -> Iterator[Problem]:
        tree = self.tally.tree
        if tree is not None and tree.size == head.size and tree.to_bytes() != head.frontier:
            detail = "the frontier of the head does not follow from the leaves"
            yield self._problem(ProblemKind.FRONTIER, detail)

    def _unrecorded_erasures(self) -> Iterator[Problem]:
        """Erasures that the table of them names, and no receipt of the log."""
        recorded = iter(sorted(self._recorded))
        first, last = next(recorded, (0, -1))
        for start, end in self._erased:
            at = start
            while at <= end and last >= first:
                if last < at:
                    first, last = next(recorded, (0, -1))
                elif first <= at:
                    at = last + 1
                else:
                    break
            if at <= end:
                detail = "the payload is erased, and no receipt of the log records that it was"
                yield Problem(ProblemKind.ERASURE, self.log.tenant_id, detail, at)

    def _unreached(self, saved: Checkpoint) -> Problem:
        tree = self.tally.tree
        if tree is None:
            detail = f"at size {saved.size} the log has no root to compare: leaves are missing"
        else:
            detail = f"the log has {tree.size} leaves, and the checkpoint says {saved.size}"
        return self._problem(ProblemKind.CHECKPOINT, detail)
