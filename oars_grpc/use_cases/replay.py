"""Replays a draft over the decisions that a tenant's log has recorded, and signs what came of it.

Nothing is held but a page of leaves and the counts. Each page is a transaction of its own: what
lies below a size of a log never changes, but for payloads that retention erases meanwhile, which
are then told as erased. Every leaf of the range is derived from its payload and leads to the root
at the end, as in a proof of completeness: a log that contradicts itself gives no report.
"""

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from threading import Lock

from oars_grpc.core.call import Call
from oars_grpc.core.keys import SigningKey
from oars_grpc.core.log import LogFault, LogHead
from oars_grpc.core.log_tree import LogTree, check_run, leaf_derived
from oars_grpc.core.merkle import append, plan_consistency
from oars_grpc.core.policy_document import CompiledPolicy
from oars_grpc.core.ports import Ledger, ReceiptStore, RegistryStore
from oars_grpc.core.replay import Replayer, ReplayStore
from oars_grpc.core.replay_report import ReplayedRange
from oars_grpc.core.replay_request import (
    ReplayBegun,
    ReplayEnded,
    ReplayEvent,
    ReplayProgress,
    ReplayRequest,
)
from oars_grpc.core.replay_tally import ReplayTally
from oars_grpc.errors import InvalidArgument, NotFound, ResourceExhausted
from oars_grpc.use_cases.keyring import Keyring, PolicyShelf
from oars_grpc.use_cases.log_ends import KeptCheckpoints, check_continued, check_reached
from oars_grpc.use_cases.signed_logs import SignedLogs, naming

# A replay takes a core for as long as it lasts.
REPLAYS_AT_ONCE = 2
_RETRY_MS = 5_000


class Replays:
    """The part of the policy service that looks back."""

    def __init__(
        self,
        *,
        store: ReplayStore,
        registry: RegistryStore,
        ledger: Ledger,
        receipts: ReceiptStore,
        logs: SignedLogs,
        keyring: Keyring,
        policies: PolicyShelf,
    ) -> None:
        self._store = store
        self._registry = registry
        self._ledger = ledger
        self._kept = KeptCheckpoints(receipts, logs.prefix)
        self._logs = logs
        self._keyring = keyring
        self._policies = policies
        self._lock = Lock()
        self._under_way: set[str] = set()

    def replay(
        self, authorised: Callable[[], Call], wanted: ReplayRequest
    ) -> Generator[ReplayEvent, None, None]:
        """The events of a replay; whoever stops asking for them stops it.

        `authorised` gives the call with its caller as the identity stands at that moment.

        Raises:
            InvalidArgument: the document is not valid, or the range is none of the log.
            NotFound: there is no such tenant, or no such policy.
            FailedPrecondition: the log does not continue a checkpoint of the range.
            ResourceExhausted: the caller has a replay under way, or too many others have.
            LogFault: what is stored contradicts itself.
        """
        call = authorised()
        with self._place(call.principal.subject):
            tenant, draft = self._draft(call, wanted)
            yield from self._replay(authorised, tenant, draft, wanted)

    def _replay(
        self,
        authorised: Callable[[], Call],
        tenant: str,
        draft: CompiledPolicy,
        wanted: ReplayRequest,
    ) -> Iterator[ReplayEvent]:
        head = self._logs.head(tenant)
        tree, first, last = self._range(tenant, head, wanted)
        earlier, _ = self._logs.checkpoint(tree, head, first)
        later, _ = self._logs.checkpoint(tree, head, last)
        replayed = ReplayedRange(
            first=earlier.checkpoint,
            last=later.checkpoint,
            frontier=tree.frontier(first).hashes,
            consistency=tree.consistency(first, last),
        )
        yield ReplayBegun(tenant, draft.digest, earlier, later)
        tally, replayer = ReplayTally(draft, wanted.examples), Replayer(draft)
        running, erased = tree.frontier(first), 0
        while (start := running.size) < last:
            authorised().principal.check_tenant(tenant)
            with naming(tenant):
                page = self._store.leaves(tenant, start, last, with_inputs=replayer.with_inputs)
                check_run([stored.leaf for stored in page], start, max(1, len(page)))
                for stored in page:
                    erased += not leaf_derived(stored.leaf)
                    found = replayer.replay(stored)
                    if found is not None:
                        tally.add(found)
            running, _ = append(running, (stored.leaf.hash for stored in page))
            yield ReplayProgress(running.size - first, last - first, tally.decisions, tally.changed)
        if running.root() != tree.root(last):
            raise LogFault(
                f"log of tenant {tenant}: leaves {first} to {last} do not lead to its root"
            )
        report = tally.report(tenant, wanted.policy_id, replayed, erased)
        yield ReplayEnded(report.sign(self._signing_key(tenant)), earlier, later)

    def _draft(self, call: Call, wanted: ReplayRequest) -> tuple[str, CompiledPolicy]:
        """The tenant and the draft, valid and compiled before anything of the log is read."""
        if wanted.document is not None:
            tenant = call.tenant(wanted.tenant_id)
            return tenant, self._policies.tried(wanted.document)
        policy = self._registry.find_policy(call.tenants(wanted.tenant_id), wanted.policy_id)
        if policy is None:
            raise NotFound(f"policy {wanted.policy_id} is not found", reason="POLICY_NOT_FOUND")
        return policy.tenant_id, self._policies.compiled(policy)

    def _range(self, tenant: str, head: LogHead, wanted: ReplayRequest) -> tuple[LogTree, int, int]:
        """The tree and the leaves [first, last) of the range."""
        size = head.frontier.size
        for field, given in (("from_size", wanted.from_size), ("to_size", wanted.to_size)):
            if given > size:
                raise InvalidArgument.of(field, f"the log has {size} receipts")
        start, end = self._kept.read(
            tenant, [(wanted.from_note, "from_checkpoint"), (wanted.to_note, "to_checkpoint")]
        )
        first = start.size if start else wanted.from_size
        last = end.size if end else wanted.to_size or size
        check_reached(size, max(first, last))
        if first > last:
            raise InvalidArgument.of(
                "from_checkpoint" if start else "from_size", f"must be from 0 to {last}"
            )
        plan = plan_consistency(first, last)
        tree = self._logs.whole_tree(tenant, head, [first, last], plan)
        check_continued(tree, [start, end])
        return tree, first, last

    def _signing_key(self, tenant: str) -> SigningKey:
        # Read last: a key that was replaced meanwhile signs nothing more.
        return self._keyring.open(self._ledger.basis(tenant, None).signing_key)

    @contextmanager
    def _place(self, subject: str) -> Iterator[None]:
        """Take a place while a replay is under way."""
        with self._lock:
            if subject in self._under_way:
                raise ResourceExhausted(
                    f"identity {subject} has a replay under way", retry_after_ms=_RETRY_MS
                )
            if len(self._under_way) >= REPLAYS_AT_ONCE:
                raise ResourceExhausted(
                    f"{REPLAYS_AT_ONCE} replays are under way, as many as may be",
                    retry_after_ms=_RETRY_MS,
                )
            self._under_way.add(subject)
        try:
            yield
        finally:
            with self._lock:
                self._under_way.discard(subject)
