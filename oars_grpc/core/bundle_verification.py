"""Verifies an evidence bundle: pure, offline, every check answered and every error told.

The manifest says which files there are, the frontier of the first checkpoint grown by the leaves
must have the root of the second, and then nothing was left out, added or changed between them.
`NOT_CHECKED` never counts as passed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from oars_grpc.core.bundle_files import BundleFiles, read_whole
from oars_grpc.core.bundle_findings import (
    ARCHIVE,
    CHECKPOINTS,
    COMPLETENESS,
    CONSISTENT,
    CONTROLS,
    FILES,
    FRONTIER_ROOT,
    MANIFEST_SIGNATURE,
    BundleReader,
    BundleVerdict,
    Findings,
    check_entries,
)
from oars_grpc.core.bundle_leaves import LeafChecker
from oars_grpc.core.checkpoint import Checkpoint
from oars_grpc.core.control import ControlMapping
from oars_grpc.core.envelope import Envelope, envelope_from_json, signature_verifies
from oars_grpc.core.evidence import (
    CONSISTENCY,
    FROM_CHECKPOINT,
    FRONTIER,
    KEYS,
    MANIFEST,
    MAPPINGS,
    SIGNED_MANIFEST,
    TO_CHECKPOINT,
    Manifest,
    check_statement,
    expected_names,
    file_ranges,
    parse_canonical,
    parse_manifest,
    proofs_file,
    receipts_file,
)
from oars_grpc.core.evidence_lines import parse_consistency, parse_frontier
from oars_grpc.core.evidence_tally import CoverageTally, mappings_json, parse_mappings
from oars_grpc.core.grant_verification import ApproverTrust
from oars_grpc.core.inclusion import ANY_LOG, LogTrust, verify_checkpoint
from oars_grpc.core.key_json import parse_keys
from oars_grpc.core.keys import KeyPurpose, KeyState, TrustedKey, key_id_of
from oars_grpc.core.merkle import Frontier, verify_consistency
from oars_grpc.core.note import Note, parse_note

SUPPLIED = "supplied"
OF_THE_BUNDLE = "bundle"


@dataclass(frozen=True, slots=True)
class BundleTrust:
    """What the verifier brings along; without `keys` those of the bundle are taken.

    `first` and `last` are checkpoints that the verifier got elsewhere: the bundle's must be the
    same. Cosignatures of witnesses are looked for in these, or else in the bundle's own. Of what
    approvers signed, only signatures by `approver_keys` are accepted, if it is not None.
    """

    keys: Sequence[TrustedKey] | None = None
    first: Note | None = None
    last: Note | None = None
    log: LogTrust = ANY_LOG
    approver_keys: frozenset[bytes] | None = None


def _no_progress(_: int) -> None:
    """Nobody watches."""


def verify_bundle(
    reader: BundleReader,
    trust: BundleTrust,
    advance: Callable[[int], None] = _no_progress,
    begin: Callable[[int], None] = _no_progress,
) -> BundleVerdict:
    """Verify a bundle.

    `begin` is told how many leaves there are, `advance` of each that is done.
    """
    findings = Findings()
    source = SUPPLIED if trust.keys is not None else OF_THE_BUNDLE
    check_entries(reader.entries(), findings)
    content = signed = b""
    manifest = None
    if not findings.any(ARCHIVE):
        with findings.telling(MANIFEST_SIGNATURE, MANIFEST):
            content = read_whole(reader, MANIFEST)
            manifest = parse_manifest(content)
        with findings.telling(MANIFEST_SIGNATURE, SIGNED_MANIFEST):
            signed = read_whole(reader, SIGNED_MANIFEST)
    if manifest is None:
        return BundleVerdict(findings.checks(), source, None, 0, ())
    begin(manifest.receipts)
    check = _Check(reader, trust, manifest, findings, advance)
    return check.run(content, signed, source)


class _Check:
    """The verification of one bundle whose manifest can be read."""

    def __init__(
        self,
        reader: BundleReader,
        trust: BundleTrust,
        manifest: Manifest,
        findings: Findings,
        advance: Callable[[int], None],
    ) -> None:
        self._trust = trust
        self._manifest = manifest
        self._findings = findings
        self._advance = advance
        self._files = BundleFiles(reader, manifest, findings)
        self._present = {entry.name for entry in reader.entries()}

    def run(self, content: bytes, signed: bytes, source: str) -> BundleVerdict:
        """All checks, in order."""
        self._check_names()
        keys = self._keys()
        self._check_manifest(content, signed, keys)
        first = self._check_end(FROM_CHECKPOINT, self._manifest.first, self._trust.first, keys)
        last = self._check_end(TO_CHECKPOINT, self._manifest.last, self._trust.last, keys)
        mappings = self._mappings()
        coverage = CoverageTally(mappings or ())
        approvers = ApproverTrust(self._trust.approver_keys, in_order=True)
        checker = LeafChecker(
            self._manifest,
            self._frontier(),
            keys,
            coverage,
            self._findings,
            self._advance,
            approvers,
        )
        for number, (start, end) in enumerate(
            file_ranges(self._manifest.first.size, self._manifest.last.size)
        ):
            hashes = checker.check_file(start, end, self._files.lines(receipts_file(number)))
            checker.check_proofs(start, end, self._files.lines(proofs_file(number)), hashes)
        checker.finish()
        if not (first and last):
            # What the leaves lead to is nothing that a log stands by.
            self._findings.wrong(COMPLETENESS, "the checkpoints are not believed")
        self._check_consistency()
        self._check_controls(mappings, coverage)
        self._files.check_unread()
        return BundleVerdict(
            self._findings.checks(),
            source,
            self._manifest,
            checker.receipts,
            checker.erased_ranges(),
        )

    def _check_names(self) -> None:
        """The files are those of the format for this range, and each is there once."""
        self._findings.made(FILES)
        named = [file.name for file in self._manifest.files]
        if named != expected_names(self._manifest.first.size, self._manifest.last.size):
            self._findings.wrong(FILES, "the manifest does not list the files of its range")
        for name in sorted(set(named) - self._present):
            self._findings.wrong(FILES, f"{name!r} is missing")
        for name in sorted(self._present - {*named, MANIFEST, SIGNED_MANIFEST}):
            self._findings.wrong(FILES, f"{name!r} is not in the manifest")

    def _keys(self) -> Sequence[TrustedKey]:
        own: Sequence[TrustedKey] = ()
        with self._findings.telling(FILES, KEYS):
            own = parse_keys(self._files.content(KEYS))
            if any(key.tenant_id != self._manifest.tenant_id for key in own):
                raise ValueError("holds keys of another tenant")
        return own if self._trust.keys is None else self._trust.keys

    def _check_manifest(self, content: bytes, signed: bytes, keys: Sequence[TrustedKey]) -> None:
        with self._findings.telling(MANIFEST_SIGNATURE, SIGNED_MANIFEST):
            value = parse_canonical(signed)
            if not isinstance(value, dict):
                raise ValueError("is not an envelope")
            envelope = envelope_from_json(value)
            if envelope.to_json() != value:
                raise ValueError("has other members than those of an envelope")
            check_statement(envelope, content, self._manifest)
            self._check_signer(envelope, keys)

    def _check_signer(self, envelope: Envelope, keys: Sequence[TrustedKey]) -> None:
        if len(envelope.signatures) != 1:
            raise ValueError(f"expected one signature, found {len(envelope.signatures)}")
        (signature,) = envelope.signatures
        makers = [
            key
            for key in keys
            if (key.tenant_id, key.purpose) == (self._manifest.tenant_id, KeyPurpose.RECEIPT)
            and key_id_of(key.public_key) == signature.keyid
        ]
        if not makers:
            raise ValueError(f"no trusted key of the tenant has the id {signature.keyid!r}")
        if not signature_verifies(envelope, signature, makers[0].public_key):
            raise ValueError(f"the signature is not one of key {signature.keyid}")
        # Listed more than once: a revocation anywhere counts. The manifest is in no log that would
        # vouch for it in the place of a revoked key.
        makers.sort(key=lambda key: key.state is not KeyState.REVOKED)
        refusal = makers[0].refusal_at(self._manifest.created_at)
        if refusal:
            raise ValueError(f"{refusal}; export the bundle again")

    def _check_end(
        self, name: str, stated: Checkpoint, pinned: Note | None, keys: Sequence[TrustedKey]
    ) -> bool:
        """Whether the checkpoint of an end is believed, and is the one stated and pinned."""
        # Nothing can be witnessed of an empty log.
        log = self._trust.log if stated.size else LogTrust(self._trust.log.origin_prefix)
        own = log if pinned is None else LogTrust(log.origin_prefix)
        tenant = self._manifest.tenant_id
        with self._findings.telling(CHECKPOINTS, name):
            note = parse_note(self._files.content(name).decode())
            found = verify_checkpoint(note, tenant, keys, own).checkpoint
            if found != stated:
                raise ValueError("is another checkpoint than the manifest says")
            if pinned is None:
                return True
            known = verify_checkpoint(pinned, tenant, keys, log).checkpoint
            if known != found:
                raise ValueError(
                    f"is of size {found.size}, and not the known checkpoint of size {known.size}"
                )
            return True
        return False

    def _frontier(self) -> Frontier | None:
        first = self._manifest.first
        with self._findings.telling(FRONTIER_ROOT, FRONTIER):
            frontier = parse_frontier(self._files.content(FRONTIER))
            if (frontier.size, frontier.root()) != (first.size, first.root):
                raise ValueError("does not have the root of the first checkpoint")
            return frontier
        return None

    def _check_consistency(self) -> None:
        first, last = self._manifest.first, self._manifest.last
        with self._findings.telling(CONSISTENT, CONSISTENCY):
            old, new, hashes = parse_consistency(self._files.content(CONSISTENCY))
            if (old, new) != (first.size, last.size):
                raise ValueError("is of other sizes than those of the checkpoints")
            if not verify_consistency(old, new, first.root, last.root, hashes):
                raise ValueError("does not show that the last tree continues the first")

    def _mappings(self) -> list[ControlMapping] | None:
        with self._findings.telling(CONTROLS, MAPPINGS):
            return parse_mappings(self._files.content(MAPPINGS), self._manifest.tenant_id)
        return None

    def _check_controls(
        self, mappings: list[ControlMapping] | None, coverage: CoverageTally
    ) -> None:
        if mappings is None:
            return
        self._findings.made(CONTROLS)
        if mappings_json(coverage.covered()) != self._files.content(MAPPINGS):
            self._findings.wrong(CONTROLS, f"{MAPPINGS}: does not count what the receipts are")
