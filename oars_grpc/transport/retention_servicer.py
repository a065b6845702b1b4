"""RetentionService: parse, call one method, format."""

import grpc

from oars_grpc.core import ids
from oars_grpc.core.ids import parse_id
from oars_grpc.generated.oars.v1 import retention_pb2, retention_pb2_grpc
from oars_grpc.transport.answers import encoded, sent
from oars_grpc.transport.current_call import current_call
from oars_grpc.transport.reading import Reader
from oars_grpc.transport.retention_messages import read_scope, write_hold
from oars_grpc.use_cases.legal_holds import HoldNow, LegalHolds

Context = grpc.ServicerContext
MAXIMUM_NAME = 128
MAXIMUM_REASON = 1024


class RetentionServicer(retention_pb2_grpc.RetentionServiceServicer):
    """Serves `oars.v1.RetentionService`."""

    def __init__(self, holds: LegalHolds) -> None:
        self._holds = holds

    def PlaceLegalHold(
        self, request: retention_pb2.PlaceLegalHoldRequest, context: Context
    ) -> retention_pb2.PlaceLegalHoldResponse:
        """Place one."""
        reader = Reader()
        tenant_id = reader.tenant_id(request.tenant_id, required=True)
        name = reader.text(request.name, "name", MAXIMUM_NAME, required=True)
        reason = _reason(reader, request.reason)
        scope = read_scope(reader, request.scope)
        reader.done()
        answer = self._holds.place(
            current_call(), tenant_id, name, reason, scope, encoded(_write_placed)
        )
        return sent(retention_pb2.PlaceLegalHoldResponse, answer)

    def GetLegalHold(
        self, request: retention_pb2.GetLegalHoldRequest, context: Context
    ) -> retention_pb2.GetLegalHoldResponse:
        """Read one."""
        tenant_id = Reader.checked_tenant_id(request.tenant_id, required=True)
        hold_id = parse_id(ids.HOLD, request.hold_id, "hold_id")
        held = self._holds.get(current_call(), tenant_id, hold_id)
        return retention_pb2.GetLegalHoldResponse(hold=write_hold(held))

    def ListLegalHolds(
        self, request: retention_pb2.ListLegalHoldsRequest, context: Context
    ) -> retention_pb2.ListLegalHoldsResponse:
        """Read a page."""
        tenant_id = Reader.checked_tenant_id(request.tenant_id, required=True)
        page = self._holds.list(
            current_call(),
            tenant_id,
            request.page_size,
            request.page_token,
            lambda held: write_hold(held).ByteSize(),
        )
        return retention_pb2.ListLegalHoldsResponse(
            holds=[write_hold(held) for held in page.holds], next_page_token=page.next_page_token
        )

    def ReleaseLegalHold(
        self, request: retention_pb2.ReleaseLegalHoldRequest, context: Context
    ) -> retention_pb2.ReleaseLegalHoldResponse:
        """Request the release, or confirm the request of another admin."""
        reader = Reader()
        tenant_id = reader.tenant_id(request.tenant_id, required=True)
        reason = _reason(reader, request.reason)
        reader.done()
        hold_id = parse_id(ids.HOLD, request.hold_id, "hold_id")
        answer = self._holds.release(
            current_call(),
            tenant_id,
            hold_id,
            reason,
            request.expected_version,
            encoded(_write_released),
        )
        return sent(retention_pb2.ReleaseLegalHoldResponse, answer)


def _reason(reader: Reader, text: str) -> str:
    return reader.text(text, "reason", MAXIMUM_REASON, required=True, lines=True)


def _write_placed(held: HoldNow) -> retention_pb2.PlaceLegalHoldResponse:
    return retention_pb2.PlaceLegalHoldResponse(hold=write_hold(held))


def _write_released(held: HoldNow) -> retention_pb2.ReleaseLegalHoldResponse:
    return retention_pb2.ReleaseLegalHoldResponse(hold=write_hold(held))
