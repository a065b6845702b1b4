"""The messages of an upload, one after the other; none is kept."""

from collections.abc import Iterator

from oars_grpc.core.stored_lattice import LatticePart
from oars_grpc.errors import InvalidArgument
from oars_grpc.generated.oars.v1 import lattice_pb2
from oars_grpc.transport.lattice_messages import (
    MAXIMUM_NAME,
    read_chain,
    read_parameters,
    write_lattice,
)
from oars_grpc.transport.operation_messages import fill_operation
from oars_grpc.transport.reading import Reader
from oars_grpc.use_cases.lattice_operations import OperationNow
from oars_grpc.use_cases.lattice_uploads import BegunLattice, UploadChunk, UploadHeader

MAXIMUM_CHUNK_BYTES = 983_040
_KINDS = {"anchors": LatticePart.ANCHORS, "gates": LatticePart.GATES}

Requests = Iterator[lattice_pb2.CreateLatticeRequest]


def read_upload(requests: Requests) -> tuple[UploadHeader, Iterator[UploadChunk]]:
    """The header, and the chunks as they come.

    Raises:
        InvalidArgument: the first message is no header.
    """
    first = next(requests, None)
    if first is None or first.WhichOneof("part") != "header":
        raise InvalidArgument.of("header", "is required, as the first message")
    return _read_header(first.header), _read_chunks(requests)


def _read_header(message: lattice_pb2.LatticeHeader) -> UploadHeader:
    reader = Reader()
    tenant_id = reader.tenant_id(message.tenant_id, "header.tenant_id")
    name = reader.text(message.display_name, "header.display_name", MAXIMUM_NAME)
    parameters = read_parameters(reader, message.parameters, "header.parameters")
    chain = read_chain(reader, message, "header.chain")
    reader.done()
    return UploadHeader(
        tenant_id=tenant_id,
        display_name=name,
        anchors=message.anchors,
        dimension=message.dimension,
        parameters=parameters,
        gated=message.gated,
        chain=chain,
        raw=message.SerializeToString(deterministic=True),
    )


def _read_chunks(requests: Requests) -> Iterator[UploadChunk]:
    for request in requests:
        part = request.WhichOneof("part")
        if part is None:
            raise InvalidArgument.of("part", "is required")
        if part == "header":
            raise InvalidArgument.of("header", "is the first message, and no other")
        chunk: lattice_pb2.LatticeChunk = getattr(request, part)
        if len(chunk.data) > MAXIMUM_CHUNK_BYTES:
            raise InvalidArgument.of(
                f"{part}.data",
                f"is {len(chunk.data)} bytes long; at most {MAXIMUM_CHUNK_BYTES} are accepted",
            )
        yield UploadChunk(_KINDS[part], chunk.first_row, chunk.data)


def write_begun(begun: BegunLattice) -> lattice_pb2.CreateLatticeResponse:
    """The answer to an upload."""
    message = lattice_pb2.CreateLatticeResponse(lattice=write_lattice(begun.lattice))
    fill_operation(message.operation, OperationNow(begun.operation, None))
    return message
