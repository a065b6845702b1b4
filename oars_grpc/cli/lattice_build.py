"""Builds the lattice of a file: neighbours, graph, settled state."""

from dataclasses import dataclass
from importlib.metadata import version

from oars_grpc.cli.lattice_file import LatticeFile
from oars_grpc.cli.lattice_progress import Stage
from oars_grpc.core.lattice.graph import mutual_graph
from oars_grpc.core.lattice.neighbors import NeighborLists, nearest_neighbors
from oars_grpc.core.lattice.parameters import LatticeParameters
from oars_grpc.core.lattice.progress import between
from oars_grpc.core.lattice.settled import LatticeInputs, SettledLattice, settle_lattice
from oars_grpc.neighbor_index import search_for


@dataclass(frozen=True, slots=True)
class BuiltLattice:
    """A settled lattice with the file that it came from."""

    file: LatticeFile
    lists: NeighborLists
    settled: SettledLattice

    @property
    def shortfall(self) -> str:
        """Why its state is not to be relied on; empty if it is."""
        outcome = self.settled.state.outcome
        if outcome.converged:
            return ""
        return (
            f"settling stopped by {outcome.stop.value} after {outcome.iterations} iterations:"
            f" residual {outcome.residual:.1e}, tolerance {outcome.tolerance:.1e}"
        )

    def name(self, node: int) -> str:
        """An item as people know it: by its id, or by its row."""
        return str(node) if self.file.ids is None else self.file.ids[node]


def found_inputs(
    file: LatticeFile, parameters: LatticeParameters, stage: Stage, *, exact: bool
) -> tuple[LatticeInputs, NeighborLists]:
    """What the lattice of a file is settled from, and the neighbours that its graph is of."""
    search = nearest_neighbors if exact else search_for(len(file))
    proceed = stage("neighbours")
    lists = search(file.anchors, parameters.neighbors, between(proceed, 0.0, 0.95))
    graph = mutual_graph(lists, parameters.row_cap, between(proceed, 0.95, 1.0))
    proceed(1.0)
    return LatticeInputs(file.anchors, graph, file.gates, file.chain, parameters), lists


def built_lattice(
    file: LatticeFile, parameters: LatticeParameters, stage: Stage, *, exact: bool
) -> BuiltLattice:
    """The lattice of a file, settled for every query."""
    inputs, lists = found_inputs(file, parameters, stage, exact=exact)
    proceed = stage("settling")
    settled = settle_lattice(inputs, proceed)
    proceed(1.0)
    return BuiltLattice(file, lists, settled)


def software() -> str:
    """What receipts say that computed them."""
    return f"oars-grpc/{version('oars-grpc')}"
