"""Puts the use cases of a server together with the storage that they work on."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from sqlalchemy import Engine

from oars_grpc.background import Job, upkeep_jobs
from oars_grpc.core.lattice.arrays import Float32Array
from oars_grpc.core.lattice.directions import Directions
from oars_grpc.core.lattice.neighbors import NeighborLists, nearest_neighbors
from oars_grpc.core.lattice.progress import Proceed, keep_going
from oars_grpc.core.page_token import PageTokens
from oars_grpc.neighbor_index import search_for
from oars_grpc.settings import Settings
from oars_grpc.storage.appender import CoalescingLedger
from oars_grpc.storage.approval_log import PostgresApprovalLog
from oars_grpc.storage.approvers import PostgresApproverStore
from oars_grpc.storage.controls import PostgresControlStore
from oars_grpc.storage.evidence_store import PostgresEvidenceStore
from oars_grpc.storage.lattice_store import PostgresLatticeStore
from oars_grpc.storage.log_store import PostgresLogStore
from oars_grpc.storage.receipts import PostgresReceiptStore
from oars_grpc.storage.registry import PostgresRegistryStore
from oars_grpc.storage.replay_store import PostgresReplayStore
from oars_grpc.storage.retention import PostgresHoldStore
from oars_grpc.storage.upkeep import PostgresUpkeepStore
from oars_grpc.system import SystemChance, SystemClock
from oars_grpc.transport.metrics import Metrics
from oars_grpc.transport.server import UseCases
from oars_grpc.use_cases.actions import Actions
from oars_grpc.use_cases.approval_lists import ApprovalLists
from oars_grpc.use_cases.approval_watch import ApprovalWatches
from oars_grpc.use_cases.approvals import Approvals
from oars_grpc.use_cases.approver_keys import ApproverKeys
from oars_grpc.use_cases.control_tags import ControlTags
from oars_grpc.use_cases.controls import Controls
from oars_grpc.use_cases.escalations import Escalations
from oars_grpc.use_cases.events import EventWriter
from oars_grpc.use_cases.evidence import Evidence
from oars_grpc.use_cases.executions import Executions
from oars_grpc.use_cases.grounding import SCORING_RETRY_MS, Grounding
from oars_grpc.use_cases.keyring import Keyring, PolicyShelf
from oars_grpc.use_cases.lattice_building import LatticeBuilder
from oars_grpc.use_cases.lattice_evidence import StoredEvidence
from oars_grpc.use_cases.lattice_records import LatticeRecords
from oars_grpc.use_cases.lattice_use_cases import lattice_use_cases
from oars_grpc.use_cases.lattice_work import HeavyWork
from oars_grpc.use_cases.legal_holds import LegalHolds
from oars_grpc.use_cases.log import Log
from oars_grpc.use_cases.policies import Policies
from oars_grpc.use_cases.ready_lattice import ReadyLattices
from oars_grpc.use_cases.receipts import Receipts
from oars_grpc.use_cases.replay import Replays
from oars_grpc.use_cases.retention import Retention
from oars_grpc.use_cases.sealer import Sealer
from oars_grpc.use_cases.second_factors import SecondFactors
from oars_grpc.use_cases.signed_logs import SignedLogs
from oars_grpc.use_cases.tenants import Tenants
from oars_grpc.use_cases.upkeep import Upkeep
from oars_grpc.use_cases.verification import ReceiptVerifier


@dataclass(frozen=True, slots=True)
class Assembly:
    """What a server serves, what it does beside that, and what its start checks."""

    use_cases: UseCases
    jobs: Sequence[Job]
    builder: LatticeBuilder
    registry: PostgresRegistryStore
    ledger: CoalescingLedger
    keyring: Keyring


def assemble(
    settings: Settings,
    engine: Engine,
    metrics: Metrics,
    clock: SystemClock,
    chance: SystemChance,
    stack: ExitStack,
) -> Assembly:
    """Make everything over one engine; `stack` ends what has to be ended."""
    ledger, registry = CoalescingLedger(engine), PostgresRegistryStore(engine)
    stack.callback(ledger.close)  # after the drain: whoever is being answered still commits
    keyring = Keyring(settings.key_encryption_key, chance, clock)
    shelf, tokens = PolicyShelf(), PageTokens(_derived(settings, b"oars page tokens"))
    receipts, log_store = PostgresReceiptStore(engine), PostgresLogStore(engine)
    logs = SignedLogs(
        store=log_store, registry=registry, keyring=keyring, prefix=settings.log_origin
    )
    controls = PostgresControlStore(engine)
    tags = ControlTags(controls)
    handed_out = Receipts(store=receipts, tags=tags, ledger=ledger, tokens=tokens)
    log = Log(store=log_store, receipts=receipts, logs=logs)
    approvers, events = PostgresApproverStore(engine), EventWriter(keyring, chance)
    second_factors = SecondFactors(
        registry=registry,
        store=approvers,
        sealer=Sealer(settings.key_encryption_key, chance),
        events=events,
        clock=clock,
        chance=chance,
    )
    approver_keys = ApproverKeys(
        registry=registry,
        store=approvers,
        events=events,
        tokens=tokens,
        clock=clock,
    )
    verifier = ReceiptVerifier(receipts=handed_out, log=log, log_prefix=settings.log_origin)
    lattices = PostgresLatticeStore(engine)
    records = LatticeRecords(registry=registry, events=events, clock=clock, chance=chance)
    threads = settings.worker_threads
    # Computations that take long leave half of the threads to other calls. Questions are short: all
    # that have a thread may wait, and the pool of these bounds how many that are.
    ready = ReadyLattices(
        store=lattices,
        heavy=HeavyWork(settings.lattice_computations, max(1, threads // 2)),
        asking=HeavyWork(settings.lattice_queries, threads),
        cache_bytes=settings.lattice_cache_mib << 20,
        software=f"oars-grpc/{version('oars-grpc')}",
    )
    use_cases = UseCases(
        actions=Actions(
            ledger=ledger,
            keyring=keyring,
            policies=shelf,
            tokens=tokens,
            grounding=Grounding(
                StoredEvidence(lattices, ready),
                HeavyWork(settings.evidence_scorings, max(1, threads // 2), SCORING_RETRY_MS),
            ),
            clock=clock,
            chance=chance,
        ),
        executions=Executions(
            ledger=ledger, keyring=keyring, policies=shelf, clock=clock, chance=chance
        ),
        approvals=Approvals(
            ledger=ledger,
            keyring=keyring,
            second_factors=second_factors,
            approver_keys=approver_keys,
            clock=clock,
            chance=chance,
        ),
        approval_lists=ApprovalLists(ledger=ledger, tokens=tokens, clock=clock),
        approval_watches=ApprovalWatches(
            ledger=ledger, log=PostgresApprovalLog(engine), tokens=tokens, clock=clock
        ),
        second_factors=second_factors,
        approver_keys=approver_keys,
        controls=Controls(
            registry=registry,
            store=controls,
            tags=tags,
            events=events,
            tokens=tokens,
            clock=clock,
            chance=chance,
        ),
        evidence=Evidence(
            store=PostgresEvidenceStore(engine),
            log_store=log_store,
            logs=logs,
            keyring=keyring,
            clock=clock,
        ),
        policies=Policies(
            registry=registry,
            ledger=ledger,
            policies=shelf,
            events=events,
            tokens=tokens,
            clock=clock,
            chance=chance,
        ),
        replays=Replays(
            store=PostgresReplayStore(engine),
            registry=registry,
            ledger=ledger,
            receipts=receipts,
            logs=logs,
            keyring=keyring,
            policies=shelf,
        ),
        receipts=handed_out,
        holds=LegalHolds(
            registry=registry,
            store=PostgresHoldStore(engine),
            keyring=keyring,
            tokens=tokens,
            clock=clock,
            chance=chance,
        ),
        lattices=lattice_use_cases(
            store=lattices,
            ready=ready,
            records=records,
            tokens=tokens,
            search=_search,
            receipts=verifier,
        ),
        log=log,
        verifier=verifier,
        tenants=Tenants(
            registry=registry,
            keyring=keyring,
            tokens=tokens,
            clock=clock,
            chance=chance,
            log_prefix=settings.log_origin,
        ),
    )
    due = PostgresUpkeepStore(engine)
    upkeep = Upkeep(ledger=ledger, store=due, keyring=keyring, clock=clock, chance=chance)
    escalations = Escalations(ledger=ledger, store=due, keyring=keyring, clock=clock, chance=chance)
    retention = Retention(registry=registry, keyring=keyring, clock=clock, chance=chance)
    jobs = upkeep_jobs(
        upkeep=upkeep, escalations=escalations, tags=tags, retention=retention, metrics=metrics
    )
    builder = LatticeBuilder(
        store=lattices,
        ready=ready,
        records=records,
        search=_search,
        clock=clock,
        holder=chance.new_id("srv"),
    )
    return Assembly(use_cases, jobs, builder, registry, ledger, keyring)


def _search(
    anchors: Float32Array | Directions, neighbors: int, proceed: Proceed = keep_going, /
) -> NeighborLists:
    """By the index where it is installed and takes less time, exactly otherwise."""
    if find_spec("faiss") is None:
        return nearest_neighbors(anchors, neighbors, proceed)
    return search_for(len(anchors))(anchors, neighbors, proceed)


def _derived(settings: Settings, purpose: bytes) -> bytes:
    """A secret of its own for each purpose, the same on every replica (RFC 5869)."""
    return HKDF(SHA256(), 32, salt=None, info=purpose).derive(settings.key_encryption_key)
