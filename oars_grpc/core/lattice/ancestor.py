"""The ancestor's bundle, for parity: kept to compare with, not to rank by.

It scores alpha * z(coherence drop) + (1 - alpha) * cosine(u_i, psi), standardised over all nodes,
and diversifies by (1 - penalty) * score - penalty * max cosine with the chosen. Measured on
labelled sets it ranks far below plain cosine; `ranking.py` is the default.
"""

import numpy as np

from oars_grpc.core.lattice.arrays import Float64Array
from oars_grpc.core.lattice.components import alignments, node_components
from oars_grpc.core.lattice.diversity import Choice, choose
from oars_grpc.core.lattice.settled import Reading
from oars_grpc.errors import InvalidArgument

_PENALTY = 0.5
_LEAST_DEVIATION = 1e-12


def ancestor_bundle(reading: Reading, count: int = 8, alpha: float = 0.5) -> Choice:
    """The ancestor's choice of `count` items; parity needs its normalised Laplacian."""
    if count < 1:
        raise InvalidArgument.of("count", f"must be at least 1, not {count}")
    if not 0.0 <= alpha <= 1.0:
        raise InvalidArgument.of("alpha", f"must be from 0 to 1, not {alpha!r}")
    scores = ancestor_scores(reading, alpha)
    lattice = reading.lattice
    return choose(lattice.inputs.anchors, lattice.nodes.anchor_squares, scores, count, _value)


def ancestor_scores(reading: Reading, alpha: float = 0.5) -> Float64Array:
    """The ancestor's score of every node."""
    drops = node_components(reading).coherence_drop
    centred = drops - np.add.reduce(drops) / drops.size
    deviation = float(np.sqrt(np.add.reduce(centred * centred) / drops.size))
    standard = centred / (deviation + _LEAST_DEVIATION)
    return np.asarray(alpha * standard + (1.0 - alpha) * alignments(reading))


def _value(merits: Float64Array, nearest: Float64Array) -> Float64Array:
    return np.asarray((1.0 - _PENALTY) * merits - _PENALTY * nearest)
