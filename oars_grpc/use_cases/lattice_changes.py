"""Changes the anchors of stored lattices without searching for all neighbours anew.

The numbers of the changed lattice are written beside the old ones first, as a generation of their
own; then one transaction makes them the lattice's, if nobody else has changed it meanwhile.
Questions that are under way go on with the old ones. Chunks that did not change are not written
again: they are named by their digests.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from oars_grpc.core.call import Answer, Call, Encode
from oars_grpc.core.lattice.arrays import (
    Float32Array,
    Int64Array,
    checked_anchors,
    checked_gates,
    frozen,
)
from oars_grpc.core.lattice.directions import directions_of
from oars_grpc.core.lattice.incremental import Neighborhood, remove, upsert
from oars_grpc.core.lattice.progress import Proceed, between
from oars_grpc.core.lattice_ports import LatticeStore
from oars_grpc.core.ports import Registry
from oars_grpc.core.stored_lattice import StoredLattice
from oars_grpc.errors import Conflict, InvalidArgument
from oars_grpc.use_cases.lattice_arrays import unpacked, unpacked_rows
from oars_grpc.use_cases.lattice_limits import limits_of
from oars_grpc.use_cases.lattice_records import (
    CHANGED,
    LatticeRecords,
    answered_once,
    check_may_change,
    lattice_not_found,
)
from oars_grpc.use_cases.lattices import Lattices, RecordedLattice, recorded_inputs
from oars_grpc.use_cases.ready_lattice import ReadyLattice, ReadyLattices

_Arrays = tuple[Float32Array, Float32Array]
# The lattice as it was to arrays and neighbourhood as they become.
_Apply = Callable[[ReadyLattice, Proceed], tuple[_Arrays, Neighborhood]]


class LatticeChanges:
    """The part of the lattice service that changes anchors."""

    def __init__(
        self,
        *,
        store: LatticeStore,
        lattices: Lattices,
        ready: ReadyLattices,
        records: LatticeRecords,
    ) -> None:
        self._store = store
        self._lattices = lattices
        self._ready = ready
        self._records = records

    @answered_once
    def upsert(
        self,
        call: Call,
        tenant_id: str,
        lattice_id: str,
        expected_version: int,
        indices: Sequence[int],
        rows: tuple[bytes, bytes],
        encode: Encode[RecordedLattice],
        proceed: Proceed,
    ) -> Answer:
        """Replace anchors and add new ones; `rows` are anchors and gates, the latter perhaps none.

        Raises:
            InvalidArgument: rows that do not fit the indices, or indices that leave a gap.
        """
        stored = self._begun(call, tenant_id, lattice_id, expected_version)
        at = np.array(indices, dtype=np.int64)
        before = stored.anchors
        new = np.sort(at[at >= before])
        if not np.array_equal(new, np.arange(before, before + new.size)):
            raise InvalidArgument.of("indices", f"new ones must continue from {before}")
        limits = limits_of(call.principal)
        after = before + new.size
        if after > limits.max_anchors:
            raise InvalidArgument.of("indices", f"make more than {limits.max_anchors} anchors")
        anchors = checked_anchors(
            unpacked_rows(rows[0], "anchors", stored.dimension), limits=limits
        )
        if len(anchors) != at.size:
            raise InvalidArgument.of("anchors", f"must be {at.size} rows, not {len(anchors)}")
        gates = checked_gates(unpacked(rows[1], "gates"), at.size) if rows[1] else None

        def apply(old: ReadyLattice, within: Proceed) -> tuple[_Arrays, Neighborhood]:
            changed = np.concatenate(
                [old.inputs.anchors, np.zeros((new.size, stored.dimension), np.float32)]
            )
            changed[at] = anchors
            opened = np.concatenate([old.inputs.gates, np.ones(new.size, np.float32)])
            if gates is not None:
                opened[at] = gates
            near = upsert(_neighborhood(old), at, directions_of(anchors), within)
            return (frozen(changed), frozen(opened)), near

        changed = replace(stored, anchors=after, gated=stored.gated or gates is not None)
        return self._change(call, stored, changed, apply, encode, proceed)

    @answered_once
    def remove(
        self,
        call: Call,
        tenant_id: str,
        lattice_id: str,
        expected_version: int,
        indices: Sequence[int],
        encode: Encode[RecordedLattice],
        proceed: Proceed,
    ) -> Answer:
        """Remove anchors; those that remain close the gaps.

        Raises:
            InvalidArgument: an anchor that is not there or of the chain, or all of them.
        """
        stored = self._begun(call, tenant_id, lattice_id, expected_version)
        at: Int64Array = np.array(indices, dtype=np.int64)
        if at.max() >= stored.anchors:
            raise InvalidArgument.of("indices", f"must be below {stored.anchors}")
        if at.size == stored.anchors:
            raise InvalidArgument.of("indices", "must leave an anchor")
        kept = np.ones(stored.anchors, dtype=np.bool_)
        kept[at] = False
        chain = stored.chain
        if chain is not None:
            if not kept[list(chain.nodes)].all():
                raise InvalidArgument.of("indices", "must not be of the lattice's chain")
            places = np.cumsum(kept) - 1
            chain = replace(chain, nodes=tuple(map(int, places[list(chain.nodes)])))

        def apply(old: ReadyLattice, within: Proceed) -> tuple[_Arrays, Neighborhood]:
            arrays = old.inputs.anchors[kept], old.inputs.gates[kept]
            near = remove(_neighborhood(old), at, within)
            return (frozen(arrays[0]), frozen(arrays[1])), near

        changed = replace(stored, anchors=stored.anchors - at.size, chain=chain)
        return self._change(call, stored, changed, apply, encode, proceed)

    def _begun(
        self, call: Call, tenant_id: str, lattice_id: str, expected_version: int
    ) -> StoredLattice:
        stored = self._lattices.get(call, tenant_id, lattice_id)
        check_may_change(call, stored, expected_version)
        return stored

    def _change(
        self,
        call: Call,
        stored: StoredLattice,
        wanted: StoredLattice,
        apply: _Apply,
        encode: Encode[RecordedLattice],
        proceed: Proceed,
    ) -> Answer:
        old = self._ready.load(stored, between(proceed, 0.0, 0.3))
        changed = replace(
            wanted,
            generation=self._records.new_id("gen"),
            version=stored.version + 1,
            updated_at=self._records.now(),
        )
        with self._ready.heavy.place(proceed):
            arrays, near = apply(old, between(proceed, 0.3, 0.5))
            made = self._ready.made(arrays, changed, near.lists, between(proceed, 0.5, 1.0))
        changed = replace(changed, digests=made.digests(), edges=len(made.inputs.graph.edges))
        self._store.open_generation(stored.tenant_id, changed.generation)
        self._ready.write(changed, made, proceed)

        def change(registry: Registry) -> None:
            now = registry.lattice(stored.tenant_id, stored.lattice_id)
            if now is None:
                raise lattice_not_found(stored.lattice_id)
            if now.generation != stored.generation:
                raise Conflict("the lattice was changed by another call; read it and try again")
            registry.update_lattice(changed, stored.generation)

        answer = self._records.commit(
            call,
            stored.tenant_id,
            [recorded_inputs(CHANGED, changed, made)],
            lambda receipts: RecordedLattice(changed, receipts[0]),
            encode,
            change,
        )
        if not answer.replayed:
            self._ready.keep(changed, made)
        return answer


def _neighborhood(old: ReadyLattice) -> Neighborhood:
    return Neighborhood(directions_of(old.inputs.anchors), old.lists)
