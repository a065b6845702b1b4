"""Operations: messages ↔ core values. Named `operations/{tenant_id}/{operation_id}`."""

import re

from google.longrunning import operations_pb2

from oars_grpc.core import ids
from oars_grpc.core.ids import parse_id
from oars_grpc.core.stored_lattice import LatticeOperation
from oars_grpc.errors import InvalidArgument
from oars_grpc.generated.oars.v1 import lattice_pb2
from oars_grpc.transport.lattice_messages import write_lattice
from oars_grpc.transport.reading import Reader
from oars_grpc.transport.writing import write_time
from oars_grpc.use_cases.lattice_operations import OperationNow

COLLECTION = "operations"
_FILTER = re.compile(r'tenant_id *= *"?([^"]*)"?')


def name_of(operation: LatticeOperation) -> str:
    """The name of an operation."""
    return f"{COLLECTION}/{operation.tenant_id}/{operation.operation_id}"


def read_name(name: str) -> tuple[str, str]:
    """Tenant and operation of a name.

    Raises:
        InvalidArgument: it is none.
    """
    collection, _, rest = name.partition("/")
    tenant_id, slash, operation_id = rest.partition("/")
    if collection != COLLECTION or not slash or not tenant_id:
        raise InvalidArgument.of("name", f"must be {COLLECTION}/{{tenant_id}}/{{operation_id}}")
    reader = Reader()
    reader.tenant_id(tenant_id, "name", required=True)
    reader.done()
    return tenant_id, parse_id(ids.OPERATION, operation_id, "name")


def read_filter(text: str) -> str:
    """The tenant of a list's filter; empty where there is none.

    Raises:
        InvalidArgument: another filter than `tenant_id = "…"`.
    """
    if not text:
        return ""
    match = _FILTER.fullmatch(text)
    if match is None:
        raise InvalidArgument.of("filter", 'must be empty, or tenant_id = "…"')
    reader = Reader()
    reader.tenant_id(match[1], "filter", required=True)
    reader.done()
    return match[1]


def write_operation(now: OperationNow) -> operations_pb2.Operation:
    """The message of an operation."""
    message = operations_pb2.Operation()
    fill_operation(message, now)
    return message


def fill_operation(message: operations_pb2.Operation, now: OperationNow) -> None:
    """The same, in place."""
    operation = now.operation
    message.name, message.done = name_of(operation), operation.done
    metadata = lattice_pb2.LatticeOperationMetadata(
        tenant_id=operation.tenant_id,
        lattice_id=operation.lattice_id,
        progress=operation.progress_ppm / 1e6,
        created_by=operation.created_by,
        attempts=operation.attempts,
        cancel_requested=operation.cancel_requested,
    )
    write_time(metadata.created_at, operation.created_at)
    write_time(metadata.updated_at, operation.updated_at)
    message.metadata.Pack(metadata)
    if operation.error_code:
        message.error.code, message.error.message = operation.error_code, operation.error
    elif operation.done:
        response = lattice_pb2.Lattice()
        if now.lattice is not None:  # else it was deleted since
            response = write_lattice(now.lattice)
        message.response.Pack(response)
