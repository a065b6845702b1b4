"""Settled lattices for tests, and the dense float64 way to what they say."""

from dataclasses import dataclass

import numpy as np

from oars_grpc.core.lattice.arrays import (
    Chain,
    Float32Array,
    Float64Array,
    checked_anchors,
    checked_chain,
    checked_gates,
    checked_query,
)
from oars_grpc.core.lattice.chain_verdict import chain_verdict
from oars_grpc.core.lattice.components import node_components
from oars_grpc.core.lattice.conflicts import conflicts
from oars_grpc.core.lattice.graph import mutual_graph
from oars_grpc.core.lattice.laplacian import chain_laplacian, laplacian
from oars_grpc.core.lattice.neighbors import NeighborLists, nearest_neighbors
from oars_grpc.core.lattice.parameters import LatticeParameters
from oars_grpc.core.lattice.ranking import DEFAULT_RANKING, RankingParameters, rank
from oars_grpc.core.lattice.settled import LatticeInputs, SettledLattice, read, settle_lattice
from oars_grpc.core.lattice.statement import FullStatement, full_statement, statement_head
from tests.support.lattice import clustered

SOFTWARE = "oars-grpc/test"


@dataclass(frozen=True, slots=True)
class Built:
    """A lattice with what it was built by."""

    lattice: SettledLattice
    lists: NeighborLists
    query: Float32Array

    @property
    def inputs(self) -> LatticeInputs:
        return self.lattice.inputs


def inputs_of(
    anchors: object,
    parameters: LatticeParameters | None = None,
    gates: object = None,
    chain: Chain | None = None,
) -> tuple[LatticeInputs, NeighborLists]:
    """Checked inputs with their exact neighbours."""
    parameters = parameters or LatticeParameters()
    rows = checked_anchors(anchors)
    lists = nearest_neighbors(rows, parameters.neighbors)
    graph = mutual_graph(lists, parameters.row_cap)
    inputs = LatticeInputs(rows, graph, checked_gates(gates, len(rows)), chain, parameters)
    return inputs, lists


def built(
    anchors: object,
    query: object = None,
    parameters: LatticeParameters | None = None,
    gates: object = None,
    chain: Chain | None = None,
) -> Built:
    """A settled lattice; the query is its first anchor unless given."""
    inputs, lists = inputs_of(anchors, parameters, gates, chain)
    asked = inputs.anchors[0] if query is None else query
    return Built(settle_lattice(inputs), lists, checked_query(asked, inputs.dimension))


def sample(
    count: int = 60,
    dimension: int = 16,
    parameters: LatticeParameters | None = None,
    *,
    gated: bool = True,
    chained: bool = True,
    seed: int = 5,
) -> Built:
    """A clustered lattice with uneven gates and a chain that comes back to a node."""
    chance = np.random.default_rng(seed)
    anchors = clustered(count, dimension, 5, seed)
    query = anchors[3] + 0.2 * chance.standard_normal(dimension)
    return built(
        anchors,
        query.astype(np.float32),
        parameters,
        chance.random(count) if gated else None,
        checked_chain([1, 4, 9, 4, 2], count, [1.0, 2.0, 0.5, 1.5]) if chained else None,
    )


def dense_system(inputs: LatticeInputs, query: Float32Array) -> tuple[Float64Array, Float64Array]:
    """M and F, full, from their definition."""
    parameters, count = inputs.parameters, len(inputs)
    gates = inputs.gates.astype(np.float64)
    matrix = parameters.anchor_weight * np.eye(count)
    matrix += parameters.graph_weight * laplacian(inputs.graph, parameters.laplacian).toarray()
    matrix += parameters.query_weight * np.diag(gates)
    if inputs.chain is not None:
        matrix += parameters.chain_weight * chain_laplacian(inputs.chain, count).toarray()
    side = parameters.anchor_weight * inputs.anchors.astype(np.float64)
    side = side + parameters.query_weight * np.outer(gates, query.astype(np.float64))
    return matrix, side


def dense_terms(
    inputs: LatticeInputs, query: Float32Array, state: Float64Array
) -> tuple[float, float, float, float]:
    """The four terms of the energy of a state, from their definition."""
    parameters, gates = inputs.parameters, inputs.gates.astype(np.float64)
    anchors, asked = inputs.anchors.astype(np.float64), query.astype(np.float64)
    full = laplacian(inputs.graph, parameters.laplacian).toarray()
    chain = 0.0
    if inputs.chain is not None:
        path = chain_laplacian(inputs.chain, len(inputs)).toarray()
        chain = parameters.chain_weight * float(np.sum(state * (path @ state)))
    return (
        parameters.anchor_weight * float(np.sum((state - anchors) ** 2)),
        parameters.graph_weight * float(np.sum(state * (full @ state))),
        parameters.query_weight * float(np.sum(gates[:, None] * (state - asked) ** 2)),
        chain,
    )


def stated(built_: Built, ranking: RankingParameters = DEFAULT_RANKING) -> FullStatement:
    """The full statement of a lattice under its query."""
    lattice = built_.lattice
    reading = read(lattice, built_.query)
    return full_statement(
        statement_head(lattice, SOFTWARE),
        lattice,
        reading.query,
        node_components(reading),
        conflicts(lattice.inputs.anchors, built_.lists),
        None if lattice.inputs.chain is None else chain_verdict(reading),
        rank(reading, ranking),
    )
