"""The product's lattice, put together as the service does it, for one query and all its answers."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oars_grpc.core.lattice.arrays import checked_anchors, checked_gates, checked_query
from oars_grpc.core.lattice.components import node_components
from oars_grpc.core.lattice.conflicts import Conflicts, conflicts
from oars_grpc.core.lattice.energy import Energies, Query
from oars_grpc.core.lattice.graph import mutual_graph
from oars_grpc.core.lattice.neighbors import NeighborLists, nearest_neighbors
from oars_grpc.core.lattice.parameters import LatticeParameters
from oars_grpc.core.lattice.ranking import RankingParameters, Spreading, rank, spreading
from oars_grpc.core.lattice.settled import (
    LatticeInputs,
    SettledLattice,
    read,
    settle_lattice,
)
from oars_grpc.core.lattice.statement import (
    StatementHead,
    full_statement,
    light_statement,
    statement_head,
)

SOFTWARE = "oars-benchmark"
PARAMETERS = LatticeParameters()

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class StoredLattice:
    """A settled lattice with what does not depend on the query: what a new query finds ready."""

    settled: SettledLattice
    head: StatementHead
    tensions: Conflicts
    spread: Spreading

    @classmethod
    def of(cls, anchors: Floats, lists: NeighborLists | None = None) -> "StoredLattice":
        """From embeddings; by the exact search, if nobody's neighbours are given."""
        given = checked_anchors(anchors)
        if lists is None:
            lists = nearest_neighbors(given, PARAMETERS.neighbors)
        graph = mutual_graph(lists, PARAMETERS.row_cap)
        gates = checked_gates(None, len(given))
        settled = settle_lattice(LatticeInputs(given, graph, gates, None, PARAMETERS))
        return cls(
            settled,
            statement_head(settled, SOFTWARE),
            conflicts(given, lists),
            spreading(graph),
        )

    def answer(self, query: Floats, top: int = 8) -> tuple[dict[str, Any], list[int]]:
        """The full receipt's statement for a query, and the best items."""
        reading = read(self.settled, checked_query(query, self.settled.inputs.dimension))
        ranking = rank(reading, RankingParameters(top), self.spread)
        statement = full_statement(
            self.head,
            self.settled,
            reading.query,
            node_components(reading),
            self.tensions,
            ranking=ranking,
        )
        return statement.statement, ranking.nodes.tolist()

    def energies(self, query: Floats) -> Energies:
        """The sums of a light receipt: energies by term and residual."""
        return self.settled.energies(Query.of(query))

    def light(self, query: Floats) -> dict[str, Any]:
        """The light receipt's statement, digest of the query included."""
        return light_statement(self.head, self.settled, Query.of(query))
