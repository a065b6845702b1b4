"""The order in which large lattices are computed, and their parts, change nothing but the time."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oars_grpc.core.lattice import jacobi, links, row_forms, solver
from oars_grpc.core.lattice.arrays import Chain, Float64Array, Int64Array, checked_chain
from oars_grpc.core.lattice.forms import LatticeForms, lattice_forms
from oars_grpc.core.lattice.graph import Graph, graph_of_edges
from oars_grpc.core.lattice.locality import LEAST_ORDERED, arranged, near_order, places_of
from oars_grpc.core.lattice.parameters import LaplacianKind, LatticeParameters
from oars_grpc.core.lattice.solver import SolveMethod, solve
from oars_grpc.core.lattice.system import System, anchor_side, build_system, gate_side
from tests.support.lattice import gaussian

CHEBYSHEV = LatticeParameters(chain_weight=0.7)
CONJUGATE = LatticeParameters(
    anchor_weight=0.2, graph_weight=8.0, query_weight=0.0, chain_weight=0.7
)


@dataclass(frozen=True, slots=True)
class Example:
    """A lattice whose system is passed over as it is, and an order of its rows."""

    graph: Graph
    chain: Chain | None
    system: System
    order: Int64Array

    @property
    def ordered(self) -> System:
        """The same system, to be passed over in the order."""
        return replace(self.system, order=self.order)


@st.composite
def examples(draw: st.DrawFn) -> Example:
    """Random graphs: nodes without an edge and several components are common among them."""
    chance = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count = draw(st.integers(1, 40))
    pairs = chance.integers(0, count, (draw(st.integers(0, count)), 2))
    pairs = np.unique(np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1), axis=0)
    weights = np.ceil(chance.random(len(pairs)) * 2**24) / 2**24
    graph = graph_of_edges(count, pairs[:, 0], pairs[:, 1], weights)
    chain = None
    if count > 2 and draw(st.booleans()):
        chain = checked_chain(chance.permutation(count)[: draw(st.integers(2, count))], count)
    parameters = replace(
        draw(st.sampled_from([CHEBYSHEV, CONJUGATE])),
        laplacian=draw(st.sampled_from(LaplacianKind)),
    )
    system = build_system(graph, chance.random(count), chain, parameters)
    near = near_order(system.matrix, least=0)
    assert near is not None
    order = near if draw(st.booleans()) else chance.permutation(count)
    return Example(graph, chain, system, order)


@contextmanager
def in_small_parts() -> Iterator[None]:
    """As large lattices are passed over: a few rows and links at a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jacobi, "STEP_VALUES", 256)
        patch.setattr(solver, "STEP_VALUES", 256)
        patch.setattr(row_forms, "_WHOLE_VALUES", 0)
        patch.setattr(row_forms, "_PART_VALUES", 64)
        patch.setattr(row_forms, "_BATCH", 3)
        patch.setattr(links, "_NEAR_VALUES", 64)
        yield


@settings(max_examples=60, deadline=None)
@given(
    example=examples(),
    columns=st.sampled_from([1, 5, 16, 70]),
    wide=st.booleans(),
)
def test_an_order_and_parts_leave_every_bit_of_a_solution(
    example: Example, columns: int, *, wide: bool
) -> None:
    narrow = gaussian(len(example.system), columns, seed=1)
    side = narrow.astype(np.float64) if wide else narrow
    given_side = side.copy()
    plain = solve(example.system, side)
    with in_small_parts():
        for system in (example.system, example.ordered):
            found = solve(system, side)
            assert found.values.tobytes() == plain.values.tobytes()
            assert found.outcome.residual == pytest.approx(plain.outcome.residual, rel=1e-12)
            assert replace(found.outcome, residual=0.0) == replace(plain.outcome, residual=0.0)
    assert np.array_equal(side, given_side)


def test_both_ways_to_solve_are_among_the_examples() -> None:
    methods = set()
    for parameters in (CHEBYSHEV, CONJUGATE):
        star = graph_of_edges(5, np.zeros(4, dtype=np.int64), np.arange(1, 5), np.ones(4))
        system = build_system(star, np.zeros(5), None, parameters)
        methods.add(solve(system, np.ones(5)).outcome.method)
    assert methods == set(SolveMethod)


@settings(max_examples=60, deadline=None)
@given(example=examples(), columns=st.sampled_from([1, 3, 20]))
def test_forms_in_an_order_and_in_parts_are_those_of_the_whole_to_rounding(
    example: Example, columns: int
) -> None:
    anchors = gaussian(len(example.system), columns, seed=2)
    field = solve(example.system, anchor_side(example.system, anchors)).values
    response = solve(example.system, gate_side(example.system)).values

    def forms(system: System) -> LatticeForms:
        return lattice_forms(
            anchors,
            example.graph,
            example.chain,
            system,
            field.astype(np.float32),
            response.astype(np.float64),
        )

    plain = forms(example.system)
    with in_small_parts():
        for system in (example.system, example.ordered):
            found = forms(system)
            for one, other in zip(numbers(found), numbers(plain), strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-10)


def numbers(forms: LatticeForms) -> Iterator[Float64Array]:
    """All that there is in forms."""
    yield from (np.array(forms.energy.scalars), forms.energy.doubled)
    yield from (forms.nodes.anchor_squares, forms.nodes.field_squares, forms.nodes.offset_squares)
    for kind in (forms.edges, forms.chain):
        yield from (kind.anchor_gaps, kind.field_gaps, kind.response_differences)


@given(example=examples())
def test_an_arranged_matrix_has_its_rows_and_columns_in_the_order(example: Example) -> None:
    matrix, order = example.system.matrix, example.order
    moved = arranged(matrix, order)
    assert np.array_equal(moved.toarray(), matrix.toarray()[order][:, order])
    for row, old in enumerate(order):
        entries = moved.data[moved.indptr[row] : moved.indptr[row + 1]]
        assert entries.tolist() == matrix.data[matrix.indptr[old] : matrix.indptr[old + 1]].tolist()


def test_neighbours_lie_near_each_other_in_the_order_of_a_large_lattice() -> None:
    circle = np.random.default_rng(3).permutation(LEAST_ORDERED).astype(np.int64)
    ends = np.sort(np.stack([circle, np.roll(circle, 1)], axis=1), axis=1)
    ends = ends[np.lexsort((ends[:, 1], ends[:, 0]))]
    graph = graph_of_edges(LEAST_ORDERED, ends[:, 0], ends[:, 1], np.ones(LEAST_ORDERED))
    system = build_system(graph, np.ones(LEAST_ORDERED), None, CHEBYSHEV)
    assert system.order is not None
    assert np.array_equal(np.sort(system.order), np.arange(LEAST_ORDERED))
    places = places_of(system.order)
    assert np.abs(places[ends[:, 0]] - places[ends[:, 1]]).max() <= 2


def test_a_small_lattice_stays_as_it_is_and_so_does_one_for_vectors() -> None:
    def system(count: int, *, tables: bool) -> System:
        none = np.zeros(0, dtype=np.int64)
        graph = graph_of_edges(count, none, none, np.zeros(0))
        return build_system(graph, np.ones(count), None, CHEBYSHEV, tables=tables)

    assert system(LEAST_ORDERED - 1, tables=True).order is None
    assert system(LEAST_ORDERED, tables=False).order is None
    assert system(LEAST_ORDERED, tables=True).order is not None
