"""Lattices over two servers: either serves what the other made, and goes on where one died."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import psycopg
import pytest
from google.longrunning import operations_pb2, operations_pb2_grpc

from oars_grpc.generated.oars.v1.lattice_pb2_grpc import LatticeServiceStub
from oars_grpc.local.stack import LocalStack, serves
from tests.support.database import check_ledger
from tests.support.lattices import L, embeddings, pieces
from tests.support.server import forwarded, read_refusal, wait_for

LARGE = embeddings(16_000, 96, seed=2)  # takes seconds to build


@dataclass(frozen=True)
class Pair:
    """Two replicas, each asked directly, as the sidecar would."""

    stack: LocalStack

    def channel(self, replica: int) -> grpc.Channel:
        return grpc.insecure_channel(f"unix:{self.stack._sockets[replica]}")

    def headers(self, name: str = "operator", key: str = "") -> tuple[tuple[str, str], ...]:
        identity = (forwarded(self.stack.certificates, name),)
        return (*identity, ("idempotency-key", key)) if key else identity

    def call(self, replica: int, rpc: str, request: Any, key: str = "") -> Any:
        with self.channel(replica) as channel:
            stub = LatticeServiceStub(channel)
            return getattr(stub, rpc)(request, metadata=self.headers(key=key), timeout=60)

    def operation(self, replica: int, rpc: str, name: str) -> Any:
        request = getattr(operations_pb2, f"{rpc}Request")(name=name)
        with self.channel(replica) as channel:
            stub = operations_pb2_grpc.OperationsStub(channel)
            return getattr(stub, rpc)(request, metadata=self.headers(), timeout=30)

    def upload(self, replica: int, anchors: Any) -> Any:
        return self.call(replica, "CreateLattice", pieces(anchors, 2000))

    def query(self, sql: str, *values: Any) -> list[Any]:
        with psycopg.connect(self.stack.postgres.url) as connection:
            return connection.execute(sql.encode(), values).fetchall()

    def execute(self, sql: str, *values: Any) -> None:
        with psycopg.connect(self.stack.postgres.url) as connection:
            connection.execute(sql.encode(), values)

    def state(self, operation_id: str) -> tuple[str, int]:
        (row,) = self.query(
            "SELECT state, attempts FROM lattice_operation WHERE operation_id = %s", operation_id
        )
        return row[0], row[1]

    def kill(self, replica: int) -> None:
        server = self.stack.servers[replica]
        server.send_signal(signal.SIGKILL)
        server.wait()

    def begin_alone(self, anchors: Any) -> tuple[Any, str]:
        """Have replica 0 build while there is no other; the lattice and the operation's id."""
        self.kill(1)
        begun = self.upload(0, anchors)
        operation_id = id_of(begun.operation)
        wait_for(lambda: self.state(operation_id)[0] == "running", "the building has begun")
        return begun, operation_id

    def start(self, replica: int) -> None:
        """Start a replica, whatever has become of the other."""
        self.stack.start_server(replica)
        wait_for(lambda: serves(self.stack._sockets[replica]), "the replica serves", 60)

    def end_lease(self) -> None:
        """As the time does by itself, half a minute after the holder fell silent."""
        self.execute("UPDATE lattice_operation SET lease_until = now() WHERE state = 'running'")

    def restart(self, *replicas: int) -> None:
        for replica in replicas:
            self.stack.start_server(replica)
        self.stack.wait_until_healthy()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with ExitStack() as opened:
        stack = opened.enter_context(
            LocalStack(
                tmp_path_factory.mktemp("lattices"),
                replicas=2,
                postgres_settings={"fsync": "off"},
            )
        )
        yield Pair(stack)
        check_ledger(stack.postgres.url)  # whatever the tests did


def id_of(operation: Any) -> str:
    found: str = operation.name.rpartition("/")[2]
    return found


def query_of(lattice_id: str, query: Any) -> Any:
    return L.QueryLatticeRequest(lattice_id=lattice_id, queries=query.tobytes(), state_rows=2)


def test_either_replica_answers_with_the_same_bytes(pair: Pair) -> None:
    anchors = embeddings(300, 24, seed=1)
    request = L.CreateSmallLatticeRequest(dimension=24, anchors=anchors.tobytes())
    lattice_id = pair.call(0, "CreateSmallLattice", request).lattice.lattice_id
    one, other = (pair.call(n, "QueryLattice", query_of(lattice_id, anchors[3])) for n in (0, 1))
    for answer in (one, other):
        for result in answer.results:
            result.ClearField("receipt")
    assert one.SerializeToString(deterministic=True) == other.SerializeToString(deterministic=True)
    # What one changes, the other asks next, though it had kept the lattice as it was.
    change = L.RemoveAnchorsRequest(lattice_id=lattice_id, indices=[3])
    assert pair.call(0, "RemoveAnchors", change).lattice.anchors == 299
    again = pair.call(1, "QueryLattice", query_of(lattice_id, anchors[3]))
    assert again.version == 2
    assert again.results[0].state != other.results[0].state


def test_of_changes_at_once_each_is_made_or_refused_and_none_is_lost(pair: Pair) -> None:
    anchors = embeddings(100, 8, seed=5)
    request = L.CreateSmallLatticeRequest(dimension=8, anchors=anchors.tobytes())
    lattice_id = pair.call(0, "CreateSmallLattice", request).lattice.lattice_id
    made, refused = [], []

    def change(number: int) -> None:
        request = L.UpsertAnchorsRequest(
            lattice_id=lattice_id, indices=[number], anchors=anchors[50 + number].tobytes()
        )
        try:
            made.append(pair.call(number % 2, "UpsertAnchors", request).lattice.version)
        except grpc.RpcError as error:
            refused.append(read_refusal(error).code)

    threads = [threading.Thread(target=change, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(refused) <= {grpc.StatusCode.ABORTED}
    assert sorted(made) == list(range(2, 2 + len(made)))
    assert len(made) + len(refused) == 6
    got = pair.call(1, "GetLattice", L.GetLatticeRequest(lattice_id=lattice_id)).lattice
    assert got.version == 1 + len(made)


def test_changes_at_once_under_one_key_are_one_change(pair: Pair) -> None:
    anchors = embeddings(100, 8, seed=7)
    request = L.CreateSmallLatticeRequest(dimension=8, anchors=anchors.tobytes())
    lattice_id = pair.call(0, "CreateSmallLattice", request).lattice.lattice_id
    calls: list[tuple[str, Any]] = [
        ("RemoveAnchors", L.RemoveAnchorsRequest(lattice_id=lattice_id, indices=[4])),
        ("DeleteLattice", L.DeleteLatticeRequest(lattice_id=lattice_id)),
    ]
    for rpc, change in calls:
        answers: list[Any] = []

        def make(replica: int, rpc: str = rpc, change: Any = change, to: Any = answers) -> None:
            to.append(pair.call(replica, rpc, change, key=f"same-{rpc}"))

        threads = [threading.Thread(target=make, args=(number % 2,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(answers) == 6
        assert all(answer == answers[0] for answer in answers)


def test_a_repeated_query_leaves_one_receipt(pair: Pair) -> None:
    anchors = embeddings(60, 8, seed=6)
    request = L.CreateSmallLatticeRequest(dimension=8, anchors=anchors.tobytes())
    lattice_id = pair.call(0, "CreateSmallLattice", request, key="once").lattice.lattice_id
    again = pair.call(1, "CreateSmallLattice", request, key="once").lattice.lattice_id
    assert again == lattice_id
    asked = query_of(lattice_id, anchors[1])
    answers = [pair.call(n % 2, "QueryLattice", asked, key="asked") for n in range(4)]
    assert all(answer == answers[0] for answer in answers)
    receipts = pair.query("SELECT count(*) FROM receipt WHERE type = 'lattice.queried'")
    pair.call(0, "DeleteLattice", L.DeleteLatticeRequest(lattice_id=lattice_id), key="gone")
    # Both repetitions outlive the lattice.
    assert pair.call(1, "QueryLattice", asked, key="asked") == answers[0]
    pair.call(1, "DeleteLattice", L.DeleteLatticeRequest(lattice_id=lattice_id), key="gone")
    assert pair.query("SELECT count(*) FROM receipt WHERE type = 'lattice.queried'") == receipts


def test_a_build_is_gone_on_with_where_its_server_was_killed(pair: Pair) -> None:
    pair.kill(1)
    begun = pair.upload(0, LARGE)
    operation_id = id_of(begun.operation)
    wait_for(lambda: pair.state(operation_id)[0] == "running", "the building has begun")
    pair.kill(0)
    assert pair.state(operation_id) == ("running", 1)
    pair.restart(0, 1)
    assert pair.state(operation_id) == ("running", 1)  # until the lease of who died has ended
    pair.execute("UPDATE lattice_operation SET lease_until = now() WHERE state = 'running'")
    wait_for(lambda: pair.state(operation_id)[0] == "done", "the building has ended", 120)
    assert pair.state(operation_id) == ("done", 2)
    lattice_id = begun.lattice.lattice_id
    for replica in (0, 1):
        answer = pair.call(replica, "QueryLattice", query_of(lattice_id, LARGE[11]))
        assert answer.results[0].ranking[0].index == 11
    named = L.GetLatticeRequest(lattice_id=lattice_id)
    assert pair.call(0, "GetLattice", named).lattice.state == L.LATTICE_STATE_READY


def test_another_replica_goes_on_while_the_first_stays_dead(pair: Pair) -> None:
    begun, operation_id = pair.begin_alone(LARGE)
    pair.kill(0)
    pair.start(1)
    pair.end_lease()
    wait_for(lambda: pair.state(operation_id)[0] == "done", "the building has ended", 120)
    assert pair.state(operation_id) == ("done", 2)
    assert pair.stack.servers[0].poll() is not None
    answer = pair.call(1, "QueryLattice", query_of(begun.lattice.lattice_id, LARGE[7]))
    assert answer.results[0].ranking[0].index == 7
    pair.restart(0)


def test_a_build_is_canceled_after_its_server_was_killed(pair: Pair) -> None:
    begun, operation_id = pair.begin_alone(LARGE)
    pair.kill(0)
    pair.restart(0, 1)
    pair.operation(1, "CancelOperation", begun.operation.name)
    assert pair.state(operation_id) == ("running", 1)  # nobody has it to end it
    pair.end_lease()
    wait_for(lambda: pair.state(operation_id)[0] == "canceled", "the building has ended", 60)
    named = L.GetLatticeRequest(lattice_id=begun.lattice.lattice_id)
    lattice = pair.call(0, "GetLattice", named).lattice
    assert (lattice.state, lattice.error) == (L.LATTICE_STATE_FAILED, "canceled")


def test_a_server_that_wakes_after_its_lease_leaves_the_other_s_work_as_it_is(pair: Pair) -> None:
    """A pause outlasts the lease: what it has built so far counts for nothing."""
    receipts = "SELECT count(*) FROM receipt WHERE type = 'lattice.created'"
    ((before,),) = pair.query(receipts)
    begun, operation_id = pair.begin_alone(LARGE)
    pair.stack.servers[0].send_signal(signal.SIGSTOP)
    try:
        pair.start(1)
        pair.end_lease()
        wait_for(lambda: pair.state(operation_id)[0] == "done", "the building has ended", 120)
        assert pair.state(operation_id) == ("done", 2)
    finally:
        pair.stack.servers[0].send_signal(signal.SIGCONT)
    # It finds out within one block and then serves like any other, from what is stored.
    asked = query_of(begun.lattice.lattice_id, LARGE[3])
    one, other = (pair.call(replica, "QueryLattice", asked) for replica in (0, 1))
    assert one.results[0].state == other.results[0].state
    second = pair.upload(0, embeddings(50, 4))
    done = id_of(second.operation)
    wait_for(lambda: pair.state(done)[0] == "done", "the next building has ended", 60)
    assert pair.state(operation_id) == ("done", 2)
    assert pair.query(receipts) == [(before + 2,)]  # one for each lattice


def test_a_server_that_ends_gives_its_build_to_the_other(pair: Pair) -> None:
    begun = pair.upload(0, LARGE)
    operation_id = id_of(begun.operation)
    wait_for(lambda: pair.state(operation_id)[0] != "pending", "the building has begun")
    for replica in (0, 1):  # whichever has it
        server = pair.stack.servers[replica]
        server.terminate()
        server.wait()
        pair.restart(replica)
    wait_for(lambda: pair.state(operation_id)[0] == "done", "the building has ended", 120)


def test_a_canceled_build_ends_and_its_lattice_is_never_ready(pair: Pair) -> None:
    begun = pair.upload(0, LARGE)
    operation_id = id_of(begun.operation)
    wait_for(lambda: pair.state(operation_id)[0] == "running", "the building has begun")
    pair.operation(1, "CancelOperation", begun.operation.name)
    wait_for(lambda: pair.state(operation_id)[0] == "canceled", "the building has ended", 60)
    told = pair.operation(0, "GetOperation", begun.operation.name)
    assert (told.done, told.error.code) == (True, grpc.StatusCode.CANCELLED.value[0])
    lattice_id = begun.lattice.lattice_id
    lattice = pair.call(1, "GetLattice", L.GetLatticeRequest(lattice_id=lattice_id)).lattice
    assert (lattice.state, lattice.error) == (L.LATTICE_STATE_FAILED, "canceled")
    with pytest.raises(grpc.RpcError) as caught:
        pair.call(0, "QueryLattice", query_of(lattice_id, LARGE[0]))
    assert read_refusal(caught.value).reason == "LATTICE_NOT_READY"
    pair.call(0, "DeleteLattice", L.DeleteLatticeRequest(lattice_id=lattice_id))


def test_what_a_killed_upload_leaves_is_no_lattice(pair: Pair) -> None:
    before = pair.query("SELECT count(*) FROM lattice")
    arrived = threading.Event()
    # What changes that lost a race have left is not what this is about.
    pair.execute("UPDATE lattice_generation SET state = 'past' WHERE state = 'open'")
    stored = (
        "SELECT 1 FROM lattice_part JOIN lattice_generation USING (tenant_id, generation)"
        " WHERE state = 'open' LIMIT 1"
    )

    def slowly() -> Iterator[Any]:
        for number, piece in enumerate(pieces(LARGE, 2000)):
            yield piece
            if number == 5:
                wait_for(lambda: bool(pair.query(stored)), "parts of it are stored")
                arrived.set()
                time.sleep(60)

    with pair.channel(0) as channel:
        call = LatticeServiceStub(channel).CreateLattice.future(
            slowly(), metadata=pair.headers(), timeout=60
        )
        assert arrived.wait(30)
        pair.kill(0)
        with pytest.raises(grpc.RpcError):
            call.result()
    pair.restart(0)
    assert pair.query("SELECT count(*) FROM lattice") == before
    abandoned = "SELECT count(*) FROM lattice_generation WHERE state = 'open'"
    assert pair.query(abandoned) == [(1,)]
    # And the sweep, once it is old, takes it along.
    pair.execute("UPDATE lattice_generation SET touched_at = now() - interval '2 hours'")
    pair.execute("UPDATE lattice_chunk SET used_at = now() - interval '2 hours'")
    swept = "SELECT oars_sweep_lattices(3600, 200)"
    while pair.query(swept) != [(0,)]:
        pass
    assert pair.query("SELECT count(*) FROM lattice_generation WHERE state <> 'current'") == [(0,)]
    unused = (
        "SELECT count(*) FROM lattice_chunk AS c WHERE NOT EXISTS (SELECT FROM lattice_part AS p"
        " WHERE p.tenant_id = c.tenant_id AND p.digest = c.digest)"
    )
    assert pair.query(unused) == [(0,)]


def test_a_call_that_ends_stops_its_computation(pair: Pair) -> None:
    """A lattice that is not kept takes longer to load than this caller waits."""
    begun = pair.upload(1, LARGE)
    operation_id = id_of(begun.operation)
    wait_for(lambda: pair.state(operation_id)[0] == "done", "the building has ended", 120)
    pair.kill(0)
    pair.restart(0)  # has nothing in memory
    asked = query_of(begun.lattice.lattice_id, np.zeros(96, "<f4") + LARGE[1])
    with pair.channel(0) as channel:
        stub = LatticeServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.QueryLattice(asked, metadata=pair.headers(), timeout=0.05)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        # The next one waits long enough, and is not kept waiting by the first.
        assert stub.QueryLattice(asked, metadata=pair.headers(), timeout=60).results
