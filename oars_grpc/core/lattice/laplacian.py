"""The Laplacians that draw neighbours, and links of a chain, together."""

from typing import TypeAlias

import numpy as np
import scipy.sparse as sp

from oars_grpc.core.lattice.arrays import Chain, Float64Array
from oars_grpc.core.lattice.graph import Graph
from oars_grpc.core.lattice.parameters import LaplacianKind

SparseMatrix: TypeAlias = sp.csr_array


def adjacency(graph: Graph) -> SparseMatrix:
    """The weights as a sparse matrix."""
    count = len(graph)
    return sp.csr_array((graph.weights, graph.indices, graph.indptr), shape=(count, count))


def laplacian(graph: Graph, kind: LaplacianKind) -> SparseMatrix:
    """The graph's Laplacian; an isolated node's row is zero in either kind.

    Combinatorial, D - A: a constant field has no energy, and each settled row is a convex
    combination. Normalised, I - D^-1/2 A D^-1/2: the ancestor's, for parity.
    """
    return sp.csr_array(sp.diags_array(laplacian_diagonal(graph, kind)) - attraction(graph, kind))


def laplacian_diagonal(graph: Graph, kind: LaplacianKind) -> Float64Array:
    """The diagonal of the Laplacian."""
    if kind is LaplacianKind.COMBINATORIAL:
        return graph.degrees
    return np.asarray((graph.degrees > 0).astype(np.float64))


def attraction(graph: Graph, kind: LaplacianKind) -> SparseMatrix:
    """What the Laplacian subtracts from its diagonal."""
    if kind is LaplacianKind.COMBINATORIAL:
        return adjacency(graph)
    rows = np.repeat(np.arange(len(graph)), np.diff(graph.indptr))
    # A row with an entry has a degree over 0.
    scale = np.sqrt(graph.degrees[rows] * graph.degrees[graph.indices])
    count = len(graph)
    return sp.csr_array((graph.weights / scale, graph.indices, graph.indptr), shape=(count, count))


def chain_adjacency(chain: Chain, count: int) -> SparseMatrix:
    """The weights of a chain's links; a link that stands twice weighs the sum.

    The Laplacian of these links alone leaves every node off the chain as it is.
    """
    ends = np.concatenate([chain.nodes[:-1], chain.nodes[1:]])
    others = np.concatenate([chain.nodes[1:], chain.nodes[:-1]])
    weights = np.concatenate([chain.weights, chain.weights])
    matrix = sp.csr_array((weights, (ends, others)), shape=(count, count))
    matrix.sum_duplicates()
    return matrix


def chain_degrees(chain: Chain, count: int) -> Float64Array:
    """The sum of link weights at each node."""
    return np.asarray(
        np.bincount(chain.nodes[:-1], chain.weights, minlength=count)
        + np.bincount(chain.nodes[1:], chain.weights, minlength=count)
    )


def chain_laplacian(chain: Chain, count: int) -> SparseMatrix:
    """The Laplacian of the path on the chain's own links."""
    return sp.csr_array(sp.diags_array(chain_degrees(chain, count)) - chain_adjacency(chain, count))
