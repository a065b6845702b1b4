"""The handlers of grpcio, taken apart and put together again around the pipeline's steps."""

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError, Message

from oars_grpc.errors import InvalidArgument
from oars_grpc.transport.admission import BoundedPool

# Generic in the stubs, not at runtime.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


@dataclass(frozen=True, slots=True)
class Served:
    """How an rpc is served, and how it is refused while its pool is full."""

    pool: BoundedPool
    serving: Handler
    refusing: Handler


def in_pool(kind: Callable[..., Handler], serve: Callable[..., Any], pool: Executor) -> Handler:
    """A handler whose calls take the threads of a pool."""
    serve.experimental_thread_pool = pool  # type: ignore[attr-defined] # grpcio reads it
    return kind(serve)


def parsed(handler: Handler, raw: bytes) -> Message:
    """The message of a request's bytes.

    Raises:
        InvalidArgument: they are none.
    """
    try:
        request: Message = present(handler.request_deserializer)(raw)
    except (DecodeError, ValueError) as error:
        raise InvalidArgument.of(
            "request", "is not a valid message: malformed, nested too deeply or not UTF-8"
        ) from error
    return request


def serialized(response: Message) -> bytes:
    """Deterministic, so that a replayed answer equals the first byte for byte."""
    return response.SerializeToString(deterministic=True)


def present(part: Callable[..., Any] | None) -> Callable[..., Any]:
    """A part of a handler that its kind always has; grpcio types them all as optional."""
    if part is None:
        raise TypeError("the handler lacks the part that its kind has")
    return part
