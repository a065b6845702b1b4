"""Lattices under load, with the settings that a server has by default: who computes, who waits."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest
from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf import json_format

from oars_grpc.generated.oars.v1 import action_pb2
from oars_grpc.local.stack import LocalStack
from tests.support.client import Client, action_body, client_for
from tests.support.lattices import L, embeddings, pieces
from tests.support.rpcs import grpc_refusal

CALLERS = 64
DIMENSION = 32
WARM = embeddings(2_000, DIMENSION)
BUILT = embeddings(20_000, 128, seed=3)


@pytest.fixture(scope="module")
def operator(stack: LocalStack) -> Iterator[Client]:
    with client_for(stack, "operator") as client:
        yield client


def code_of(call: Callable[[], Any]) -> str:
    """OK, or the code of the refusal."""
    try:
        call()
    except grpc.RpcError as error:
        return grpc_refusal(error).code.name
    return "OK"


def submission(items: Any = ()) -> action_pb2.SubmitActionRequest:
    """An action that is allowed, on the evidence of some embeddings."""
    request = json_format.ParseDict(action_body(), action_pb2.SubmitActionRequest())
    for number, row in enumerate(items):
        request.evidence.items.add(id=f"i{number}", text="t", embedding=row.tobytes())
        request.evidence.action_embedding = row.tobytes()
    return request


def done(client: Client, operation: Any) -> bool:
    request = operations_pb2.GetOperationRequest(name=operation.name)
    stub: Any = operations_pb2_grpc.OperationsStub(client.channel)
    found = stub.GetOperation(request, timeout=30)
    assert not found.HasField("error"), found
    return bool(found.done)


def test_as_many_warm_queries_at_once_are_all_answered_beside_a_build(operator: Client) -> None:
    small = L.CreateSmallLatticeRequest(dimension=DIMENSION, anchors=WARM.tobytes())
    lattice_id = operator.lattices.CreateSmallLattice(small, timeout=60).lattice.lattice_id
    begun = operator.lattices.CreateLattice(pieces(BUILT), timeout=60)
    together = threading.Barrier(CALLERS)

    def ask(caller: int) -> str:
        request = L.QueryLatticeRequest(
            lattice_id=lattice_id,
            queries=WARM[caller].tobytes(),
            detail=L.LATTICE_DETAIL_FULL,
        )
        together.wait(60)
        return code_of(lambda: operator.lattices.QueryLattice(request, timeout=60))

    with ThreadPoolExecutor(CALLERS) as pool:
        rounds = 0
        while not (rounds and done(operator, begun.operation)):
            assert set(pool.map(ask, range(CALLERS))) == {"OK"}
            rounds += 1
    assert rounds > 1  # it was under way while they asked


def test_cold_computations_beyond_their_room_are_refused_and_take_nobodys_thread(
    operator: Client, agent: Client
) -> None:
    """Half of the threads wait at most, so warm questions are answered; actions have their own."""
    small = L.CreateSmallLatticeRequest(dimension=DIMENSION, anchors=WARM.tobytes())
    lattice_id = operator.lattices.CreateSmallLattice(small, timeout=60).lattice.lattice_id
    together = threading.Barrier(CALLERS)
    cold = embeddings(5_000, DIMENSION, seed=4)

    def settle(caller: int) -> str:
        request = L.SettleOnceRequest(
            dimension=DIMENSION, anchors=cold.tobytes(), query=cold[caller].tobytes()
        )
        together.wait(60)
        return code_of(lambda: operator.lattices.SettleOnce(request, timeout=120))

    with ThreadPoolExecutor(CALLERS) as pool:
        under_way = [pool.submit(settle, caller) for caller in range(CALLERS)]
        answered = 0
        while not all(each.done() for each in under_way):
            query = L.QueryLatticeRequest(lattice_id=lattice_id, queries=WARM[1].tobytes())
            operator.lattices.QueryLattice(query, timeout=60)
            agent.actions.SubmitAction(submission(), timeout=60)
            answered += 1
        codes = [each.result() for each in under_way]
    assert answered
    assert set(codes) == {"OK", "RESOURCE_EXHAUSTED"}
    assert codes.count("OK") >= 9  # one computes and eight wait, of sixteen threads


def test_evidence_beyond_its_room_is_refused_and_actions_without_any_are_served(
    agent: Client,
) -> None:
    together = threading.Barrier(CALLERS)
    rows = np.random.default_rng(1).normal(size=(128, 1024)).astype("<f4")
    request = submission(rows[:127])

    def submit(_caller: int) -> str:
        together.wait(60)
        return code_of(lambda: agent.actions.SubmitAction(request, timeout=120))

    with ThreadPoolExecutor(CALLERS) as pool:
        under_way = [pool.submit(submit, caller) for caller in range(CALLERS)]
        answered = 0
        while not all(each.done() for each in under_way):
            agent.actions.SubmitAction(submission(), timeout=60)
            answered += 1
        codes = [each.result() for each in under_way]
    assert answered
    assert set(codes) <= {"OK", "RESOURCE_EXHAUSTED"}
    assert codes.count("OK") >= 10  # two are scored and eight wait, of sixteen threads
