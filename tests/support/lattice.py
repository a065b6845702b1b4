"""Corpora of embeddings for the tests of the lattice, and the slow plain way to its results."""

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from oars_grpc.core.lattice.graph import Graph

VECTORS = Path(__file__).parents[1] / "vectors" / "lattice.json"

Table = npt.NDArray[np.float32]
Dense = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ReferenceCase:
    """One case of the reference file."""

    name: str
    neighbors: int
    anchor_weight: float
    graph_weight: float
    query_weight: float
    isolated_nodes: int
    anchors: Table
    query: Table
    gates: list[float] | None
    edges: list[tuple[int, int, float]]
    stationary_state: Table


def reference_cases() -> list[ReferenceCase]:
    """The cases of the reference file."""
    return [_case(case) for case in json.loads(VECTORS.read_text())["cases"]]


def _case(case: dict[str, Any]) -> ReferenceCase:
    def table(name: str, shape: tuple[int, ...]) -> Table:
        return np.frombuffer(base64.b64decode(case[name]), dtype="<f4").reshape(shape)

    shape = (case["N"], case["D"])
    return ReferenceCase(
        name=case["name"],
        neighbors=case["k"],
        anchor_weight=case["lambda_anchor"],
        graph_weight=case["lambda_graph"],
        query_weight=case["lambda_query"],
        isolated_nodes=case["isolated_nodes"],
        anchors=table("anchors_f32le_base64", shape),
        query=table("query_f32le_base64", shape[1:]),
        gates=case["gates"],
        edges=[(int(i), int(j), float(weight)) for i, j, weight in case["edges"]],
        stationary_state=table("stationary_state_f32le_base64", shape),
    )


def clustered(count: int, dimension: int, clusters: int, seed: int, spread: float = 0.35) -> Table:
    """Random embeddings around as many centres."""
    chance = np.random.default_rng(seed)
    centres = chance.standard_normal((clusters, dimension))
    noise = chance.standard_normal((count, dimension))
    return (centres[chance.integers(0, clusters, count)] + spread * noise).astype(np.float32)


def gaussian(count: int, dimension: int, seed: int) -> Table:
    """Embeddings in random directions."""
    return np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32)


def dense_adjacency(graph: Graph) -> Dense:
    """The graph's weights as a full matrix, from its edges alone."""
    full = np.zeros((len(graph), len(graph)))
    for (low, high), weight in zip(graph.edges, graph.edge_weights, strict=True):
        full[low, high] = full[high, low] = weight
    return full


def dense_laplacian(weights: Dense) -> Dense:
    """D - A."""
    return np.asarray(np.diag(weights.sum(axis=1)) - weights)


def plain_cosines(anchors: Table) -> Dense:
    """All cosines in float64; -infinity on the diagonal and for zero rows."""
    wide = anchors.astype(np.float64)
    norms = np.sqrt((wide * wide).sum(axis=1))
    known = norms > 0
    units = np.where(known[:, None], wide / np.where(known, norms, 1.0)[:, None], 0.0)
    found = units @ units.T
    found[~known] = found[:, ~known] = -np.inf
    np.fill_diagonal(found, -np.inf)
    return np.asarray(found)
