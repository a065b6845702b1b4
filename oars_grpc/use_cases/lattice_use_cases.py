"""All that the lattice service and the service of its operations call."""

from dataclasses import dataclass

from oars_grpc.core.lattice.neighbors import NeighborSearch
from oars_grpc.core.lattice_ports import LatticeStore
from oars_grpc.core.page_token import PageTokens
from oars_grpc.use_cases.lattice_changes import LatticeChanges
from oars_grpc.use_cases.lattice_operations import LatticeOperations
from oars_grpc.use_cases.lattice_queries import LatticeQueries
from oars_grpc.use_cases.lattice_records import LatticeRecords
from oars_grpc.use_cases.lattice_uploads import LatticeUploads
from oars_grpc.use_cases.lattice_verification import LatticeVerifier
from oars_grpc.use_cases.lattices import Lattices
from oars_grpc.use_cases.ready_lattice import ReadyLattices
from oars_grpc.use_cases.verification import ReceiptVerifier


@dataclass(frozen=True, slots=True)
class LatticeUseCases:
    """The parts of the lattice service."""

    lattices: Lattices
    changes: LatticeChanges
    uploads: LatticeUploads
    queries: LatticeQueries
    verifier: LatticeVerifier
    operations: LatticeOperations


def lattice_use_cases(
    *,
    store: LatticeStore,
    ready: ReadyLattices,
    records: LatticeRecords,
    tokens: PageTokens,
    search: NeighborSearch,
    receipts: ReceiptVerifier,
) -> LatticeUseCases:
    """The parts, over one store and one cache."""
    lattices = Lattices(store=store, ready=ready, records=records, tokens=tokens, search=search)
    return LatticeUseCases(
        lattices=lattices,
        changes=LatticeChanges(store=store, lattices=lattices, ready=ready, records=records),
        uploads=LatticeUploads(store=store, records=records),
        queries=LatticeQueries(lattices=lattices, ready=ready, records=records),
        verifier=LatticeVerifier(lattices=lattices, ready=ready, receipts=receipts),
        operations=LatticeOperations(store=store, records=records, tokens=tokens),
    )
