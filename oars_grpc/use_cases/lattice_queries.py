"""Asks lattices: rankings, chains and gates, each result with its receipt."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from oars_grpc.core.call import Answer, Call, Encode
from oars_grpc.core.lattice.arrays import (
    Float32Array,
    checked_chain,
    checked_queries,
    checked_query,
)
from oars_grpc.core.lattice.chain_verdict import chain_verdict
from oars_grpc.core.lattice.components import node_components
from oars_grpc.core.lattice.gates import diffusion_gates, query_sources
from oars_grpc.core.lattice.progress import Proceed
from oars_grpc.core.lattice.provenance import gates_digest, query_digest
from oars_grpc.core.lattice.ranking import DEFAULT_RANKING, rank
from oars_grpc.core.lattice.settled import read
from oars_grpc.core.lattice.statement import (
    full_statement,
    light_statement,
    verdict_json,
)
from oars_grpc.core.lattice_verification import chain_json, solver_json
from oars_grpc.core.stored import StoredReceipt
from oars_grpc.core.stored_lattice import StoredLattice
from oars_grpc.errors import FailedPrecondition
from oars_grpc.use_cases.lattice_answers import (
    ComputedGates,
    LatticeAnswer,
    QueriedLattice,
    Wanted,
    about,
    check_rows,
)
from oars_grpc.use_cases.lattice_arrays import packed, unpacked, unpacked_rows
from oars_grpc.use_cases.lattice_limits import MAXIMUM_ARRAY_BYTES, limits_of
from oars_grpc.use_cases.lattice_records import (
    CHAIN_SCORED,
    GATES_COMPUTED,
    QUERIED,
    SETTLED,
    LatticeRecords,
    Statement,
    answered_once,
)
from oars_grpc.use_cases.lattices import LatticeDraft, Lattices, checked_draft
from oars_grpc.use_cases.ready_lattice import ReadyLattice, ReadyLattices


class LatticeQueries:
    """The part of the lattice service that answers questions."""

    def __init__(
        self,
        *,
        lattices: Lattices,
        ready: ReadyLattices,
        records: LatticeRecords,
    ) -> None:
        self._lattices = lattices
        self._ready = ready
        self._records = records

    @answered_once
    def settle_once(
        self,
        call: Call,
        tenant_id: str,
        draft: LatticeDraft,
        query: Float32Array,
        wanted: Wanted,
        encode: Encode[LatticeAnswer],
        proceed: Proceed,
    ) -> Answer:
        """Settle a lattice that is not stored, and rank it for one query."""
        tenant = call.tenant(tenant_id)
        checked = checked_draft(call, draft)
        asked = checked_query(query, checked.anchors.shape[1])
        passing = self._lattices.passing(call, tenant, checked)
        if wanted.rows:
            wanted = replace(wanted, rows=passing.anchors)
        check_rows(passing, wanted, 1)
        ready = self._lattices.settled(passing, checked, proceed)
        body, state = self._read(ready, asked, wanted, proceed)
        return self._records.commit(
            call,
            tenant,
            [Statement(SETTLED, body)],
            lambda receipts: LatticeAnswer(body, state, receipts[0]),
            encode,
        )

    @answered_once
    def query(
        self,
        call: Call,
        tenant_id: str,
        lattice_id: str,
        queries: bytes,
        wanted: Wanted,
        encode: Encode[QueriedLattice],
        proceed: Proceed,
    ) -> Answer:
        """Rank a stored lattice's anchors for queries."""
        stored = self._lattices.get(call, tenant_id, lattice_id)
        asked = checked_queries(
            unpacked_rows(queries, "queries", stored.dimension),
            stored.dimension,
            limits=limits_of(call.principal),
        )
        check_rows(stored, wanted, len(asked))
        ready = self._ready.load(stored, proceed)
        found = []
        with self._ready.asking.place(proceed):
            for place, one in enumerate(asked):
                proceed(place / len(asked))
                found.append(self._read(ready, one, wanted, proceed))
        bodies = [about(body, stored) for body, _ in found]
        states = [state for _, state in found]

        def finish(receipts: Sequence[StoredReceipt]) -> QueriedLattice:
            answers = map(LatticeAnswer, bodies, states, receipts)
            return QueriedLattice(tuple(answers), stored.version)

        statements = [Statement(QUERIED, body) for body in bodies]
        return self._records.commit(call, stored.tenant_id, statements, finish, encode)

    @answered_once
    def score_chain(
        self,
        call: Call,
        tenant_id: str,
        lattice_id: str,
        chain: tuple[list[int], Float32Array | None],
        query: bytes,
        encode: Encode[LatticeAnswer],
        proceed: Proceed,
    ) -> Answer:
        """Judge a chain of a stored lattice's anchors."""
        stored = self._lattices.get(call, tenant_id, lattice_id)
        nodes, weights = chain
        judged = checked_chain(nodes, stored.anchors, weights)
        asked = checked_query(unpacked(query, "query"), stored.dimension)
        ready = self._ready.load(stored, proceed)
        with self._ready.asking.place(proceed):
            reading = read(ready.settled, asked)
            verdict = chain_verdict(reading, judged)
            body = light_statement(ready.head, ready.settled, reading.query)
        body = {**body, "judged": chain_json(judged), "verdict": verdict_json(verdict)}
        return self._one(call, stored, CHAIN_SCORED, body, encode)

    @answered_once
    def compute_gates(
        self,
        call: Call,
        tenant_id: str,
        lattice_id: str,
        query: bytes,
        screening: float,
        encode: Encode[ComputedGates],
        proceed: Proceed,
    ) -> Answer:
        """Gates by diffusion of a query's relevance over a stored lattice's graph."""
        stored = self._lattices.get(call, tenant_id, lattice_id)
        asked = checked_query(unpacked(query, "query"), stored.dimension)
        if stored.anchors * 4 > MAXIMUM_ARRAY_BYTES:
            raise FailedPrecondition(
                f"lattice {lattice_id} has more anchors than an answer has room for gates",
                reason="LATTICE_TOO_LARGE",
            )
        ready = self._ready.load(stored, proceed)
        with self._ready.asking.place(proceed):
            sources = query_sources(ready.inputs.anchors, asked)
            made = diffusion_gates(
                ready.inputs.graph, sources, screening=screening, proceed=proceed
            )
        body: dict[str, Any] = {
            "software": ready.head.members["software"],
            "inputs": {**ready.head.inputs, "query": query_digest(asked)},
            "gates": {"digest": gates_digest(made.gates), "screening": repr(float(screening))},
        }
        solver = solver_json(made.outcome)
        if solver is not None:
            body["solver"] = solver
        gates = packed(made.gates)
        body = about(body, stored)
        return self._records.commit(
            call,
            stored.tenant_id,
            [Statement(GATES_COMPUTED, body)],
            lambda receipts: ComputedGates(gates, LatticeAnswer(body, b"", receipts[0])),
            encode,
        )

    def _one(
        self,
        call: Call,
        stored: StoredLattice,
        type_: str,
        body: dict[str, Any],
        encode: Encode[LatticeAnswer],
    ) -> Answer:
        whole = about(body, stored)
        return self._records.commit(
            call,
            stored.tenant_id,
            [Statement(type_, whole)],
            lambda receipts: LatticeAnswer(whole, b"", receipts[0]),
            encode,
        )

    def _read(
        self, ready: ReadyLattice, query: Float32Array, wanted: Wanted, proceed: Proceed
    ) -> tuple[dict[str, Any], bytes]:
        """The body of a receipt for one query, and the rows of the state."""
        reading = read(ready.settled, query)
        ranked = replace(DEFAULT_RANKING, top=min(wanted.top, len(ready.settled)))
        ranking = rank(reading, ranked, ready.spread)
        if wanted.full:
            own = ready.inputs.chain
            body = full_statement(
                ready.head,
                ready.settled,
                reading.query,
                node_components(reading),
                ready.conflicts,
                None if own is None else chain_verdict(reading),
                ranking,
            ).statement
        else:
            body = light_statement(ready.head, ready.settled, reading.query, ranking)
        proceed(1.0)
        rows = np.arange(wanted.first_row, wanted.first_row + wanted.rows)
        state = packed(ready.settled.states(reading.query, rows)) if wanted.rows else b""
        return body, state
