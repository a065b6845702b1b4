"""What is known of an rpc under way, and the one line and the counts that it leaves behind."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import structlog

from oars_grpc.transport.metrics import Metrics

_log = structlog.get_logger("oars.rpc")


@dataclass(slots=True)
class ObservedRpc:
    """An rpc from its first byte to its status; `caller` is empty until it is known."""

    method: str
    metrics: Metrics
    request_id: str
    started: float = field(default_factory=time.monotonic)
    metadata: Mapping[str, Sequence[str]] = field(default_factory=dict)
    caller: str = ""
    carried_by: str = ""
    trace_parent: str = ""

    def end(self, code: grpc.StatusCode, error: Exception | None = None) -> None:
        """Count and log how it ended."""
        seconds = time.monotonic() - self.started
        name = code.name
        self.metrics.rpc_ended(self.method, name, seconds)
        fields: dict[str, Any] = {
            "method": self.method,
            "code": name,
            "caller": self.caller,
            "request_id": self.request_id,
            "duration_ms": round(seconds * 1000, 3),
        }
        if self.carried_by:
            fields["carried_by"] = self.carried_by
        if self.trace_parent:
            fields["traceparent"] = self.trace_parent
        if error is None:
            _log.info("rpc", **fields)
        elif code is grpc.StatusCode.INTERNAL:
            _log.error("rpc failed", exc_info=error, **fields)
        else:
            _log.info(
                "rpc refused", reason=getattr(error, "reason", ""), error=str(error), **fields
            )
