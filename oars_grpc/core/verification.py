"""Verification of receipts: pure, offline, one answer per check and every error.

A receipt is valid when signature, key trust and schema passed and no check failed. `NOT_CHECKED`
is never counted as passed: its detail says what was not supplied.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from oars_grpc.core.envelope import Envelope, signature_verifies
from oars_grpc.core.keys import KeyState, TrustedKey, key_id_of
from oars_grpc.core.receipt import Receipt, parse_receipt

SIGNATURE = "signature"
KEY_TRUST = "key_trust"
SCHEMA = "schema"
CHAIN = "chain"


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
    """What verification found."""

    checks: tuple[Check, ...]
    key_id: str = ""
    receipt: Receipt | None = None

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


def verify_receipt(
    envelope: Envelope,
    keys: Sequence[TrustedKey],
    previous: Envelope | None = None,
    *,
    has_chain: bool = False,
) -> Verification:
    """Check an envelope against the keys that the verifier trusts.

    Args:
        envelope: the receipt.
        keys: public keys with their tenants and windows.
        previous: the receipt before in the action's chain, where the verifier has it.
        has_chain: the verifier has the action's chain, so that a receipt without the one before it
            is a gap and not merely unchecked.
    """
    signature, key = _check_signature(envelope, keys)
    schema, receipt = _check_schema(envelope)
    checks = (
        signature,
        _check_key_trust(key, receipt),
        schema,
        _check_chain(receipt, previous, has_chain=has_chain),
    )
    # The id is computed: what a list of keys calls a key is the list's claim.
    return Verification(checks, key_id_of(key.public_key) if key else "", receipt)


def _check_signature(
    envelope: Envelope, keys: Sequence[TrustedKey]
) -> tuple[Check, TrustedKey | None]:
    if len(envelope.signatures) != 1:
        detail = f"expected one signature, found {len(envelope.signatures)}"
        return Check(SIGNATURE, CheckResult.FAILED, detail), None
    signature = envelope.signatures[0]
    # The key id is recomputed from the key: a label in a key file is a claim, not a fact.
    candidates = [key for key in keys if key_id_of(key.public_key) == signature.keyid]
    if not candidates:
        detail = f"no trusted key has the id {signature.keyid!r}"
        return Check(SIGNATURE, CheckResult.FAILED, detail), None
    makers = [key for key in candidates if signature_verifies(envelope, signature, key.public_key)]
    if makers:
        # Listed more than once: a revocation anywhere counts.
        makers.sort(key=lambda key: key.state is not KeyState.REVOKED)
        return Check(SIGNATURE, CheckResult.PASSED), makers[0]
    detail = f"the signature is not one of key {signature.keyid} over this payload"
    return Check(SIGNATURE, CheckResult.FAILED, detail), None


def _check_schema(envelope: Envelope) -> tuple[Check, Receipt | None]:
    try:
        return Check(SCHEMA, CheckResult.PASSED), parse_receipt(envelope)
    except ValueError as error:
        return Check(SCHEMA, CheckResult.FAILED, str(error)), None


def _check_key_trust(key: TrustedKey | None, receipt: Receipt | None) -> Check:
    if key is None:
        return Check(KEY_TRUST, CheckResult.NOT_CHECKED, "no key made the signature")
    if receipt is None:
        return Check(KEY_TRUST, CheckResult.NOT_CHECKED, "the payload names no tenant and time")
    if key.tenant_id != receipt.tenant_id:
        detail = f"key {key.key_id} is not one of tenant {receipt.tenant_id}"
        return Check(KEY_TRUST, CheckResult.FAILED, detail)
    refusal = key.refusal_at(receipt.recorded_at)
    if refusal:
        return Check(KEY_TRUST, CheckResult.FAILED, refusal)
    return Check(KEY_TRUST, CheckResult.PASSED)


def _check_chain(receipt: Receipt | None, previous: Envelope | None, *, has_chain: bool) -> Check:
    if receipt is None:
        return Check(CHAIN, CheckResult.NOT_CHECKED, "the payload is no receipt")
    if previous is None and receipt.sequence > 1:
        if has_chain:
            detail = f"receipt {receipt.sequence - 1} of the chain is missing"
            return Check(CHAIN, CheckResult.FAILED, detail)
        detail = f"receipt {receipt.sequence - 1} of the chain was not supplied"
        return Check(CHAIN, CheckResult.NOT_CHECKED, detail)
    problems = [] if previous is None else _chain_problems(receipt, previous)
    if problems:
        return Check(CHAIN, CheckResult.FAILED, "; ".join(problems))
    return Check(CHAIN, CheckResult.PASSED)


def _chain_problems(receipt: Receipt, previous: Envelope) -> list[str]:
    """Why `previous` is not what the receipt was chained to; its own signature is not judged."""
    try:
        before = parse_receipt(previous)
    except ValueError as error:
        return [f"the receipt before: {error}"]
    problems = []
    if (before.tenant_id, before.action_id) != (receipt.tenant_id, receipt.action_id):
        problems.append("the receipt before is of another action")
    if before.sequence != receipt.sequence - 1:
        problems.append(f"receipt {before.sequence} does not precede {receipt.sequence}")
    if previous.digest() != receipt.previous_receipt_digest:
        problems.append("previousReceiptDigest is not that of the receipt before")
    return problems
