"""ApprovalService: parse, call one method, format."""

import threading
from collections.abc import Iterator

import grpc

from oars_grpc.core import ids
from oars_grpc.core.ids import parse_id
from oars_grpc.core.stored import ApprovalFilter
from oars_grpc.generated.oars.v1 import approval_pb2, approval_pb2_grpc
from oars_grpc.transport.answers import encoded, sent
from oars_grpc.transport.approval_messages import (
    APPROVAL_STATES,
    read_answered,
    write_approval,
    write_decided,
    write_shown,
)
from oars_grpc.transport.current_call import current_call, reauthorised_call
from oars_grpc.transport.reading import Reader
from oars_grpc.transport.watching import WatchTime
from oars_grpc.use_cases.approval_lists import ApprovalLists
from oars_grpc.use_cases.approval_watch import ApprovalWatches
from oars_grpc.use_cases.approvals import Approvals

Context = grpc.ServicerContext
MAXIMUM_CURSOR = 256


class ApprovalServicer(approval_pb2_grpc.ApprovalServiceServicer):
    """Serves `oars.v1.ApprovalService`."""

    def __init__(
        self,
        approvals: Approvals,
        lists: ApprovalLists,
        watches: ApprovalWatches,
        watch_seconds: float,
        draining: threading.Event,
    ) -> None:
        self._approvals = approvals
        self._lists = lists
        self._watches = watches
        self._watch_seconds = watch_seconds
        self._draining = draining

    def DecideApproval(
        self, request: approval_pb2.DecideApprovalRequest, context: Context
    ) -> approval_pb2.DecideApprovalResponse:
        """Approve or reject."""
        tenant_id, approval_id = _named(request)
        reader = Reader()
        answered = read_answered(reader, request)
        reader.done()
        answer = self._approvals.decide(
            current_call(), tenant_id, approval_id, answered, encoded(write_decided)
        )
        return sent(approval_pb2.DecideApprovalResponse, answer)

    def GetApproval(
        self, request: approval_pb2.GetApprovalRequest, context: Context
    ) -> approval_pb2.GetApprovalResponse:
        """Read one."""
        tenant_id, approval_id = _named(request)
        return write_shown(self._approvals.show(current_call(), tenant_id, approval_id))

    def ListApprovals(
        self, request: approval_pb2.ListApprovalsRequest, context: Context
    ) -> approval_pb2.ListApprovalsResponse:
        """Read a page."""
        reader = Reader()
        tenant_id = reader.tenant_id(request.tenant_id)
        state = reader.one_of(request.state, "state", APPROVAL_STATES) if request.state else None
        reader.done()
        page = self._lists.list(
            current_call(),
            tenant_id,
            ApprovalFilter(state, request.overdue),
            request.page_size,
            request.page_token,
            lambda approval: write_approval(approval).ByteSize(),
            mine=request.mine,
        )
        return approval_pb2.ListApprovalsResponse(
            approvals=[write_approval(approval) for approval in page.approvals],
            next_page_token=page.next_page_token,
        )

    def WatchApprovals(
        self, request: approval_pb2.WatchApprovalsRequest, context: Context
    ) -> Iterator[approval_pb2.WatchApprovalsResponse]:
        """Send what is pending, then every change, and always an explicit last event."""
        reader = Reader()
        tenant_id = reader.tenant_id(request.tenant_id)
        cursor = reader.text(request.cursor, "cursor", MAXIMUM_CURSOR)
        reader.done()
        watch = self._watches.open(tenant_id, cursor, mine=request.mine)
        time = WatchTime(context, self._watch_seconds, self._draining)
        while context.is_active():
            # A watch lasts; what the caller may see can have changed since the last look.
            look = watch.look(reauthorised_call())
            for event in look.events:
                yield approval_pb2.WatchApprovalsResponse(
                    approval=write_approval(event.approval), cursor=event.cursor
                )
            if time.is_over():
                yield approval_pb2.WatchApprovalsResponse(cursor=look.cursor, final=True)
                return
            if not look.more:
                time.wait()


def _named(
    request: approval_pb2.DecideApprovalRequest | approval_pb2.GetApprovalRequest,
) -> tuple[str, str]:
    """Tenant (may be left out) and approval that a request names."""
    tenant_id = Reader.checked_tenant_id(request.tenant_id)
    return tenant_id, parse_id(ids.APPROVAL, request.approval_id, "approval_id")
