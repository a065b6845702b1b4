"""ApprovalService: parse, call one method, format."""

import re

import grpc

from oars_grpc.core import ids
from oars_grpc.core.approval import Verdict
from oars_grpc.core.ids import parse_id
from oars_grpc.core.stored import ApprovalFilter
from oars_grpc.generated.oars.v1 import approval_pb2, approval_pb2_grpc
from oars_grpc.transport.action_messages import APPROVAL_STATES, VERDICTS, write_approval
from oars_grpc.transport.answers import encoded, sent
from oars_grpc.transport.current_call import current_call
from oars_grpc.transport.reading import Reader
from oars_grpc.transport.receipt_messages import write_receipt
from oars_grpc.use_cases.action_change import ActionOutcome
from oars_grpc.use_cases.approvals import Approvals

Context = grpc.ServicerContext
_DIGEST = re.compile(r"[0-9a-f]{64}")
MAXIMUM_REASON = 1024


class ApprovalServicer(approval_pb2_grpc.ApprovalServiceServicer):
    """Serves `oars.v1.ApprovalService`."""

    def __init__(self, approvals: Approvals) -> None:
        self._approvals = approvals

    def DecideApproval(
        self, request: approval_pb2.DecideApprovalRequest, context: Context
    ) -> approval_pb2.DecideApprovalResponse:
        """Approve or reject."""
        tenant_id, approval_id = _named(request)
        reader = Reader()
        verdict = reader.one_of(request.verdict, "verdict", VERDICTS)
        reason = reader.text(request.reason, "reason", MAXIMUM_REASON, lines=True)
        digest = request.action_digest
        if not _DIGEST.fullmatch(digest):
            problem = "must be 64 lower-case hex digits" if digest else "is required"
            reader.wrong("action_digest", problem)
        reader.done()
        answer = self._approvals.decide(
            current_call(),
            tenant_id,
            approval_id,
            verdict or Verdict.REJECT,
            reason,
            digest,
            encoded(_write_decided),
        )
        return sent(approval_pb2.DecideApprovalResponse, answer)

    def GetApproval(
        self, request: approval_pb2.GetApprovalRequest, context: Context
    ) -> approval_pb2.GetApprovalResponse:
        """Read one."""
        tenant_id, approval_id = _named(request)
        approval = self._approvals.get(current_call(), tenant_id, approval_id)
        return approval_pb2.GetApprovalResponse(approval=write_approval(approval))

    def ListApprovals(
        self, request: approval_pb2.ListApprovalsRequest, context: Context
    ) -> approval_pb2.ListApprovalsResponse:
        """Read a page."""
        reader = Reader()
        tenant_id = reader.tenant_id(request.tenant_id)
        state = reader.one_of(request.state, "state", APPROVAL_STATES) if request.state else None
        reader.done()
        page = self._approvals.list(
            current_call(),
            tenant_id,
            ApprovalFilter(state),
            request.page_size,
            request.page_token,
            lambda approval: write_approval(approval).ByteSize(),
        )
        return approval_pb2.ListApprovalsResponse(
            approvals=[write_approval(approval) for approval in page.approvals],
            next_page_token=page.next_page_token,
        )


def _named(
    request: approval_pb2.DecideApprovalRequest | approval_pb2.GetApprovalRequest,
) -> tuple[str, str]:
    """Tenant (may be left out) and approval that a request names."""
    tenant_id = Reader.checked_tenant_id(request.tenant_id)
    return tenant_id, parse_id(ids.APPROVAL, request.approval_id, "approval_id")


def _write_decided(outcome: ActionOutcome) -> approval_pb2.DecideApprovalResponse:
    return approval_pb2.DecideApprovalResponse(
        approval=write_approval(outcome.approval) if outcome.approval else None,
        receipts=[write_receipt(receipt) for receipt in outcome.receipts],
    )
