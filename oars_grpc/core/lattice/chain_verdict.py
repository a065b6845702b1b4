"""Whether a chain of items holds together, link by link.

A link's squared distance in the settled state is judged against those of the lattice's edges: as
ln|u_i - u_j|^2, standardised by the edges' median and median absolute deviation, so that the
verdict means the same at any N. A chain is coherent if no link is further out than the threshold
and settling did not draw its ends apart.
"""

from dataclasses import dataclass, replace

import numpy as np

from oars_grpc.core.lattice.arrays import Chain, Float64Array, frozen
from oars_grpc.core.lattice.links import LinkForms, Links, chain_links, row_gaps
from oars_grpc.core.lattice.settled import Reading
from oars_grpc.errors import InvalidArgument

DEFAULT_THRESHOLD = 2.5
# Makes a median absolute deviation the standard one of normal values.
_NORMAL = 1.4826
# Edges of (nearly) one length: a link a tenth longer is then one deviation out.
_LEAST_DEVIATION = 0.1
# Squared distances below this share of the edges' mean are rounding.
_NOTHING = 1e-12
# A score beyond all meaning, and still a number.
_FARTHEST = 1000.0


@dataclass(frozen=True, slots=True)
class ChainVerdict:
    """The verdict, and what it stands on."""

    coherent: bool
    weakest_link: int  # the place of the link with the largest score
    scores: Float64Array  # standardised, one for each link
    gain: float  # sum over links of weight (|y_i - y_j|^2 - |u_i - u_j|^2)
    threshold: float


def chain_verdict(
    reading: Reading, chain: Chain | None = None, threshold: float = DEFAULT_THRESHOLD
) -> ChainVerdict:
    """Judge the lattice's own chain, or another over its nodes, in the reading's settled state."""
    if not threshold > 0:
        raise InvalidArgument.of("threshold", f"must be over 0, not {threshold!r}")
    lattice = reading.lattice
    if chain is None:
        if lattice.inputs.chain is None:
            raise InvalidArgument.of("chain", "is needed: the lattice has none of its own")
        chain, forms = lattice.inputs.chain, lattice.chain
    else:
        forms = _forms_of(reading, chain)
    products, square = reading.field_products, reading.query.square
    gaps = forms.settled_gaps(products, square)
    scores = _standardised(gaps, _edge_gaps(reading))
    gain = float(np.add.reduce(chain.weights * (forms.anchor_gaps - gaps)))
    return ChainVerdict(
        coherent=bool((scores <= threshold).all()) and gain >= 0.0,
        weakest_link=int(scores.argmax()),
        scores=frozen(scores),
        gain=gain,
        threshold=threshold,
    )


def _forms_of(reading: Reading, chain: Chain) -> LinkForms:
    """The parts of a chain's links that the lattice has not stored."""
    parameters = reading.lattice.inputs.parameters
    return _forms(chain_links(chain, len(reading.lattice), parameters), reading)


def _forms(links: Links, reading: Reading) -> LinkForms:
    lattice = reading.lattice
    return LinkForms(
        links,
        row_gaps(links, lattice.inputs.anchors),
        row_gaps(links, lattice.state.field),
        links.differences(lattice.state.response),
    )


def _edge_gaps(reading: Reading) -> Float64Array:
    """The edges' squared distances in the settled state, not divided by any degree."""
    forms = reading.lattice.edges
    if forms.links.scale is not None:
        forms = _forms(replace(forms.links, scale=None), reading)
    return forms.settled_gaps(reading.field_products, reading.query.square)


def _standardised(gaps: Float64Array, edges: Float64Array) -> Float64Array:
    floor = _NOTHING * float(np.add.reduce(edges)) / max(edges.size, 1)
    if floor <= 0:
        # No edges, or all of them join copies: whatever does not, is out.
        return np.where(gaps > 0, _FARTHEST, 0.0)
    logs = np.log(np.maximum(edges, floor))
    median = float(np.median(logs))
    deviation = _NORMAL * float(np.median(np.abs(logs - median)))
    scores = (np.log(np.maximum(gaps, floor)) - median) / max(deviation, _LEAST_DEVIATION)
    return np.minimum(scores, _FARTHEST)
