"""The receipts that `oars verify` is given together, as chains."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from oars_grpc.core.envelope import Envelope
from oars_grpc.core.grant_verification import ApproverTrust, note_registration
from oars_grpc.core.inclusion import LogTrust
from oars_grpc.core.keys import TrustedKey
from oars_grpc.core.receipt import Receipt, parse_receipt
from oars_grpc.core.verification import (
    CHAIN,
    INCLUSION,
    KEY_TRUST,
    SIGNATURE,
    Check,
    CheckResult,
    Surroundings,
    Verification,
    verify_receipt,
)

Place = tuple[str, str, int]


class GivenReceipts:
    """What stands before each receipt, and where one is missing.

    Only what a trusted key signed counts: a forged receipt beside good ones convicts itself alone.
    A receipt before is found by its digest all the same: the one after it vouches for that.
    """

    def __init__(
        self,
        envelopes: Sequence[Envelope],
        keys: Sequence[TrustedKey],
        log: LogTrust,
        proofs: Mapping[bytes, Sequence[str]],
        approver_keys: frozenset[bytes] | None = None,
    ) -> None:
        self._keys = keys
        self._log = log
        # What signed events among the receipts say of approvers' keys holds for all of them.
        self._approvers = ApproverTrust(approver_keys)
        self._proofs = proofs
        self._chains: dict[tuple[str, str], dict[int, list[Envelope]]] = {}
        self._by_digest: dict[tuple[Place, str], Envelope] = {}
        for envelope in envelopes:
            receipt = _readable(envelope)
            if receipt is None:
                continue
            place = (receipt.tenant_id, receipt.action_id, receipt.sequence)
            self._by_digest[place, envelope.digest()] = envelope
            if self._is_signed(envelope):
                chain = self._chains.setdefault((receipt.tenant_id, receipt.action_id), {})
                chain.setdefault(receipt.sequence, []).append(envelope)
                note_registration(self._approvers, receipt)

    def verify(self, envelope: Envelope) -> Verification:
        """Verify one of the receipts along with its chain as far as it was given.

        Where an earlier receipt of the chain was given, the one before must have been given too.
        Two different receipts at one place are a fork: a signer that says two things.
        """
        receipt = _readable(envelope)
        if receipt is None:
            return verify_receipt(envelope, self._keys)
        chain = self._chains.get((receipt.tenant_id, receipt.action_id), {})
        place = (receipt.tenant_id, receipt.action_id, receipt.sequence - 1)
        previous = self._by_digest.get((place, receipt.previous_receipt_digest))
        if previous is None:
            previous = next(iter(chain.get(receipt.sequence - 1, [])), None)
        has_chain = any(sequence < receipt.sequence for sequence in chain)
        beside = Surroundings(
            previous=previous,
            first=next(iter(chain.get(1, [])), None),
            has_chain=has_chain,
            log=self._log,
            approvers=self._approvers,
        )
        result = self._proven(envelope, beside)
        if len({other.payload for other in chain.get(receipt.sequence, [])}) > 1:
            detail = f"another receipt claims place {receipt.sequence} of the chain"
            fork = Check(CHAIN, CheckResult.FAILED, detail)
            checks = tuple(fork if check.name == CHAIN else check for check in result.checks)
            result = replace(result, checks=checks)
        return result

    def _proven(self, envelope: Envelope, beside: Surroundings) -> Verification:
        """Verify with the proofs of the receipt; of several, one that does not hold is told."""
        proofs = self._proofs.get(envelope.leaf_hash(), ())
        results = [
            verify_receipt(envelope, self._keys, replace(beside, proof=proof)) for proof in proofs
        ] or [verify_receipt(envelope, self._keys, beside)]
        failed = [r for r in results if _check(r, INCLUSION) is CheckResult.FAILED]
        return (failed or results)[0]

    def _is_signed(self, envelope: Envelope) -> bool:
        result = self._proven(envelope, Surroundings(log=self._log))
        return _check(result, SIGNATURE) is _check(result, KEY_TRUST) is CheckResult.PASSED


def _check(result: Verification, name: str) -> CheckResult:
    return next(check.result for check in result.checks if check.name == name)


def _readable(envelope: Envelope) -> Receipt | None:
    try:
        return parse_receipt(envelope)
    except ValueError:
        return None
