"""Exports evidence bundles: a range of a tenant's log in one file that proves itself.

Nothing is held but one page of receipts, the leaf hashes of one file, and counts: the ZIP goes out
while it is made. Each page is a transaction of its own; what lies below a size of a log never
changes, but for payloads that retention erases meanwhile, which are then told as erased.
"""

import hashlib
from collections.abc import Collection, Generator, Iterator, Mapping
from dataclasses import replace
from threading import BoundedSemaphore

from oars_grpc.core.bundle_archive import BundleArchive
from oars_grpc.core.bundle_proofs import ProofMaker
from oars_grpc.core.call import Call
from oars_grpc.core.evidence import MAXIMUM_RECEIPTS
from oars_grpc.core.evidence_export import (
    EvidenceBasis,
    EvidenceStore,
    ExportBegun,
    ExportChunk,
    ExportEnded,
    ExportEvent,
    ExportRange,
)
from oars_grpc.core.evidence_tally import control_name
from oars_grpc.core.log import LogStore
from oars_grpc.core.log_tree import hash_range, subtree_root
from oars_grpc.core.merkle import Subtree
from oars_grpc.core.ports import Clock
from oars_grpc.errors import FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from oars_grpc.use_cases.evidence_bundle import Bundle, BundleSource
from oars_grpc.use_cases.keyring import Keyring
from oars_grpc.use_cases.signed_logs import SignedLogs

CHUNK_BYTES = 64 * 1024
# An export takes a core for as long as it lasts.
EXPORTS_AT_ONCE = 2
_RETRY_MS = 5_000


class Evidence:
    """The evidence service."""

    def __init__(
        self,
        *,
        store: EvidenceStore,
        log_store: LogStore,
        logs: SignedLogs,
        keyring: Keyring,
        clock: Clock,
        maximum_receipts: int = MAXIMUM_RECEIPTS,
    ) -> None:
        self._store = store
        self._log_store = log_store
        self._logs = logs
        self._keyring = keyring
        self._clock = clock
        self._maximum_receipts = maximum_receipts
        self._places = BoundedSemaphore(EXPORTS_AT_ONCE)

    def export(
        self, call: Call, tenant_id: str, wanted: ExportRange
    ) -> Generator[ExportEvent, None, None]:
        """The events of an export; whoever stops asking for them stops it.

        Raises:
            InvalidArgument: the range is none of the log, or too large.
            NotFound: there is no such tenant, or no such control.
            ResourceExhausted: as many exports as may be are under way.
            LogFault: what is stored contradicts itself.
        """
        tenant = call.tenant(tenant_id)
        if not self._places.acquire(blocking=False):
            raise ResourceExhausted(
                f"{EXPORTS_AT_ONCE} exports are under way, as many as may be",
                retry_after_ms=_RETRY_MS,
            )
        try:
            yield from self._export(tenant, wanted)
        finally:
            self._places.release()

    def _export(self, tenant: str, wanted: ExportRange) -> Iterator[ExportEvent]:
        head = self._logs.head(tenant)
        first, last = self._range(tenant, wanted, head.frontier.size)
        # After the head: whatever signed what lies below it is among the keys.
        basis = _selected(self._basis(tenant), wanted.controls)
        tree = self._logs.tree(tenant, head, [first, last])
        begin, begin_note = self._logs.checkpoint(tree, head, first)
        end, end_note = self._logs.checkpoint(tree, head, last)
        source = BundleSource(
            tenant_id=tenant,
            created_at=self._clock.now(),
            first=begin.checkpoint,
            first_note=begin_note.format(),
            last=end.checkpoint,
            last_note=end_note.format(),
            basis=basis,
            controls=wanted.controls,
        )
        yield ExportBegun(f"evidence-{tenant}-{first}-{last}.zip", tenant, begin, end)
        bundle = Bundle(
            source,
            BundleArchive(),
            ProofMaker(end.checkpoint, lambda subtrees: self._roots(tenant, subtrees)),
            lambda start, stop: self._store.leaves(tenant, start, stop),
            self._keyring.open(basis.signing_key),
        )
        digest, size = hashlib.sha256(), 0
        for data in _chunks(bundle.parts()):
            digest.update(data)
            size += len(data)
            yield ExportChunk(data, bundle.leaves, last - first)
        yield ExportEnded(digest.hexdigest(), size, last - first, bundle.erased)

    def _basis(self, tenant: str) -> EvidenceBasis:
        basis = self._store.basis(tenant)
        if basis is None:
            raise NotFound(f"tenant {tenant} is not found", reason="TENANT_NOT_FOUND")
        return basis

    def _range(self, tenant: str, wanted: ExportRange, size: int) -> tuple[int, int]:
        """The leaves [first, last) that are asked for, of a log of a size."""
        by_time = wanted.recorded_from is not None or wanted.recorded_until is not None
        if by_time:
            found = self._store.bounds(tenant, wanted.recorded_from, wanted.recorded_until)
            if found is None:
                raise FailedPrecondition(
                    "no receipt was recorded in that time", reason="NOTHING_TO_EXPORT"
                )
            # Receipts committed since the head was read are for the next export.
            first, last = min(found[0], size), min(found[1], size)
        else:
            first, last = wanted.from_size, wanted.to_size or size
        if last > size:
            raise InvalidArgument.of("to_size", f"the log has {size} receipts")
        if first > last:
            raise InvalidArgument.of("from_size", f"must be from 0 to {last}")
        if last - first > self._maximum_receipts:
            field = "recorded_until" if by_time else "to_size"
            raise InvalidArgument.of(
                field,
                f"the range [{first}, {last}) has {last - first} receipts; at most"
                f" {self._maximum_receipts} go into one bundle: export it in parts, each from the"
                " size at which the one before it ends",
            )
        return first, last

    def _roots(self, tenant: str, subtrees: Collection[Subtree]) -> Mapping[Subtree, bytes]:
        """The roots of full subtrees, out of the stored hashes."""
        wanted = list(subtrees)
        ranges = [hash_range(subtree) for subtree in wanted]
        stored = self._log_store.hashes(tenant, ranges)
        roots = (subtree_root(*pair) for pair in zip(ranges, stored, strict=True))
        return dict(zip(wanted, roots, strict=True))


def _selected(basis: EvidenceBasis, controls: tuple[str, ...]) -> EvidenceBasis:
    """The basis with the mappings of those controls only.

    Raises:
        NotFound: one of them is mapped to nothing.
    """
    if not controls:
        return basis
    chosen = tuple(each for each in basis.mappings if control_name(each) in controls)
    found = set(map(control_name, chosen))
    for name in controls:
        if name not in found:
            raise NotFound(f"control {name} has no mapping in force", reason="CONTROL_NOT_FOUND")
    return replace(basis, mappings=chosen)


def _chunks(parts: Iterator[bytes]) -> Iterator[bytes]:
    """The same bytes in chunks of `CHUNK_BYTES`, the last one shorter."""
    waiting = bytearray()
    for part in parts:
        waiting += part
        while len(waiting) >= CHUNK_BYTES:
            yield bytes(waiting[:CHUNK_BYTES])
            del waiting[:CHUNK_BYTES]
    if waiting:
        yield bytes(waiting)
