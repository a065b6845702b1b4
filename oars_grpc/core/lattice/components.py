"""Readings per node: what settling won at each, and how near each came to the query.

Every node's numbers come from its products with the query and from stored squares; the energy's
terms are the sums of these over the nodes, each link counted half at either end.
"""

from dataclasses import dataclass

import numpy as np

from oars_grpc.core.lattice.arrays import Float64Array, frozen
from oars_grpc.core.lattice.links import LinkForms
from oars_grpc.core.lattice.settled import Reading


@dataclass(frozen=True, slots=True)
class NodeComponents:
    """One number per node for each kind."""

    coherence_drop: Float64Array  # of the graph term; below 0 where neighbours drew it apart
    anchor: Float64Array  # anchor |u_i - y_i|^2
    query: Float64Array  # query b_i |u_i - psi|^2
    chain_drop: Float64Array  # of the chain term


def node_components(reading: Reading) -> NodeComponents:
    """Each node's share of the energy's terms under the reading's query."""
    lattice, square = reading.lattice, reading.query.square
    nodes, response = lattice.nodes, lattice.state.response
    parameters = lattice.inputs.parameters
    products = reading.field_products

    # |u - y|^2 = |v - y|^2 + 2 w (v - y).psi + w^2 |psi|^2
    anchor = products - reading.anchor_products
    anchor *= 2.0
    anchor += response * square
    anchor *= response
    anchor += nodes.offset_squares
    anchor *= parameters.anchor_weight

    # |u - psi|^2 = |v|^2 + 2 (w - 1) v.psi + (w - 1)^2 |psi|^2
    short = response - 1.0
    query = short * square
    query += 2.0 * products
    query *= short
    query += nodes.field_squares
    query *= parameters.query_weight
    query *= lattice.system.gates

    return NodeComponents(
        coherence_drop=frozen(_drop(lattice.edges, reading)),
        # Squares: below 0 only by rounding.
        anchor=frozen(np.maximum(anchor, 0.0, out=anchor)),
        query=frozen(np.maximum(query, 0.0, out=query)),
        chain_drop=frozen(_drop(lattice.chain, reading)),
    )


def alignments(reading: Reading) -> Float64Array:
    """The cosine of each settled row with the query; 0 where either has no direction."""
    lattice, square = reading.lattice, reading.query.square
    response, products = lattice.state.response, reading.field_products
    along = products + response * square
    squares = lattice.nodes.field_squares + response * (products + along)
    lengths = np.sqrt(np.maximum(squares, 0.0) * square)
    found = np.divide(along, lengths, out=np.zeros_like(along), where=lengths > 0)
    return frozen(np.clip(found, -1.0, 1.0, out=found))


def _drop(forms: LinkForms, reading: Reading) -> Float64Array:
    if not len(forms.links):
        return np.zeros(forms.links.nodes)
    gaps = forms.settled_gaps(reading.field_products, reading.query.square)
    np.subtract(forms.anchor_gaps, gaps, out=gaps)
    gaps *= forms.links.strengths
    return forms.links.halved(gaps)
