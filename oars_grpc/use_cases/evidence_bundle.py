"""Writes one evidence bundle, file after file, and checks everything that it hands out."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import orjson

from oars_grpc.core.bundle_archive import BundleArchive
from oars_grpc.core.bundle_proofs import ProofMaker
from oars_grpc.core.canonical import statement_json
from oars_grpc.core.checkpoint import Checkpoint
from oars_grpc.core.envelope import Envelope
from oars_grpc.core.evidence import (
    CONSISTENCY,
    FROM_CHECKPOINT,
    FRONTIER,
    KEYS,
    MANIFEST,
    MAPPINGS,
    REPORT,
    SIGNED_MANIFEST,
    TO_CHECKPOINT,
    Manifest,
    file_ranges,
    proofs_file,
    receipts_file,
    sign_manifest,
)
from oars_grpc.core.evidence_export import EvidenceBasis
from oars_grpc.core.evidence_lines import (
    BundledLeaf,
    consistency_json,
    frontier_json,
    proof_line,
)
from oars_grpc.core.evidence_report import write_report
from oars_grpc.core.evidence_tally import CoverageTally, Tally, mappings_json, read_terms
from oars_grpc.core.key_json import keys_json
from oars_grpc.core.keys import KeyPurpose, SigningKey, TrustedKey
from oars_grpc.core.log import LogFault
from oars_grpc.core.merkle import Frontier, append
from oars_grpc.core.receipt import NO_ACTION, Receipt

# Leaves from `first` on, below `end`: one page of them.
Page = Callable[[int, int], Sequence[BundledLeaf]]


@dataclass(frozen=True, slots=True)
class BundleSource:
    """What is known before the first leaf is read."""

    tenant_id: str
    created_at: datetime
    first: Checkpoint
    first_note: str
    last: Checkpoint
    last_note: str
    basis: EvidenceBasis
    controls: tuple[str, ...] = ()


class Bundle:
    """One bundle under way. `leaves` and `erased` count what is in it so far."""

    def __init__(
        self,
        source: BundleSource,
        archive: BundleArchive,
        maker: ProofMaker,
        page: Page,
        key: SigningKey,
    ) -> None:
        self._source = source
        self._archive = archive
        self._maker = maker
        self._page = page
        self._key = key
        self._tally = Tally()
        self._coverage = CoverageTally(source.basis.mappings)
        self.leaves = 0

    @property
    def erased(self) -> int:
        """Of how many leaves the payload is erased."""
        return self._tally.erased

    def parts(self) -> Iterator[bytes]:
        """The ZIP, as it is made.

        Raises:
            LogFault: what is stored contradicts itself; what went out so far has no manifest.
        """
        source, first, last = self._source, self._source.first.size, self._source.last.size
        frontier = self._maker.frontier(source.first)
        consistency = self._maker.consistency(source.first)
        keys = [_with_origin(key, source.last.origin) for key in source.basis.keys]
        yield from self._add(FROM_CHECKPOINT, source.first_note.encode())
        yield from self._add(TO_CHECKPOINT, source.last_note.encode())
        yield from self._add(FRONTIER, frontier_json(frontier))
        yield from self._add(CONSISTENCY, consistency_json(first, last, consistency))
        yield from self._add(KEYS, keys_json(keys))
        grown = frontier
        for number, (start, end) in enumerate(file_ranges(first, last)):
            hashes: list[bytes] = []
            lines = self._lines(start, end, hashes)
            yield from self._archive.add(receipts_file(number), lines)
            grown = append(grown, hashes)[0]
            proofs = (proof_line(proof) for proof in self._maker.proofs(start, hashes))
            yield from self._archive.add(proofs_file(number), proofs)
        _check_root(grown, source.last)
        covered = self._coverage.covered()
        yield from self._add(MAPPINGS, mappings_json(covered))
        manifest = Manifest(
            tenant_id=source.tenant_id,
            created_at=source.created_at,
            first=source.first,
            last=source.last,
            erased=self.erased,
            controls=source.controls,
            files=(),
        )
        yield from self._add(REPORT, write_report(manifest, self._tally, covered))
        manifest = replace(manifest, files=tuple(self._archive.files))
        yield from self._add(MANIFEST, manifest.to_json())
        signed = sign_manifest(manifest, self._key)
        yield from self._add(SIGNED_MANIFEST, statement_json(signed.to_json()))
        yield self._archive.finish()

    def _add(self, name: str, content: bytes) -> Iterator[bytes]:
        yield from self._archive.add(name, [content])

    def _lines(self, start: int, end: int, hashes: list[bytes]) -> Iterator[bytes]:
        """The lines of the leaves [start, end); their hashes are added to `hashes`."""
        at = start
        while at < end:
            page = self._page(at, end)
            if not page:
                raise LogFault(f"log of tenant {self._source.tenant_id}: leaf {at} is not stored")
            for leaf in page:
                if leaf.leaf_index != at:
                    raise LogFault(
                        f"log of tenant {self._source.tenant_id}: leaf {at} is not stored"
                    )
                self._count(leaf)
                hashes.append(leaf.leaf_hash)
                yield leaf.line()
                at += 1

    def _count(self, leaf: BundledLeaf) -> None:
        self.leaves += 1
        if leaf.envelope is None:
            self._tally.add_erased(leaf)
            return
        if leaf.envelope.leaf_hash() != leaf.leaf_hash:
            raise LogFault(
                f"log of tenant {self._source.tenant_id}: leaf {leaf.leaf_index} is not the hash of"
                " its payload"
            )
        receipt = _view(self._source.tenant_id, leaf.envelope)
        terms = read_terms(receipt)
        self._tally.add(leaf.leaf_index, receipt, terms)
        self._coverage.add(receipt, terms)


def _view(tenant_id: str, envelope: Envelope) -> Receipt:
    """The receipt of a payload that this server wrote.

    `parse_receipt` looks for every way in which a stranger's could be wrong, which takes longer
    than all else of an export; what the log holds was composed here and is the leaf's hash.
    """
    predicate = orjson.loads(envelope.payload)["predicate"]
    return Receipt(
        receipt_id=predicate["receiptId"],
        tenant_id=tenant_id,
        action_id=predicate.get("actionId", NO_ACTION),
        type=predicate["type"],
        sequence=predicate["sequence"],
        previous_receipt_digest=predicate["previousReceiptDigest"],
        recorded_at=datetime.fromisoformat(predicate["recordedAt"]),
        envelope=envelope,
    )


def _with_origin(key: TrustedKey, origin: str) -> TrustedKey:
    return replace(key, origin=origin) if key.purpose is KeyPurpose.CHECKPOINT else key


def _check_root(grown: Frontier, last: Checkpoint) -> None:
    if (grown.size, grown.root()) != (last.size, last.root):
        raise LogFault(f"the leaves do not lead to the root of the checkpoint of {last.size}")
