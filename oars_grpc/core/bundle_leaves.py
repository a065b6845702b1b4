"""Checks the leaves of an evidence bundle, one after the other, and what they amount to."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from oars_grpc.core.bundle_findings import (
    CHAINS,
    COMPLETENESS,
    ERASURES,
    GRANTS,
    INCLUDED,
    LEAVES,
    RECEIPTS,
    Findings,
)
from oars_grpc.core.envelope import Envelope
from oars_grpc.core.evidence import Manifest
from oars_grpc.core.evidence_lines import BundledLeaf, parse_leaf, parse_proof_line
from oars_grpc.core.evidence_tally import CoverageTally, read_terms
from oars_grpc.core.grant_verification import (
    ApproverTrust,
    GrantFinding,
    KeySource,
    note_registration,
)
from oars_grpc.core.keys import TrustedKey
from oars_grpc.core.merkle import Frontier, append
from oars_grpc.core.receipt import NO_ACTION, Receipt
from oars_grpc.core.retention import RETENTION_ERASED
from oars_grpc.core.verification import (
    CHAIN,
    GRANT,
    INCLUSION,
    CheckResult,
    Surroundings,
    verify_receipt,
)

# Checked over the whole range instead, or as a check of its own.
_NOT_HERE = {CHAIN, INCLUSION, GRANT}


@dataclass(frozen=True, slots=True)
class _Link:
    """The last receipt of a chain so far."""

    sequence: int
    digest: str


class LeafChecker:
    """Takes the leaves of the range in order; `finish` says what they come to."""

    def __init__(
        self,
        manifest: Manifest,
        frontier: Frontier | None,
        keys: Sequence[TrustedKey],
        coverage: CoverageTally,
        findings: Findings,
        advance: Callable[[int], None],
        approvers: ApproverTrust,
    ) -> None:
        self._manifest = manifest
        self._keys = keys
        self._coverage = coverage
        self._findings = findings
        self._advance = advance
        self._approvers = approvers
        self._granted: Counter[KeySource] = Counter()
        self._grown = frontier
        self._next = manifest.first.size
        self._chains: dict[str, _Link] = {}
        self._continued = 0
        self._erased: dict[str, list[list[int]]] = {}
        self._erasing: dict[str, list[tuple[int, int]]] = {}
        self.receipts = 0
        self.erased = 0
        findings.made(LEAVES, RECEIPTS, CHAINS, INCLUDED, ERASURES, GRANTS)

    def check_file(self, start: int, end: int, lines: Iterable[bytes]) -> dict[int, bytes]:
        """Check the lines that are to be the leaves [start, end); the hashes that they have."""
        hashes: dict[int, bytes] = {}
        self._next = start
        for line in lines:
            try:
                leaf = parse_leaf(line)
            except ValueError as error:
                self._findings.wrong(LEAVES, str(error), self._next)
                self._next += 1
                continue
            if leaf.leaf_index != self._next:
                detail = f"leaf {leaf.leaf_index} stands where leaf {self._next} belongs"
                self._findings.wrong(LEAVES, detail, min(leaf.leaf_index, self._next))
            if not start <= leaf.leaf_index < end or leaf.leaf_index in hashes:
                self._next += 1
                continue
            self._next = leaf.leaf_index + 1
            hashes[leaf.leaf_index] = self._check_leaf(leaf)
            self._advance(1)
        missing = [index for index in range(start, end) if index not in hashes]
        if missing:
            detail = f"{len(missing)} of the leaves [{start}, {end}) are missing or unreadable"
            self._findings.wrong(LEAVES, detail, missing[0])
        self._grow([hashes[index] for index in sorted(hashes)])
        return hashes

    def check_proofs(
        self, start: int, end: int, lines: Iterable[bytes], hashes: dict[int, bytes]
    ) -> None:
        """Check the lines that are to be the proofs of the leaves [start, end)."""
        proven = start
        for line in lines:
            try:
                proof = parse_proof_line(line)
            except ValueError as error:
                self._findings.wrong(INCLUDED, str(error), proven)
                proven += 1
                continue
            index = proof.leaf_index
            if index != proven:
                detail = f"the proof of leaf {index} stands where that of leaf {proven} belongs"
                self._findings.wrong(INCLUDED, detail, min(index, proven))
            elif index in hashes and not proof.shows(hashes[index], self._manifest.last):
                self._findings.wrong(INCLUDED, "its proof does not lead to the last root", index)
            proven += 1
        if proven != end:
            detail = f"there are {proven - start} proofs of {end - start} leaves"
            self._findings.wrong(INCLUDED, detail, min(proven, end))

    def finish(self) -> None:
        """Judge what only shows when the last leaf was seen."""
        last = self._manifest.last
        if self._grown is not None:
            self._findings.made(COMPLETENESS)
            if self._grown.size != last.size:
                detail = f"{last.size - self._grown.size} leaves are missing"
                self._findings.wrong(COMPLETENESS, detail)
            elif self._grown.root() != last.root:
                detail = f"the leaves do not lead to the root of the checkpoint of {last.size}"
                self._findings.wrong(COMPLETENESS, detail)
        if self._continued:
            detail = f"{self._continued} chains go on from before the range"
            self._findings.note(CHAINS, detail)
        if self._granted:
            sources = sorted(self._granted.items())
            detail = "; ".join(f"{count} by keys {source.value}" for source, count in sources)
            self._findings.note(GRANTS, detail)
        if self.erased != self._manifest.erased:
            detail = f"{self.erased} payloads are erased, the manifest says {self._manifest.erased}"
            self._findings.wrong(ERASURES, detail)
        self._check_erasures()

    def erased_ranges(self) -> tuple[tuple[int, int], ...]:
        """The leaves without a payload as ranges (first, last), both included."""
        ranges = (pair for pairs in self._erased.values() for pair in pairs)
        return tuple(sorted((first, last) for first, last in ranges))

    def _grow(self, hashes: Sequence[bytes]) -> None:
        if self._grown is not None:
            self._grown = append(self._grown, hashes)[0]

    def _check_leaf(self, leaf: BundledLeaf) -> bytes:
        """Check one leaf; its hash, derived anew where the receipt is there."""
        if leaf.envelope is None:
            self.erased += 1
            self._note_erased(leaf)
            return leaf.leaf_hash
        self.receipts += 1
        derived = leaf.envelope.leaf_hash()
        if derived != leaf.leaf_hash:
            detail = "leafHash is not the hash of the receipt"
            self._findings.wrong(LEAVES, detail, leaf.leaf_index)
        self._check_receipt(leaf.leaf_index, leaf.envelope)
        return derived

    def _check_receipt(self, index: int, envelope: Envelope) -> None:
        # That the log holds it there is what completeness shows of the whole range.
        beside = Surroundings(leaf_index=index, approvers=self._approvers)
        result = verify_receipt(envelope, self._keys, beside)
        for check in result.checks:
            if check.result is CheckResult.FAILED and check.name not in _NOT_HERE:
                self._findings.wrong(RECEIPTS, f"{check.name}: {check.detail}", index)
        receipt = result.receipt
        if receipt is None:
            return
        self._check_grant(index, result.grant)
        note_registration(self._approvers, receipt)
        if receipt.tenant_id != self._manifest.tenant_id:
            self._findings.wrong(RECEIPTS, f"is of tenant {receipt.tenant_id}", index)
        self._check_chain(index, receipt)
        try:
            self._coverage.add(receipt, read_terms(receipt))
        except ValueError as error:
            self._findings.wrong(RECEIPTS, str(error), index)
        if receipt.type == RETENTION_ERASED and receipt.action_id == NO_ACTION:
            self._note_erasing(receipt)

    def _check_grant(self, index: int, grant: GrantFinding | None) -> None:
        if grant is None:
            return
        for problem in grant.problems:
            self._findings.wrong(GRANTS, problem, index)
        if not grant.problems:
            self._granted[grant.source] += 1

    def _check_chain(self, index: int, receipt: Receipt) -> None:
        before = self._chains.get(receipt.action_id)
        chain = f"the chain of {receipt.action_id}" if receipt.action_id else "the tenant's chain"
        if before is None:
            if receipt.sequence > 1 and self._manifest.first.size == 0:
                detail = f"{chain} begins with receipt {receipt.sequence}"
                self._findings.wrong(CHAINS, detail, index)
            self._continued += receipt.sequence > 1
        elif receipt.sequence != before.sequence + 1:
            detail = f"in {chain} receipt {receipt.sequence} follows receipt {before.sequence}"
            self._findings.wrong(CHAINS, detail, index)
        elif receipt.previous_receipt_digest != before.digest:
            detail = f"previousReceiptDigest is not that of receipt {before.sequence} of {chain}"
            self._findings.wrong(CHAINS, detail, index)
        link = _Link(receipt.sequence, receipt.envelope.digest())
        self._chains[receipt.action_id] = link

    def _note_erased(self, leaf: BundledLeaf) -> None:
        recorded_by = leaf.erasure.receipt_id if leaf.erasure else ""
        ranges = self._erased.setdefault(recorded_by, [])
        if ranges and ranges[-1][1] == leaf.leaf_index - 1:
            ranges[-1][1] = leaf.leaf_index
        else:
            ranges.append([leaf.leaf_index, leaf.leaf_index])

    def _note_erasing(self, receipt: Receipt) -> None:
        event: Any = orjson.loads(receipt.envelope.payload)["predicate"]["event"]
        leaves = event.get("leaves")
        pairs = leaves if isinstance(leaves, list) else []
        self._erasing[receipt.receipt_id] = [
            (pair[0], pair[1]) for pair in pairs if _is_range(pair)
        ]

    def _check_erasures(self) -> None:
        """What is erased must be what the event of its erasure says, where the range has that."""
        beyond = 0
        for recorded_by, ranges in self._erased.items():
            told = self._erasing.get(recorded_by)
            if told is None:
                beyond += sum(last - first + 1 for first, last in ranges)
                continue
            for first, last in ranges:
                hidden = _first_untold(first, last, told)
                if hidden is not None:
                    detail = f"{recorded_by} does not tell of its erasure"
                    self._findings.wrong(ERASURES, detail, hidden)
        if beyond:
            detail = f"{beyond} were erased by events that lie beyond the range"
            self._findings.note(ERASURES, detail)


def _is_range(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(isinstance(item, int) and not isinstance(item, bool) for item in value)
    )


def _first_untold(first: int, last: int, told: Sequence[tuple[int, int]]) -> int | None:
    """The lowest index of a range that is in none of the others."""
    for low, high in sorted(told):
        if low <= first <= high:
            first = high + 1
    return first if first <= last else None
