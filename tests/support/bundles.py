"""Evidence bundles of generated logs, whole and spoilt."""

import io
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from oars_grpc.core.action import ActionState
from oars_grpc.core.approval import Verdict
from oars_grpc.core.bundle_archive import BundleArchive
from oars_grpc.core.bundle_findings import BundleCheck, BundleEntry, BundleVerdict
from oars_grpc.core.bundle_proofs import ProofMaker, subtrees_of
from oars_grpc.core.bundle_verification import BundleTrust, verify_bundle
from oars_grpc.core.canonical import sha256_hex, statement_json
from oars_grpc.core.checkpoint import Checkpoint, sign_checkpoint
from oars_grpc.core.control import ControlMapping, EvidenceType
from oars_grpc.core.envelope import Envelope
from oars_grpc.core.event import KEY_ROTATED, write_event
from oars_grpc.core.evidence import (
    MANIFEST,
    SIGNED_MANIFEST,
    BundleFile,
    parse_manifest,
    sign_manifest,
)
from oars_grpc.core.evidence_export import EvidenceBasis
from oars_grpc.core.evidence_lines import BundledLeaf, ErasedPayload, parse_leaf
from oars_grpc.core.identity import Role
from oars_grpc.core.keys import KeyPurpose, SigningKey, StoredKey, TrustedKey
from oars_grpc.core.merkle import EMPTY, append
from oars_grpc.core.receipt import APPROVAL_DECIDED, Receipt, caller_json
from oars_grpc.core.receipt_filter import ReceiptFilter
from oars_grpc.core.retention import RETENTION_ERASED, leaf_ranges
from oars_grpc.core.verification import CheckResult
from oars_grpc.use_cases.evidence_bundle import Bundle, BundleSource
from tests.support.factories import (
    NOW,
    TENANT,
    append_receipt,
    make_action,
    make_decision,
    make_principal,
    make_request,
    make_signing_key,
    make_stored_key,
    new_id,
)

PREFIX = "log.example"
CHECKPOINT_SEED = bytes(range(100, 132))
OTHER_SEED = bytes(range(200, 232))
Files = dict[str, bytes]


@dataclass
class GeneratedLog:
    """The receipts of a tenant's log, with the keys that sign for it."""

    tenant_id: str = TENANT
    receipts: list[Receipt] = field(default_factory=list)
    erased: dict[int, str] = field(default_factory=dict)
    key: SigningKey = field(default_factory=make_signing_key)
    checkpoint_key: SigningKey = field(default_factory=lambda: make_signing_key(CHECKPOINT_SEED))

    @property
    def stored_key(self) -> StoredKey:
        return make_stored_key(self.tenant_id)

    @property
    def origin(self) -> str:
        return f"{PREFIX}/{self.tenant_id}"

    def keys(self) -> tuple[TrustedKey, ...]:
        """The keys as the tenant lists them."""
        signs = make_stored_key(
            self.tenant_id, CHECKPOINT_SEED, purpose=KeyPurpose.CHECKPOINT, origin=self.origin
        )
        return self.stored_key.trusted, signs.trusted

    def add_action(self, operation: str = "get_issue", receipts: int = 3, **changes: Any) -> None:
        """An action decided by policy: requested, approved, executed."""
        request = make_request(self.tenant_id, **changes)
        request = replace(request, resource=replace(request.resource, operation=operation))
        action, decision = make_action(request), make_decision(request)
        details: list[tuple[str, dict[str, Any]]] = [
            ("action.requested", {"requestId": "r-1"}),
            ("action.approved", {"decision": decision_detail(decision.effect.value)}),
            ("action.executed", {"outcome": {"status": "succeeded"}}),
        ]
        for type_, detail in details[:receipts]:
            action, receipt = append_receipt(action, type_, detail, self.key)
            self.receipts.append(receipt)

    def add_approved(self, approver: str = "spiffe://example/approver", **changes: Any) -> None:
        """An action that a person approved."""
        action = make_action(make_request(self.tenant_id, **changes), state=ActionState.APPROVED)
        who = make_principal(approver, role=Role.APPROVER)
        approval = {"approver": caller_json(who), "verdict": Verdict.APPROVE.value}
        for type_, detail in (
            ("action.requested", {}),
            (APPROVAL_DECIDED, {"approval": approval}),
            ("action.approved", {}),
        ):
            action, receipt = append_receipt(action, type_, detail, self.key)
            self.receipts.append(receipt)

    def add_event(
        self, type_: str = KEY_ROTATED, event: Mapping[str, Any] | None = None
    ) -> Receipt:
        """An event in the tenant's own chain."""
        before = [receipt for receipt in self.receipts if not receipt.action_id]
        receipt = write_event(
            receipt_id=new_id("rcpt"),
            tenant_id=self.tenant_id,
            type_=type_,
            caller=None,
            event=event or {"keyId": "k"},
            sequence=len(before) + 1,
            previous_receipt_digest=before[-1].envelope.digest() if before else "",
            now=NOW,
            key=self.key,
        )
        self.receipts.append(receipt)
        return receipt

    def erase(self, indices: Sequence[int]) -> None:
        """Erase payloads, and say so in an event."""
        told = {"leaves": leaf_ranges(indices), "receipts": len(indices)}
        event = self.add_event(RETENTION_ERASED, told)
        self.erased |= dict.fromkeys(indices, event.receipt_id)

    def leaf_hashes(self) -> list[bytes]:
        return [receipt.envelope.leaf_hash() for receipt in self.receipts]

    def checkpoint(self, size: int) -> Checkpoint:
        """What the log commits to at a size."""
        return Checkpoint(self.origin, size, append(EMPTY, self.leaf_hashes()[:size])[0].root())

    def note(self, size: int) -> str:
        """The signed checkpoint at a size."""
        return sign_checkpoint(self.checkpoint(size), self.checkpoint_key).format()

    def leaves(self, first: int, end: int) -> Sequence[BundledLeaf]:
        """A page of at most three leaves: pages are shorter than files."""
        hashes = self.leaf_hashes()
        found = []
        for index in range(first, min(end, first + 3)):
            if index in self.erased:
                gone = ErasedPayload(NOW, self.erased[index])
                found.append(BundledLeaf(index, hashes[index], None, gone))
            else:
                found.append(BundledLeaf(index, hashes[index], self.receipts[index].envelope))
        return found


def decision_detail(effect: str) -> dict[str, Any]:
    """As much of a decision as the tally reads."""
    return {"effect": effect, "risk": {"tier": "low"}, "rules": [{"ruleId": "r-1"}]}


def make_log(actions: int = 3, tenant_id: str = TENANT) -> GeneratedLog:
    """Actions of three receipts, one that a person approved, and events between them."""
    log = GeneratedLog(tenant_id)
    for number in range(actions):
        log.add_action("get_issue" if number % 2 else "create_ticket")
        if number == 0:
            log.add_event()
    log.add_approved()
    return log


def make_mapping(**changes: Any) -> ControlMapping:
    """A control that every receipt about the tool of generated actions bears on."""
    made = ControlMapping(
        mapping_id="ctl_1",
        tenant_id=TENANT,
        framework="soc2",
        control_id="CC6.1",
        description="access is decided",
        filter=ReceiptFilter(tool_id="github"),
        required_evidence=(EvidenceType.POLICY_DECISION, EvidenceType.DENIAL),
        created_at=NOW,
        created_by="spiffe://example/admin",
    )
    return replace(made, **changes)


def bundle_of(
    log: GeneratedLog,
    first: int = 0,
    last: int | None = None,
    mappings: Sequence[ControlMapping] = (),
    key: SigningKey | None = None,
    keys: Sequence[TrustedKey] | None = None,
) -> bytes:
    """The bundle of a range, as the server writes it."""
    last = len(log.receipts) if last is None else last
    hashes = log.leaf_hashes()
    known = subtrees_of(0, hashes)
    basis = EvidenceBasis(
        tuple(log.keys() if keys is None else keys), log.stored_key, tuple(mappings)
    )
    source = BundleSource(
        tenant_id=log.tenant_id,
        created_at=NOW,
        first=log.checkpoint(first),
        first_note=log.note(first),
        last=log.checkpoint(last),
        last_note=log.note(last),
        basis=basis,
    )
    maker = ProofMaker(
        source.last, lambda subtrees: {subtree: known[subtree] for subtree in subtrees}
    )
    bundle = Bundle(source, BundleArchive(), maker, log.leaves, key or log.key)
    return b"".join(bundle.parts())


def files_of(bundle: bytes) -> Files:
    """The files of a bundle by name, in the order of the ZIP."""
    with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def zip_of(files: Mapping[str, bytes]) -> bytes:
    """A ZIP of files."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return written.getvalue()


def resealed(files: Mapping[str, bytes], key: SigningKey | None = None, **changes: Any) -> Files:
    """The files with a manifest that fits them, signed: what whoever has the key can make."""
    listed = tuple(
        BundleFile(name, sha256_hex(content), len(content))
        for name, content in files.items()
        if name not in (MANIFEST, SIGNED_MANIFEST)
    )
    manifest = replace(parse_manifest(files[MANIFEST]), files=listed, **changes)
    signed = sign_manifest(manifest, key or make_signing_key())
    return {
        **files,
        MANIFEST: manifest.to_json(),
        SIGNED_MANIFEST: statement_json(signed.to_json()),
    }


class MemoryBundle:
    """A bundle whose files are in memory."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = files

    def entries(self) -> Sequence[BundleEntry]:
        return [BundleEntry(name, len(data), len(data)) for name, data in self._files.items()]

    def stream(self, name: str) -> Iterator[bytes]:
        if name not in self._files:
            raise ValueError("is missing")
        content = self._files[name]
        for at in range(0, len(content), 100):
            yield content[at : at + 100]


def judged(files: Mapping[str, bytes], trust: BundleTrust | None = None) -> BundleVerdict:
    """The verdict on files; without other trust, with the keys of the generated tenant."""
    return verify_bundle(MemoryBundle(files), trust or BundleTrust(GeneratedLog().keys()))


def failed(verdict: BundleVerdict) -> set[str]:
    """The checks that failed."""
    return {check.name for check in verdict.checks if check.result is CheckResult.FAILED}


def check_named(verdict: BundleVerdict, name: str) -> BundleCheck:
    """One check of a verdict."""
    return next(check for check in verdict.checks if check.name == name)


def edited(content: bytes, position: int, envelope: Envelope) -> bytes:
    """A file of receipts in which one line has another envelope, and the hash that fits it."""
    lines = content.splitlines(keepends=True)
    leaf = parse_leaf(lines[position])
    lines[position] = replace(leaf, envelope=envelope, leaf_hash=envelope.leaf_hash()).line()
    return b"".join(lines)
