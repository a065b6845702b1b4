"""Links between nodes, of the graph or of a chain, with how far apart their ends are.

Of U = V + w psi^T the squared distance across a link is
|v_i - v_j|^2 + 2 (w_i - w_j)(v_i - v_j).psi + (w_i - w_j)^2 |psi|^2, and (v_i - v_j).psi comes
from V psi: a query costs O(1) a link, not O(D). Under the normalised Laplacian every row is
divided by the root of its node's degree first.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from oars_grpc.core.lattice.arrays import (
    Chain,
    Float32Array,
    Float64Array,
    Int64Array,
    frozen,
)
from oars_grpc.core.lattice.graph import Graph
from oars_grpc.core.lattice.parameters import LaplacianKind, LatticeParameters

_BLOCK_VALUES = 1 << 18
# Differences made at a time: few enough to stay near the processor until they are squared.
_NEAR_VALUES = 1 << 16


@dataclass(frozen=True, slots=True)
class Links:
    """Pairs of nodes that the energy draws together, with the weight of each in it."""

    low: Int64Array
    high: Int64Array
    strengths: Float64Array
    scale: Float64Array | None  # what every row is multiplied by first; None for 1
    nodes: int

    def __len__(self) -> int:
        return self.low.size

    def gaps(self, rows: Float64Array) -> Float64Array:
        """The squared distance across each link, of a vector or the columns of a table."""
        if rows.ndim == 1:
            difference = self.differences(rows)
            return difference * difference
        rows, found = self._scaled(rows), np.empty(len(self))
        step = max(1, _NEAR_VALUES // rows.shape[1])
        for start in range(0, found.size, step):
            part = slice(start, start + step)
            difference = rows.take(self.low[part], axis=0)
            difference -= rows.take(self.high[part], axis=0)
            np.einsum("ec,ec->e", difference, difference, out=found[part])
        return found

    def differences(self, rows: Float64Array) -> Float64Array:
        """What the lower end has over the higher."""
        rows = self._scaled(rows)
        difference = rows.take(self.low, axis=0)
        difference -= rows.take(self.high, axis=0)
        return difference

    def halved(self, values: Float64Array) -> Float64Array:
        """Each node's sum over its links, half of every link to either end."""
        both = self._summed(self.low, values)
        both += self._summed(self.high, values)
        both *= 0.5
        return both

    def drawn(self, vector: Float64Array) -> Float64Array:
        """The links' Laplacian, strengths included, times a vector."""
        pull = self.strengths * self.differences(vector)
        drawn = self._summed(self.low, pull)
        drawn -= self._summed(self.high, pull)
        if self.scale is not None:
            drawn *= self.scale
        return drawn

    def _scaled(self, rows: Float64Array) -> Float64Array:
        if self.scale is None:
            return rows
        return rows * (self.scale if rows.ndim == 1 else self.scale[:, None])

    def _summed(self, ends: Int64Array, values: Float64Array) -> Float64Array:
        # Of no values at all, bincount makes whole numbers.
        return np.bincount(ends, values, minlength=self.nodes).astype(np.float64, copy=False)


def graph_links(graph: Graph, parameters: LatticeParameters) -> Links:
    """The graph's edges with their weight in the energy."""
    scale = None
    if parameters.laplacian is LaplacianKind.NORMALIZED:
        roots = np.sqrt(graph.degrees)
        # An isolated node has no link that would see its scale.
        scale = frozen(np.divide(1.0, roots, out=np.zeros_like(roots), where=roots > 0))
    return Links(
        low=_indices(graph.edges[:, 0]),
        high=_indices(graph.edges[:, 1]),
        strengths=frozen(parameters.graph_weight * graph.edge_weights),
        scale=scale,
        nodes=len(graph),
    )


def chain_links(chain: Chain | None, nodes: int, parameters: LatticeParameters) -> Links:
    """A chain's links in its order; none without a chain."""
    if chain is None:
        empty = frozen(np.zeros(0, dtype=np.int64))
        return Links(empty, empty, frozen(np.zeros(0)), None, nodes)
    return Links(
        low=_indices(chain.nodes[:-1]),
        high=_indices(chain.nodes[1:]),
        strengths=frozen(parameters.chain_weight * chain.weights),
        scale=None,
        nodes=nodes,
    )


def row_gaps(links: Links, rows: Float32Array) -> Float64Array:
    """The squared distance across each link of unscaled rows, a few links at a time."""
    found = np.empty(len(links))
    step = max(1, _BLOCK_VALUES // rows.shape[1])
    for start in range(0, found.size, step):
        part = slice(start, start + step)
        difference = rows[links.low[part]].astype(np.float64)
        difference -= rows[links.high[part]]
        found[part] = np.einsum("ec,ec->e", difference, difference)
    return found


@dataclass(frozen=True, slots=True)
class LinkForms:
    """Links with the parts of their squared distance at the anchors and at the settled state."""

    links: Links
    anchor_gaps: Float64Array
    field_gaps: Float64Array
    response_differences: Float64Array

    def settled_gaps(self, field_products: Float64Array, square: float) -> Float64Array:
        """Each link's squared distance at U* = V + w psi^T, from V psi and |psi|^2."""
        gaps = self.links.differences(field_products)
        gaps *= 2.0
        gaps += self.response_differences * square
        gaps *= self.response_differences
        gaps += self.field_gaps
        return np.maximum(gaps, 0.0, out=gaps)


def _indices(column: npt.NDArray[np.int32]) -> Int64Array:
    # NumPy takes by its own index type alone; other types are converted at every use.
    return frozen(column.astype(np.int64))
