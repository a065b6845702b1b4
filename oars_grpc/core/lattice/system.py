"""The linear system whose solution is the settled state.

M = anchor I + graph L + query diag(gates) + chain L_path
M U = anchor Y + query gates psi^T
"""

from dataclasses import dataclass, replace

import numpy as np

from oars_grpc.core.lattice.arrays import (
    Chain,
    Float32Array,
    Float64Array,
    Int64Array,
    frozen,
)
from oars_grpc.core.lattice.graph import Graph
from oars_grpc.core.lattice.laplacian import (
    SparseMatrix,
    attraction,
    chain_adjacency,
    chain_degrees,
    laplacian_diagonal,
)
from oars_grpc.core.lattice.locality import arranged, near_order
from oars_grpc.core.lattice.parameters import LatticeParameters
from oars_grpc.errors import InvalidArgument

# Beyond this no solver here is done in a sane number of steps: condition 2000.
MAXIMUM_RHO = 0.999


@dataclass(frozen=True, slots=True)
class System:
    """The symmetric positive definite operator, and what bounds its condition.

    `rho` bounds the spectral radius of I - diag(M)^-1 M, and (1 + rho) / (1 - rho) the condition
    number of the Jacobi-scaled operator. `order` is the one in which its rows are best passed over.
    """

    matrix: SparseMatrix  # float64
    diagonal: Float64Array
    gates: Float64Array
    rho: float
    condition_bound: float
    minimum_eigenvalue: float  # a lower bound: anchor + query * min(gates)
    parameters: LatticeParameters
    order: Int64Array | None = None

    def __len__(self) -> int:
        return self.diagonal.size

    def arranged(self) -> "System":
        """The system with its rows in that order."""
        if self.order is None:
            return self
        return replace(
            self,
            matrix=arranged(self.matrix, self.order),
            diagonal=frozen(self.diagonal[self.order]),
            gates=frozen(self.gates[self.order]),
            order=None,
        )


def build_system(
    graph: Graph,
    gates: Float32Array | Float64Array,
    chain: Chain | None,
    parameters: LatticeParameters,
    *,
    tables: bool = True,
) -> System:
    """The operator of a graph, its gates and perhaps a chain.

    Without `tables` it is for vectors alone, which any order serves.
    """
    count = len(graph)
    wide = gates.astype(np.float64)
    screen = parameters.anchor_weight + parameters.query_weight * wide
    kind = parameters.laplacian
    pull = parameters.graph_weight * laplacian_diagonal(graph, kind)
    off_diagonal = parameters.graph_weight * attraction(graph, kind)
    if chain is not None and parameters.chain_weight > 0:
        pull = pull + parameters.chain_weight * chain_degrees(chain, count)
        off_diagonal = off_diagonal + parameters.chain_weight * chain_adjacency(chain, count)
    diagonal = screen + pull
    # Both Laplacians L satisfy 0 <= L <= 2 diag(L), so I - diag(M)^-1 M has its eigenvalues
    # within +-(1 - screen / diagonal) at the worst node.
    rho = float((pull / diagonal).max())
    if rho > MAXIMUM_RHO:
        raise InvalidArgument.of(
            "parameters.anchor_weight",
            f"is too small beside graph and chain: {rho:.6f} of a node's weight is its "
            f"neighbours', at most {MAXIMUM_RHO} may be",
        )
    matrix = _with_diagonal(diagonal, off_diagonal)
    return System(
        matrix=matrix,
        diagonal=frozen(diagonal),
        gates=frozen(wide),
        rho=rho,
        condition_bound=(1.0 + rho) / (1.0 - rho),
        minimum_eigenvalue=float(screen.min()),
        parameters=parameters,
        order=near_order(matrix) if tables else None,
    )


def _with_diagonal(diagonal: Float64Array, off_diagonal: SparseMatrix) -> SparseMatrix:
    """A diagonal less a matrix that has none, columns ascending: SciPy would take three passes."""
    off_diagonal.eliminate_zeros()
    off_diagonal.sort_indices()
    count, columns = diagonal.size, off_diagonal.indices
    rows = np.repeat(np.arange(count), np.diff(off_diagonal.indptr))
    above = columns > rows
    # Before each entry stand the diagonals of the rows above, and of its own if it is right of it.
    places = np.arange(rows.size) + rows + above
    indptr = off_diagonal.indptr + np.arange(count + 1, dtype=off_diagonal.indptr.dtype)
    corners = indptr[:-1] + np.bincount(rows[~above], minlength=count)
    data = np.empty(rows.size + count)
    indices = np.empty(data.size, dtype=columns.dtype)
    data[places], data[corners] = -off_diagonal.data, diagonal
    indices[places], indices[corners] = columns, np.arange(count)
    return SparseMatrix((data, indices, indptr), shape=(count, count))


def anchor_side(system: System, anchors: Float32Array) -> Float32Array:
    """The part of the right-hand side that the anchors make: anchor Y."""
    return np.asarray(anchors * np.float32(system.parameters.anchor_weight))


def gate_side(system: System) -> Float64Array:
    """The part that a query is multiplied into: query gates."""
    return np.asarray(system.parameters.query_weight * system.gates)
