"""Lattices on Postgres: parts and chunks, generations and their sweep, operations and leases."""

import threading
from dataclasses import replace

import psycopg
import pytest
from sqlalchemy import Engine

from oars_grpc.core.lattice.parameters import LaplacianKind, LatticeParameters
from oars_grpc.core.ports import Registry
from oars_grpc.core.stored_lattice import (
    LatticeOperation,
    LatticePart,
    LatticeState,
    OperationState,
    StoredChain,
    StoredLattice,
)
from oars_grpc.errors import Conflict
from oars_grpc.storage.lattice_codecs import compressed, decompressed
from oars_grpc.storage.lattice_store import PostgresLatticeStore
from oars_grpc.storage.registry import PostgresRegistryStore
from tests.support.factories import NOW, new_id

TENANT, OTHER = "acme", "globex"
ANCHORS = LatticePart.ANCHORS


@pytest.fixture
def store(engine: Engine) -> PostgresLatticeStore:
    return PostgresLatticeStore(engine)


def make_lattice(**changes: object) -> StoredLattice:
    made = StoredLattice(
        tenant_id=TENANT,
        lattice_id=new_id("lat"),
        display_name="Größe",
        state=LatticeState.READY,
        generation=new_id("gen"),
        anchors=3,
        dimension=2,
        parameters=LatticeParameters(row_cap=0.7, laplacian=LaplacianKind.NORMALIZED),
        version=1,
        created_at=NOW,
        created_by="spiffe://x",
        updated_at=NOW,
        gated=True,
        chain=StoredChain((2, 0), (0.1,)),
        edges=2,
        digests={"anchors": "a" * 64},
    )
    return replace(made, **changes)  # type: ignore[arg-type] # by the tests' names


def make_operation(lattice: StoredLattice) -> LatticeOperation:
    return LatticeOperation(
        tenant_id=lattice.tenant_id,
        operation_id=new_id("op"),
        lattice_id=lattice.lattice_id,
        state=OperationState.PENDING,
        created_at=NOW,
        created_by="spiffe://x",
        updated_at=NOW,
    )


def insert(engine: Engine, lattice: StoredLattice, operation: LatticeOperation | None) -> None:
    def work(registry: Registry) -> None:
        registry.insert_lattice(lattice)
        if operation is not None:
            registry.insert_operation(operation)

    PostgresRegistryStore(engine).run(lattice.tenant_id, work)


def written(store: PostgresLatticeStore, lattice: StoredLattice, *parts: bytes) -> None:
    store.open_generation(lattice.tenant_id, lattice.generation)
    for position, part in enumerate(parts):
        store.add_part(lattice.tenant_id, lattice.generation, ANCHORS, position, part)


def chunks(url: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT count(*) FROM lattice_chunk").fetchone()
    assert row is not None
    return int(row[0])


def age(url: str) -> None:
    """Let two hours pass for everything that is stored."""
    with psycopg.connect(url) as connection:
        connection.execute(
            "UPDATE lattice_generation SET touched_at = touched_at - interval '2 hours'"
        )
        connection.execute("UPDATE lattice_chunk SET used_at = used_at - interval '2 hours'")


def swept(store: PostgresLatticeStore, batch: int = 200) -> int:
    rounds = 0
    while store.sweep(3600, batch):
        rounds += 1
    return rounds


def test_a_lattice_comes_back_as_it_was(engine: Engine, store: PostgresLatticeStore) -> None:
    made = make_lattice()
    insert(engine, made, None)
    assert store.find_lattice([OTHER, TENANT], made.lattice_id) == made
    assert store.find_lattice([OTHER], made.lattice_id) is None
    plain = make_lattice(chain=None, gated=False, parameters=LatticeParameters(), digests={})
    insert(engine, plain, None)
    assert list(store.list_lattices(TENANT, "", 10)) == [plain, made]
    assert list(store.list_lattices(TENANT, plain.lattice_id, 10)) == [made]
    assert list(store.list_lattices(OTHER, "", 10)) == []


@pytest.mark.parametrize("words", [0, 1, 5, 1000])
def test_a_chunk_comes_back_byte_for_byte(words: int) -> None:
    data = bytes(number * 37 % 256 for number in range(words * 4))
    assert decompressed(compressed(data)) == data


def test_what_is_no_chunk_is_told_apart() -> None:
    for stored in (b"", b"\x02", compressed(b"abcd")[:-1], b"\x01nonsense"):
        with pytest.raises(ValueError, match="chunk"):
            decompressed(stored)
    with pytest.raises(ValueError, match="words"):
        compressed(b"abc")


def test_parts_come_in_order_however_many(store: PostgresLatticeStore) -> None:
    lattice = make_lattice()
    parts = [number.to_bytes(4, "little") for number in range(19)]
    written(store, lattice, *parts)
    assert list(store.parts(TENANT, lattice.generation, ANCHORS)) == parts
    assert list(store.parts(TENANT, lattice.generation, LatticePart.GATES)) == []
    assert list(store.parts(OTHER, lattice.generation, ANCHORS)) == []


def test_equal_chunks_of_a_tenant_are_stored_once(
    store: PostgresLatticeStore, database_url: str
) -> None:
    one, two = make_lattice(), make_lattice()
    written(store, one, b"same" * 9, b"same" * 9, b"more" * 9)
    written(store, two, b"same" * 9)
    written(store, make_lattice(tenant_id=OTHER), b"same" * 9)
    assert chunks(database_url) == 3
    # Once more changes nothing.
    store.add_part(TENANT, one.generation, ANCHORS, 1, b"same" * 9)
    assert list(store.parts(TENANT, one.generation, ANCHORS)) == [
        b"same" * 9,
        b"same" * 9,
        b"more" * 9,
    ]


def test_a_changed_chunk_is_noticed(store: PostgresLatticeStore, database_url: str) -> None:
    lattice = make_lattice()
    written(store, lattice, b"abcd" * 9)
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE lattice_chunk SET data = %s", (compressed(b"abce" * 9),))
    with pytest.raises(ValueError, match="not what it was"):
        list(store.parts(TENANT, lattice.generation, ANCHORS))


def test_a_missing_part_is_no_short_lattice(store: PostgresLatticeStore, database_url: str) -> None:
    lattice = make_lattice()
    written(store, lattice, b"abcd", b"efgh", b"ijkl")
    with psycopg.connect(database_url) as connection:
        connection.execute("DELETE FROM lattice_part WHERE position = 1")
    with pytest.raises(Conflict):
        list(store.parts(TENANT, lattice.generation, ANCHORS))


def test_the_sweep_takes_what_is_old_and_not_current(
    engine: Engine, store: PostgresLatticeStore, database_url: str
) -> None:
    current, abandoned, past = make_lattice(), make_lattice(), make_lattice()
    for lattice in (current, abandoned, past):
        written(store, lattice, b"same" * 9, lattice.generation.encode()[:28])
    insert(engine, current, None)
    insert(engine, past, None)
    PostgresRegistryStore(engine).run(TENANT, lambda registry: registry.delete_lattice(past))
    assert store.sweep(3600, 200) == 0  # too young
    age(database_url)
    # Somebody goes on with an upload: it is young again.
    fresh = make_lattice()
    written(store, fresh, b"fresh123")
    assert swept(store, batch=1) > 2
    assert len(list(store.parts(TENANT, current.generation, ANCHORS))) == 2
    assert list(store.parts(TENANT, fresh.generation, ANCHORS)) == [b"fresh123"]
    for gone in (abandoned, past):
        assert list(store.parts(TENANT, gone.generation, ANCHORS)) == []
    assert chunks(database_url) == 3  # the shared one, the current one's own, the fresh one


def test_sweeps_at_once_leave_no_chunk_that_both_their_generations_had(
    store: PostgresLatticeStore, database_url: str
) -> None:
    for _ in range(2):
        written(store, make_lattice(), b"same" * 9, b"also" * 5)
    age(database_url)
    with psycopg.connect(database_url) as one:
        sweep = b"SELECT oars_sweep_lattices(3600, 200)"
        assert one.execute(sweep).fetchone() == (2,)
        other = threading.Thread(target=swept, args=(store,))
        other.start()  # of the other generation, while the first is not committed
        other.join(1)
    other.join(10)
    assert not other.is_alive()
    swept(store)
    assert chunks(database_url) == 0


def test_a_swept_generation_takes_no_more_parts(
    store: PostgresLatticeStore, database_url: str
) -> None:
    lattice = make_lattice()
    written(store, lattice, b"abcd")
    age(database_url)
    swept(store)
    with pytest.raises(Conflict):
        store.add_part(TENANT, lattice.generation, ANCHORS, 1, b"efgh")


def test_a_change_makes_its_generation_current_and_the_one_before_past(
    engine: Engine, store: PostgresLatticeStore, database_url: str
) -> None:
    before = make_lattice()
    written(store, before, b"abcd")
    insert(engine, before, None)
    after = replace(before, generation=new_id("gen"), version=2, anchors=4)
    written(store, after, b"abcd", b"efgh")
    PostgresRegistryStore(engine).run(
        TENANT, lambda registry: registry.update_lattice(after, before.generation)
    )
    assert store.find_lattice([TENANT], before.lattice_id) == after
    # Who is reading the one before may finish.
    assert list(store.parts(TENANT, before.generation, ANCHORS)) == [b"abcd"]
    age(database_url)
    swept(store)
    assert list(store.parts(TENANT, before.generation, ANCHORS)) == []
    assert list(store.parts(TENANT, after.generation, ANCHORS)) == [b"abcd", b"efgh"]


def test_an_operation_is_claimed_once_until_its_lease_ends(
    engine: Engine, store: PostgresLatticeStore, database_url: str
) -> None:
    lattice = make_lattice(state=LatticeState.BUILDING)
    operation = make_operation(lattice)
    insert(engine, lattice, operation)
    claimed = store.claim_operation("one", 30)
    assert claimed == replace(
        operation,
        state=OperationState.RUNNING,
        holder="one",
        attempts=1,
        updated_at=claimed.updated_at if claimed else NOW,
    )
    assert store.claim_operation("two", 30) is None
    assert claimed is not None
    kept = store.keep_operation(claimed, 500_000, 30)
    assert kept is not None
    assert (kept.progress_ppm, kept.cancel_requested) == (500_000, False)
    with psycopg.connect(database_url) as connection:  # the server that held it is gone
        connection.execute("UPDATE lattice_operation SET lease_until = now()")
    taken = store.claim_operation("two", 30)
    assert taken is not None
    assert (taken.holder, taken.attempts) == ("two", 2)
    assert store.keep_operation(claimed, 600_000, 30) is None  # no longer the first one's


def test_of_many_servers_one_gets_an_operation(engine: Engine, store: PostgresLatticeStore) -> None:
    lattice = make_lattice(state=LatticeState.BUILDING)
    insert(engine, lattice, make_operation(lattice))
    barrier, found = threading.Barrier(6), []

    def claim(number: int) -> None:
        barrier.wait(timeout=30)
        found.append(store.claim_operation(f"server-{number}", 30))

    threads = [threading.Thread(target=claim, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([each for each in found if each is not None]) == 1


def test_what_is_done_is_never_claimed(engine: Engine, store: PostgresLatticeStore) -> None:
    lattice = make_lattice(state=LatticeState.BUILDING)
    operation = make_operation(lattice)
    insert(engine, lattice, operation)
    done = replace(operation, state=OperationState.DONE, error="", updated_at=NOW)
    PostgresRegistryStore(engine).run(TENANT, lambda registry: registry.update_operation(done))
    assert store.claim_operation("one", 30) is None
    assert store.find_operation([TENANT], operation.operation_id) == done
    assert store.find_operation([OTHER], operation.operation_id) is None
    assert list(store.list_operations(TENANT, "", 5)) == [done]
