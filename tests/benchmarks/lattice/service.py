"""The same contention at a running server: rpcs over mutual TLS, receipts in Postgres."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from google.longrunning import operations_pb2, operations_pb2_grpc
from numpy.typing import NDArray

from oars_grpc.generated.oars.v1 import lattice_pb2
from oars_grpc.generated.oars.v1.lattice_pb2_grpc import LatticeServiceStub
from tests.benchmarks.contestants import bench
from tests.benchmarks.lattice.contention import (
    BUILT,
    DIMENSION,
    QUERIED,
    Refused,
    contention,
)
from tests.benchmarks.lattice.synthetic import clustered, queries

# A thread for every caller and for whoever waits for the build.
_SERVER = {"worker_threads": "80", "database_pool_size": "64"}
_CHUNK_ROWS = 1_000
_CALL_SECONDS = 300.0
_BUSY = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)

Floats = NDArray[np.float32]
L: Any = lattice_pb2  # keyword arguments of messages take dicts, which the stubs do not know


@dataclass(frozen=True, slots=True)
class LatticeClient:
    """Uploads and asks lattices over one channel."""

    channel: grpc.Channel

    def create(self, anchors: Floats) -> str:
        """Upload a lattice and wait until it is built; its id."""
        answer = LatticeServiceStub(self.channel).CreateLattice(
            _pieces(anchors), timeout=_CALL_SECONDS
        )
        operations: Any = operations_pb2_grpc.OperationsStub(self.channel)
        operation = answer.operation
        while not operation.done:
            request = operations_pb2.WaitOperationRequest(name=operation.name)
            operation = operations.WaitOperation(request, timeout=_CALL_SECONDS)
        if operation.HasField("error"):
            raise RuntimeError(operation.error.message)
        return str(answer.lattice.lattice_id)

    def ask(self, lattice_id: str, query: Floats) -> None:
        """One warm query with a full receipt.

        Raises:
            Refused: the server has too much to do.
        """
        request = L.QueryLatticeRequest(
            lattice_id=lattice_id,
            queries=query.tobytes(),
            detail=L.LATTICE_DETAIL_FULL,
        )
        try:
            LatticeServiceStub(self.channel).QueryLattice(request, timeout=_CALL_SECONDS)
        except grpc.RpcError as error:
            failed: Any = error  # the stubs do not know that it is a call too
            if failed.code() in _BUSY:
                raise Refused from error
            raise


def _pieces(anchors: Floats) -> Iterator[Any]:
    rows, columns = anchors.shape
    yield L.CreateLatticeRequest(header={"anchors": rows, "dimension": columns})
    for start in range(0, rows, _CHUNK_ROWS):
        data = anchors[start : start + _CHUNK_ROWS].tobytes()
        yield L.CreateLatticeRequest(anchors={"first_row": start, "data": data})


def service_contention(
    idle_seconds: float, built: int = BUILT, directory: Path | None = None
) -> dict[str, Any]:
    """Start everything, load it, throw it away."""
    with (
        bench(directory) as running,
        running.oars(_SERVER) as server,
        server.channel("operator") as channel,
    ):
        client = LatticeClient(channel)
        lattice_id = client.create(clustered(QUERIED, DIMENSION))
        large = clustered(built, DIMENSION)
        report = contention(
            lambda query: client.ask(lattice_id, query),
            lambda: client.create(large),
            list(queries(256, DIMENSION)),
            idle_seconds,
        )
    return {"level": "service", "queried": QUERIED, "built": built, **report}
