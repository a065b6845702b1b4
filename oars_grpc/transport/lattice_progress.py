"""Stops a computation whose caller no longer waits for it."""

import grpc

from oars_grpc.core.lattice.progress import Proceed
from oars_grpc.errors import DeadlineExceeded


def proceeding(context: grpc.ServicerContext) -> Proceed:
    """What a call's computation asks between blocks; it raises once the call has ended.

    The deadline ends a call as cancellation does. The sidecar's own limit on a call is one.
    """

    def proceed(_share: float, /) -> None:
        if not context.is_active():
            raise DeadlineExceeded("the call ended before its computation did")

    return proceed
