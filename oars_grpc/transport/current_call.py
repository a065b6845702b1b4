"""The call that the current thread is serving; the pipeline sets it, servicers read it."""

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from oars_grpc.core.call import Call
from oars_grpc.transport.identity import Identified

# Who calls, as of now; raises where the caller may no longer call.
Authorise = Callable[[], Identified]


@dataclass(slots=True)
class ServedCall:
    """A call, the headers that its reply will carry, and how to ask again who calls."""

    call: Call
    authorise: Authorise
    identity_ends_at: datetime | None = None
    reply_headers: list[tuple[str, str]] = field(default_factory=list)


_current: ContextVar[ServedCall] = ContextVar("oars_call")


def set_current_call(
    call: Call, authorise: Authorise, identity_ends_at: datetime | None = None
) -> ServedCall:
    """Make `call` the one that this thread serves."""
    served = ServedCall(call, authorise, identity_ends_at)
    _current.set(served)
    return served


def current_call() -> Call:
    """The call being served.

    Raises:
        LookupError: outside of an rpc: a servicer was called past the pipeline.
    """
    return _current.get().call


def reauthorised_call() -> Call:
    """The call being served, with its caller as the identity stands now.

    A stream may outlive its identity, certificate, role or scopes; it asks before each event.

    Raises:
        Unauthenticated: the caller is no longer trusted.
        PermissionDenied: the caller may no longer call this rpc.
    """
    served = _current.get()
    served.call = replace(served.call, principal=served.authorise().principal)
    return served.call


def identity_seconds_left() -> float | None:
    """For how long the caller is known still; None where no token sets a time.

    A stream ends before that by its final event, rather than by a refusal.
    """
    ends_at = _current.get().identity_ends_at
    return None if ends_at is None else (ends_at - datetime.now(UTC)).total_seconds()


def add_reply_header(name: str, value: str) -> None:
    """Send a header along with the reply of the call being served."""
    _current.get().reply_headers.append((name, value))
