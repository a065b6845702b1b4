"""What every rpc passes through before and after its servicer, in one order, in one place.

    request id ▶ deadline ▶ identity ▶ access ▶ rate ▶ parse ▶ idempotency key ▶ servicer
    ◀ headers ◀ status ◀ log ◀ metrics

gRPC interceptors see no peer, so this one replaces each handler by one that runs the steps. Bytes
are parsed here rather than by grpcio, which would answer malformed ones with INTERNAL.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

import grpc
import structlog
from google.protobuf.message import DecodeError, Message

from oars_grpc.core.call import Call
from oars_grpc.core.identity import Principal
from oars_grpc.core.ports import Chance
from oars_grpc.errors import DeadlineExceeded, InvalidArgument, ResourceExhausted
from oars_grpc.transport import request_metadata
from oars_grpc.transport.access import ACCESS, check_access
from oars_grpc.transport.admission import Pools
from oars_grpc.transport.current_call import set_current_call
from oars_grpc.transport.identity import Authenticator, Metadata
from oars_grpc.transport.metrics import Metrics
from oars_grpc.transport.rate_limit import RateLimit
from oars_grpc.transport.status import status_code, to_status

# With less than this left, the answer would come too late: refuse before anything is written.
MINIMUM_SECONDS = 0.005
OVERLOADED_RETRY_MS = 1000
_HEALTH = "/grpc.health.v1.Health/"

_log = structlog.get_logger("oars.rpc")
# Generic in the stubs, not at runtime.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Context = grpc.ServicerContext


@dataclass(slots=True)
class _Rpc:
    """What is known of the rpc under way."""

    method: str
    started: float
    request_id: str = ""
    caller: str = ""
    trace_parent: str = ""


class Pipeline(grpc.ServerInterceptor):  # type: ignore[type-arg]  # not generic at runtime
    """Runs the steps around every handler of the server."""

    def __init__(
        self,
        *,
        authenticator: Authenticator,
        rate_limit: RateLimit,
        chance: Chance,
        metrics: Metrics,
        pools: Pools,
    ) -> None:
        self._authenticator = authenticator
        self._rate_limit = rate_limit
        self._chance = chance
        self._metrics = metrics
        self._pools = pools

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], "Handler | None"],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """Wrap the handler that grpcio found; None leaves its UNIMPLEMENTED."""
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        method = str(handler_call_details.method)
        if handler.request_streaming:
            return self._request_streaming(method, handler)
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(self._response_streaming(method, handler))
        return grpc.unary_unary_rpc_method_handler(self._unary(method, handler))

    def _overloaded(self, method: str) -> Callable[[object, Context], NoReturn]:
        """What serves a call of which there are too many already."""

        def serve(_: object, context: Context) -> NoReturn:
            error = ResourceExhausted(
                "the server has too many such calls under way", retry_after_ms=OVERLOADED_RETRY_MS
            )
            self._refuse(self._begin(method), context, error)

        serve.experimental_thread_pool = self._pools.control  # type: ignore[attr-defined]
        return serve

    def _unary(self, method: str, handler: Handler) -> Callable[[bytes, Context], bytes]:
        # Health answers even when every other call waits: a busy server is not a dead one.
        is_health = method.startswith(_HEALTH)
        if self._pools.calls.full and not is_health:
            return self._overloaded(method)
        behavior = _present(handler.unary_unary)

        def serve(raw: bytes, context: Context) -> bytes:
            rpc = self._begin(method)
            with self._metrics.in_flight.track_inprogress():
                try:
                    headers, request = self._admit(rpc, context, handler, raw)
                    response = _serialized(behavior(request, context))
                except Exception as error:  # noqa: BLE001 - the guard: nothing passes it
                    self._refuse(rpc, context, error)
                # Sent only now: headers sent before the outcome is known make Envoy unable to
                # retry the call.
                context.send_initial_metadata(
                    ((request_metadata.REQUEST_ID, rpc.request_id), *headers)
                )
                self._observe(rpc, grpc.StatusCode.OK)
                return response

        pool = self._pools.control if is_health else self._pools.calls
        serve.experimental_thread_pool = pool  # type: ignore[attr-defined] # grpcio reads it
        return serve

    def _response_streaming(
        self, method: str, handler: Handler
    ) -> Callable[[bytes, Context], Iterator[bytes]]:
        if self._pools.streams.full:
            return self._overloaded(method)
        behavior = _present(handler.unary_stream)

        def serve(raw: bytes, context: Context) -> Iterator[bytes]:
            rpc = self._begin(method)
            try:
                _, request = self._admit(rpc, context, handler, raw)
                for response in behavior(request, context):
                    yield _serialized(response)
            except Exception as error:  # noqa: BLE001 - the guard: nothing passes it
                self._refuse(rpc, context, error)
            self._observe(rpc, grpc.StatusCode.OK)

        # A stream holds its thread for long, so streams have a pool of their own.
        serve.experimental_thread_pool = self._pools.streams  # type: ignore[attr-defined]
        return serve

    def _request_streaming(self, method: str, handler: Handler) -> Handler:
        """Streams of requests are admitted once; their messages are parsed by grpcio."""
        if not handler.response_streaming:
            raise NotImplementedError(f"{method}: no rpc of one answer to many requests is served")
        if self._pools.streams.full:
            return grpc.stream_stream_rpc_method_handler(self._overloaded(method))
        behavior = _present(handler.stream_stream)

        def serve(requests: Iterator[Message], context: Context) -> Iterator[Message]:
            rpc = self._begin(method)
            try:
                self._authorise(rpc, context)
                yield from behavior(requests, context)
            except Exception as error:  # noqa: BLE001 - the guard: nothing passes it
                self._refuse(rpc, context, error)
            self._observe(rpc, grpc.StatusCode.OK)

        serve.experimental_thread_pool = self._pools.streams  # type: ignore[attr-defined]
        return grpc.stream_stream_rpc_method_handler(
            serve, handler.request_deserializer, handler.response_serializer
        )

    def _begin(self, method: str) -> _Rpc:
        return _Rpc(method, time.monotonic(), self._chance.new_id("req"))

    def _admit(
        self, rpc: _Rpc, context: Context, handler: Handler, raw: bytes
    ) -> tuple[list[tuple[str, str]], Message]:
        """Authorise, then parse: nothing is computed for a caller who may not call.

        Answers with the headers that the reply will carry (the servicer may add to them).
        """
        principal, metadata = self._authorise(rpc, context)
        try:
            request: Message = _present(handler.request_deserializer)(raw)
        except (DecodeError, ValueError) as error:
            raise InvalidArgument.of(
                "request", "is not a valid message: malformed, nested too deeply or not UTF-8"
            ) from error
        key = None
        if ACCESS[rpc.method].mutating:
            key = request_metadata.idempotency_key(metadata, rpc.method, request)
        if principal is None:
            return [], request
        call = Call(principal, rpc.method.rpartition("/")[2], rpc.request_id, key)
        return set_current_call(call).reply_headers, request

    def _authorise(self, rpc: _Rpc, context: Context) -> tuple[Principal | None, Metadata]:
        metadata = request_metadata.read_metadata(context)
        rpc.trace_parent = request_metadata.trace_parent(metadata)
        rpc.request_id = request_metadata.request_id(metadata, rpc.request_id)
        remaining: float | None = context.time_remaining()
        if remaining is not None and remaining < MINIMUM_SECONDS:
            raise DeadlineExceeded("the deadline has passed before the call was served")
        access = ACCESS.get(rpc.method)
        if access is not None and access.roles is None:
            return None, metadata
        principal = self._authenticator.principal(context, metadata)
        rpc.caller = principal.subject
        check_access(principal, rpc.method)
        self._rate_limit.check(principal.subject)
        return principal, metadata

    def _refuse(self, rpc: _Rpc, context: Context, error: Exception) -> NoReturn:
        code = status_code(error)
        self._observe(rpc, code, error)
        context.abort_with_status(to_status(error, rpc.request_id))

    def _observe(self, rpc: _Rpc, code: grpc.StatusCode, error: Exception | None = None) -> None:
        seconds = time.monotonic() - rpc.started
        self._metrics.rpcs.labels(rpc.method, code.name).inc()
        self._metrics.seconds.labels(rpc.method).observe(seconds)
        fields: dict[str, Any] = {
            "method": rpc.method,
            "code": code.name,
            "caller": rpc.caller,
            "request_id": rpc.request_id,
            "duration_ms": round(seconds * 1000, 3),
        }
        if rpc.trace_parent:
            fields["traceparent"] = rpc.trace_parent
        if error is None:
            _log.info("rpc", **fields)
        elif code is grpc.StatusCode.INTERNAL:
            _log.error("rpc failed", exc_info=error, **fields)
        else:
            _log.info(
                "rpc refused", reason=getattr(error, "reason", ""), error=str(error), **fields
            )


def _serialized(response: Message) -> bytes:
    """Deterministic, so that a replayed answer equals the first byte for byte."""
    return response.SerializeToString(deterministic=True)


def _present(part: Callable[..., Any] | None) -> Callable[..., Any]:
    """A part of a handler that its kind always has; grpcio types them all as optional."""
    if part is None:
        raise TypeError("the handler lacks the part that its kind has")
    return part
