"""EvidenceService: parse, call one method, format."""

import threading
from collections.abc import Iterator

import grpc

from oars_grpc.core.control import MAXIMUM_MAPPINGS, parse_control
from oars_grpc.core.evidence_export import (
    ExportBegun,
    ExportChunk,
    ExportEnded,
    ExportEvent,
    ExportRange,
)
from oars_grpc.errors import Unavailable
from oars_grpc.generated.oars.v1 import evidence_pb2, evidence_pb2_grpc
from oars_grpc.transport.current_call import current_call, reauthorised_call
from oars_grpc.transport.log_messages import write_checkpoint
from oars_grpc.transport.reading import Reader
from oars_grpc.use_cases.evidence import Evidence

Context = grpc.ServicerContext
_MAXIMUM_CONTROL = 97  # framework, colon, id


class EvidenceServicer(evidence_pb2_grpc.EvidenceServiceServicer):
    """Serves `oars.v1.EvidenceService`."""

    def __init__(self, evidence: Evidence, draining: threading.Event) -> None:
        self._evidence = evidence
        self._draining = draining

    def ExportEvidence(
        self, request: evidence_pb2.ExportEvidenceRequest, context: Context
    ) -> Iterator[evidence_pb2.ExportEvidenceResponse]:
        """Send a bundle while it is made, and an explicit last event."""
        tenant_id, wanted = _read_request(request)
        events = self._evidence.export(current_call(), tenant_id, wanted)
        try:
            for event in events:
                if not context.is_active():  # canceled, or past its deadline
                    return
                if self._draining.is_set():
                    raise Unavailable("the server is being replaced; export again")
                # An export lasts; what the caller may see can have changed since it began.
                reauthorised_call().tenant(tenant_id)
                yield _write_event(event)
        finally:
            events.close()


def _read_request(request: evidence_pb2.ExportEvidenceRequest) -> tuple[str, ExportRange]:
    reader = Reader()
    tenant_id = reader.tenant_id(request.tenant_id)
    for field in ("from_size", "to_size"):
        if getattr(request, field) < 0:
            reader.wrong(field, "must not be negative")
    sizes = request.from_size or request.to_size
    starts, ends = request.HasField("recorded_from"), request.HasField("recorded_until")
    if sizes and (starts or ends):
        reader.wrong("recorded_from" if starts else "recorded_until", "is exclusive with sizes")
    recorded_from = reader.moment(request.recorded_from, "recorded_from") if starts else None
    recorded_until = reader.moment(request.recorded_until, "recorded_until") if ends else None
    if recorded_from and recorded_until and recorded_from >= recorded_until:
        reader.wrong("recorded_until", "must come after recorded_from")
    controls = reader.texts(request.controls, "controls", MAXIMUM_MAPPINGS, _MAXIMUM_CONTROL)
    for position, control in enumerate(controls):
        if control and len(control) <= _MAXIMUM_CONTROL and parse_control(control) is None:
            reader.wrong(f"controls[{position}]", "must be framework:control_id")
    reader.done()
    wanted = ExportRange(
        request.from_size, request.to_size, recorded_from, recorded_until, tuple(controls)
    )
    return tenant_id, wanted


def _write_event(event: ExportEvent) -> evidence_pb2.ExportEvidenceResponse:
    message = evidence_pb2.ExportEvidenceResponse()
    match event:
        case ExportBegun():
            begin = message.begin
            begin.file_name, begin.tenant_id = event.file_name, event.tenant_id
            # `from` is no name in Python.
            getattr(begin, "from").CopyFrom(write_checkpoint(event.first))
            begin.to.CopyFrom(write_checkpoint(event.last))
        case ExportChunk():
            chunk = message.chunk
            chunk.data, chunk.receipts, chunk.total_receipts = (
                event.data,
                event.receipts,
                event.total,
            )
        case ExportEnded():
            end = message.end
            end.sha256, end.size_bytes = event.sha256, event.size
            end.receipts, end.erased = event.receipts, event.erased
    return message
