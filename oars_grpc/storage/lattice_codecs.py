"""Rows of lattices and operations to core values and back; chunks to what is stored of them."""

from dataclasses import asdict
from typing import Any

import numpy as np
import orjson
import zstandard

from oars_grpc.core.lattice.parameters import LaplacianKind, LatticeParameters
from oars_grpc.core.stored_lattice import (
    LatticeOperation,
    LatticeState,
    OperationState,
    StoredChain,
    StoredLattice,
)
from oars_grpc.storage.codecs import Row, utc

# The fastest that still finds what embeddings have in common.
_LEVEL = 1
# The first byte of a stored chunk; other ways to store may follow.
_SHUFFLED = b"\x01"
_WORD = 4
MAXIMUM_CHUNK_BYTES = 16 * 1024 * 1024


def compressed(data: bytes) -> bytes:
    """What is stored of a chunk of 4-byte words.

    First bytes of all words come first, then all second ones: signs and exponents of embeddings
    are alike, which a compressor sees only where they stand together.
    """
    if len(data) % _WORD:
        raise ValueError("a chunk is made of words")
    planes = np.frombuffer(data, np.uint8).reshape(-1, _WORD).T.tobytes()
    return _SHUFFLED + zstandard.ZstdCompressor(level=_LEVEL).compress(planes)


def decompressed(stored: bytes) -> bytes:
    """The inverse of `compressed`.

    Raises:
        ValueError: nothing that it wrote.
    """
    if stored[:1] != _SHUFFLED:
        raise ValueError("a chunk is stored in a way that this version does not know")
    try:
        planes = zstandard.ZstdDecompressor().decompress(
            stored[1:], max_output_size=MAXIMUM_CHUNK_BYTES
        )
    except zstandard.ZstdError as error:
        raise ValueError("a stored chunk does not decompress") from error
    return np.frombuffer(planes, np.uint8).reshape(_WORD, -1).T.tobytes()


def lattice_row(lattice: StoredLattice) -> dict[str, Any]:
    """The columns of a lattice."""
    body = {
        "parameters": asdict(lattice.parameters),
        "gated": lattice.gated,
        "chain": None if lattice.chain is None else asdict(lattice.chain),
        "edges": lattice.edges,
        "digests": dict(lattice.digests),
        "error": lattice.error,
    }
    return {
        "tenant_id": lattice.tenant_id,
        "lattice_id": lattice.lattice_id,
        "display_name": lattice.display_name,
        "state": lattice.state.value,
        "generation": lattice.generation,
        "anchors": lattice.anchors,
        "dimension": lattice.dimension,
        "version": lattice.version,
        "created_at": lattice.created_at,
        "created_by": lattice.created_by,
        "updated_at": lattice.updated_at,
        "body": orjson.dumps(body),
    }


def lattice_of(row: Row) -> StoredLattice:
    """The lattice of a row."""
    body = orjson.loads(bytes(row["body"]))
    parameters = dict(body["parameters"])
    parameters["laplacian"] = LaplacianKind(parameters["laplacian"])
    chain = body["chain"]
    return StoredLattice(
        tenant_id=row["tenant_id"],
        lattice_id=row["lattice_id"],
        display_name=row["display_name"],
        state=LatticeState(row["state"]),
        generation=row["generation"],
        anchors=row["anchors"],
        dimension=row["dimension"],
        parameters=LatticeParameters(**parameters),
        version=row["version"],
        created_at=utc(row["created_at"]),
        created_by=row["created_by"],
        updated_at=utc(row["updated_at"]),
        gated=body["gated"],
        chain=chain and StoredChain(tuple(chain["nodes"]), tuple(chain["weights"])),
        edges=body["edges"],
        digests=body["digests"],
        error=body["error"],
    )


def operation_of(row: Row) -> LatticeOperation:
    """The operation of a row."""
    return LatticeOperation(
        tenant_id=row["tenant_id"],
        operation_id=row["operation_id"],
        lattice_id=row["lattice_id"],
        state=OperationState(row["state"]),
        created_at=utc(row["created_at"]),
        created_by=row["created_by"],
        updated_at=utc(row["updated_at"]),
        progress_ppm=row["progress_ppm"],
        attempts=row["attempts"],
        cancel_requested=bool(row["cancel_requested"]),
        holder=row["holder"],
        error_code=row["error_code"],
        error=row["error"],
    )
