"""Digests of everything that a lattice result stands on.

Each digest is SHA-256 over one fixed layout; whole numbers are unsigned 64-bit, little-endian,
reals are IEEE 754 binary64 (f64) or binary32 (f32), little-endian:

    "urn:oars:lattice:v1:" name 0x00 | counts | data

    name        counts          data
    anchors     N  D            N x D f32, row after row
    edges       N  E            E x (i int32, j int32), i < j, ascending; then E weights f64
    gates       N               N f32
    chain       C               C nodes int32 in the chain's order; then C - 1 weights f64
                0               (no chain)
    query       D               D f32
    parameters  -               neighbors u64 | capped u8, row_cap f64 (0 when not capped)
                                | laplacian u8 (1 combinatorial, 2 normalized)
                                | anchor_weight graph_weight query_weight chain_weight f64
                                | tolerance f64 | max_iterations u64
    state       N  D            N x D f32: V, row after row; then N f64: w
    nodes       N               4 x N int32: coherence drop, anchor, query, chain drop
    lattice     -               the digests of anchors, edges, gates, chain, parameters,
                                32 bytes each; then the software's name in UTF-8

The counts tell every length, so no two inputs have one encoding, and the name keeps a digest of
one thing from standing for another. Zeros are positive and nothing is NaN, by `arrays.py`.
"""

import hashlib
import struct
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from oars_grpc.core.lattice.arrays import (
    Chain,
    Float32Array,
    Float64Array,
    Int32Array,
)
from oars_grpc.core.lattice.graph import Graph
from oars_grpc.core.lattice.parameters import LaplacianKind, LatticeParameters
from oars_grpc.core.lattice.settled import LatticeInputs, SettledState
from oars_grpc.core.lattice.threads import side_by_side

_DOMAIN = b"urn:oars:lattice:v1:"
_QUERY = hashlib.sha256(_DOMAIN + b"query\0")
_SINGLE = np.dtype("<f4")
_LAPLACIANS = {LaplacianKind.COMBINATORIAL: 1, LaplacianKind.NORMALIZED: 2}


@dataclass(frozen=True, slots=True)
class Provenance:
    """The digests, in lower-case hex, of what a lattice was settled from, and by what."""

    anchors: str
    edges: str
    gates: str
    chain: str
    parameters: str
    software: str  # a name and version, not a digest

    @property
    def lattice(self) -> str:
        """One digest over all of them: the lattice's address by content."""
        digests = (self.anchors, self.edges, self.gates, self.chain, self.parameters)
        return _digest("lattice", b"".join(map(bytes.fromhex, digests)) + self.software.encode())


def provenance_of(inputs: LatticeInputs, software: str) -> Provenance:
    """The digests of a lattice's inputs."""
    return Provenance(
        anchors=anchors_digest(inputs.anchors),
        edges=edges_digest(inputs.graph),
        gates=gates_digest(inputs.gates),
        chain=chain_digest(inputs.chain),
        parameters=parameters_digest(inputs.parameters),
        software=software,
    )


def digests_of(
    inputs: LatticeInputs, state: SettledState, software: str, known: Provenance | None = None
) -> tuple[Provenance, str]:
    """The digests of a lattice's inputs, unless they are known, and that of its state."""
    if known is not None:
        return known, state_digest(state)
    found: list[Any] = side_by_side(
        [lambda _: provenance_of(inputs, software), lambda _: state_digest(state)],
        state.field.size,
    )
    return found[0], found[1]


def differing(one: Provenance, other: Provenance) -> tuple[str, ...]:
    """The names of the inputs in which two lattices differ."""
    return tuple(
        member.name
        for member in fields(Provenance)
        if getattr(one, member.name) != getattr(other, member.name)
    )


def anchors_digest(anchors: Float32Array) -> str:
    """The digest of canonical anchors."""
    return _digest("anchors", _counts(*anchors.shape), _bytes(anchors, "<f4"))


def edges_digest(graph: Graph) -> str:
    """The digest of a graph: its edges and all their weights."""
    counts = _counts(len(graph), len(graph.edges))
    return _digest("edges", counts, _bytes(graph.edges, "<i4"), _bytes(graph.edge_weights, "<f8"))


def gates_digest(gates: Float32Array) -> str:
    """The digest of canonical gates."""
    return _digest("gates", _counts(gates.size), _bytes(gates, "<f4"))


def chain_digest(chain: Chain | None) -> str:
    """The digest of a chain: its order and the weights of its links."""
    if chain is None:
        return _digest("chain", _counts(0))
    counts = _counts(chain.nodes.size)
    return _digest("chain", counts, _bytes(chain.nodes, "<i4"), _bytes(chain.weights, "<f8"))


def query_digest(query: Float32Array) -> str:
    """The digest of a canonical query."""
    # What `_digest` gives, in half the time: every light statement waits for it.
    state = _QUERY.copy()
    state.update(query.size.to_bytes(8, "little"))
    state.update(np.ascontiguousarray(query, dtype=_SINGLE).data)
    return state.hexdigest()


def parameters_digest(parameters: LatticeParameters) -> str:
    """The digest of all parameters, as their bits."""
    cap = parameters.row_cap
    layout = struct.pack(
        "<Q?dB5dQ",
        parameters.neighbors,
        cap is not None,
        0.0 if cap is None else cap,
        _LAPLACIANS[parameters.laplacian],
        # Adding zero turns -0 into +0.
        parameters.anchor_weight + 0.0,
        parameters.graph_weight + 0.0,
        parameters.query_weight + 0.0,
        parameters.chain_weight + 0.0,
        parameters.tolerance,
        parameters.max_iterations,
    )
    return _digest("parameters", layout)


def state_digest(state: SettledState) -> str:
    """The digest of a settled state: V and w."""
    counts = _counts(*state.field.shape)
    return _digest("state", counts, _bytes(state.field, "<f4"), _bytes(state.response, "<f8"))


def nodes_digest(components: Int32Array) -> str:
    """The digest of the components of nodes as whole numbers."""
    return _digest("nodes", _counts(components.shape[1]), _bytes(components, "<i4"))


def _digest(name: str, *parts: bytes | memoryview) -> str:
    state = hashlib.sha256(_DOMAIN + name.encode() + b"\0")
    for part in parts:
        state.update(part)
    return state.hexdigest()


def _counts(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}Q", *values)


def _bytes(array: npt.NDArray[np.generic] | Float64Array, layout: str) -> memoryview:
    if not array.size:
        return memoryview(b"")  # which has no shape to cast
    # An array of the layout already is taken as it lies, without a copy.
    return np.ascontiguousarray(array, dtype=np.dtype(layout)).data.cast("B")
