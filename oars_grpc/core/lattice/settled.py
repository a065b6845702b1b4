"""A lattice settled for every query at once: U*(psi) = V + w psi^T.

V = anchor M^-1 Y and w = query M^-1 b do not depend on the query, so a new query is a rank-one
update of what is stored and never a solve.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from oars_grpc.core.lattice.arrays import (
    Chain,
    Float32Array,
    Float64Array,
    Int64Array,
    frozen,
)
from oars_grpc.core.lattice.energy import Energies, EnergyForms, Query
from oars_grpc.core.lattice.forms import NodeForms, lattice_forms
from oars_grpc.core.lattice.graph import Graph
from oars_grpc.core.lattice.links import LinkForms
from oars_grpc.core.lattice.parameters import LatticeParameters
from oars_grpc.core.lattice.progress import Proceed, between, keep_going
from oars_grpc.core.lattice.solver import SolveOutcome, SolveStop, solve
from oars_grpc.core.lattice.system import System, anchor_side, build_system, gate_side

_BLOCK_VALUES = 1 << 18


@dataclass(frozen=True, slots=True)
class LatticeInputs:
    """All that a lattice is settled from, in canonical form; the query comes later."""

    anchors: Float32Array
    graph: Graph
    gates: Float32Array
    chain: Chain | None
    parameters: LatticeParameters

    def __len__(self) -> int:
        return int(self.anchors.shape[0])

    @property
    def dimension(self) -> int:
        """The length of an embedding."""
        return int(self.anchors.shape[1])


@dataclass(frozen=True, slots=True)
class SettledState:
    """V and w, and how they were solved for."""

    field: Float32Array  # V, N x D
    response: Float64Array  # w, N
    outcome: SolveOutcome


@dataclass(frozen=True, slots=True)
class SettledLattice:
    """The settled state with what readings of it need, computed once."""

    inputs: LatticeInputs
    system: System
    state: SettledState
    energy_forms: EnergyForms
    nodes: NodeForms
    edges: LinkForms
    chain: LinkForms

    def __len__(self) -> int:
        return len(self.inputs)

    def energies(self, query: Query) -> Energies:
        """The light reading: energies and residual in O(D)."""
        return self.energy_forms.at(query)

    def states(self, query: Query, rows: Int64Array | None = None) -> Float32Array:
        """U* under a query, all rows or some."""
        chosen = slice(None) if rows is None else rows
        field, response = self.state.field[chosen], self.state.response[chosen]
        result = np.empty(field.shape, dtype=np.float32)
        step = max(1, _BLOCK_VALUES // field.shape[1])
        for start in range(0, len(field), step):
            part = slice(start, start + step)
            result[part] = field[part] + response[part, None] * query.wide
        return frozen(result)


@dataclass(frozen=True, slots=True)
class Reading:
    """A settled lattice under one query: the products that everything per node is made of."""

    lattice: SettledLattice
    query: Query
    field_products: Float64Array  # V psi
    anchor_products: Float64Array  # Y psi


def read(lattice: SettledLattice, query: Float32Array) -> Reading:
    """Read a lattice under a canonical query: two passes over N x D, whatever follows."""
    return read_all(lattice, [query])[0]


def read_all(lattice: SettledLattice, queries: Sequence[Float32Array]) -> list[Reading]:
    """Read a lattice under many queries; each as it would be read alone, to the bit."""
    # einsum of two operands never calls a BLAS, whose sums would depend on its threads.
    return [
        Reading(
            lattice=lattice,
            query=Query.of(query),
            field_products=_products(lattice.state.field, query),
            anchor_products=_products(lattice.inputs.anchors, query),
        )
        for query in queries
    ]


def settle_lattice(inputs: LatticeInputs, proceed: Proceed = keep_going) -> SettledLattice:
    """Solve for the settled state and make ready what its readings need."""
    system = build_system(inputs.graph, inputs.gates, inputs.chain, inputs.parameters)
    field = solve(system, anchor_side(system, inputs.anchors), between(proceed, 0.0, 0.7))
    response = solve(system, gate_side(system), between(proceed, 0.7, 0.75))
    state = SettledState(
        field=field.values.astype(np.float32, copy=False),
        response=response.values.astype(np.float64, copy=False),
        outcome=worse(field.outcome, response.outcome),
    )
    return lattice_of(inputs, system, state, between(proceed, 0.75, 1.0))


def restored_lattice(
    inputs: LatticeInputs, state: SettledState, proceed: Proceed = keep_going
) -> SettledLattice:
    """A lattice whose settled state was stored: everything but the solve."""
    system = build_system(inputs.graph, inputs.gates, inputs.chain, inputs.parameters)
    return lattice_of(inputs, system, state, proceed)


def lattice_of(
    inputs: LatticeInputs, system: System, state: SettledState, proceed: Proceed = keep_going
) -> SettledLattice:
    """A lattice from its inputs, their system and a state of it."""
    forms = lattice_forms(
        inputs.anchors, inputs.graph, inputs.chain, system, state.field, state.response, proceed
    )
    return SettledLattice(
        inputs, system, state, forms.energy, forms.nodes, forms.edges, forms.chain
    )


def worse(one: SolveOutcome, other: SolveOutcome) -> SolveOutcome:
    """Both solves as one outcome: the later stop, the larger figures."""
    stops = list(SolveStop)
    return SolveOutcome(
        method=one.method,
        stop=max(one.stop, other.stop, key=stops.index),
        iterations=max(one.iterations, other.iterations),
        residual=max(one.residual, other.residual),
        tolerance=one.tolerance,
    )


def _products(rows: Float32Array, query: Float32Array) -> Float64Array:
    return np.asarray(np.einsum("nd,d->n", rows, query), dtype=np.float64)
