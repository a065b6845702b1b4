from collections.abc import Iterator
from concurrent import futures
from typing import TypeVar

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from oars_grpc import errors
from oars_grpc.errors import FieldViolation, InvalidArgument, OarsError
from oars_grpc.transport.status import OPAQUE, STATUS_CODES, status_code, to_status

Kind = TypeVar("Kind", bound=Message)
SECRET = "host=db password=hunter2"


def subclasses(kind: type[OarsError]) -> Iterator[type[OarsError]]:
    for below in kind.__subclasses__():
        if below.__module__ == errors.__name__:
            yield below
            yield from subclasses(below)


KINDS = list(subclasses(OarsError))
EXPECTED = {
    "InvalidArgument": (3, "INVALID_ARGUMENT"),
    "Unauthenticated": (16, "UNAUTHENTICATED"),
    "PermissionDenied": (7, "PERMISSION_DENIED"),
    "NotFound": (5, "NOT_FOUND"),
    "AlreadyExists": (6, "ALREADY_EXISTS"),
    "FailedPrecondition": (9, "FAILED_PRECONDITION"),
    "Conflict": (10, "CONCURRENT_CHANGE"),
    "ResourceExhausted": (8, "RESOURCE_EXHAUSTED"),
    "DeadlineExceeded": (4, "DEADLINE_EXCEEDED"),
    "Unavailable": (14, "UNAVAILABLE"),
    "Unimplemented": (12, "UNIMPLEMENTED"),
    "ConfigurationError": (13, "INTERNAL"),
}


def make(kind: type[OarsError], message: str = "what is wrong") -> OarsError:
    if issubclass(kind, InvalidArgument):
        return kind([FieldViolation("agent_id", message)])
    if issubclass(kind, errors.ResourceExhausted):
        return kind(message, retry_after_ms=1500)
    return kind(message)


def sent(error: BaseException) -> status_pb2.Status:
    """The status as it travels: code, message and the binary details."""
    status = to_status(error, "req-1")
    (trailer,) = status.trailing_metadata
    assert trailer[0] == "grpc-status-details-bin"
    found = status_pb2.Status.FromString(trailer[1])
    assert (found.code, found.message) == (status.code.value[0], status.details)
    return found


def detail(status: status_pb2.Status, kind: type[Kind]) -> Kind | None:
    for packed in status.details:
        found = kind()
        if packed.Unpack(found):
            return found
    return None


def test_every_error_has_a_code_or_is_opaque() -> None:
    assert set(KINDS) == STATUS_CODES.keys() | set(OPAQUE)
    assert {kind.__name__ for kind in KINDS} == EXPECTED.keys()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_travels_with_its_code_reason_and_request_id(kind: type[OarsError]) -> None:
    status = sent(make(kind))
    info = detail(status, error_details_pb2.ErrorInfo)
    request = detail(status, error_details_pb2.RequestInfo)
    assert info
    assert request
    assert (status.code, info.reason) == EXPECTED[kind.__name__]
    assert (info.domain, request.request_id) == ("oars", "req-1")
    if kind not in OPAQUE:
        assert "what is wrong" in status.message


@pytest.mark.parametrize("kind", STATUS_CODES, ids=lambda kind: kind.__name__)
def test_a_narrower_error_has_the_code_of_what_it_narrows(kind: type[OarsError]) -> None:
    narrower = type("Narrower", (kind,), {})
    assert status_code(make(narrower)) is STATUS_CODES[kind]
    assert sent(make(narrower)).details == sent(make(kind)).details


def test_a_reason_given_replaces_the_usual_one() -> None:
    status = sent(errors.NotFound("no such action", reason="ACTION_NOT_FOUND"))
    info = detail(status, error_details_pb2.ErrorInfo)
    assert info
    assert info.reason == "ACTION_NOT_FOUND"


def test_invalid_arguments_name_every_field() -> None:
    error = InvalidArgument([FieldViolation("a", "is required"), FieldViolation("b[1]", "is long")])
    found = detail(sent(error), error_details_pb2.BadRequest)
    assert found
    assert [(v.field, v.description) for v in found.field_violations] == [
        ("a", "is required"),
        ("b[1]", "is long"),
    ]


def test_a_failed_precondition_names_it() -> None:
    error = errors.FailedPrecondition("is not pending", reason="APPROVAL_NOT_PENDING")
    found = detail(sent(error), error_details_pb2.PreconditionFailure)
    assert found
    assert [(v.type, v.description) for v in found.violations] == [
        ("APPROVAL_NOT_PENDING", "is not pending")
    ]


@pytest.mark.parametrize(
    "error",
    [
        errors.ResourceExhausted("slow down", retry_after_ms=1500),
        errors.Unavailable("no database", retry_after_ms=1500),
    ],
)
def test_what_may_succeed_later_says_when(error: OarsError) -> None:
    found = detail(sent(error), error_details_pb2.RetryInfo)
    assert found
    assert found.retry_delay.ToMilliseconds() == 1500


class NarrowerConfiguration(errors.ConfigurationError):
    """Another module's own kind of it."""


@pytest.mark.parametrize(
    "error",
    [
        ValueError(SECRET),
        KeyError(SECRET),
        RuntimeError(SECRET),
        OSError(2, SECRET, "/etc/oars/key"),
        KeyboardInterrupt(SECRET),
        errors.ConfigurationError(SECRET),
        NarrowerConfiguration(SECRET),
    ],
    ids=lambda error: type(error).__name__,
)
def test_nothing_of_a_fault_crosses_the_wire(error: BaseException) -> None:
    error.__cause__ = ValueError(SECRET)
    status = sent(error)
    assert status.code == grpc.StatusCode.INTERNAL.value[0]
    assert status.message == "internal error; quote the request id to the operator"
    info = detail(status, error_details_pb2.ErrorInfo)
    assert info
    assert info.reason == "INTERNAL"
    for part in ("hunter2", "db", "/etc", type(error).__name__):
        assert part.encode() not in status.SerializeToString()


@pytest.mark.parametrize("filler", ["x", "é", "\U0001f600"])
def test_a_status_of_many_violations_reaches_a_client(filler: str) -> None:
    """A client with the usual limits on trailers still learns the code and the first fields."""
    error = InvalidArgument(
        [FieldViolation(f"input.list[{n}]", filler * 40) for n in range(20_000)]
    )

    def refuse(_: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort_with_status(to_status(error, "req-1"))
        raise AssertionError

    handlers = {"Refuse": grpc.unary_unary_rpc_method_handler(refuse)}
    server = grpc.server(futures.ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test", handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            # A call that ends with an error is itself the error; `.code()` waits for the end.
            call = channel.unary_unary("/test/Refuse", bytes, bytes).future(b"", timeout=30)
            assert call.code() is grpc.StatusCode.INVALID_ARGUMENT, call.details()
            status = rpc_status.from_call(call)
    finally:
        server.stop(None).wait()
    assert status
    found = detail(status, error_details_pb2.BadRequest)
    assert found
    assert found.field_violations[0].field == "input.list[0]"
    assert found.field_violations[-1].description.endswith("more violations")
