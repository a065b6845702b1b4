"""The one table from errors to gRPC status, and the details that travel with it.

Whatever is not an `OarsError` becomes an opaque INTERNAL: its text is logged and never sent.
"""

from collections.abc import Mapping

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from oars_grpc import errors
from oars_grpc.errors import OarsError

DOMAIN = "oars"

STATUS_CODES: Mapping[type[OarsError], grpc.StatusCode] = {
    errors.InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Conflict: grpc.StatusCode.ABORTED,
    errors.ResourceExhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.Unimplemented: grpc.StatusCode.UNIMPLEMENTED,
}

# Trouble of the operator's making: the caller learns no more than that it is not his.
OPAQUE = (errors.ConfigurationError,)


def status_code(error: BaseException) -> grpc.StatusCode:
    """The code of an error."""
    for kind in type(error).__mro__:
        if kind in STATUS_CODES:
            return STATUS_CODES[kind]
    return grpc.StatusCode.INTERNAL


def to_status(error: BaseException, request_id: str) -> grpc.Status:
    """The rich status that goes out for an error."""
    code = status_code(error)
    if not isinstance(error, OarsError) or isinstance(error, OPAQUE):
        error = OarsError("internal error; quote the request id to the operator")
    details: list[Message] = [
        error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN),
        error_details_pb2.RequestInfo(request_id=request_id),
        *_details(error),
    ]
    packed = []
    for detail in details:
        entry = any_pb2.Any()
        entry.Pack(detail)
        packed.append(entry)
    number: int = code.value[0]
    return rpc_status.to_status(
        status_pb2.Status(code=number, message=error.message, details=packed)
    )


def _details(error: OarsError) -> list[Message]:
    match error:
        case errors.InvalidArgument():
            violations = [
                error_details_pb2.BadRequest.FieldViolation(
                    field=violation.field, description=violation.description
                )
                for violation in error.violations
            ]
            return [error_details_pb2.BadRequest(field_violations=violations)]
        case errors.FailedPrecondition():
            violation = error_details_pb2.PreconditionFailure.Violation(
                type=error.reason, description=error.message
            )
            return [error_details_pb2.PreconditionFailure(violations=[violation])]
        case errors.ResourceExhausted() | errors.Unavailable():
            delay = duration_pb2.Duration()
            delay.FromMilliseconds(error.retry_after_ms)
            return [error_details_pb2.RetryInfo(retry_delay=delay)]
    return []
