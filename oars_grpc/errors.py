"""The one family of errors that OARS raises on purpose.

A use case or a storage module raises the narrowest class; `transport/status.py` holds the only
table from these classes to gRPC codes. Whatever is not an `OarsError` reaches a caller as an
opaque INTERNAL.
"""

from collections.abc import Sequence
from dataclasses import dataclass

# Violations travel twice in the trailers, as text and as details, both encoded; a gRPC client
# accepts 8 KiB of trailers and reports anything longer as an error of its own.
MAXIMUM_VIOLATION_BYTES = 1200
MAXIMUM_DESCRIPTION = 300  # characters


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One thing wrong with one field of a request, named by its proto path."""

    field: str
    description: str


class OarsError(Exception):
    """Base of all errors whose message may be shown to the caller.

    `reason` is the stable, machine-readable name (UPPER_SNAKE) that travels as
    `google.rpc.ErrorInfo.reason`.
    """

    reason = "INTERNAL"

    def __init__(self, message: str, *, reason: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if reason is not None:
            self.reason = reason


class InvalidArgument(OarsError):
    """The request is wrong in itself; `violations` name every field at fault."""

    reason = "INVALID_ARGUMENT"

    def __init__(self, violations: Sequence[FieldViolation]) -> None:
        self.violations = _sendable(violations)
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in self.violations))

    @classmethod
    def of(cls, field: str, description: str) -> "InvalidArgument":
        """The common case of one violation."""
        return cls([FieldViolation(field, description)])


def _sendable(violations: Sequence[FieldViolation]) -> tuple[FieldViolation, ...]:
    """The first of the violations, as many as reach the caller, and how many more there are."""
    kept: list[FieldViolation] = []
    size = 0
    for full in violations:
        # Some descriptions quote what was sent.
        violation = FieldViolation(full.field, full.description[:MAXIMUM_DESCRIPTION])
        size += len(violation.field.encode()) + len(violation.description.encode())
        if kept and size > MAXIMUM_VIOLATION_BYTES:
            more = f"there are {len(violations) - len(kept)} more violations"
            return (*kept, FieldViolation("request", more))
        kept.append(violation)
    return tuple(kept)


class Unauthenticated(OarsError):
    """No identity that OARS trusts stands behind the call."""

    reason = "UNAUTHENTICATED"


class PermissionDenied(OarsError):
    """The identity is known and may not do this."""

    reason = "PERMISSION_DENIED"


class NotFound(OarsError):
    """No such thing in any tenant that the caller belongs to."""

    reason = "NOT_FOUND"


class AlreadyExists(OarsError):
    """The thing to create is there, or the idempotency key was used for another request."""

    reason = "ALREADY_EXISTS"


class FailedPrecondition(OarsError):
    """The state of the thing named does not permit the call."""

    reason = "FAILED_PRECONDITION"


class Conflict(OarsError):
    """Another call changed the thing at the same moment; read it again and decide anew."""

    reason = "CONCURRENT_CHANGE"


class ResourceExhausted(OarsError):
    """Over a limit for now; try again after `retry_after_ms` milliseconds."""

    reason = "RESOURCE_EXHAUSTED"

    def __init__(self, message: str, *, retry_after_ms: int, reason: str | None = None) -> None:
        super().__init__(message, reason=reason)
        self.retry_after_ms = retry_after_ms


class DeadlineExceeded(OarsError):
    """The caller's deadline passed before the work was done."""

    reason = "DEADLINE_EXCEEDED"


class Unavailable(OarsError):
    """A thing that OARS needs is out of reach; the same call may succeed after a moment."""

    reason = "UNAVAILABLE"

    def __init__(self, message: str, *, retry_after_ms: int = 1000) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms


class Unimplemented(OarsError):
    """This server does not offer what was asked for."""

    reason = "UNIMPLEMENTED"


class ConfigurationError(OarsError):
    """A setting, key or file that the operator gave is wrong; the process refuses to start."""

    reason = "CONFIGURATION"
