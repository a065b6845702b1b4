"""The call that the current thread is serving; the pipeline sets it, servicers read it."""

from contextvars import ContextVar
from dataclasses import dataclass, field

from oars_grpc.core.call import Call


@dataclass(slots=True)
class ServedCall:
    """A call and the headers that its reply will carry."""

    call: Call
    reply_headers: list[tuple[str, str]] = field(default_factory=list)


_current: ContextVar[ServedCall] = ContextVar("oars_call")


def set_current_call(call: Call) -> ServedCall:
    """Make `call` the one that this thread serves."""
    served = ServedCall(call)
    _current.set(served)
    return served


def current_call() -> Call:
    """The call being served.

    Raises:
        LookupError: outside of an rpc: a servicer was called past the pipeline.
    """
    return _current.get().call


def add_reply_header(name: str, value: str) -> None:
    """Send a header along with the reply of the call being served."""
    _current.get().reply_headers.append((name, value))
