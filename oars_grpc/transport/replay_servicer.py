"""The rpc of PolicyService that looks back: parse, call one method, format."""

import threading
from collections.abc import Iterator

import grpc

from oars_grpc.core import ids
from oars_grpc.core.ids import parse_id
from oars_grpc.core.note import MAXIMUM_NOTE_BYTES
from oars_grpc.core.replay_report import DEFAULT_EXAMPLES, MAXIMUM_EXAMPLES
from oars_grpc.core.replay_request import (
    ReplayBegun,
    ReplayEnded,
    ReplayEvent,
    ReplayProgress,
    ReplayRequest,
)
from oars_grpc.errors import Unavailable
from oars_grpc.generated.oars.v1 import policy_pb2, policy_pb2_grpc, replay_pb2
from oars_grpc.transport.current_call import reauthorised_call
from oars_grpc.transport.policy_messages import read_document
from oars_grpc.transport.reading import Reader
from oars_grpc.use_cases.replay import Replays

Context = grpc.ServicerContext
_ENDS = ("from", "to")


class ReplayServicer(policy_pb2_grpc.PolicyServiceServicer):
    """Serves the part of `oars.v1.PolicyService` that replays."""

    def __init__(self, replays: Replays, draining: threading.Event) -> None:
        self._replays = replays
        self._draining = draining

    def ReplayPolicy(
        self, request: policy_pb2.ReplayPolicyRequest, context: Context
    ) -> Iterator[replay_pb2.ReplayPolicyResponse]:
        """Evaluate a draft over what was recorded, and send an explicit last event."""
        wanted = _read_request(request)
        events = self._replays.replay(reauthorised_call, wanted)
        try:
            for event in events:
                if not context.is_active():  # canceled, or past its deadline
                    return
                if self._draining.is_set():
                    raise Unavailable("the server is being replaced; replay again")
                yield _write_event(event)
        finally:
            events.close()


def _read_request(request: policy_pb2.ReplayPolicyRequest) -> ReplayRequest:
    reader = Reader()
    tenant_id = reader.tenant_id(request.tenant_id)
    draft = request.WhichOneof("draft")
    if draft is None:
        reader.wrong("draft", "takes policy_id or document")
    notes = []
    for end in _ENDS:
        size, field = getattr(request, f"{end}_size"), f"{end}_checkpoint"
        note = reader.text(getattr(request, field), field, MAXIMUM_NOTE_BYTES, lines=True)
        if size < 0:
            reader.wrong(f"{end}_size", "must not be negative")
        if size and note:
            reader.wrong(field, f"is exclusive with {end}_size")
        notes.append(note)
    examples = request.examples if request.HasField("examples") else DEFAULT_EXAMPLES
    if not 0 <= examples <= MAXIMUM_EXAMPLES:
        reader.wrong("examples", f"must be from 0 to {MAXIMUM_EXAMPLES}")
    reader.done()
    stored = draft == "policy_id"
    return ReplayRequest(
        tenant_id=tenant_id,
        policy_id=parse_id(ids.POLICY, request.policy_id, "policy_id") if stored else "",
        document=None if stored else read_document(request.document),
        from_size=request.from_size,
        to_size=request.to_size,
        from_note=notes[0],
        to_note=notes[1],
        examples=examples,
    )


def _write_event(event: ReplayEvent) -> replay_pb2.ReplayPolicyResponse:
    message = replay_pb2.ReplayPolicyResponse()
    match event:
        case ReplayBegun():
            begin = message.begin
            begin.tenant_id, begin.policy_digest = event.tenant_id, event.policy_digest
            begin.from_size = event.earlier.checkpoint.size
            begin.to_size = event.later.checkpoint.size
        case ReplayProgress():
            progress = message.progress
            progress.receipts, progress.total_receipts = event.leaves, event.total_leaves
            progress.decisions, progress.changed = event.decisions, event.changed
        case ReplayEnded():
            end, report = message.end, event.report
            end.report.payload_type, end.report.payload = report.payload_type, report.payload
            for signature in report.signatures:
                end.report.signatures.add(keyid=signature.keyid, sig=signature.sig)
            end.from_checkpoint, end.to_checkpoint = event.earlier.note, event.later.note
    return message
