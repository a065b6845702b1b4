"""What every reading of a settled lattice needs, from one pass over anchors and state."""

from dataclasses import dataclass

import numpy as np

from oars_grpc.core.lattice.arrays import Chain, Float32Array, Float64Array, frozen
from oars_grpc.core.lattice.energy import EnergyForms, Quadratic
from oars_grpc.core.lattice.graph import Graph
from oars_grpc.core.lattice.links import LinkForms, Links, chain_links, graph_links
from oars_grpc.core.lattice.progress import Proceed, keep_going
from oars_grpc.core.lattice.row_forms import RowWeights, row_forms
from oars_grpc.core.lattice.system import System, gate_side


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
    weights = RowWeights(
        missing=missing,
        field=np.stack(
            [response, edges.drawn(response), gates * (response - 1.0), links.drawn(response)]
        ),
        anchors=np.stack([response, gates]),
    )
    rows = row_forms(anchors, field, system, (edges, links), weights, proceed)
    edge_gaps, link_gaps, sums = rows.edge_gaps, rows.link_gaps, rows.sums

    anchor = parameters.anchor_weight
    energy = EnergyForms.of(
        before=(
            Quadratic.constantly(_sum(edges.strengths * edge_gaps[0]), dimension),
            Quadratic(_sum(gates * rows.anchor_squares), -sums.anchors[1], _sum(gates)),
            Quadratic.constantly(_sum(links.strengths * link_gaps[0]), dimension),
        ),
        after=(
            Quadratic(
                anchor * _sum(rows.offset_squares),
                anchor * (sums.field[0] - sums.anchors[0]),
                anchor * _sum(response * response),
            ),
            _link_energy(edges, edge_gaps[1], sums.field[1], response),
            Quadratic(
                _sum(gates * rows.field_squares),
                sums.field[2],
                _sum(gates * (response - 1.0) * (response - 1.0)),
            ),
            _link_energy(links, link_gaps[1], sums.field[3], response),
        ),
        residual=Quadratic(sums.missing_square, sums.missing, _sum(missing * missing)),
        side=Quadratic(
            anchor * anchor * _sum(rows.anchor_squares),
            anchor * sums.anchors[1],
            _sum(gates * gates),
        ),
    )
    nodes = NodeForms(
        frozen(rows.anchor_squares), frozen(rows.field_squares), frozen(rows.offset_squares)
    )
    return LatticeForms(
        energy,
        nodes,
        _link_forms(edges, edge_gaps, response),
        _link_forms(links, link_gaps, response),
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


def _sum(values: Float64Array) -> float:
    return float(np.add.reduce(values))
