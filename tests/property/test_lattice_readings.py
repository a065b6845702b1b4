"""What holds of every settled lattice, whatever the embeddings, gates, chain and parameters."""

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from oars_grpc.core.lattice.arrays import Chain, checked_chain, checked_query
from oars_grpc.core.lattice.components import node_components
from oars_grpc.core.lattice.energy import Query
from oars_grpc.core.lattice.parameters import LaplacianKind, LatticeParameters
from oars_grpc.core.lattice.ranking import (
    DEFAULT_RANKING,
    query_cosines_of,
    relevance_field,
    spreading,
)
from oars_grpc.core.lattice.settled import lattice_of, read, read_all
from oars_grpc.core.lattice.settling import StepParameters, settle_step, unsettled
from oars_grpc.core.lattice.statement_check import check_statement
from tests.support.settled_lattices import Built, built, dense_system, stated

SIZES = st.tuples(st.integers(1, 14), st.integers(1, 6))
# Whole numbers make copies, zeros and opposite rows likely.
NUMBERS = st.one_of(
    st.integers(-3, 3).map(float), st.floats(-10, 10, width=32, allow_subnormal=False)
)


@st.composite
def lattices(draw: st.DrawFn, kind: LaplacianKind | None = None) -> Built:
    """Any small lattice."""
    count, dimension = draw(SIZES)
    rows = draw(arrays.arrays(np.float32, (count, dimension), elements=NUMBERS))
    query = draw(arrays.arrays(np.float32, dimension, elements=NUMBERS))
    gates = draw(arrays.arrays(np.float32, count, elements=st.floats(0, 2, width=32)))
    parameters = LatticeParameters(
        neighbors=draw(st.integers(1, 6)),
        row_cap=draw(st.sampled_from([None, 0.5, 2.0])),
        laplacian=kind or draw(st.sampled_from(list(LaplacianKind))),
        anchor_weight=draw(st.sampled_from([0.1, 1.0, 3.0])),
        graph_weight=draw(st.sampled_from([0.0, 0.5, 5.0])),
        query_weight=draw(st.sampled_from([0.0, 4.0])),
        chain_weight=draw(st.sampled_from([0.0, 0.2, 2.0])),
        tolerance=1e-7,
    )
    return built(rows, query, parameters, gates, draw(chains(count)))


def chains(count: int) -> st.SearchStrategy[Chain | None]:
    """A chain over so many nodes, or none."""
    if count < 2:
        return st.none()
    walks = st.lists(st.integers(0, count - 1), min_size=2, max_size=6).filter(
        lambda nodes: all(one != other for one, other in pairwise(nodes))
    )
    return st.one_of(st.none(), walks.map(lambda nodes: checked_chain(nodes, count)))


def size_of(example: Built) -> float:
    return float(max(np.abs(example.inputs.anchors).max(), np.abs(example.query).max(), 1e-30))


@settings(max_examples=60, deadline=None)
@given(lattices())
def test_the_rank_one_state_is_the_direct_solution(example: Built) -> None:
    matrix, side = dense_system(example.inputs, example.query)
    state = example.lattice.states(Query.of(example.query))
    assert np.abs(state - np.linalg.solve(matrix, side)).max() <= 2e-5 * size_of(example)


@settings(max_examples=60, deadline=None)
@given(lattices(LaplacianKind.COMBINATORIAL))
def test_settled_rows_are_convex_combinations_of_anchors_and_query(example: Built) -> None:
    count = len(example.inputs)
    # The share of each anchor, and of the query, in each row: U* for unit vectors in their place.
    matrix, _ = dense_system(example.inputs, example.query)
    shares = np.linalg.inv(matrix) * example.inputs.parameters.anchor_weight
    assert shares.min() >= -1e-12
    assert np.allclose(shares.sum(axis=1) + example.lattice.state.response, 1.0, atol=1e-5)
    assert example.lattice.state.response.min() >= -1e-6
    # Hence no coordinate leaves the range of what is combined.
    state = example.lattice.states(Query.of(example.query))
    given_ = np.vstack([example.inputs.anchors, example.query[None]])
    slack = 1e-5 * size_of(example)
    assert (state >= given_.min(axis=0) - slack).all()
    assert (state <= given_.max(axis=0) + slack).all()
    assert state.shape == (count, example.inputs.dimension)


@settings(max_examples=40, deadline=None)
@given(lattices(), st.sampled_from([0.1, 1.0, 30.0]))
def test_energy_never_rises_by_settling(example: Built, dt: float) -> None:
    query, system = Query.of(example.query), example.lattice.system
    state = unsettled(example.inputs)
    energies = []
    for _ in range(4):
        read_ = lattice_of(example.inputs, system, state).energies(query)
        energies.append(read_.after.total)
        step = StepParameters(dt=dt, tolerance=1e-7, max_iterations=400)
        state = settle_step(example.inputs, system, state, step)
    slack = 1e-5 * max(energies[0], size_of(example) ** 2)
    assert all(after <= before + slack for before, after in pairwise(energies))
    settled = example.lattice.energies(query)
    assert settled.drop.total >= -slack
    assert energies[-1] >= settled.after.total - slack


@settings(max_examples=60, deadline=None)
@given(lattices())
def test_terms_add_up_over_nodes_and_as_whole_numbers(example: Built) -> None:
    energies = example.lattice.energies(Query.of(example.query))
    parts = node_components(read(example.lattice, example.query))
    slack = 1e-4 * len(example.inputs) * 50 * size_of(example) ** 2
    assert abs(parts.anchor.sum() - energies.after.anchor) <= slack
    assert abs(parts.query.sum() - energies.after.query) <= slack
    assert abs(parts.coherence_drop.sum() - energies.drop.graph) <= slack
    assert abs(parts.chain_drop.sum() - energies.drop.chain) <= slack
    energy = stated(example).statement["energy"]
    terms = ("anchor", "graph", "query", "chain")
    assert energy["drop"]["total"] == sum(energy["drop"][name] for name in terms)


@settings(max_examples=60, deadline=None)
@given(lattices())
def test_true_statements_are_confirmed(example: Built) -> None:
    full = stated(example)
    found = check_statement(
        full.statement,
        example.inputs,
        example.query,
        example.lattice.state,
        full.nodes,
        example.lists,
    )
    assert found == ()


@settings(max_examples=40, deadline=None)
@given(lattices(), st.integers(0, 2**32 - 1))
def test_batches_read_as_single_queries_do(example: Built, seed: int) -> None:
    dimension = example.inputs.dimension
    chance = np.random.default_rng(seed)
    queries = [checked_query(chance.standard_normal(dimension), dimension) for _ in range(3)]
    for reading, query in zip(read_all(example.lattice, queries), queries, strict=True):
        alone = read(example.lattice, query)
        assert np.array_equal(reading.field_products, alone.field_products)
        assert np.array_equal(reading.anchor_products, alone.anchor_products)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 40), st.integers(0, 2**32 - 1))
def test_readings_follow_a_permutation_of_the_items(count: int, seed: int) -> None:
    chance = np.random.default_rng(seed)
    # Without ties, which the lower index decides.
    rows = chance.standard_normal((count, 12)).astype(np.float32)
    gates = chance.random(count).astype(np.float32)
    order = chance.permutation(count)
    one = built(rows, rows.mean(axis=0), gates=gates)
    other = built(rows[order], rows.mean(axis=0), gates=gates[order])
    first, second = (node_components(read(b.lattice, b.query)) for b in (one, other))
    for name in ("coherence_drop", "anchor", "query"):
        assert np.allclose(getattr(second, name), getattr(first, name)[order], rtol=1e-4, atol=1e-5)
    fields = []
    for example in (one, other):
        cosines = query_cosines_of(read(example.lattice, example.query))
        ready = spreading(example.inputs.graph)
        fields.append(relevance_field(ready, cosines, DEFAULT_RANKING))
    assert np.allclose(fields[1], fields[0][order], rtol=1e-6, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(lattices(), st.floats(1e-4, 10.0), st.integers(0, 2**32 - 1))
def test_the_certificate_bounds_the_distance_and_grows_with_it(
    example: Built, error: float, seed: int
) -> None:
    """A state moved off the true one, ever further along one direction."""
    lattice, query = example.lattice, Query.of(example.query)
    matrix, side = dense_system(example.inputs, example.query)
    true = np.linalg.solve(matrix, side)
    direction = np.random.default_rng(seed).standard_normal(true.shape).astype(np.float32)
    direction *= np.float32(size_of(example))
    bounds = []
    for scale in (0.0, error, 2 * error, 4 * error):
        moved = lattice.state.field + np.float32(scale) * direction
        state = type(lattice.state)(moved, lattice.state.response, lattice.state.outcome)
        energies = lattice_of(example.inputs, lattice.system, state).energies(query)
        bound = (energies.residual + energies.residual_rounding) / (
            lattice.system.minimum_eigenvalue
        )
        values = moved.astype(np.float64) + np.outer(lattice.state.response, example.query)
        assert np.linalg.norm(values - true) <= bound * (1 + 1e-9) + 1e-12 * size_of(example)
        bounds.append(bound)
    assert bounds == sorted(bounds)
