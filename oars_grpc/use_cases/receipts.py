"""Hands out receipts and verifies them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from oars_grpc.core.call import Call
from oars_grpc.core.envelope import Envelope
from oars_grpc.core.identity import Principal
from oars_grpc.core.keys import TrustedKey
from oars_grpc.core.page_token import PageTokens, page_limit, take_page
from oars_grpc.core.ports import Ledger, ReceiptStore
from oars_grpc.core.receipt import Receipt
from oars_grpc.core.stored import ReceiptFilter, StoredReceipt
from oars_grpc.core.verification import Verification, verify_receipt
from oars_grpc.errors import InvalidArgument, NotFound
from oars_grpc.use_cases.action_change import OWN_ACTIONS_ONLY, check_visible


@dataclass(frozen=True, slots=True)
class ReceiptPage:
    """One page of a listing."""

    receipts: tuple[Receipt, ...]
    next_page_token: str


@dataclass(frozen=True, slots=True)
class VerifiedReceipt:
    """A verification and where the keys for it came from: `tenant` or `supplied`."""

    verification: Verification
    trust_source: str


class Receipts:
    """The receipt service."""

    def __init__(self, *, store: ReceiptStore, ledger: Ledger, tokens: PageTokens) -> None:
        self._store = store
        self._ledger = ledger
        self._tokens = tokens

    def get(self, call: Call, tenant_id: str, receipt_id: str) -> Receipt:
        """One receipt of the caller's tenants."""
        stored = self._store.find_receipt(call.tenants(tenant_id), receipt_id)
        if stored is None or not _visible(call.principal, stored.receipt):
            raise NotFound(f"receipt {receipt_id} is not found", reason="RECEIPT_NOT_FOUND")
        return stored.receipt

    def list(
        self,
        call: Call,
        tenant_id: str,
        which: ReceiptFilter,
        page_size: int,
        page_token: str,
        weigh: Callable[[Receipt], int],
    ) -> ReceiptPage:
        """A page of the tenant's receipts in log order."""
        tenant = call.tenant(tenant_id)
        limit = page_limit(page_size)
        if call.principal.role in OWN_ACTIONS_ONLY:
            if not which.action_id:
                raise InvalidArgument.of(
                    "action_id", f"is required of the {call.principal.role.value} role"
                )
            action = self._ledger.find_action([tenant], which.action_id)
            check_visible(call.principal, action, which.action_id)
        listing = f"receipts {tenant} {which}"
        after = int(self._tokens.read(listing, page_token) or -1)
        found = self._store.list_receipts(tenant, which, after, limit + 1)
        page, more = take_page(found, limit, lambda stored: weigh(stored.receipt))
        token = self._tokens.issue(listing, str(page[-1].leaf_index)) if more else ""
        return ReceiptPage(tuple(stored.receipt for stored in page), token)

    def verify_stored(
        self, call: Call, tenant_id: str, receipt_id: str, keys: Sequence[TrustedKey]
    ) -> VerifiedReceipt:
        """Verify a stored receipt against the one stored before it in its chain."""
        receipt = self.get(call, tenant_id, receipt_id)
        before: StoredReceipt | None = None
        if receipt.sequence > 1:
            before = self._store.find_in_chain(
                receipt.tenant_id, receipt.action_id, receipt.sequence - 1
            )
        previous = before.receipt.envelope if before else None
        # The server has the chain: a predecessor that is not there was removed.
        return self._verify(receipt.envelope, receipt.tenant_id, keys, previous, has_chain=True)

    def verify_supplied(
        self,
        call: Call,
        tenant_id: str,
        envelope: Envelope,
        keys: Sequence[TrustedKey],
        previous: Envelope | None,
    ) -> VerifiedReceipt:
        """Verify a receipt that the caller brings along."""
        return self._verify(envelope, call.tenant(tenant_id), keys, previous)

    def trusted_keys(self, tenant_id: str) -> Sequence[TrustedKey]:
        """The public keys of a tenant, for anyone with a trusted identity."""
        keys = self._store.list_keys(tenant_id)
        if keys is None:
            raise NotFound(f"tenant {tenant_id} is not found", reason="TENANT_NOT_FOUND")
        return keys

    def _verify(
        self,
        envelope: Envelope,
        tenant_id: str,
        keys: Sequence[TrustedKey],
        previous: Envelope | None,
        *,
        has_chain: bool = False,
    ) -> VerifiedReceipt:
        trusted = keys or self.trusted_keys(tenant_id)
        verification = verify_receipt(envelope, trusted, previous, has_chain=has_chain)
        return VerifiedReceipt(verification, "supplied" if keys else "tenant")


def _visible(principal: Principal, receipt: Receipt) -> bool:
    if principal.role not in OWN_ACTIONS_ONLY:
        return True
    predicate: dict[str, Any] = orjson.loads(receipt.envelope.payload)["predicate"]
    return bool(predicate["caller"]["subject"] == principal.subject)
