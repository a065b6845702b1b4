"""Follows a tenant's approvals: those that are pending now, then every change of any.

A cursor names a place in the tenant's log. The log is as large as `place` + 1 when the pending ones
begin to be listed, and is followed from there: what changes during the listing is told afterwards,
for it has a receipt. So a watch that is opened again at the cursor of the last event seen misses
nothing, whoever served the one before.
"""

from dataclasses import dataclass

from oars_grpc.core.approval import Approval, ApprovalState
from oars_grpc.core.approval_changes import ApprovalLog
from oars_grpc.core.approver import had_turn, may_decide
from oars_grpc.core.call import Call
from oars_grpc.core.identity import Principal
from oars_grpc.core.page_token import PageTokens
from oars_grpc.core.ports import Clock, Ledger
from oars_grpc.core.stored import ApprovalFilter
from oars_grpc.errors import InvalidArgument, NotFound

# Pending approvals that one look reads; between looks the caller is authorised again.
PAGE = 100
_PENDING = ApprovalFilter(ApprovalState.PENDING)


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """An approval as it stands, and the cursor of what comes after it."""

    approval: Approval
    cursor: str


@dataclass(frozen=True, slots=True)
class Look:
    """What one look found, the cursor of what comes after it, and whether to look again at once."""

    events: tuple[WatchEvent, ...]
    cursor: str
    more: bool


@dataclass(frozen=True, slots=True)
class _Place:
    """All leaves up to `leaf` were looked at.

    `before` is where the listing of pending approvals is: ids below it are still to come, empty
    means all; None that it is over.
    """

    leaf: int
    before: str | None

    def __str__(self) -> str:
        return f"{self.leaf}" if self.before is None else f"{self.leaf} {self.before}"

    @classmethod
    def parse(cls, text: str) -> "_Place":
        leaf, listing, before = text.partition(" ")
        return cls(int(leaf), before if listing else None)


class ApprovalWatch:
    """One watch; it is used by one thread."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        log: ApprovalLog,
        tokens: PageTokens,
        clock: Clock,
        tenant_id: str,
        mine: bool,
        cursor: str,
    ) -> None:
        self._ledger = ledger
        self._log = log
        self._tokens = tokens
        self._clock = clock
        self._requested_tenant = tenant_id
        self._mine = mine
        self._cursor = cursor
        self._place: _Place | None = None
        # The versions sent of those that are pending still.
        self._shown: dict[str, int] = {}

    def look(self, call: Call) -> Look:
        """What is new; `call` is as the caller is authorised now.

        Raises:
            InvalidArgument: the cursor is not one of this watch.
            NotFound: there is no such tenant.
        """
        tenant = call.tenant(self._requested_tenant)
        place = self._begin(call, tenant) if self._place is None else self._place
        if place.before is None:
            found = self._follow(call, tenant, place)
        else:
            found = self._list(call, tenant, place)
        self._place, events, more = found
        return Look(events, self._issue(call, tenant, self._place), more)

    def _begin(self, call: Call, tenant: str) -> _Place:
        size = self._log.log_size(tenant)
        if size is None:
            raise NotFound(f"tenant {tenant} is not found", reason="TENANT_NOT_FOUND")
        if not self._cursor:
            return _Place(size - 1, "")
        place = _Place.parse(
            self._tokens.read(self._listing(call, tenant), self._cursor, field="cursor")
        )
        if place.leaf >= size:
            # The database was set back. Whoever goes on from there would miss what comes now.
            raise InvalidArgument.of("cursor", "is beyond the end of the log")
        return place

    def _list(
        self, call: Call, tenant: str, place: _Place
    ) -> tuple[_Place, tuple[WatchEvent, ...], bool]:
        found = self._ledger.list_approvals(tenant, _PENDING, place.before or "", PAGE)
        now = self._clock.now()
        events = []
        for approval in found:
            if not self._mine or may_decide(approval, call.principal, now):
                at = _Place(place.leaf, approval.approval_id)
                events.append(self._event(call, tenant, approval, at))
        over = len(found) < PAGE
        following = _Place(place.leaf, None if over else found[-1].approval_id)
        return following, tuple(events), True

    def _follow(
        self, call: Call, tenant: str, place: _Place
    ) -> tuple[_Place, tuple[WatchEvent, ...], bool]:
        found = self._log.changes_after(tenant, place.leaf)
        events = []
        for change in found.changes:
            if self._is_wanted(call.principal, change.approval):
                at = _Place(change.leaf_index, None)
                events.append(self._event(call, tenant, change.approval, at))
        return _Place(found.reached, None), tuple(events), found.more

    def _is_wanted(self, principal: Principal, approval: Approval) -> bool:
        """Whether a change is to be told: of `mine`, too, what becomes of one that was shown."""
        shown = self._shown.get(approval.approval_id)
        if shown == approval.version:
            return False
        if not self._mine or shown is not None:
            return True
        if may_decide(approval, principal, self._clock.now()):
            return True
        # The watch that this one goes on from may have shown it.
        return bool(self._cursor) and had_turn(approval, principal)

    def _event(self, call: Call, tenant: str, approval: Approval, at: _Place) -> WatchEvent:
        if approval.state is ApprovalState.PENDING:
            self._shown[approval.approval_id] = approval.version
        else:
            self._shown.pop(approval.approval_id, None)
        return WatchEvent(approval, self._issue(call, tenant, at))

    def _issue(self, call: Call, tenant: str, place: _Place) -> str:
        return self._tokens.issue(self._listing(call, tenant), str(place))

    def _listing(self, call: Call, tenant: str) -> str:
        return f"approval watch {tenant} {call.principal.subject if self._mine else ''}"


class ApprovalWatches:
    """Opens watches."""

    def __init__(
        self, *, ledger: Ledger, log: ApprovalLog, tokens: PageTokens, clock: Clock
    ) -> None:
        self._ledger = ledger
        self._log = log
        self._tokens = tokens
        self._clock = clock

    def open(self, tenant_id: str, cursor: str, *, mine: bool) -> ApprovalWatch:
        """A watch of a tenant (empty: the caller's one) that goes on at a cursor.

        With `mine` it tells of what the caller may decide, and what became of that.
        """
        return ApprovalWatch(
            ledger=self._ledger,
            log=self._log,
            tokens=self._tokens,
            clock=self._clock,
            tenant_id=tenant_id,
            mine=mine,
            cursor=cursor,
        )
