"""LatticeService: parse, call one method, format."""

from collections.abc import Iterable, Iterator

import grpc

from oars_grpc.core import ids
from oars_grpc.core.ids import parse_id
from oars_grpc.generated.oars.v1 import lattice_pb2
from oars_grpc.transport.answers import encoded, sent
from oars_grpc.transport.current_call import current_call
from oars_grpc.transport.lattice_messages import (
    MAXIMUM_NAME,
    read_array,
    read_draft,
    write_lattice,
)
from oars_grpc.transport.lattice_progress import proceeding
from oars_grpc.transport.lattice_queries_servicer import LatticeQueriesServicer
from oars_grpc.transport.lattice_uploads import read_upload, write_begun
from oars_grpc.transport.reading import Reader
from oars_grpc.transport.receipt_messages import write_stored_receipt
from oars_grpc.use_cases.lattice_limits import MAXIMUM_CHANGES
from oars_grpc.use_cases.lattices import RecordedLattice

Context = grpc.ServicerContext


class LatticeServicer(LatticeQueriesServicer):
    """Serves `oars.v1.LatticeService`."""

    def CreateLattice(
        self, request_iterator: Iterator[lattice_pb2.CreateLatticeRequest], context: Context
    ) -> lattice_pb2.CreateLatticeResponse:
        """Take an upload."""
        header, chunks = read_upload(request_iterator)
        answer = self._use_cases.uploads.upload(
            current_call(), header, chunks, encoded(write_begun)
        )
        return sent(lattice_pb2.CreateLatticeResponse, answer)

    def CreateSmallLattice(
        self, request: lattice_pb2.CreateSmallLatticeRequest, context: Context
    ) -> lattice_pb2.CreateSmallLatticeResponse:
        """Create one from one request."""
        reader = Reader()
        tenant_id = reader.tenant_id(request.tenant_id)
        name = reader.text(request.display_name, "display_name", MAXIMUM_NAME)
        draft = read_draft(reader, request)
        answer = self._use_cases.lattices.create(
            current_call(), tenant_id, name, draft, encoded(_write_created), proceeding(context)
        )
        return sent(lattice_pb2.CreateSmallLatticeResponse, answer)

    def GetLattice(
        self, request: lattice_pb2.GetLatticeRequest, context: Context
    ) -> lattice_pb2.GetLatticeResponse:
        """Read one."""
        tenant_id = Reader.checked_tenant_id(request.tenant_id)
        lattice_id = parse_id(ids.LATTICE, request.lattice_id, "lattice_id")
        stored = self._use_cases.lattices.get(current_call(), tenant_id, lattice_id)
        return lattice_pb2.GetLatticeResponse(lattice=write_lattice(stored))

    def ListLattices(
        self, request: lattice_pb2.ListLatticesRequest, context: Context
    ) -> lattice_pb2.ListLatticesResponse:
        """Read a page."""
        tenant_id = Reader.checked_tenant_id(request.tenant_id)
        page = self._use_cases.lattices.list(
            current_call(),
            tenant_id,
            request.page_size,
            request.page_token,
            lambda stored: write_lattice(stored).ByteSize(),
        )
        return lattice_pb2.ListLatticesResponse(
            lattices=[write_lattice(stored) for stored in page.lattices],
            next_page_token=page.next_page_token,
        )

    def DeleteLattice(
        self, request: lattice_pb2.DeleteLatticeRequest, context: Context
    ) -> lattice_pb2.DeleteLatticeResponse:
        """Delete one."""
        tenant_id = Reader.checked_tenant_id(request.tenant_id)
        lattice_id = parse_id(ids.LATTICE, request.lattice_id, "lattice_id")
        answer = self._use_cases.lattices.delete(
            current_call(),
            tenant_id,
            lattice_id,
            request.expected_version,
            encoded(
                lambda receipt: lattice_pb2.DeleteLatticeResponse(
                    receipt=write_stored_receipt(receipt)
                )
            ),
        )
        return sent(lattice_pb2.DeleteLatticeResponse, answer)

    def UpsertAnchors(
        self, request: lattice_pb2.UpsertAnchorsRequest, context: Context
    ) -> lattice_pb2.UpsertAnchorsResponse:
        """Replace anchors and add new ones."""
        reader = Reader()
        tenant_id = reader.tenant_id(request.tenant_id)
        indices = _indices(reader, request.indices)
        rows = (
            read_array(reader, request.anchors, "anchors", required=True),
            read_array(reader, request.gates, "gates"),
        )
        reader.done()
        lattice_id = parse_id(ids.LATTICE, request.lattice_id, "lattice_id")
        answer = self._use_cases.changes.upsert(
            current_call(),
            tenant_id,
            lattice_id,
            request.expected_version,
            indices,
            rows,
            encoded(_write_upserted),
            proceeding(context),
        )
        return sent(lattice_pb2.UpsertAnchorsResponse, answer)

    def RemoveAnchors(
        self, request: lattice_pb2.RemoveAnchorsRequest, context: Context
    ) -> lattice_pb2.RemoveAnchorsResponse:
        """Remove anchors."""
        reader = Reader()
        tenant_id = reader.tenant_id(request.tenant_id)
        indices = _indices(reader, request.indices)
        reader.done()
        lattice_id = parse_id(ids.LATTICE, request.lattice_id, "lattice_id")
        answer = self._use_cases.changes.remove(
            current_call(),
            tenant_id,
            lattice_id,
            request.expected_version,
            indices,
            encoded(_write_removed),
            proceeding(context),
        )
        return sent(lattice_pb2.RemoveAnchorsResponse, answer)

    def CompareLattices(
        self, request: lattice_pb2.CompareLatticesRequest, context: Context
    ) -> lattice_pb2.CompareLatticesResponse:
        """Compare two."""
        tenant_id = Reader.checked_tenant_id(request.tenant_id)
        one = parse_id(ids.LATTICE, request.lattice_id, "lattice_id")
        other = parse_id(ids.LATTICE, request.other_lattice_id, "other_lattice_id")
        differences = self._use_cases.lattices.compare(current_call(), tenant_id, one, other)
        return lattice_pb2.CompareLatticesResponse(
            equal=not differences,
            differences=[
                lattice_pb2.LatticeDifference(input=each.input, one=each.one, other=each.other)
                for each in differences
            ],
        )


def _indices(reader: Reader, indices: Iterable[int]) -> list[int]:
    found = list(indices)
    if not found:
        reader.wrong("indices", "is required")
    elif len(found) > MAXIMUM_CHANGES:
        reader.wrong("indices", f"are {len(found)}; at most {MAXIMUM_CHANGES} are accepted")
    elif min(found) < 0 or len(set(found)) != len(found):
        reader.wrong("indices", "must be different, each at least 0")
    return found


def _write_created(made: RecordedLattice) -> lattice_pb2.CreateSmallLatticeResponse:
    return lattice_pb2.CreateSmallLatticeResponse(
        lattice=write_lattice(made.lattice), receipt=write_stored_receipt(made.receipt)
    )


def _write_upserted(made: RecordedLattice) -> lattice_pb2.UpsertAnchorsResponse:
    return lattice_pb2.UpsertAnchorsResponse(
        lattice=write_lattice(made.lattice), receipt=write_stored_receipt(made.receipt)
    )


def _write_removed(made: RecordedLattice) -> lattice_pb2.RemoveAnchorsResponse:
    return lattice_pb2.RemoveAnchorsResponse(
        lattice=write_lattice(made.lattice), receipt=write_stored_receipt(made.receipt)
    )
