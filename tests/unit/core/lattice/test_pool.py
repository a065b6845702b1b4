import numpy as np
import pytest

from oars_grpc.core.lattice.arrays import Float32Array, Float64Array
from oars_grpc.core.lattice.energy import Query
from oars_grpc.core.lattice.graph import Graph
from oars_grpc.core.lattice.pool import settle_pool
from oars_grpc.core.lattice.ranking import query_cosines_of
from oars_grpc.core.lattice.settled import read
from oars_grpc.errors import InvalidArgument
from tests.support.settled_lattices import dense_system, sample


def test_the_pool_is_the_most_similar_items_the_chain_and_the_edges_among_them() -> None:
    example = sample(80)
    reading = read(example.lattice, example.query)
    pool = settle_pool(reading, 20)
    best = np.argsort(-query_cosines_of(reading), kind="stable")[:20]
    assert set(pool.nodes.tolist()) == set(best.tolist()) | {1, 2, 4, 9}
    stored = {
        (int(i), int(j)): float(weight)
        for (i, j), weight in zip(
            example.inputs.graph.edges, example.inputs.graph.edge_weights, strict=True
        )
        if i in pool.nodes and j in pool.nodes
    }
    graph = pool.lattice.inputs.graph
    moved = {
        (int(pool.nodes[i]), int(pool.nodes[j])): float(weight)
        for (i, j), weight in zip(graph.edges, graph.edge_weights, strict=True)
    }
    assert moved == stored
    chain = pool.lattice.inputs.chain
    assert chain is not None
    assert pool.nodes[chain.nodes].tolist() == [1, 4, 9, 4, 2]


def test_the_pool_is_settled_with_the_querys_own_gates() -> None:
    example = sample(80)

    def sharp(graph: Graph, cosines: Float64Array) -> Float32Array:
        assert len(graph) == cosines.size
        return np.maximum(cosines, 0.0).astype(np.float32) ** 2

    pool = settle_pool(read(example.lattice, example.query), 30, sharp)
    matrix, side = dense_system(pool.lattice.inputs, example.query)
    found = pool.lattice.states(Query.of(example.query))
    assert np.abs(found - np.linalg.solve(matrix, side)).max() < 5e-6
    diffused = settle_pool(read(example.lattice, example.query), 30)
    gates = diffused.lattice.inputs.gates
    assert 0.0 <= gates.min() < gates.max() <= 1.0


def test_a_pool_larger_than_the_lattice_is_the_lattice() -> None:
    example = sample(40)
    pool = settle_pool(read(example.lattice, example.query), 1000)
    assert pool.nodes.tolist() == list(range(40))


def test_a_pool_of_nothing_is_refused() -> None:
    example = sample(40)
    with pytest.raises(InvalidArgument, match="pool"):
        settle_pool(read(example.lattice, example.query), 0)
