"""The rpcs of ReceiptService that are about the log: parse, call one method, format."""

from collections.abc import Iterator

import grpc

from oars_grpc.core import ids
from oars_grpc.core.ids import parse_id
from oars_grpc.core.note import MAXIMUM_NOTE_BYTES
from oars_grpc.generated.oars.v1 import receipt_pb2, receipt_pb2_grpc
from oars_grpc.transport.current_call import current_call, reauthorised_call
from oars_grpc.transport.log_messages import (
    write_checkpoint,
    write_completeness,
    write_consistency,
    write_receipt_proof,
)
from oars_grpc.transport.reading import Reader
from oars_grpc.use_cases.log import Log

Context = grpc.ServicerContext


class LogServicer(receipt_pb2_grpc.ReceiptServiceServicer):
    """Serves the part of `oars.v1.ReceiptService` that proves."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def GetReceiptProof(
        self, request: receipt_pb2.GetReceiptProofRequest, context: Context
    ) -> receipt_pb2.GetReceiptProofResponse:
        """Show where a receipt stands."""
        tenant_id = Reader.checked_tenant_id(request.tenant_id)
        receipt_id = parse_id(ids.RECEIPT, request.receipt_id, "receipt_id")
        proof = self._log.receipt_proof(current_call(), tenant_id, receipt_id, request.size)
        return write_receipt_proof(proof)

    def GetCheckpoint(
        self, request: receipt_pb2.GetCheckpointRequest, context: Context
    ) -> receipt_pb2.GetCheckpointResponse:
        """Sign what the log holds."""
        tenant_id = Reader.checked_tenant_id(request.tenant_id, required=True)
        signed = self._log.checkpoint(current_call(), tenant_id)
        return receipt_pb2.GetCheckpointResponse(checkpoint=write_checkpoint(signed))

    def GetConsistencyProof(
        self, request: receipt_pb2.GetConsistencyProofRequest, context: Context
    ) -> receipt_pb2.GetConsistencyProofResponse:
        """Show that the log has only grown."""
        tenant_id = Reader.checked_tenant_id(request.tenant_id, required=True)
        proof = self._log.consistency(current_call(), tenant_id, request.from_size, request.to_size)
        return write_consistency(proof)

    def ProveCompleteness(
        self, request: receipt_pb2.ProveCompletenessRequest, context: Context
    ) -> Iterator[receipt_pb2.ProveCompletenessResponse]:
        """Send every leaf between two checkpoints, and an explicit last event."""
        reader = Reader()
        tenant_id = reader.tenant_id(request.tenant_id, required=True)
        notes = [
            reader.text(getattr(request, field), field, MAXIMUM_NOTE_BYTES, lines=True)
            for field in ("from_checkpoint", "to_checkpoint")
        ]
        reader.done()
        for event in self._log.completeness(reauthorised_call, tenant_id, *notes):
            if not context.is_active():
                return
            yield write_completeness(event)
