"""Lattices as they are asked: loaded from what is stored, and kept while there is room.

Stored are anchors, gates and the lists of neighbours. Graph and settled state are computed from
them again, in far less time than the search took, and to the same bits on every replica.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from oars_grpc.core.lattice.arrays import Chain, Float32Array, checked_gates, frozen
from oars_grpc.core.lattice.conflicts import Conflicts, conflicts
from oars_grpc.core.lattice.graph import mutual_graph
from oars_grpc.core.lattice.neighbors import NeighborLists
from oars_grpc.core.lattice.progress import Proceed, between
from oars_grpc.core.lattice.ranking import Spreading, spreading
from oars_grpc.core.lattice.settled import LatticeInputs, SettledLattice, settle_lattice
from oars_grpc.core.lattice.statement import StatementHead, statement_head
from oars_grpc.core.lattice_ports import LatticeStore
from oars_grpc.core.stored_lattice import LatticePart, LatticeState, StoredChain, StoredLattice
from oars_grpc.errors import Conflict, FailedPrecondition
from oars_grpc.use_cases.lattice_arrays import array_of_chunks, chunks_of
from oars_grpc.use_cases.lattice_work import HeavyWork, LatticeCache, bytes_of


@dataclass(frozen=True, slots=True)
class ReadyLattice:
    """A settled lattice with all that questions need."""

    settled: SettledLattice
    lists: NeighborLists
    spread: Spreading
    conflicts: Conflicts
    head: StatementHead

    @property
    def inputs(self) -> LatticeInputs:
        """What it was settled from."""
        return self.settled.inputs

    def digests(self) -> dict[str, str]:
        """The digests of its inputs and its graph, by name."""
        found = self.head.provenance
        return {
            "anchors": found.anchors,
            "graph": found.edges,
            "gates": found.gates,
            "chain": found.chain,
            "parameters": found.parameters,
        }


class ReadyLattices:
    """Loads lattices and keeps them; the last of a generation is what every question uses."""

    def __init__(
        self,
        *,
        store: LatticeStore,
        heavy: HeavyWork,
        asking: HeavyWork,
        cache_bytes: int,
        software: str,
    ) -> None:
        self._store = store
        self._heavy = heavy
        self._asking = asking
        self._software = software
        self._cache: LatticeCache[ReadyLattice] = LatticeCache(cache_bytes, bytes_of)

    @property
    def heavy(self) -> HeavyWork:
        """Where the heavy work of calls takes its place."""
        return self._heavy

    @property
    def asking(self) -> HeavyWork:
        """Where questions take theirs: they are short, and wait for no building."""
        return self._asking

    def load(self, stored: StoredLattice, proceed: Proceed) -> ReadyLattice:
        """The lattice, kept or loaded.

        Raises:
            FailedPrecondition: it is not ready.
            Conflict: it was changed meanwhile.
        """
        if stored.state is not LatticeState.READY:
            raise FailedPrecondition(
                f"lattice {stored.lattice_id} is {stored.state.value}, not ready",
                reason="LATTICE_NOT_READY",
            )
        key = (stored.tenant_id, stored.lattice_id, stored.generation)

        def make() -> ReadyLattice:
            with self._heavy.place(proceed):
                return self._loaded(stored, proceed)

        return self._cache.get(key, make, proceed)

    def keep(self, stored: StoredLattice, ready: ReadyLattice) -> None:
        """Keep a lattice that was just made."""
        key = (stored.tenant_id, stored.lattice_id, stored.generation)
        self._cache.get(key, lambda: ready, lambda _share: None)

    def made(
        self,
        arrays: tuple[Float32Array, Float32Array],
        stored: StoredLattice,
        lists: NeighborLists,
        proceed: Proceed,
    ) -> ReadyLattice:
        """Settle a lattice from anchors and gates, and the lists of neighbours."""
        anchors, gates = arrays
        parameters = stored.parameters
        graph = mutual_graph(lists, parameters.row_cap, between(proceed, 0.0, 0.1))
        whole = LatticeInputs(anchors, graph, gates, chain_of(stored.chain), parameters)
        settled = settle_lattice(whole, between(proceed, 0.1, 0.9))
        found = conflicts(anchors, lists, proceed=between(proceed, 0.9, 1.0))
        head = statement_head(settled, self._software)
        proceed(1.0)
        return ReadyLattice(settled, lists, spreading(graph), found, head)

    def arrays(self, stored: StoredLattice) -> tuple[Float32Array, Float32Array]:
        """Anchors and gates as they are stored."""
        anchors = array_of_chunks(
            self._chunks(stored, LatticePart.ANCHORS), (stored.anchors, stored.dimension), "<f4"
        )
        if not stored.gated:
            return anchors, checked_gates(None, stored.anchors)
        gates = array_of_chunks(self._chunks(stored, LatticePart.GATES), (stored.anchors,), "<f4")
        return anchors, gates

    def write(self, stored: StoredLattice, lattice: ReadyLattice, proceed: Proceed) -> None:
        """Write all numbers of a lattice into its generation, which is open."""
        arrays = [(LatticePart.ANCHORS, lattice.inputs.anchors)]
        if stored.gated:
            arrays.append((LatticePart.GATES, lattice.inputs.gates))
        for kind, array in arrays:
            for position, chunk in enumerate(chunks_of(array)):
                proceed(0.0)
                self._store.add_part(stored.tenant_id, stored.generation, kind, position, chunk)
        self.write_lists(stored, lattice.lists, proceed)

    def write_lists(self, stored: StoredLattice, lists: NeighborLists, proceed: Proceed) -> None:
        """Write the lists of neighbours."""
        for kind, array in (
            (LatticePart.NEIGHBORS, lists.indices),
            (LatticePart.COSINES, lists.cosines),
        ):
            for position, chunk in enumerate(chunks_of(array)):
                proceed(0.0)
                self._store.add_part(stored.tenant_id, stored.generation, kind, position, chunk)

    def lists(self, stored: StoredLattice) -> NeighborLists:
        """The lists of neighbours as they are stored."""
        shape = (stored.anchors, stored.parameters.neighbors)
        return NeighborLists(
            array_of_chunks(self._chunks(stored, LatticePart.NEIGHBORS), shape, "<i4"),
            array_of_chunks(self._chunks(stored, LatticePart.COSINES), shape, "<f8"),
        )

    def _loaded(self, stored: StoredLattice, proceed: Proceed) -> ReadyLattice:
        try:
            arrays = self.arrays(stored)
            lists = self.lists(stored)
        except ValueError as error:
            if not self._is_current(stored):
                raise Conflict("the lattice was changed while it was read; try again") from error
            raise
        ready = self.made(arrays, stored, lists, proceed)
        if ready.digests() != dict(stored.digests):
            differing = [
                name for name, digest in ready.digests().items() if stored.digests[name] != digest
            ]
            raise ValueError(f"lattice {stored.lattice_id} is not what it was: {differing}")
        return ready

    def _is_current(self, stored: StoredLattice) -> bool:
        now = self._store.find_lattice([stored.tenant_id], stored.lattice_id)
        return now is not None and now.generation == stored.generation

    def _chunks(self, stored: StoredLattice, kind: LatticePart) -> Iterator[bytes]:
        return self._store.parts(stored.tenant_id, stored.generation, kind)


def chain_of(stored: StoredChain | None) -> Chain | None:
    """A stored chain as numerics take it."""
    if stored is None:
        return None
    return Chain(
        frozen(np.array(stored.nodes, dtype=np.int32)), frozen(np.array(stored.weights, float))
    )


def stored_chain(chain: Chain | None) -> StoredChain | None:
    """A chain as it is stored."""
    if chain is None:
        return None
    return StoredChain(tuple(map(int, chain.nodes)), tuple(map(float, chain.weights)))
