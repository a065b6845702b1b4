"""Verifies receipts for callers: stored ones with all that the server has, or supplied ones."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from oars_grpc.core.call import Call
from oars_grpc.core.envelope import Envelope
from oars_grpc.core.inclusion import LogTrust
from oars_grpc.core.keys import KeyPurpose, TrustedKey
from oars_grpc.core.ports import ReceiptInLog
from oars_grpc.core.receipt import format_time
from oars_grpc.core.stored import StoredReceipt
from oars_grpc.core.verification import (
    Surroundings,
    Verification,
    verify_erased,
    verify_receipt,
)
from oars_grpc.use_cases.log import Log
from oars_grpc.use_cases.receipts import Receipts, keys_of

# How far back a stored chain is followed; that of an action is never so long, that of a tenant's
# events may be.
MAXIMUM_CHAIN = 64
NO_CHECKPOINT_KEY = "none of the supplied keys signs checkpoints of the tenant"


@dataclass(frozen=True, slots=True)
class VerifiedReceipt:
    """A verification and where the keys for it came from: `tenant` or `supplied`.

    `stored` is the receipt as stored, unless it was supplied.
    """

    verification: Verification
    trust_source: str
    stored: StoredReceipt | None = None


class ReceiptVerifier:
    """The part of the receipt service that verifies; `log_prefix` is what origins begin with."""

    def __init__(self, *, receipts: Receipts, log: Log, log_prefix: str) -> None:
        self._receipts = receipts
        self._log = log
        self._own_log = LogTrust(log_prefix)

    def stored(
        self, call: Call, tenant_id: str, receipt_id: str, keys: Sequence[TrustedKey]
    ) -> VerifiedReceipt:
        """Verify a stored receipt with the chain and the log that it is stored in."""

        def read() -> ReceiptInLog:
            return self._receipts.find_in_log(call, tenant_id, receipt_id, MAXIMUM_CHAIN)

        found = read()
        beside = Surroundings(log=self._own_log)
        if keys and not _sign_checkpoints(keys, found.leaf.tenant_id):
            beside = replace(beside, no_proof=NO_CHECKPOINT_KEY)
        else:
            found, proof = self._log.proven(call, found, read)
            beside = replace(beside, proof=proof.text)
        stored, receipt = found.stored, found.stored.receipt
        trusted = keys or keys_of(receipt.tenant_id, found.keys())
        if stored.erasure is not None:
            gone = (
                f"the payload was erased at {format_time(stored.erasure.erased_at)},"
                f" see receipt {stored.erasure.receipt_id}"
            )
            verification = verify_erased(receipt, stored.leaf_hash, trusted, beside, gone)
        else:
            verification = verify_receipt(receipt.envelope, trusted, _with_chain(found, beside))
        return VerifiedReceipt(verification, "supplied" if keys else "tenant", stored)

    def supplied(
        self,
        call: Call,
        tenant_id: str,
        envelope: Envelope,
        keys: Sequence[TrustedKey],
        beside: Surroundings,
    ) -> VerifiedReceipt:
        """Verify a receipt that the caller brings along, with what the caller has beside it.

        Supplied keys may be those of another service, whose logs are named otherwise; the tenant's
        own keys sign for this one's.
        """
        tenant = call.tenant(tenant_id)
        if keys:
            return VerifiedReceipt(verify_receipt(envelope, keys, beside), "supplied")
        trusted = self._receipts.trusted_keys(tenant)
        beside = replace(beside, log=self._own_log)
        return VerifiedReceipt(verify_receipt(envelope, trusted, beside), "tenant")


def _with_chain(found: ReceiptInLog, beside: Surroundings) -> Surroundings:
    """All receipts before, or the last of them."""
    before = found.before()
    return replace(
        beside,
        chain=tuple(earlier.receipt.envelope for earlier in before),
        whole_chain=len(before) < MAXIMUM_CHAIN,
    )


def _sign_checkpoints(keys: Sequence[TrustedKey], tenant_id: str) -> bool:
    return any((key.purpose, key.tenant_id) == (KeyPurpose.CHECKPOINT, tenant_id) for key in keys)
