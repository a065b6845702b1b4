"""Reads the logs of tenants, establishes their roots, and signs checkpoints over them."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from threading import Lock

from oars_grpc.core.checkpoint import Checkpoint, log_origin, sign_checkpoint
from oars_grpc.core.keys import KeyPurpose, StoredKey
from oars_grpc.core.log import LogFault, LogHead, LogStore, SignedCheckpoint
from oars_grpc.core.log_tree import LogTree, hash_range, needed, subtree_root
from oars_grpc.core.merkle import ProofPlan
from oars_grpc.core.note import Note
from oars_grpc.core.ports import Registry, RegistryStore
from oars_grpc.errors import NotFound
from oars_grpc.use_cases.keyring import Keyring

_KEPT_ROOTS = 4096
_KEPT_NOTES = 1024


class SignedLogs:
    """Logs, and the keys that sign their checkpoints under origins that begin with `prefix`."""

    def __init__(
        self, *, store: LogStore, registry: RegistryStore, keyring: Keyring, prefix: str
    ) -> None:
        self._store = store
        self._registry = registry
        self._keyring = keyring
        self.prefix = prefix
        self._lock = Lock()
        # By tenant and size; a log only grows, so a root once established stands for good.
        self._roots: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._note = lru_cache(maxsize=_KEPT_NOTES)(self._sign)

    def head(self, tenant_id: str) -> LogHead:
        """The log as it stands, with a key: a tenant from before there were any gets it here.

        Raises:
            NotFound: there is no such tenant.
        """
        head = self._store.head(tenant_id)
        if self.add_missing_key(tenant_id, head):
            head = self._store.head(tenant_id)
        return head_of(tenant_id, head)

    def add_missing_key(self, tenant_id: str, head: LogHead | None) -> bool:
        """Make the key that a head lacks; whether there was one to make."""
        if head is None or head.checkpoint_key is not None:
            return False
        self._registry.run(tenant_id, lambda registry: self._add_key(registry, tenant_id))
        return True

    def tree(
        self, tenant_id: str, head: LogHead, sizes: Sequence[int], plan: ProofPlan = ()
    ) -> LogTree:
        """What gives the roots at the sizes and the proof of a plan."""
        with self._lock:
            kept = {size: self._roots.get((tenant_id, size)) for size in sizes}
        known = {size: root for size, root in kept.items() if root is not None}
        return self._read(tenant_id, head, known, sizes, plan)

    def whole_tree(
        self, tenant_id: str, head: LogHead, sizes: Sequence[int], plan: ProofPlan = ()
    ) -> LogTree:
        """What gives the frontiers at the sizes, too."""
        return self._read(tenant_id, head, {}, sizes, plan)

    def checkpoint(self, tree: LogTree, head: LogHead, size: int) -> tuple[SignedCheckpoint, Note]:
        """The checkpoint at a size, signed once its root is established."""
        root = tree.root(size)
        self._keep(tree.tenant_id, size, root)
        checkpoint = Checkpoint(log_origin(self.prefix, tree.tenant_id), size, root)
        if head.checkpoint_key is None:
            raise ValueError("a log without a key signs nothing")
        note = self._note(checkpoint, head.checkpoint_key)
        return SignedCheckpoint(checkpoint, note.format()), note

    def _read(
        self,
        tenant_id: str,
        head: LogHead,
        known: dict[int, bytes],
        sizes: Sequence[int],
        plan: ProofPlan,
    ) -> LogTree:
        wanted = needed(head.frontier, [size for size in sizes if size not in known], [plan])
        ranges = [hash_range(subtree) for subtree in wanted]
        stored = self._store.hashes(tenant_id, ranges)
        with naming(tenant_id):
            roots = [subtree_root(*pair) for pair in zip(ranges, stored, strict=True)]
        return LogTree(tenant_id, head.frontier, dict(zip(wanted, roots, strict=True)), known)

    def _keep(self, tenant_id: str, size: int, root: bytes) -> None:
        """Remember a root.

        Raises:
            LogFault: it was another one before: whoever has that checkpoint could show a fork.
        """
        with self._lock:
            kept = self._roots.setdefault((tenant_id, size), root)
            self._roots.move_to_end((tenant_id, size))
            if len(self._roots) > _KEPT_ROOTS:
                self._roots.popitem(last=False)
        if kept != root:
            raise LogFault(f"log of tenant {tenant_id}: its root at size {size} was another one")

    def _sign(self, checkpoint: Checkpoint, key: StoredKey) -> Note:
        return sign_checkpoint(checkpoint, self._keyring.open(key))

    def _add_key(self, registry: Registry, tenant_id: str) -> None:
        # Under the lock: of several calls that found no key, one makes it.
        if registry.lock_tenant(tenant_id) is None:
            return
        if registry.active_key(tenant_id, KeyPurpose.CHECKPOINT) is None:
            registry.insert_key(self._keyring.create(tenant_id, KeyPurpose.CHECKPOINT))


def head_of(tenant_id: str, head: LogHead | None) -> LogHead:
    """The head of a tenant's log as a store has it.

    Raises:
        NotFound: there is no such tenant.
    """
    if head is None:
        raise NotFound(f"tenant {tenant_id} is not found", reason="TENANT_NOT_FOUND")
    return head


@contextmanager
def naming(tenant_id: str) -> Iterator[None]:
    """Let a fault say whose log it is about."""
    try:
        yield
    except LogFault as fault:
        raise LogFault(f"log of tenant {tenant_id}: {fault}") from fault
