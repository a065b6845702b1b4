"""Verification of receipts: pure, offline, one answer per check and every error.

A receipt is valid when signature, key trust and schema passed and no check failed. `NOT_CHECKED`
is never counted as passed: its detail says what was not supplied.

Whoever holds a revoked key can sign any claim, with any time in it. What such a key signed is
believed only where another key vouches for it: a checkpoint, under which the log held the receipt
below the size that it had when the key was revoked, or first may have been in other hands.

A receipt that carries what an approver signed has one check more, `grant`; one that tells of
evidence has two, of the statement that it embeds and of the items that this was made of.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from oars_grpc.core.chain import chain_problems, link_problems
from oars_grpc.core.envelope import Envelope, signature_verifies
from oars_grpc.core.evidence_verification import EvidenceFinding, judge_evidence
from oars_grpc.core.grant_verification import ApproverTrust, GrantFinding, judge_grant
from oars_grpc.core.inclusion import ANY_LOG, LogTrust, verify_proof
from oars_grpc.core.keys import KeyPurpose, KeyState, TrustedKey, key_id_of
from oars_grpc.core.receipt import Receipt, parse_receipt

SIGNATURE = "signature"
KEY_TRUST = "key_trust"
SCHEMA = "schema"
CHAIN = "chain"
INCLUSION = "inclusion"
GRANT = "grant"
EVIDENCE = "evidence"
EVIDENCE_ITEMS = "evidence_items"


class CheckResult(StrEnum):
    """How one check ended."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_CHECKED = "not_checked"


@dataclass(frozen=True, slots=True)
class Check:
    """One check of a verification."""

    name: str
    result: CheckResult
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Verification:
    """What verification found.

    `leaf_index` is the place in the log that was proven; `grant` is of what an approver signed,
    `evidence` of what it stands on.
    """

    checks: tuple[Check, ...]
    key_id: str = ""
    receipt: Receipt | None = None
    leaf_index: int | None = None
    grant: GrantFinding | None = None
    evidence: EvidenceFinding | None = None

    @property
    def errors(self) -> tuple[str, ...]:
        """Every reason why the receipt is not valid."""
        return tuple(
            f"{check.name}: {check.detail}"
            for check in self.checks
            if check.result is CheckResult.FAILED
        )

    @property
    def valid(self) -> bool:
        """Whether the receipt can be relied on."""
        passed = {check.name for check in self.checks if check.result is CheckResult.PASSED}
        return not self.errors and {SIGNATURE, KEY_TRUST, SCHEMA} <= passed


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a verifier has beside a receipt; all of it may be missing.

    Args:
        previous: the receipt before in the chain; its own signature is not judged.
        chain: all receipts before in the chain, the first one first, or, where it is not the
            `whole_chain`, the last of them.
        first: the first receipt of the chain, which lists evidence, where neither of these is it.
        has_chain: the verifier has the chain, so that a receipt without the one before it is a gap
            and not merely unchecked.
        proof: where the receipt stands in the tenant's log, a C2SP tlog-proof.
        no_proof: why there is none, where there is more to say than that.
        leaf_index: where it stands in a piece of the log that the verifier has found complete
            (`log_range.verify_range`), in place of a proof.
        log: what is asked of the log's checkpoints.
        approvers: what is known about the keys that approvers sign with.
    """

    previous: Envelope | None = None
    chain: Sequence[Envelope] | None = None
    whole_chain: bool = True
    first: Envelope | None = None
    has_chain: bool = False
    proof: str | None = None
    no_proof: str = "no proof was supplied"
    leaf_index: int | None = None
    log: LogTrust = ANY_LOG
    approvers: ApproverTrust = field(default_factory=ApproverTrust)

    def first_of_chain(self) -> Envelope | None:
        """The first receipt of the chain, if it is among what there is."""
        if self.first is not None:
            return self.first
        return self.chain[0] if self.chain and self.whole_chain else self.previous


NOTHING_ELSE = Surroundings()


def verify_receipt(
    envelope: Envelope, keys: Sequence[TrustedKey], beside: Surroundings = NOTHING_ELSE
) -> Verification:
    """Check an envelope against the keys that the verifier trusts.

    Args:
        envelope: the receipt.
        keys: public keys with their tenants, purposes and windows.
        beside: what else there is to judge it by.
    """
    signature, makers = _check_signature(envelope, keys)
    schema, receipt = _check_schema(envelope)
    key_id = key_id_of(makers[0].public_key) if makers else ""
    inclusion, leaf_index = _check_inclusion(envelope.leaf_hash(), receipt, key_id, keys, beside)
    grant = None if receipt is None else judge_grant(receipt, beside.approvers)
    evidence = None if receipt is None else judge_evidence(receipt, beside.first_of_chain())
    checks = (
        signature,
        _check_key_trust(makers, receipt, leaf_index),
        schema,
        _check_chain(receipt, keys, beside),
        inclusion,
        *_more_checks(grant, evidence),
    )
    return Verification(checks, key_id, receipt, leaf_index, grant, evidence)


def verify_erased(
    receipt: Receipt,
    leaf: bytes,
    keys: Sequence[TrustedKey],
    beside: Surroundings,
    gone: str = "the payload was erased",
) -> Verification:
    """Check what is left of a receipt whose payload was erased: its place in the log.

    Args:
        receipt: what a store says about it; nothing proves that any more.
        leaf: its leaf hash, which stays.
        keys: public keys with their tenants, purposes and windows.
        beside: a proof, and what is asked of the log.
        gone: why nothing else can be checked.
    """
    checks = [
        Check(name, CheckResult.NOT_CHECKED, gone) for name in (SIGNATURE, KEY_TRUST, SCHEMA, CHAIN)
    ]
    inclusion, leaf_index = _check_inclusion(leaf, receipt, "", keys, beside)
    return Verification((*checks, inclusion), "", receipt, leaf_index)


def _check_signature(
    envelope: Envelope, keys: Sequence[TrustedKey]
) -> tuple[Check, list[TrustedKey]]:
    """The check, and the key that made the signature, as often as it is listed."""
    if len(envelope.signatures) != 1:
        detail = f"expected one signature, found {len(envelope.signatures)}"
        return Check(SIGNATURE, CheckResult.FAILED, detail), []
    signature = envelope.signatures[0]
    # The key id is recomputed from the key: a label in a key file is a claim, not a fact.
    candidates = [key for key in keys if key_id_of(key.public_key) == signature.keyid]
    if not candidates:
        detail = f"no trusted key has the id {signature.keyid!r}"
        return Check(SIGNATURE, CheckResult.FAILED, detail), []
    makers = [key for key in candidates if signature_verifies(envelope, signature, key.public_key)]
    if makers:
        return Check(SIGNATURE, CheckResult.PASSED), makers
    detail = f"the signature is not one of key {signature.keyid} over this payload"
    return Check(SIGNATURE, CheckResult.FAILED, detail), []


def _check_schema(envelope: Envelope) -> tuple[Check, Receipt | None]:
    try:
        return Check(SCHEMA, CheckResult.PASSED), parse_receipt(envelope)
    except ValueError as error:
        return Check(SCHEMA, CheckResult.FAILED, str(error)), None


def _more_checks(grant: GrantFinding | None, evidence: EvidenceFinding | None) -> Iterator[Check]:
    """Those of what not every receipt has."""
    failed, passed = CheckResult.FAILED, CheckResult.PASSED
    if grant is not None:
        yield Check(GRANT, failed if grant.problems else passed, grant.detail)
    if evidence is not None:
        yield Check(EVIDENCE, failed if evidence.problem else passed, evidence.problem)
        items = failed if evidence.items_problem else passed
        result = CheckResult.NOT_CHECKED if evidence.unchecked else items
        yield Check(EVIDENCE_ITEMS, result, evidence.items_problem or evidence.unchecked)


def _check_inclusion(
    leaf: bytes,
    receipt: Receipt | None,
    key_id: str,
    keys: Sequence[TrustedKey],
    beside: Surroundings,
) -> tuple[Check, int | None]:
    if receipt is None:
        return Check(INCLUSION, CheckResult.NOT_CHECKED, "the payload names no tenant"), None
    if beside.leaf_index is not None:
        detail = f"leaf {beside.leaf_index}, in a piece of the log that is complete"
        return Check(INCLUSION, CheckResult.PASSED, detail), beside.leaf_index
    if beside.proof is None:
        return Check(INCLUSION, CheckResult.NOT_CHECKED, beside.no_proof), None
    try:
        found = verify_proof(leaf, receipt, beside.proof, keys, beside.log)
    except ValueError as error:
        return Check(INCLUSION, CheckResult.FAILED, str(error)), None
    signer, size = key_id_of(found.verified.key.public_key), found.verified.checkpoint.size
    if signer == key_id:
        detail = f"key {signer} signed both the receipt and the checkpoint"
        return Check(INCLUSION, CheckResult.FAILED, detail), None
    detail = f"leaf {found.leaf_index} of {size}, by key {signer}"
    return Check(INCLUSION, CheckResult.PASSED, detail), found.leaf_index


def _check_key_trust(
    makers: Sequence[TrustedKey], receipt: Receipt | None, leaf_index: int | None
) -> Check:
    if not makers:
        return Check(KEY_TRUST, CheckResult.NOT_CHECKED, "no key made the signature")
    if receipt is None:
        return Check(KEY_TRUST, CheckResult.NOT_CHECKED, "the payload names no tenant and time")
    own = [key for key in makers if key.tenant_id == receipt.tenant_id]
    if not own:
        detail = f"key {makers[0].key_id} is not one of tenant {receipt.tenant_id}"
        return Check(KEY_TRUST, CheckResult.FAILED, detail)
    for_receipts = [key for key in own if key.purpose is KeyPurpose.RECEIPT]
    if not for_receipts:
        detail = f"key {own[0].key_id} signs {own[0].purpose.value}s and no receipts"
        return Check(KEY_TRUST, CheckResult.FAILED, detail)
    # Of a key that is listed more than once every entry counts, and a revocation wherever it is.
    revoked = [key for key in makers if key.state is KeyState.REVOKED]
    for key in (*revoked, *for_receipts):
        refusal = _refusal(key, receipt, leaf_index)
        if refusal:
            return Check(KEY_TRUST, CheckResult.FAILED, refusal)
    return Check(KEY_TRUST, CheckResult.PASSED)


def _refusal(key: TrustedKey, receipt: Receipt, leaf_index: int | None) -> str | None:
    """Why the key's signature does not count; of a revoked key it does where the log vouches."""
    if key.state is not KeyState.REVOKED:
        return key.refusal_at(receipt.recorded_at)
    revoked, size = key.refusal_at(receipt.recorded_at), key.trusted_log_size
    if not size:
        return f"{revoked}; nothing that it signed is believed"
    if leaf_index is None:
        return (
            f"{revoked}; a proof that the log holds the receipt below index {size} would show that"
            " it was signed before"
        )
    if leaf_index >= size:
        return f"{revoked}; what it signed is believed below index {size} of the log only"
    return key.window_refusal_at(receipt.recorded_at)


def _check_chain(
    receipt: Receipt | None, keys: Sequence[TrustedKey], beside: Surroundings
) -> Check:
    if receipt is None:
        return Check(CHAIN, CheckResult.NOT_CHECKED, "the payload is no receipt")
    if beside.chain is not None:
        problems = chain_problems(receipt, beside.chain, keys, whole=beside.whole_chain)
    elif beside.previous is not None:
        problems = link_problems(receipt, beside.previous)
    elif receipt.sequence == 1:
        problems = []
    else:
        before = f"receipt {receipt.sequence - 1} of the chain"
        if beside.has_chain:
            return Check(CHAIN, CheckResult.FAILED, f"{before} is missing")
        return Check(CHAIN, CheckResult.NOT_CHECKED, f"{before} was not supplied")
    if problems:
        return Check(CHAIN, CheckResult.FAILED, "; ".join(problems))
    count = len(beside.chain or ())
    detail = f"the last {count} receipts before it" if 0 < count < receipt.sequence - 1 else ""
    return Check(CHAIN, CheckResult.PASSED, detail)
