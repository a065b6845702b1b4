"""What every rpc passes through before and after its servicer, in one order, in one place.

    request id ▶ deadline ▶ identity ▶ access ▶ rate ▶ share ▶ parse ▶ idempotency key ▶ servicer
    ◀ headers ◀ status ◀ log ◀ metrics

gRPC interceptors see no peer, so this one replaces each handler by one that runs the steps. Bytes
are parsed here rather than by grpcio, which would answer malformed ones with INTERNAL. Every
handler takes a stream of requests, even of one: for a single request grpcio would wait before it
calls the handler, and a client without identity that never sends it would hold a thread for good.
"""

from collections.abc import Callable, Iterator
from typing import NoReturn

import grpc
from google.protobuf.message import Message

from oars_grpc.core.call import Call
from oars_grpc.core.ports import Chance
from oars_grpc.errors import DeadlineExceeded, InvalidArgument, ResourceExhausted
from oars_grpc.transport import request_metadata
from oars_grpc.transport.access import ACCESS, check_access
from oars_grpc.transport.admission import HEALTH, OVERLOADED_RETRY_MS, Pools, StreamPool
from oars_grpc.transport.bearer import BearerAuthenticator
from oars_grpc.transport.current_call import ServedCall, set_current_call
from oars_grpc.transport.handlers import Handler, Served, in_pool, parsed, present, serialized
from oars_grpc.transport.identity import Identified
from oars_grpc.transport.metrics import Metrics
from oars_grpc.transport.observed_rpc import ObservedRpc
from oars_grpc.transport.rate_limit import RateLimit
from oars_grpc.transport.status import status_code, to_status

# With less than this left, the answer would come too late: refuse before anything is written.
MINIMUM_SECONDS = 0.005
_REFLECTION = "/grpc.reflection."

Context = grpc.ServicerContext


class Pipeline(grpc.ServerInterceptor):  # type: ignore[type-arg]  # not generic at runtime
    """Runs the steps around every handler of the server."""

    def __init__(
        self,
        *,
        authenticator: BearerAuthenticator,
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
        self._served: dict[str, Served] = {}

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], "Handler | None"],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """Wrap the handler that grpcio found; None leaves its UNIMPLEMENTED."""
        method = str(handler_call_details.method)
        served = self._served.get(method)
        if served is None:
            handler = continuation(handler_call_details)
            if handler is None:
                return None
            served = self._served[method] = self._wrapped(method, handler)
        return served.refusing if served.pool.full else served.serving

    def _wrapped(self, method: str, handler: Handler) -> "Served":
        if handler.response_streaming:
            observes = method.startswith((HEALTH, _REFLECTION))
            streams = self._pools.observers if observes else self._pools.streams
            return Served(
                streams,
                in_pool(
                    grpc.stream_stream_rpc_method_handler,
                    self._streaming(method, handler, streams),
                    streams,
                ),
                in_pool(
                    grpc.stream_stream_rpc_method_handler,
                    self._overloaded(method),
                    self._pools.control,
                ),
            )
        if handler.request_streaming:
            uploads = self._pools.uploads
            return Served(
                uploads,
                in_pool(
                    grpc.stream_unary_rpc_method_handler, self._upload(method, handler), uploads
                ),
                in_pool(
                    grpc.stream_unary_rpc_method_handler,
                    self._overloaded(method),
                    self._pools.control,
                ),
            )
        calls = self._pools.serving(method)
        return Served(
            calls,
            in_pool(grpc.stream_unary_rpc_method_handler, self._unary(method, handler), calls),
            in_pool(
                grpc.stream_unary_rpc_method_handler,
                self._overloaded(method),
                self._pools.control,
            ),
        )

    def _overloaded(self, method: str) -> Callable[[object, Context], NoReturn]:
        """What serves a call of which there are too many already."""

        def serve(_: object, context: Context) -> NoReturn:
            error = ResourceExhausted(
                "the server has too many such calls under way", retry_after_ms=OVERLOADED_RETRY_MS
            )
            self._refuse(self._begin(method), context, error)

        return serve

    def _unary(self, method: str, handler: Handler) -> Callable[[Iterator[bytes], Context], bytes]:
        behavior = present(handler.unary_unary)

        def serve(requests: Iterator[bytes], context: Context) -> bytes:
            rpc = self._begin(method)
            with self._metrics.in_flight.track_inprogress():
                try:
                    identified = self._authorise(rpc, context)
                    headers, request = self._receive(rpc, context, handler, requests, identified)
                    response = serialized(behavior(request, context))
                except grpc.RpcError:  # the call ended before its request came
                    rpc.end(grpc.StatusCode.CANCELLED)
                    raise
                except Exception as error:  # noqa: BLE001 - the guard: nothing passes it
                    self._refuse(rpc, context, error)
                # A trailer, which leaves with the answer: headers cost a message of their own. So
                # only where there are any; and only now, for Envoy cannot retry a call after them.
                context.set_trailing_metadata(((request_metadata.REQUEST_ID, rpc.request_id),))
                if headers:
                    context.send_initial_metadata(tuple(headers))
                rpc.end(grpc.StatusCode.OK)
                return response

        return serve

    def _upload(self, method: str, handler: Handler) -> Callable[[Iterator[bytes], Context], bytes]:
        """What serves an rpc of many requests and one answer.

        Headers are sent at once: nobody could repeat such a call in any case, and the sidecar stops
        counting the time in which a request has to come. What else the answer tells are trailers.
        """
        behavior = present(handler.stream_unary)

        def serve(requests: Iterator[bytes], context: Context) -> bytes:
            rpc = self._begin(method)
            try:
                identified = self._authorise(rpc, context)
                with self._pools.uploads.place_of(rpc.caller):
                    served = self._call_of(rpc, context, identified)
                    context.send_initial_metadata(((request_metadata.REQUEST_ID, rpc.request_id),))
                    pieces = self._pieces(context, handler, requests)
                    response = serialized(behavior(pieces, context))
                    context.set_trailing_metadata(tuple(served.reply_headers))
            except grpc.RpcError:  # the call ended before its last request came
                rpc.end(grpc.StatusCode.CANCELLED)
                raise
            except Exception as error:  # noqa: BLE001 - the guard: nothing passes it
                self._refuse(rpc, context, error)
            rpc.end(grpc.StatusCode.OK)
            return response

        return serve

    def _pieces(
        self, context: Context, handler: Handler, requests: Iterator[bytes]
    ) -> Iterator[Message]:
        """The requests as they come, each within the time that any request has."""
        while True:
            with self._pools.awaiting_request.including(context):
                raw = next(requests, None)
            if raw is None:
                if not context.is_active():
                    raise DeadlineExceeded("the call ended before its requests did")
                return
            yield parsed(handler, raw)

    def _call_of(
        self, rpc: ObservedRpc, context: Context, identified: Identified | None
    ) -> ServedCall:
        """The call of requests that are not read yet; who reads them makes the fingerprint."""
        if identified is None:
            raise TypeError(f"{rpc.method} is served to identities only")
        key = request_metadata.key_of_stream(rpc.metadata)
        call = Call(identified.principal, rpc.method.rpartition("/")[2], rpc.request_id, key)
        return set_current_call(call, lambda: self._permitted(rpc, context), identified.ends_at)

    def _streaming(
        self, method: str, handler: Handler, pool: StreamPool
    ) -> Callable[[Iterator[bytes], Context], Iterator[bytes]]:
        def serve(requests: Iterator[bytes], context: Context) -> Iterator[bytes]:
            rpc = self._begin(method)
            try:
                identified = self._authorise(rpc, context)
                with pool.place_of(rpc.caller):
                    for response in self._responses(rpc, context, handler, requests, identified):
                        yield serialized(response)
            except (GeneratorExit, grpc.RpcError):  # the call ended under the answer, or before
                rpc.end(grpc.StatusCode.CANCELLED)
                return
            except Exception as error:  # noqa: BLE001 - the guard: nothing passes it
                self._refuse(rpc, context, error)
            # A servicer that looks sees for itself that the call ended, and stops.
            rpc.end(grpc.StatusCode.OK if context.is_active() else grpc.StatusCode.CANCELLED)

        return serve

    def _responses(
        self,
        rpc: ObservedRpc,
        context: Context,
        handler: Handler,
        requests: Iterator[bytes],
        identified: Identified | None,
    ) -> Iterator[Message]:
        if not handler.request_streaming:
            _, request = self._receive(rpc, context, handler, requests, identified)
            yield from present(handler.unary_stream)(request, context)
            return
        with self._pools.conversations.including(context):
            pieces = (parsed(handler, raw) for raw in requests)
            yield from present(handler.stream_stream)(pieces, context)

    def _begin(self, method: str) -> ObservedRpc:
        return ObservedRpc(method, self._metrics, self._chance.new_id("req"))

    def _authorise(self, rpc: ObservedRpc, context: Context) -> Identified | None:
        """The caller, who may call; None where nobody needs an identity.

        Comes before the request is even read: nothing is computed for a caller who may not call.
        """
        rpc.metadata = request_metadata.read_metadata(context)
        rpc.trace_parent = request_metadata.trace_parent(rpc.metadata)
        rpc.request_id = request_metadata.request_id(rpc.metadata, rpc.request_id)
        remaining: float | None = context.time_remaining()
        if remaining is not None and remaining < MINIMUM_SECONDS:
            raise DeadlineExceeded("the deadline has passed before the call was served")
        access = ACCESS.get(rpc.method)
        if access is not None and access.roles is None:
            return None
        identified = self._permitted(rpc, context)
        self._rate_limit.check(rpc.caller)
        return identified

    def _permitted(self, rpc: ObservedRpc, context: Context) -> Identified:
        """Who calls, as of now, if that identity may call the rpc."""
        identified = self._authenticator.identify(rpc.method, context, rpc.metadata)
        principal = identified.principal
        rpc.caller, rpc.carried_by = principal.subject, principal.carried_by
        check_access(principal, rpc.method)
        return identified

    def _receive(
        self,
        rpc: ObservedRpc,
        context: Context,
        handler: Handler,
        requests: Iterator[bytes],
        identified: Identified | None,
    ) -> tuple[list[tuple[str, str]], Message]:
        """The one request of a call, and the headers of its reply; a servicer may add to them."""
        with self._pools.awaiting_request.including(context):
            raw = next(requests, None)
        if raw is None:
            raise InvalidArgument.of("request", "was not sent")
        request = parsed(handler, raw)
        key = None
        if ACCESS[rpc.method].mutating:
            key = request_metadata.idempotency_key(rpc.metadata, rpc.method, request)
        if identified is None:
            return [], request
        call = Call(identified.principal, rpc.method.rpartition("/")[2], rpc.request_id, key)
        served = set_current_call(call, lambda: self._permitted(rpc, context), identified.ends_at)
        return served.reply_headers, request

    @staticmethod
    def _refuse(rpc: ObservedRpc, context: Context, error: Exception) -> NoReturn:
        rpc.end(status_code(error), error)
        context.abort_with_status(to_status(error, rpc.request_id))
