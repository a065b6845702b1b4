"""Proves what stands in the log of a tenant.

Every root comes from the rows and leads to the head's, every proof is verified against the root of
the checkpoint that it is handed out with (`core/log_tree.py`); a contradiction is a `LogFault` and
never a proof.
"""

from collections.abc import Callable, Iterator

from oars_grpc.core.call import Call
from oars_grpc.core.checkpoint import InclusionProof, format_proof
from oars_grpc.core.identity import Principal
from oars_grpc.core.keys import TrustedKey
from oars_grpc.core.log import (
    CompletenessBegin,
    CompletenessEnd,
    CompletenessEvent,
    CompletenessLeaves,
    ConsistencyProof,
    LogFault,
    LogHead,
    LogStore,
    ReceiptLeaf,
    ReceiptProof,
    SignedCheckpoint,
    vkey_of,
)
from oars_grpc.core.log_tree import LogTree, check_run, leaf_derived
from oars_grpc.core.merkle import append, plan_consistency, plan_inclusion
from oars_grpc.core.ports import ReceiptInLog, ReceiptStore
from oars_grpc.errors import InvalidArgument, NotFound
from oars_grpc.use_cases.action_change import OWN_ACTIONS_ONLY
from oars_grpc.use_cases.log_ends import KeptCheckpoints, check_continued, check_reached
from oars_grpc.use_cases.signed_logs import SignedLogs, head_of, naming

# Leaves read at a time, payloads and all: at most 16 MB of them.
LEAVES_AT_A_TIME = 256


class Log:
    """The log of the receipt service."""

    def __init__(self, *, store: LogStore, receipts: ReceiptStore, logs: SignedLogs) -> None:
        self._store = store
        self._kept = KeptCheckpoints(receipts, logs.prefix)
        self._logs = logs

    def vkey(self, key: TrustedKey) -> str:
        """The C2SP verifier key of a key that signs checkpoints; empty for every other."""
        return vkey_of(self._logs.prefix, key)

    def checkpoint(self, call: Call, tenant_id: str) -> SignedCheckpoint:
        """What the log holds now."""
        call.principal.check_tenant(tenant_id)
        head = self._logs.head(tenant_id)
        size = head.frontier.size
        return self._logs.checkpoint(self._logs.tree(tenant_id, head, [size]), head, size)[0]

    def receipt_proof(
        self, call: Call, tenant_id: str, receipt_id: str, size: int = 0
    ) -> ReceiptProof:
        """Where a receipt stands in the log of a size; 0 is the present one."""
        found = self._store.leaf_of(call.tenants(tenant_id), receipt_id)
        if found is None or not _visible(call.principal, found):
            raise _not_found(receipt_id)
        return self._proof(found, self._logs.head(found.tenant_id), size)

    def proven(
        self, call: Call, found: ReceiptInLog, again: Callable[[], ReceiptInLog]
    ) -> tuple[ReceiptInLog, ReceiptProof]:
        """A receipt that is read along with its log's head, and where it stands in that log.

        It is read again where the log's key had to be made: the proof is judged by that, too.
        """
        leaf = found.leaf
        if not _visible(call.principal, leaf):
            raise _not_found(found.stored.receipt.receipt_id)
        if self._logs.add_missing_key(leaf.tenant_id, found.head()):
            found = again()
        return found, self._proof(found.leaf, head_of(leaf.tenant_id, found.head()))

    def _proof(self, found: ReceiptLeaf, head: LogHead, size: int = 0) -> ReceiptProof:
        owner, leaf = found.tenant_id, found.leaf
        with naming(owner):
            leaf_derived(leaf)
            if leaf.index >= head.frontier.size:
                raise LogFault(f"leaf {leaf.index} is beyond the head of {head.frontier.size}")
        size = _present(size, head, "size")
        if size <= leaf.index:
            raise InvalidArgument.of(
                "size", f"the log has held the receipt since it had {leaf.index + 1} leaves"
            )
        tree = self._logs.tree(owner, head, [size], plan_inclusion(leaf.index, size))
        inclusion = InclusionProof(leaf.index, tree.inclusion(leaf.hash, leaf.index, size))
        signed, note = self._logs.checkpoint(tree, head, size)
        return ReceiptProof(leaf.hash, inclusion, signed, format_proof(inclusion, note))

    def consistency(
        self, call: Call, tenant_id: str, from_size: int, to_size: int = 0
    ) -> ConsistencyProof:
        """That the log at one size continues the log at a smaller one; `to_size` 0 is now."""
        call.principal.check_tenant(tenant_id)
        head = self._logs.head(tenant_id)
        to_size = _present(to_size, head, "to_size")
        if from_size < 1:
            raise InvalidArgument.of("from_size", "must be at least 1")
        if from_size > to_size:
            raise InvalidArgument.of("from_size", f"must be at most {to_size}")
        plan = plan_consistency(from_size, to_size)
        tree = self._logs.tree(tenant_id, head, [from_size, to_size], plan)
        return ConsistencyProof(
            earlier=self._logs.checkpoint(tree, head, from_size)[0],
            later=self._logs.checkpoint(tree, head, to_size)[0],
            hashes=tree.consistency(from_size, to_size),
        )

    def completeness(
        self, authorised: Callable[[], Call], tenant_id: str, from_note: str, to_note: str
    ) -> Iterator[CompletenessEvent]:
        """That the receipts between two checkpoints are all there, leaf by leaf.

        An empty note is the beginning of the log, or the present. `authorised` gives the call with
        its caller as the identity stands at that moment: the proof may outlive it.
        """
        authorised().principal.check_tenant(tenant_id)
        head = self._logs.head(tenant_id)
        start, end = self._kept.read(
            tenant_id, [(from_note, "from_checkpoint"), (to_note, "to_checkpoint")]
        )
        first, last = start.size if start else 0, end.size if end else head.frontier.size
        if end and first > last:
            raise InvalidArgument.of("to_checkpoint", "is of an earlier log than from_checkpoint")
        check_reached(head.frontier.size, max(first, last))
        tree = self._logs.whole_tree(tenant_id, head, [first, last])
        check_continued(tree, [start, end])
        yield CompletenessBegin(
            earlier=self._logs.checkpoint(tree, head, first)[0],
            later=self._logs.checkpoint(tree, head, last)[0],
            frontier=tree.frontier(first),
        )
        yield from self._leaves(authorised, tree, first, last)

    def _leaves(
        self, authorised: Callable[[], Call], tree: LogTree, first: int, last: int
    ) -> Iterator[CompletenessEvent]:
        """The leaves [first, last) as they are stored, and the end if they lead to the root."""
        running, erased = tree.frontier(first), 0
        for start in range(first, last, LEAVES_AT_A_TIME):
            authorised().principal.check_tenant(tree.tenant_id)
            count = min(LEAVES_AT_A_TIME, last - start)
            leaves = self._store.leaves(tree.tenant_id, start, count)
            with naming(tree.tenant_id):
                check_run(leaves, start, count)
                erased += sum(not leaf_derived(leaf) for leaf in leaves)
            hashes = tuple(leaf.hash for leaf in leaves)
            running, _ = append(running, hashes)
            yield CompletenessLeaves(start, hashes)
        if running.root() != tree.root(last):
            raise LogFault(
                f"log of tenant {tree.tenant_id}: leaves {first} to {last} do not lead to its root"
            )
        yield CompletenessEnd(last - first, erased)


def _visible(principal: Principal, found: ReceiptLeaf) -> bool:
    """Agents see only what they submitted."""
    return principal.role not in OWN_ACTIONS_ONLY or found.caller_subject == principal.subject


def _not_found(receipt_id: str) -> NotFound:
    return NotFound(f"receipt {receipt_id} is not found", reason="RECEIPT_NOT_FOUND")


def _present(size: int, head: LogHead, field: str) -> int:
    """The size asked for; 0 is the present one.

    Raises:
        InvalidArgument: the log never had it.
    """
    if not 0 <= size <= head.frontier.size:
        raise InvalidArgument.of(field, f"must be from 1 to {head.frontier.size}, or 0 for now")
    return size or head.frontier.size
