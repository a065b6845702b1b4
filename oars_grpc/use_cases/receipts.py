"""Hands out receipts, and the keys that signed them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from oars_grpc.core.call import Call
from oars_grpc.core.identity import Principal
from oars_grpc.core.keys import TrustedKey
from oars_grpc.core.page_token import PageTokens, page_limit, take_page
from oars_grpc.core.ports import Ledger, ReceiptInLog, ReceiptStore
from oars_grpc.core.receipt_filter import ReceiptFilter
from oars_grpc.core.stored import StoredReceipt
from oars_grpc.errors import InvalidArgument, NotFound
from oars_grpc.use_cases.action_change import OWN_ACTIONS_ONLY, check_visible
from oars_grpc.use_cases.control_tags import ControlTags


@dataclass(frozen=True, slots=True)
class ReceiptPage:
    """One page of a listing."""

    receipts: tuple[StoredReceipt, ...]
    next_page_token: str


class Receipts:
    """The receipt service."""

    def __init__(
        self, *, store: ReceiptStore, tags: ControlTags, ledger: Ledger, tokens: PageTokens
    ) -> None:
        self._store = store
        self._tags = tags
        self._ledger = ledger
        self._tokens = tokens

    def find(self, call: Call, tenant_id: str, receipt_id: str) -> StoredReceipt:
        """One receipt of the caller's tenants."""
        stored = self._store.find_receipt(call.tenants(tenant_id), receipt_id)
        if stored is None or not _visible(call.principal, stored):
            raise _not_found(receipt_id)
        return stored

    def find_in_log(self, call: Call, tenant_id: str, receipt_id: str, limit: int) -> ReceiptInLog:
        """As `find`, with what it is verified against, at most `limit` receipts before it."""
        found = self._store.find_in_log(call.tenants(tenant_id), receipt_id, limit)
        if found is None or not _visible(call.principal, found.stored):
            raise _not_found(receipt_id)
        return found

    def list(
        self,
        call: Call,
        tenant_id: str,
        which: ReceiptFilter,
        control: tuple[str, str] | None,
        page_size: int,
        page_token: str,
        weigh: Callable[[StoredReceipt], int],
    ) -> ReceiptPage:
        """A page of the tenant's receipts in log order.

        `control` names framework and control; None does not restrict. The page may be empty and
        not the last one.
        """
        tenant = call.tenant(tenant_id)
        limit = page_limit(page_size)
        if call.principal.role in OWN_ACTIONS_ONLY:
            if not which.action_id:
                raise InvalidArgument.of(
                    "action_id", f"is required of the {call.principal.role.value} role"
                )
            action = self._ledger.find_action([tenant], which.action_id)
            check_visible(call.principal, action, which.action_id)
            if control is not None:
                raise InvalidArgument.of(
                    "control", f"is not for the {call.principal.role.value} role"
                )
        mapping_id, tagged = "", None
        if control is not None:
            mapping, tagged = self._tags.of_control(tenant, *control)
            mapping_id = mapping.mapping_id
        listing = f"receipts {tenant} {which} {mapping_id}"
        after = int(self._tokens.read(listing, page_token) or -1)
        found = self._store.search_receipts(tenant, which, mapping_id, after, limit)
        page, cut = take_page(found.receipts, limit, weigh)
        resume = page[-1].leaf_index if cut else found.resume_after
        if resume is None and tagged is not None and not tagged.complete:
            # All tags were looked through, and they do not reach the end of the log yet.
            last = page[-1].leaf_index if page else after
            resume = max(after, last, tagged.tagged_size - 1)
        token = "" if resume is None else self._tokens.issue(listing, str(resume))
        return ReceiptPage(page, token)

    def trusted_keys(self, tenant_id: str) -> Sequence[TrustedKey]:
        """The public keys of a tenant, for anyone with a trusted identity."""
        return keys_of(tenant_id, self._store.list_keys(tenant_id))


def keys_of(tenant_id: str, keys: Sequence[TrustedKey] | None) -> Sequence[TrustedKey]:
    """The keys of a tenant as a store has them.

    Raises:
        NotFound: there is no such tenant.
    """
    if keys is None:
        raise NotFound(f"tenant {tenant_id} is not found", reason="TENANT_NOT_FOUND")
    return keys


def _not_found(receipt_id: str) -> NotFound:
    return NotFound(f"receipt {receipt_id} is not found", reason="RECEIPT_NOT_FOUND")


def _visible(principal: Principal, stored: StoredReceipt) -> bool:
    if principal.role not in OWN_ACTIONS_ONLY:
        return True
    if stored.erasure is not None:
        return stored.erasure.caller_subject == principal.subject
    predicate: dict[str, Any] = orjson.loads(stored.receipt.envelope.payload)["predicate"]
    return bool(predicate["caller"]["subject"] == principal.subject)
