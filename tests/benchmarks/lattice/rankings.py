"""The rankings that are compared: each makes a corpus ready and then answers queries."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.linalg import splu

from oars_grpc.core.lattice.arrays import checked_anchors, checked_gates, checked_query
from oars_grpc.core.lattice.graph import Graph, mutual_graph
from oars_grpc.core.lattice.laplacian import adjacency
from oars_grpc.core.lattice.neighbors import nearest_neighbors
from oars_grpc.core.lattice.parameters import LatticeParameters
from oars_grpc.core.lattice.ranking import DEFAULT_RANKING, RankingParameters, rank, spreading
from oars_grpc.core.lattice.settled import LatticeInputs, read, settle_lattice
from tests.benchmarks.lattice.peer import Peer

TOP = 10
# What else is ranked takes part by cosine this far down; MMR beyond would not differ.
POOL = 256

Floats = NDArray[np.float32]
Order = NDArray[np.int64]
Answer = Callable[[Floats], Order]
Ready = Callable[[Floats], Answer]


@dataclass(frozen=True, slots=True)
class Ranking:
    """A named way to rank; it may be too slow to be asked every query."""

    name: str
    ready: Ready
    most_queries: int | None = None


def by_cosine() -> Ranking:
    """The plain cosine with the query: what all others are compared with."""

    def ready(corpus: Floats) -> Answer:
        rows = unit(corpus)
        return lambda query: np.argsort(-(rows @ unit(query)), kind="stable")[:TOP]

    return Ranking("cosine", ready)


def by_maximal_marginal_relevance(weight: float) -> Ranking:
    """MMR (Carbonell and Goldstein 1998) on the cosine: (1 - w) cos(query) - w max cos(chosen)."""

    def ready(corpus: Floats) -> Answer:
        rows = unit(corpus)

        def answer(query: Floats) -> Order:
            scores = rows @ unit(query)
            pool = np.argsort(-scores, kind="stable")[:POOL]
            likeness = rows[pool] @ rows[pool].T
            nearest = np.zeros(len(pool), np.float32)
            chosen: list[int] = []
            for step in range(min(TOP, len(pool))):
                values = (1 - weight) * scores[pool] - weight * nearest
                values[chosen] = -np.inf
                best = int(values.argmax())
                chosen.append(best)
                nearest = np.maximum(nearest, likeness[best]) if step else likeness[best].copy()
            return np.asarray(pool[chosen], np.int64)

        return answer

    return Ranking(f"MMR {weight:g} on cosine", ready)


def by_personalised_page_rank(damping: float, power: int) -> Ranking:
    """PageRank on the same graph; it restarts at the items in proportion to cos(query)^power."""

    def ready(corpus: Floats) -> Answer:
        graph = default_graph(corpus)
        rows = unit(corpus)
        weights = sp.csr_array(adjacency(graph))
        # A walker at a node without edges restarts.
        shares = np.divide(1, graph.degrees, out=np.zeros(len(graph)), where=graph.degrees > 0)
        step = weights.T @ sp.diags_array(shares)
        solver = splu(sp.csc_array(sp.eye_array(len(graph)) - damping * step))

        def answer(query: Floats) -> Order:
            start = np.maximum(rows @ unit(query), 0).astype(np.float64) ** power
            return np.asarray(np.argsort(-solver.solve(start), kind="stable")[:TOP], np.int64)

        return answer

    return Ranking(f"personalised PageRank, damping {damping:g}, power {power}", ready)


def by_lattice(
    parameters: RankingParameters = DEFAULT_RANKING, name: str = "lattice (default)"
) -> Ranking:
    """What the product returns, by the product's own code."""

    def ready(corpus: Floats) -> Answer:
        anchors = checked_anchors(corpus)
        gates = checked_gates(None, len(anchors))
        inputs = LatticeInputs(anchors, default_graph(corpus), gates, None, LatticeParameters())
        lattice = settle_lattice(inputs)
        spread = spreading(inputs.graph, parameters.spread)
        asked = RankingParameters(TOP, parameters.spread, parameters.power, parameters.diversity)

        def answer(query: Floats) -> Order:
            reading = read(lattice, checked_query(query, anchors.shape[1]))
            return rank(reading, asked, spread).nodes

        return answer

    return Ranking(name, ready)


def by_peer(peer: Peer, most_queries: int) -> Ranking:
    """Oscillink's bundle over the whole corpus."""

    def ready(corpus: Floats) -> Answer:
        lattice = peer.lattice(corpus)
        return lambda query: np.asarray(lattice.ranked(query, TOP), np.int64)

    return Ranking("Oscillink bundle", ready, most_queries)


def by_peer_on_nearest(peer: Peer, pool: int, most_queries: int) -> Ranking:
    """Oscillink's bundle over the items nearest to the query."""

    def ready(corpus: Floats) -> Answer:
        rows = unit(corpus)

        def answer(query: Floats) -> Order:
            nearest = np.argsort(-(rows @ unit(query)), kind="stable")[:pool]
            chosen = peer.lattice(corpus[nearest]).ranked(query, TOP)
            return np.asarray(nearest[chosen], np.int64)

        return answer

    return Ranking(f"Oscillink bundle of the nearest {pool}", ready, most_queries)


def default_graph(corpus: Floats) -> Graph:
    """The graph that the lattice's default parameters make."""
    return mutual_graph(nearest_neighbors(checked_anchors(corpus), LatticeParameters().neighbors))


def unit(rows: Floats) -> Floats:
    """Rows, or one vector, of length 1."""
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True).astype(np.float32)
    return np.asarray(rows / np.where(lengths > 0, lengths, np.float32(1)))
