"""Lists approvals: all of a tenant, those that are overdue, those that the caller may decide."""

from collections.abc import Callable
from dataclasses import dataclass

from oars_grpc.core.approval import Approval, ApprovalState
from oars_grpc.core.approver import may_decide
from oars_grpc.core.call import Call
from oars_grpc.core.page_token import PageTokens, page_limit, take_page
from oars_grpc.core.ports import Clock, Ledger
from oars_grpc.core.stored import ApprovalFilter
from oars_grpc.errors import InvalidArgument

# What one page looks at: whoever may decide little gets short pages rather than a long wait.
LOOKED_AT = 500


@dataclass(frozen=True, slots=True)
class ApprovalPage:
    """One page of a listing."""

    approvals: tuple[Approval, ...]
    next_page_token: str


class ApprovalLists:
    """The listings of the approval service."""

    def __init__(self, *, ledger: Ledger, tokens: PageTokens, clock: Clock) -> None:
        self._ledger = ledger
        self._tokens = tokens
        self._clock = clock

    def list(
        self,
        call: Call,
        tenant_id: str,
        which: ApprovalFilter,
        page_size: int,
        page_token: str,
        weigh: Callable[[Approval], int],
        *,
        mine: bool = False,
    ) -> ApprovalPage:
        """A page of the tenant's approvals, newest first.

        With `mine` or `overdue` a page may be short, or empty, and still not be the last.
        """
        tenant = call.tenant(tenant_id)
        if (mine or which.overdue) and which.state not in {None, ApprovalState.PENDING}:
            raise InvalidArgument.of("state", "only pending approvals are anybody's, or overdue")
        limit = page_limit(page_size)
        listing = f"approvals {tenant} {which} {call.principal.subject if mine else ''}"
        before = self._tokens.read(listing, page_token)
        if not (mine or which.overdue):
            found = self._ledger.list_approvals(tenant, which, before, limit + 1)
            page, more = take_page(found, limit, weigh)
            return self._page(listing, page, page[-1].approval_id if more else "")

        pending = ApprovalFilter(ApprovalState.PENDING)
        looked_at = self._ledger.list_approvals(tenant, pending, before, LOOKED_AT)
        now = self._clock.now()
        chosen = [
            approval
            for approval in looked_at
            if (not which.overdue or approval.is_overdue(now))
            and (not mine or may_decide(approval, call.principal, now))
        ]
        page, more = take_page(chosen, limit, weigh)
        last = page[-1].approval_id if more else ""
        if not more and len(looked_at) == LOOKED_AT:
            last = looked_at[-1].approval_id
        return self._page(listing, page, last)

    def _page(self, listing: str, page: tuple[Approval, ...], last: str) -> ApprovalPage:
        return ApprovalPage(page, self._tokens.issue(listing, last) if last else "")
