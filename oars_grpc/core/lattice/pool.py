"""The pool lattice: the items most similar to a query, settled with gates that depend on it.

Gates enter V and w, so that gates of a query's own would mean a solve over all N. What is far
from the query hardly matters to it: the pool takes the most similar items with the stored edges
among them, and settles those alone.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from oars_grpc.core.lattice.arrays import (
    Chain,
    Float32Array,
    Float64Array,
    Int64Array,
    frozen,
)
from oars_grpc.core.lattice.gates import diffusion_gates
from oars_grpc.core.lattice.graph import Graph, graph_of_edges
from oars_grpc.core.lattice.progress import Proceed, between, keep_going
from oars_grpc.core.lattice.ranking import query_cosines_of
from oars_grpc.core.lattice.settled import (
    LatticeInputs,
    Reading,
    SettledLattice,
    settle_lattice,
)
from oars_grpc.errors import InvalidArgument

DEFAULT_POOL = 1000
DEFAULT_SCREENING = 0.1

# From the pool's graph and its items' cosines with the query to their gates.
PoolGates = Callable[[Graph, Float64Array], Float32Array]


@dataclass(frozen=True, slots=True)
class PoolLattice:
    """A lattice of some items of another; `nodes` are their places in that one, ascending."""

    nodes: Int64Array
    lattice: SettledLattice


def diffused(graph: Graph, cosines: Float64Array) -> Float32Array:
    """Gates by diffusion of the cosines above 0."""
    return diffusion_gates(graph, np.maximum(cosines, 0.0), DEFAULT_SCREENING).gates


def settle_pool(
    reading: Reading,
    size: int = DEFAULT_POOL,
    gates_of: PoolGates = diffused,
    proceed: Proceed = keep_going,
) -> PoolLattice:
    """Settle the items most similar to the reading's query, and all of the lattice's chain."""
    if size < 1:
        raise InvalidArgument.of("pool", f"must be at least 1, not {size}")
    inputs = reading.lattice.inputs
    cosines = query_cosines_of(reading)
    nodes = np.argsort(-cosines, kind="stable")[:size]
    if inputs.chain is not None:
        nodes = np.union1d(nodes, inputs.chain.nodes.astype(np.int64))
    nodes = np.sort(nodes)
    graph = _induced(inputs.graph, nodes)
    proceed(0.1)
    pool = LatticeInputs(
        anchors=frozen(inputs.anchors[nodes]),
        graph=graph,
        gates=gates_of(graph, cosines[nodes]),
        chain=_moved_chain(inputs.chain, nodes),
        parameters=inputs.parameters,
    )
    return PoolLattice(frozen(nodes), settle_lattice(pool, between(proceed, 0.2, 1.0)))


def _induced(graph: Graph, nodes: Int64Array) -> Graph:
    """The stored edges among some nodes."""
    places = np.full(len(graph), -1, dtype=np.int64)
    places[nodes] = np.arange(nodes.size)
    low, high = places[graph.edges[:, 0]], places[graph.edges[:, 1]]
    inside = (low >= 0) & (high >= 0)
    return graph_of_edges(nodes.size, low[inside], high[inside], graph.edge_weights[inside])


def _moved_chain(chain: Chain | None, nodes: Int64Array) -> Chain | None:
    if chain is None:
        return None
    places = np.searchsorted(nodes, chain.nodes).astype(np.int32)
    return Chain(nodes=frozen(places), weights=chain.weights)
