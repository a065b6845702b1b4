"""Stored lattices as evidence for actions."""

from oars_grpc.core.canonical import sha256_hex, statement_json
from oars_grpc.core.evidence_scoring import LatticeEvidence
from oars_grpc.core.lattice.progress import Proceed
from oars_grpc.core.lattice_ports import LatticeStore
from oars_grpc.use_cases.lattice_records import lattice_not_found
from oars_grpc.use_cases.ready_lattice import ReadyLattices


class StoredEvidence:
    """The port `EvidenceLattices` over the lattices of the lattice service."""

    def __init__(self, store: LatticeStore, ready: ReadyLattices) -> None:
        self._store = store
        self._ready = ready

    def find(self, tenant_id: str, lattice_id: str, proceed: Proceed) -> LatticeEvidence:
        """The lattice as it is now; it may have to be loaded.

        Raises:
            NotFound: the tenant has no such lattice.
            FailedPrecondition: it is not ready.
            Conflict: it was changed meanwhile.
        """
        stored = self._store.find_lattice([tenant_id], lattice_id)
        if stored is None:
            raise lattice_not_found(lattice_id)
        lattice = self._ready.load(stored, proceed)
        # Graph, chain and parameters have no part in the scores.
        digests = lattice.digests()
        scored = {name: digests[name] for name in ("anchors", "gates")}
        return LatticeEvidence(
            digest=sha256_hex(statement_json(scored)),
            anchors=lattice.inputs.anchors,
            gates=lattice.inputs.gates,
        )
