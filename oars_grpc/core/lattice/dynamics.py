"""What a step of settling moved: how much, where along the graph, and how far it reached."""

from dataclasses import dataclass

import numpy as np
from scipy.sparse.csgraph import dijkstra

from oars_grpc.core.lattice.arrays import Float64Array, Int64Array, frozen
from oars_grpc.core.lattice.energy import Query
from oars_grpc.core.lattice.laplacian import adjacency
from oars_grpc.core.lattice.settled import SettledLattice, read

TOP_FLOWS = 16
# A node takes part if it moves at least this share of what the one that moves most does.
ACTIVE_SHARE = 0.1
_BLOCK_VALUES = 1 << 18


@dataclass(frozen=True, slots=True)
class Dynamics:
    """One step from a state to another, under one query."""

    temperature: float  # mean squared movement of the nodes
    largest_move: float  # the largest squared movement of one
    energy_drop: float  # H(before) - H(after)
    viscosity: float | None  # solver iterations per unit of energy won; None where none was
    flow: float  # energy that edges lost, over all that lost any
    flow_edges: Int64Array  # the edges of the largest flows, i < j
    flows: Float64Array  # beside `flow_edges`, largest first
    radius: int  # hops from the nodes that moved to the farthest that they reach


def dynamics(before: SettledLattice, after: SettledLattice, query: Query) -> Dynamics:
    """What happened between two states of the same inputs."""
    moves = _squared_moves(before, after, query)
    drop = before.energies(query).after.total - after.energies(query).after.total
    lost = _edge_energies(before, query) - _edge_energies(after, query)
    flows = np.maximum(lost, 0.0)
    top = np.argsort(-flows, kind="stable")[:TOP_FLOWS]
    top = top[flows[top] > 0]
    iterations = after.state.outcome.iterations
    return Dynamics(
        temperature=float(np.add.reduce(moves)) / moves.size,
        largest_move=float(moves.max()),
        energy_drop=drop,
        viscosity=iterations / drop if drop > 0 else None,
        flow=float(np.add.reduce(flows)),
        flow_edges=frozen(before.inputs.graph.edges[top].astype(np.int64)),
        flows=frozen(flows[top]),
        radius=_radius(before, moves),
    )


def _squared_moves(before: SettledLattice, after: SettledLattice, query: Query) -> Float64Array:
    one, other = before.state, after.state
    count, dimension = one.field.shape
    moves = np.empty(count)
    step = max(1, _BLOCK_VALUES // dimension)
    for start in range(0, count, step):
        part = slice(start, start + step)
        moved = other.field[part].astype(np.float64)
        moved -= one.field[part]
        moved += (other.response[part] - one.response[part])[:, None] * query.wide
        moves[part] = np.einsum("nd,nd->n", moved, moved)
    return moves


def _edge_energies(lattice: SettledLattice, query: Query) -> Float64Array:
    reading = read(lattice, query.vector)
    gaps = lattice.edges.settled_gaps(reading.field_products, query.square)
    return lattice.edges.links.strengths * gaps


def _radius(lattice: SettledLattice, moves: Float64Array) -> int:
    largest = float(moves.max())
    if largest <= 0:
        return 0
    seeds = np.flatnonzero(moves >= ACTIVE_SHARE * ACTIVE_SHARE * largest)
    hops = dijkstra(adjacency(lattice.inputs.graph), indices=seeds, unweighted=True, min_only=True)
    return int(hops[np.isfinite(hops)].max())
