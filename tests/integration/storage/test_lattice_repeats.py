"""A repeated change of a lattice whose first call commits at the worst moment: after the look.

The second call has found no answer under its key and goes on; before it reads the lattice, the
first one commits, and the lattice is gone, has another version or fewer anchors. What the second
meets then is the first one's doing, and its answer is the first one's.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from sqlalchemy import Engine

from oars_grpc.core.call import Answer, Call, IdempotencyKey
from oars_grpc.core.identity import Role
from oars_grpc.core.lattice.neighbors import nearest_neighbors
from oars_grpc.core.lattice.parameters import LatticeParameters
from oars_grpc.core.lattice.progress import keep_going
from oars_grpc.core.page_token import PageTokens
from oars_grpc.core.stored_lattice import StoredLattice
from oars_grpc.errors import AlreadyExists, InvalidArgument, NotFound, OarsError
from oars_grpc.storage.lattice_store import PostgresLatticeStore
from oars_grpc.storage.registry import PostgresRegistryStore
from oars_grpc.system import SystemChance, SystemClock
from oars_grpc.use_cases.events import EventWriter
from oars_grpc.use_cases.keyring import Keyring
from oars_grpc.use_cases.lattice_changes import LatticeChanges
from oars_grpc.use_cases.lattice_records import LatticeRecords
from oars_grpc.use_cases.lattice_work import HeavyWork
from oars_grpc.use_cases.lattices import LatticeDraft, Lattices, RecordedLattice
from oars_grpc.use_cases.ready_lattice import ReadyLattices
from tests.support.database import checked_log
from tests.support.factories import KEY_ENCRYPTION_KEY, make_principal
from tests.support.lattices import embeddings

TENANT, KEY = "acme", IdempotencyKey("once", "f" * 64)
DRAFT = LatticeDraft(embeddings(20, 8, seed=3), LatticeParameters(), None, None)


class InterruptedStore(PostgresLatticeStore):
    """Postgres; whatever is in `before` happens once, before a lattice is read."""

    before: Callable[[], object] | None = None

    def find_lattice(self, tenant_ids: Sequence[str], lattice_id: str) -> StoredLattice | None:
        before, self.before = self.before, None
        if before is not None:
            before()
        return super().find_lattice(tenant_ids, lattice_id)


class Replica:
    """What changes lattices, as one server has it, and one lattice."""

    def __init__(self, engine: Engine) -> None:
        clock, chance = SystemClock(), SystemChance()
        self.store = InterruptedStore(engine)
        ready = ReadyLattices(
            store=self.store,
            heavy=HeavyWork(2, 8),
            asking=HeavyWork(2, 8),
            cache_bytes=1 << 20,
            software="tests",
        )
        records = LatticeRecords(
            registry=PostgresRegistryStore(engine),
            events=EventWriter(Keyring(KEY_ENCRYPTION_KEY, chance, clock), chance),
            clock=clock,
            chance=chance,
        )
        self.lattices = Lattices(
            store=self.store,
            ready=ready,
            records=records,
            tokens=PageTokens(bytes(32)),
            search=nearest_neighbors,
        )
        self.changes = LatticeChanges(
            store=self.store, lattices=self.lattices, ready=ready, records=records
        )
        created = self.lattices.create(
            call("CreateSmallLattice"), TENANT, "", DRAFT, name_of, keep_going
        )
        self.lattice_id = created.response.decode()


def call(rpc: str, key: IdempotencyKey | None = None) -> Call:
    principal = make_principal(role=Role.OPERATOR, tenant_ids=frozenset({TENANT}))
    return Call(principal, rpc, "r-1", key)


def name_of(recorded: RecordedLattice) -> bytes:
    return recorded.lattice.lattice_id.encode()


def version_of(recorded: RecordedLattice) -> bytes:
    return f"{recorded.lattice.version} {recorded.receipt.receipt.receipt_id}".encode()


def delete(at: Replica, key: IdempotencyKey | None) -> Answer:
    return at.lattices.delete(
        call("DeleteLattice", key),
        TENANT,
        at.lattice_id,
        0,
        lambda gone: gone.receipt.receipt_id.encode(),
    )


def remove(at: Replica, key: IdempotencyKey | None, *, version: int = 0) -> Answer:
    """All anchors but one: of what is left no repetition could remove them again."""
    which = list(range(1, 20))
    return at.changes.remove(
        call("RemoveAnchors", key), TENANT, at.lattice_id, version, which, version_of, keep_going
    )


def append(at: Replica, key: IdempotencyKey | None) -> Answer:
    rows = np.ones((1, 8), np.float32).tobytes(), b""
    return at.changes.upsert(
        call("UpsertAnchors", key), TENANT, at.lattice_id, 1, [20], rows, version_of, keep_going
    )


@pytest.fixture
def replica(engine: Engine) -> Replica:
    return Replica(engine)


@pytest.mark.parametrize("change", [delete, remove, append])
def test_what_the_first_call_did_does_not_refuse_its_repetition(
    replica: Replica,
    database_url: str,
    change: Callable[[Replica, IdempotencyKey | None], Answer],
) -> None:
    firsts: list[Answer] = []
    replica.store.before = lambda: firsts.append(change(replica, KEY))
    answer = change(replica, KEY)
    assert [answer] == [replace(first, replayed=True) for first in firsts]
    assert not firsts[0].replayed
    assert checked_log(database_url) == []


@pytest.mark.parametrize(
    ("key", "refusal"),
    [
        (None, NotFound),
        (IdempotencyKey("another", "f" * 64), NotFound),
        (IdempotencyKey("once", "e" * 64), AlreadyExists),
    ],
)
def test_what_another_call_did_is_refused_for_what_it_is(
    replica: Replica, key: IdempotencyKey | None, refusal: type[OarsError]
) -> None:
    replica.store.before = lambda: delete(replica, KEY)
    with pytest.raises(refusal):
        delete(replica, key)


def test_a_change_that_is_wrong_in_itself_is_refused_under_its_key(replica: Replica) -> None:
    remove(replica, None)
    with pytest.raises(InvalidArgument, match="must be below 1"):
        remove(replica, KEY)
