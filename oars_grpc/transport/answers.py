"""Between a use case's answer in bytes and the message that the servicer returns."""

from collections.abc import Callable
from typing import TypeVar

from google.protobuf.message import Message

from oars_grpc.core.call import Answer, Encode
from oars_grpc.transport.current_call import add_reply_header
from oars_grpc.transport.request_metadata import IDEMPOTENT_REPLAY

Outcome = TypeVar("Outcome")
Response = TypeVar("Response", bound=Message)


def encoded(write: Callable[[Outcome], Message]) -> Encode[Outcome]:
    """The encoder that a use case calls before it commits: deterministic protobuf bytes."""
    return lambda outcome: write(outcome).SerializeToString(deterministic=True)


def sent(kind: type[Response], answer: Answer) -> Response:
    """The response of an answer; a repeated one says so in a header."""
    if answer.replayed:
        add_reply_header(IDEMPOTENT_REPLAY, "true")
    return kind.FromString(answer.response)
