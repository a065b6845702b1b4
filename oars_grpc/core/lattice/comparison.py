"""Two lattices side by side: which inputs differ, and by how much."""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from oars_grpc.core.lattice.arrays import Chain, Int64Array
from oars_grpc.core.lattice.graph import Graph
from oars_grpc.core.lattice.parameters import LatticeParameters
from oars_grpc.core.lattice.provenance import Provenance, differing
from oars_grpc.core.lattice.settled import LatticeInputs


@dataclass(frozen=True, slots=True)
class ChangedParameter:
    """A parameter that differs, with both values."""

    name: str
    one: Any
    other: Any


@dataclass(frozen=True, slots=True)
class Comparison:
    """What differs between two lattices. Rows are compared place by place."""

    differing: tuple[str, ...]  # members of `Provenance`
    anchors_changed: int  # rows that differ, or stand in the larger lattice alone
    edges_added: int
    edges_removed: int
    edges_reweighted: int
    gates_changed: int
    chain_changed: bool
    parameters: tuple[ChangedParameter, ...]

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return not self.differing


def compare(
    one: LatticeInputs, one_provenance: Provenance, other: LatticeInputs, provenance: Provenance
) -> Comparison:
    """Compare two lattices by their digests, and count in what those tell apart."""
    names = differing(one_provenance, provenance)
    added = removed = reweighted = 0
    if "edges" in names:
        added, removed, reweighted = _edges(one.graph, other.graph)
    return Comparison(
        differing=names,
        anchors_changed=_rows(one.anchors, other.anchors) if "anchors" in names else 0,
        edges_added=added,
        edges_removed=removed,
        edges_reweighted=reweighted,
        gates_changed=_rows(one.gates[:, None], other.gates[:, None]) if "gates" in names else 0,
        chain_changed=not _same_chain(one.chain, other.chain),
        parameters=_parameters(one.parameters, other.parameters),
    )


def _rows(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> int:
    common, longest = min(len(one), len(other)), max(len(one), len(other))
    if one.shape[1] != other.shape[1]:
        return longest
    return longest - common + int((one[:common] != other[:common]).any(axis=1).sum())


def _edges(one: Graph, other: Graph) -> tuple[int, int, int]:
    count = max(len(one), len(other))
    first, second = _keys(one, count), _keys(other, count)
    _, in_first, in_second = np.intersect1d(first, second, assume_unique=True, return_indices=True)
    reweighted = one.edge_weights[in_first] != other.edge_weights[in_second]
    kept = in_first.size
    return second.size - kept, first.size - kept, int(reweighted.sum())


def _keys(graph: Graph, count: int) -> Int64Array:
    edges = graph.edges.astype(np.int64)
    return edges[:, 0] * count + edges[:, 1]


def _same_chain(one: Chain | None, other: Chain | None) -> bool:
    if one is None or other is None:
        return one is other
    return np.array_equal(one.nodes, other.nodes) and np.array_equal(one.weights, other.weights)


def _parameters(one: LatticeParameters, other: LatticeParameters) -> tuple[ChangedParameter, ...]:
    pairs = (
        ChangedParameter(field.name, getattr(one, field.name), getattr(other, field.name))
        for field in fields(LatticeParameters)
    )
    return tuple(pair for pair in pairs if pair.one != pair.other)
