"""Lattices for tests: numbers, uploads in pieces, and a dense reference."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from oars_grpc.generated.oars.v1 import lattice_pb2

Floats = npt.NDArray[np.float32]
# Any: keyword arguments of messages take dicts, which the stubs do not know.
L: Any = lattice_pb2


def embeddings(rows: int, columns: int, seed: int = 0) -> Floats:
    """Rows around a few centres, as embeddings are."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(max(1, rows // 20), columns))
    made = centres[random.integers(len(centres), size=rows)]
    return (made + 0.4 * random.normal(size=(rows, columns))).astype("<f4")


def unpacked(data: bytes, columns: int) -> Floats:
    """The rows of packed bytes."""
    return np.frombuffer(data, "<f4").reshape(-1, columns)


def pieces(
    anchors: Floats, rows: int = 1000, gates: Floats | None = None, **header: Any
) -> Iterator[Any]:
    """The messages of an upload."""
    count, dimension = anchors.shape
    told = {"anchors": count, "dimension": dimension, "gated": gates is not None, **header}
    yield L.CreateLatticeRequest(header=told)
    for start in range(0, count, rows):
        data = anchors[start : start + rows].tobytes()
        yield L.CreateLatticeRequest(anchors={"first_row": start, "data": data})
    if gates is not None:
        yield L.CreateLatticeRequest(gates={"first_row": 0, "data": gates.tobytes()})


def dense_state(
    anchors: Floats, query: Floats, edges: npt.NDArray[Any], weights: npt.NDArray[Any]
) -> npt.NDArray[np.float64]:
    """The settled state under default parameters, by a dense solve in double precision."""
    count = len(anchors)
    laplacian = np.zeros((count, count))
    for (low, high), weight in zip(edges, weights, strict=True):
        laplacian[[low, high], [low, high]] += weight
        laplacian[[low, high], [high, low]] -= weight
    operator = np.eye(count) * (1.0 + 4.0) + 0.5 * laplacian
    wanted = anchors.astype(np.float64) + 4.0 * query.astype(np.float64)
    return np.asarray(np.linalg.solve(operator, wanted))
