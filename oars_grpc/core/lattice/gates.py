"""Gates by diffusion: how much of a source's relevance reaches each node over the graph.

The field h solves the screened Poisson problem (L + gamma I) h = gamma s with the combinatorial
Laplacian and sources s in [0, 1]. It needs no rescaling by its own extremes: by the maximum
principle h stays within the range of s, and where nothing is relevant every gate is near 0.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import splu

from oars_grpc.core.lattice.arrays import Float32Array, Float64Array, frozen
from oars_grpc.core.lattice.directions import Directions, directions_of, query_cosines
from oars_grpc.core.lattice.graph import Graph
from oars_grpc.core.lattice.laplacian import laplacian
from oars_grpc.core.lattice.parameters import LaplacianKind, LatticeParameters
from oars_grpc.core.lattice.progress import Proceed, keep_going
from oars_grpc.core.lattice.solver import SolveOutcome, solve
from oars_grpc.core.lattice.system import MAXIMUM_RHO, build_system
from oars_grpc.errors import InvalidArgument

MINIMUM_SCREENING = 1e-2
MAXIMUM_SCREENING = 1e6
# A factorisation fills in: at a few thousand nodes of a random graph it is already the slower.
DIRECT_NODES = 1000
MAXIMUM_POWER = 16


class GateMethod(StrEnum):
    """How the field is solved for."""

    ITERATIVE = "iterative"
    DIRECT = "direct"


@dataclass(frozen=True, slots=True)
class DiffusionGates:
    """The gates, one for each node, in [0, 1]; no outcome where a direct solve made them."""

    gates: Float32Array
    outcome: SolveOutcome | None


def diffusion_gates(
    graph: Graph,
    sources: Float64Array,
    screening: float = 0.1,
    method: GateMethod = GateMethod.ITERATIVE,
    proceed: Proceed = keep_going,
) -> DiffusionGates:
    """The gates that sources in [0, 1] make; the larger the screening, the nearer they stay."""
    count = len(graph)
    if sources.shape != (count,):
        raise InvalidArgument.of("sources", f"must be {count} numbers")
    wrong = np.flatnonzero(~((sources >= 0) & (sources <= 1)))
    if wrong.size:
        raise InvalidArgument.of(f"sources[{wrong[0]}]", "must be from 0 to 1")
    if not MINIMUM_SCREENING <= screening <= MAXIMUM_SCREENING:
        raise InvalidArgument.of(
            "screening", f"must be from {MINIMUM_SCREENING:g} to {MAXIMUM_SCREENING:g}"
        )
    if method is GateMethod.DIRECT:
        field, outcome = _direct(graph, sources, screening), None
    else:
        field, outcome = _iterative(graph, sources, screening, proceed)
    # The solver's error may pass an end of the range by its tolerance.
    gates = np.clip(field, 0.0, 1.0).astype(np.float32)
    return DiffusionGates(gates=frozen(gates), outcome=outcome)


def query_sources(
    anchors: Float32Array | Directions, query: Float32Array, power: int = 1
) -> Float64Array:
    """Each anchor's relevance to a query, max(cosine, 0) to a whole power: sources for gates."""
    if not 1 <= power <= MAXIMUM_POWER:
        raise InvalidArgument.of("power", f"must be from 1 to {MAXIMUM_POWER}")
    directions = anchors if isinstance(anchors, Directions) else directions_of(anchors)
    relevance = np.maximum(query_cosines(directions, query), 0.0)
    sources = relevance.copy()
    for _ in range(power - 1):
        sources *= relevance
    return sources


def _iterative(
    graph: Graph, sources: Float64Array, screening: float, proceed: Proceed
) -> tuple[Float64Array, SolveOutcome]:
    degree = float(graph.degrees.max(initial=0.0))
    if degree > MAXIMUM_RHO * (degree + screening):
        raise InvalidArgument.of(
            "screening", f"is too small beside the graph's largest degree {degree:g}"
        )
    parameters = LatticeParameters(
        laplacian=LaplacianKind.COMBINATORIAL,
        anchor_weight=screening,
        graph_weight=1.0,
        query_weight=0.0,
    )
    system = build_system(graph, np.zeros(len(graph)), None, parameters, tables=False)
    solution = solve(system, screening * sources, proceed)
    return solution.values.astype(np.float64), solution.outcome


def _direct(graph: Graph, sources: Float64Array, screening: float) -> Float64Array:
    count = len(graph)
    if count > DIRECT_NODES:
        raise InvalidArgument.of(
            "method", f"direct is for at most {DIRECT_NODES} nodes, not {count}"
        )
    matrix = laplacian(graph, LaplacianKind.COMBINATORIAL) + screening * sp.eye_array(count)
    return np.asarray(splu(sp.csc_array(matrix)).solve(screening * sources))
