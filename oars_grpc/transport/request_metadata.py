"""Reads and bounds the headers that a call may carry."""

import hashlib
import re
from collections.abc import Sequence

import grpc
from google.protobuf.message import Message

from oars_grpc.core.call import IdempotencyKey
from oars_grpc.errors import InvalidArgument
from oars_grpc.transport.identity import Metadata

REQUEST_ID = "x-request-id"
IDEMPOTENCY_KEY = "idempotency-key"
IDEMPOTENT_REPLAY = "x-idempotent-replay"
TRACEPARENT = "traceparent"

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
_IDEMPOTENCY_KEY = re.compile(r"[\x20-\x7e]{1,255}")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


def read_metadata(context: grpc.ServicerContext) -> Metadata:
    """Text headers by name, all values of each in order."""
    found: dict[str, list[str]] = {}
    for name, value in context.invocation_metadata() or ():
        if isinstance(value, str):
            found.setdefault(name, []).append(value)
    return found


def request_id(metadata: Metadata, fresh: str) -> str:
    """The caller's request id, or the fresh one.

    Raises:
        InvalidArgument: not 1 to 128 characters of [A-Za-z0-9._:/+=-].
    """
    value = _single(metadata, REQUEST_ID)
    if value is None:
        return fresh
    if not _REQUEST_ID.fullmatch(value):
        raise InvalidArgument.of(REQUEST_ID, "must be 1 to 128 characters of [A-Za-z0-9._:/+=-]")
    return value


def trace_parent(metadata: Metadata) -> str:
    """The W3C trace context, or nothing where it is absent or malformed (as the standard asks)."""
    values: Sequence[str] = metadata.get(TRACEPARENT, ())
    return values[0] if len(values) == 1 and _TRACEPARENT.fullmatch(values[0]) else ""


def idempotency_key(metadata: Metadata, method: str, request: Message) -> IdempotencyKey | None:
    """The key and the fingerprint of the request that it stands for.

    Raises:
        InvalidArgument: not 1 to 255 printable ASCII characters, or given twice.
    """
    value = _checked_key(metadata)
    if value is None:
        return None
    canonical = method.encode() + b"\x00" + request.SerializeToString(deterministic=True)
    return IdempotencyKey(value, hashlib.sha256(canonical).hexdigest())


def key_of_stream(metadata: Metadata) -> IdempotencyKey | None:
    """The key of requests that are still to come, without a fingerprint; refused alike."""
    value = _checked_key(metadata)
    return None if value is None else IdempotencyKey(value, "")


def _checked_key(metadata: Metadata) -> str | None:
    value = _single(metadata, IDEMPOTENCY_KEY)
    if value is not None and not _IDEMPOTENCY_KEY.fullmatch(value):
        raise InvalidArgument.of(IDEMPOTENCY_KEY, "must be 1 to 255 printable ASCII characters")
    return value


def _single(metadata: Metadata, name: str) -> str | None:
    values = metadata.get(name, ())
    if len(values) > 1:
        raise InvalidArgument.of(name, "is given more than once")
    return values[0] if values else None
