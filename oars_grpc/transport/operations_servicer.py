"""google.longrunning.Operations: parse, call one method, format."""

import threading
import time

import grpc
from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf import empty_pb2

from oars_grpc.errors import DeadlineExceeded, InvalidArgument
from oars_grpc.transport.current_call import current_call
from oars_grpc.transport.operation_messages import (
    COLLECTION,
    read_filter,
    read_name,
    write_operation,
)
from oars_grpc.use_cases.lattice_use_cases import LatticeUseCases

Context = grpc.ServicerContext
_LOOK_SECONDS = 0.25
# A waiting call takes a thread: it ends early, as the protocol lets it, and is made again.
MAXIMUM_WAIT_SECONDS = 10.0
MAXIMUM_WAITS = 4


class OperationsServicer(operations_pb2_grpc.OperationsServicer):  # type: ignore[misc] # untyped
    """Serves `google.longrunning.Operations`."""

    def __init__(self, use_cases: LatticeUseCases) -> None:
        self._use_cases = use_cases
        self._waits = threading.BoundedSemaphore(MAXIMUM_WAITS)

    def ListOperations(
        self, request: operations_pb2.ListOperationsRequest, context: Context
    ) -> operations_pb2.ListOperationsResponse:
        """Read a page."""
        if request.name not in ("", COLLECTION):
            raise InvalidArgument.of("name", f"must be {COLLECTION}")
        tenant_id = read_filter(request.filter)
        page = self._use_cases.operations.list(
            current_call(),
            tenant_id,
            request.page_size,
            request.page_token,
            lambda now: write_operation(now).ByteSize(),
        )
        return operations_pb2.ListOperationsResponse(
            operations=[write_operation(now) for now in page.operations],
            next_page_token=page.next_page_token,
        )

    def GetOperation(
        self, request: operations_pb2.GetOperationRequest, context: Context
    ) -> operations_pb2.Operation:
        """Read one."""
        tenant_id, operation_id = read_name(request.name)
        return write_operation(
            self._use_cases.operations.get(current_call(), tenant_id, operation_id)
        )

    def WaitOperation(
        self, request: operations_pb2.WaitOperationRequest, context: Context
    ) -> operations_pb2.Operation:
        """Answer once it has ended, or with where it stands after a while.

        At once where too many wait already: they must not take the threads of all other calls.
        """
        tenant_id, operation_id = read_name(request.name)
        if not self._waits.acquire(blocking=False):
            return write_operation(
                self._use_cases.operations.get(current_call(), tenant_id, operation_id)
            )
        try:
            return self._awaited(request, context, tenant_id, operation_id)
        finally:
            self._waits.release()

    def _awaited(
        self,
        request: operations_pb2.WaitOperationRequest,
        context: Context,
        tenant_id: str,
        operation_id: str,
    ) -> operations_pb2.Operation:
        seconds = MAXIMUM_WAIT_SECONDS
        if request.HasField("timeout"):
            seconds = min(seconds, max(0.0, request.timeout.seconds + request.timeout.nanos / 1e9))
        remaining: float | None = context.time_remaining()
        if remaining is not None:
            seconds = min(seconds, remaining - 2 * _LOOK_SECONDS)
        ends = time.monotonic() + seconds
        while True:
            now = self._use_cases.operations.get(current_call(), tenant_id, operation_id)
            if now.operation.done or time.monotonic() >= ends:
                return write_operation(now)
            if not context.is_active():
                raise DeadlineExceeded("the call ended before the operation did")
            time.sleep(_LOOK_SECONDS)

    def CancelOperation(
        self, request: operations_pb2.CancelOperationRequest, context: Context
    ) -> empty_pb2.Empty:
        """Ask for its end."""
        tenant_id, operation_id = read_name(request.name)
        self._use_cases.operations.cancel(current_call(), tenant_id, operation_id)
        return empty_pb2.Empty()

    def DeleteOperation(
        self, request: operations_pb2.DeleteOperationRequest, context: Context
    ) -> empty_pb2.Empty:
        """Forget one that has ended."""
        tenant_id, operation_id = read_name(request.name)
        self._use_cases.operations.delete(current_call(), tenant_id, operation_id)
        return empty_pb2.Empty()
