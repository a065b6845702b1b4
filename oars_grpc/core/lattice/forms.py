"""What every reading of a settled lattice needs, from one pass over anchors and state.

The pass takes a few columns at a time, so that memory beyond the lattice stays bounded, and adds
in an order that depends on N and D alone: no BLAS takes part.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from oars_grpc.core.lattice.arrays import Chain, Float32Array, Float64Array, frozen
from oars_grpc.core.lattice.energy import EnergyForms, Quadratic
from oars_grpc.core.lattice.graph import Graph
from oars_grpc.core.lattice.links import LinkForms, Links, chain_links, graph_links
from oars_grpc.core.lattice.progress import Proceed, keep_going
from oars_grpc.core.lattice.system import System, gate_side
from oars_grpc.core.lattice.threads import side_by_side

_BLOCK_VALUES = 1 << 18
# As many float32 as memory brings at once: fewer columns would cost as much as all of these.
_LEAST_COLUMNS = 16


@dataclass(frozen=True, slots=True)
class NodeForms:
    """Squared lengths of each node's rows."""

    anchor_squares: Float64Array  # |y_i|^2
    field_squares: Float64Array  # |v_i|^2
    offset_squares: Float64Array  # |v_i - y_i|^2


@dataclass(frozen=True, slots=True)
class LatticeForms:
    """All of them."""

    energy: EnergyForms
    nodes: NodeForms
    edges: LinkForms
    chain: LinkForms


def lattice_forms(
    anchors: Float32Array,
    graph: Graph,
    chain: Chain | None,
    system: System,
    field: Float32Array,
    response: Float64Array,
    proceed: Proceed = keep_going,
) -> LatticeForms:
    """The forms of a state V, w of a system; it need not be the solution."""
    count, dimension = anchors.shape
    parameters = system.parameters
    edges = graph_links(graph, parameters)
    links = chain_links(chain, count, parameters)
    gates = gate_side(system)
    missing = gates - system.matrix @ response  # the residual of w
    # The weights with which the rows of V, of Y and of V's residual add up to linear parts.
    field_weights = np.stack(
        [response, edges.drawn(response), gates * (response - 1.0), links.drawn(response)]
    )
    anchor_weights = np.stack([response, gates])

    anchor_squares, field_squares, offset_squares = np.zeros((3, count))
    edge_gaps, link_gaps = np.zeros((2, len(edges))), np.zeros((2, len(links)))
    field_sums = np.empty((len(field_weights), dimension))
    anchor_sums = np.empty((len(anchor_weights), dimension))
    missing_sums = np.empty(dimension)
    missing_squares = []

    # Each of these adds to arrays of its own, block after block: they can stand side by side.
    def add_residual(
        columns: slice, given: Float64Array, settled: Float64Array, _: Proceed
    ) -> None:
        lacking = parameters.anchor_weight * given
        lacking -= system.matrix @ settled
        missing_sums[columns] = np.einsum("n,nc->c", missing, lacking)
        missing_squares.append(float(np.add.reduce(_row_squares(lacking))))
        np.subtract(settled, given, out=lacking)
        np.add(offset_squares, _row_squares(lacking), out=offset_squares)

    def add_rows(columns: slice, given: Float64Array, settled: Float64Array, _: Proceed) -> None:
        field_sums[:, columns] = np.einsum("kn,nc->kc", field_weights, settled)
        anchor_sums[:, columns] = np.einsum("kn,nc->kc", anchor_weights, given)
        np.add(anchor_squares, _row_squares(given), out=anchor_squares)
        np.add(field_squares, _row_squares(settled), out=field_squares)

    def add_anchor_gaps(_c: slice, given: Float64Array, _s: Float64Array, _: Proceed) -> None:
        edge_gaps[0] += edges.gaps(given)
        link_gaps[0] += links.gaps(given)

    def add_field_gaps(_c: slice, _g: Float64Array, settled: Float64Array, _: Proceed) -> None:
        edge_gaps[1] += edges.gaps(settled)
        link_gaps[1] += links.gaps(settled)

    works = (add_residual, add_rows, add_anchor_gaps, add_field_gaps)
    for block in _column_blocks(anchors, field, proceed):
        side_by_side([partial(work, *block) for work in works], block[1].size)
    missing_square = 0.0
    for square in missing_squares:
        missing_square += square

    anchor = parameters.anchor_weight
    energy = EnergyForms.of(
        before=(
            Quadratic.constantly(_sum(edges.strengths * edge_gaps[0]), dimension),
            Quadratic(_sum(gates * anchor_squares), -anchor_sums[1], _sum(gates)),
            Quadratic.constantly(_sum(links.strengths * link_gaps[0]), dimension),
        ),
        after=(
            Quadratic(
                anchor * _sum(offset_squares),
                anchor * (field_sums[0] - anchor_sums[0]),
                anchor * _sum(response * response),
            ),
            _link_energy(edges, edge_gaps[1], field_sums[1], response),
            Quadratic(
                _sum(gates * field_squares),
                field_sums[2],
                _sum(gates * (response - 1.0) * (response - 1.0)),
            ),
            _link_energy(links, link_gaps[1], field_sums[3], response),
        ),
        residual=Quadratic(missing_square, missing_sums, _sum(missing * missing)),
        side=Quadratic(
            anchor * anchor * _sum(anchor_squares), anchor * anchor_sums[1], _sum(gates * gates)
        ),
    )
    nodes = NodeForms(frozen(anchor_squares), frozen(field_squares), frozen(offset_squares))
    return LatticeForms(
        energy,
        nodes,
        _link_forms(edges, edge_gaps, response),
        _link_forms(links, link_gaps, response),
    )


def _column_blocks(
    anchors: Float32Array, field: Float32Array, proceed: Proceed
) -> Iterator[tuple[slice, Float64Array, Float64Array]]:
    """A few columns of both at a time, as float64 copies."""
    count, dimension = anchors.shape
    width = max(_LEAST_COLUMNS, _BLOCK_VALUES // count)
    for start in range(0, dimension, width):
        proceed(start / dimension)
        columns = slice(start, min(start + width, dimension))
        yield (
            columns,
            np.ascontiguousarray(anchors[:, columns], dtype=np.float64),
            np.ascontiguousarray(field[:, columns], dtype=np.float64),
        )


def _link_forms(links: Links, gaps: Float64Array, response: Float64Array) -> LinkForms:
    given, settled = gaps
    return LinkForms(links, frozen(given), frozen(settled), frozen(links.differences(response)))


def _link_energy(
    links: Links, gaps: Float64Array, linear: Float64Array, response: Float64Array
) -> Quadratic:
    return Quadratic(
        _sum(links.strengths * gaps), linear, _sum(links.strengths * links.gaps(response))
    )


def _row_squares(rows: Float64Array) -> Float64Array:
    return np.asarray(np.einsum("nc,nc->n", rows, rows))


def _sum(values: Float64Array) -> float:
    return float(np.add.reduce(values))
