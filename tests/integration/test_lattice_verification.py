"""Receipts of lattices verified by the server: against stored inputs, supplied ones, none."""

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from oars_grpc.generated.oars.v1 import receipt_pb2
from oars_grpc.local.stack import LocalStack
from tests.support.client import Client, client_for
from tests.support.factories import new_id
from tests.support.lattices import L, embeddings
from tests.support.rpcs import RPCS, call_rest, refused_by_grpc, rest_refusal

COUNT, DIMENSION = 120, 16
ANCHORS = embeddings(COUNT, DIMENSION)
QUERY = (ANCHORS[5] + 0.1).astype("<f4")
INVALID = grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture(scope="module")
def operator(stack: LocalStack) -> Iterator[Client]:
    with client_for(stack, "operator") as client:
        yield client


def created(client: Client, **fields: Any) -> Any:
    request = L.CreateSmallLatticeRequest(dimension=DIMENSION, anchors=ANCHORS.tobytes(), **fields)
    return client.lattices.CreateSmallLattice(request, timeout=30)


def queried(client: Client, lattice_id: str, **fields: Any) -> Any:
    request = L.QueryLatticeRequest(lattice_id=lattice_id, queries=QUERY.tobytes(), **fields)
    return client.lattices.QueryLattice(request, timeout=30)


def test_a_receipt_is_true_of_its_inputs_and_of_no_others(operator: Client) -> None:
    made = created(operator)
    lattice_id = made.lattice.lattice_id
    result = queried(operator, lattice_id, detail=L.LATTICE_DETAIL_FULL).results[0]
    chain = L.ScoreChainRequest(
        lattice_id=lattice_id, query=QUERY.tobytes(), chain={"nodes": [0, 5, 9]}
    )
    scored = operator.lattices.ScoreChain(chain, timeout=30)

    def verified(receipt: Any, query: Any) -> Any:
        request = L.VerifyLatticeReceiptRequest(
            lattice_id=lattice_id, receipt_id=receipt.receipt_id, query=query
        )
        return operator.lattices.VerifyLatticeReceipt(request, timeout=30)

    for receipt, query in (
        (made.receipt, b""),
        (result.receipt, QUERY.tobytes()),
        (scored.receipt, QUERY.tobytes()),
    ):
        found = verified(receipt, query)
        assert found.valid, found.errors
    other = verified(result.receipt, ANCHORS[7].tobytes())
    assert not other.valid
    assert any("inputs.query" in error for error in other.errors)
    assert not verified(result.receipt, b"").valid  # nothing was compared
    # The lattice has changed since: the receipt tells of another.
    change = L.UpsertAnchorsRequest(
        lattice_id=lattice_id, indices=[3], anchors=ANCHORS[4:5].tobytes()
    )
    operator.lattices.UpsertAnchors(change, timeout=30)
    changed = verified(result.receipt, QUERY.tobytes())
    assert not changed.valid
    assert any("inputs.anchors" in error for error in changed.errors)
    foreign = created(operator).lattice.lattice_id
    request = L.VerifyLatticeReceiptRequest(
        lattice_id=foreign, receipt_id=result.receipt.receipt_id, query=QUERY.tobytes()
    )
    refusal = refused_by_grpc(operator, RPCS["VerifyLatticeReceipt"], request)
    assert (refusal.code, refusal.fields) == (INVALID, ("receipt_id",))


def results_of(found: Any) -> dict[str, str]:
    """How each check ended, but for those that any receipt has."""
    of_any = ("signature", "key_trust", "schema", "chain", "inclusion")
    return {
        check.name: receipt_pb2.CheckResult.Name(check.result).removeprefix("CHECK_RESULT_")
        for check in found.checks
        if check.name not in of_any
    }


def verified_by(client: Client, receipt: Any, **fields: Any) -> Any:
    request = L.VerifyLatticeReceiptRequest(receipt_id=receipt.receipt_id, **fields)
    found = client.lattices.VerifyLatticeReceipt(request, timeout=30)
    rest = call_rest(client, RPCS["VerifyLatticeReceipt"], request).json()
    assert rest.get("valid", False) == found.valid
    assert rest.get("errors", []) == list(found.errors)
    return found


INPUT_CHECKS = [
    f"inputs.{name}" for name in ("anchors", "edges", "gates", "chain", "parameters", "query")
]


def test_a_receipt_is_verified_by_inputs_that_are_supplied(agent: Client) -> None:
    gates = np.linspace(0.2, 1.0, COUNT, dtype="<f4")
    inputs: dict[str, Any] = {
        "dimension": DIMENSION,
        "anchors": ANCHORS.tobytes(),
        "gates": gates.tobytes(),
        "chain": {"nodes": [7, 90, 12], "weights": np.array([1, 2], "<f4").tobytes()},
        "parameters": {"neighbors": 5, "graph_weight": 0.75},
        "query": QUERY.tobytes(),
    }
    request = L.SettleOnceRequest(detail=L.LATTICE_DETAIL_FULL, **inputs)
    receipt = agent.lattices.SettleOnce(request, timeout=30).result.receipt
    found = verified_by(agent, receipt, **inputs)
    assert found.valid, found.errors
    assert set(results_of(found).values()) == {"PASSED"}
    assert {*INPUT_CHECKS, "inputs.lattice", "software", "statement"} == results_of(found).keys()
    opened = gates.copy()
    opened[3] += np.float32(1e-6)
    moved = ANCHORS.copy()
    moved[100, 3] += np.float32(1e-5)
    changed: dict[str, dict[str, Any]] = {
        "inputs.anchors": {"anchors": moved.tobytes()},
        "inputs.gates": {"gates": opened.tobytes()},
        "inputs.chain": {"chain": {"nodes": [7, 12, 90]}},
        "inputs.parameters": {"parameters": {"neighbors": 5, "graph_weight": 0.5}},
        "inputs.query": {"query": ANCHORS[7].tobytes()},
    }
    for name, changes in changed.items():
        found = verified_by(agent, receipt, **(inputs | changes))
        assert (found.valid, found.receipt_valid) == (False, True)
        assert results_of(found)[name] == "FAILED", name
        assert results_of(found)["statement"] == "NOT_CHECKED"
        assert any(error.startswith(f"{name}: ") for error in found.errors)
    # Fewer neighbours are another graph.
    fewer: dict[str, Any] = {**inputs, "parameters": {"neighbors": 3, "graph_weight": 0.75}}
    assert results_of(verified_by(agent, receipt, **fewer))["inputs.edges"] == "FAILED"
    # Without inputs: signature and log, and each of the others says that it was not made.
    found = verified_by(agent, receipt)
    assert (found.valid, found.receipt_valid, list(found.errors)) == (False, True, [])
    assert set(results_of(found).values()) == {"NOT_CHECKED"}
    assert set(INPUT_CHECKS) < results_of(found).keys()
    of_any = {check.name: check.result for check in found.checks}
    for name in ("signature", "inclusion"):
        assert of_any[name] == receipt_pb2.CHECK_RESULT_PASSED


def test_receipts_outlive_their_lattice_and_gates_are_computed_again(operator: Client) -> None:
    created_one = created(operator)
    lattice_id = created_one.lattice.lattice_id
    asked = L.ComputeGatesRequest(lattice_id=lattice_id, query=QUERY.tobytes(), screening=0.3)
    gates = operator.lattices.ComputeGates(asked, timeout=30).receipt
    found = verified_by(operator, gates, lattice_id=lattice_id, query=QUERY.tobytes())
    assert found.valid, found.errors
    assert set(results_of(found).values()) == {"PASSED"}
    unasked = verified_by(operator, gates, lattice_id=lattice_id)
    assert (unasked.valid, list(unasked.errors)) == (False, [])
    assert results_of(unasked)["inputs.query"] == "NOT_CHECKED"
    assert results_of(unasked)["inputs.gates"] == "PASSED"
    gone = operator.lattices.DeleteLattice(
        L.DeleteLatticeRequest(lattice_id=lattice_id), timeout=30
    ).receipt
    inputs: dict[str, Any] = {"dimension": DIMENSION, "anchors": ANCHORS.tobytes()}
    for receipt, query in ((created_one.receipt, b""), (gates, QUERY.tobytes())):
        found = verified_by(operator, receipt, query=query, **inputs)
        assert found.valid, found.errors
    assert verified_by(operator, gone).receipt_valid
    named = {"receiptId": gone.receipt_id}
    assert operator.rest.post("/v1/lattices:verifyReceipt", json=named).json()["receiptValid"]
    assert results_of(verified_by(operator, gone)) == {"statement": "NOT_CHECKED"}


WRONG_VERIFICATIONS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "a query without inputs": ({"query": QUERY.tobytes()}, ("query",)),
    "gates alone": ({"gates": bytes(8)}, ("dimension", "anchors")),
    "a chain alone": ({"chain": {"nodes": [1, 2]}}, ("dimension", "anchors")),
    "parameters alone": ({"parameters": {"neighbors": 3}}, ("dimension", "anchors")),
    "anchors without dimension": ({"anchors": bytes(8)}, ("dimension",)),
    "NaN": (
        {"dimension": 1, "anchors": np.array([0, np.nan], "<f4").tobytes()},
        ("anchors[1][0]",),
    ),
    "a query that is infinite": (
        {
            "dimension": DIMENSION,
            "anchors": ANCHORS.tobytes(),
            "query": np.full(DIMENSION, np.inf, "<f4").tobytes(),
        },
        ("query[0]",),
    ),
    "no lattice's id": ({"lattice_id": "lat_x"}, ("lattice_id",)),
}


@pytest.mark.parametrize("case", sorted(WRONG_VERIFICATIONS))
def test_inputs_that_cannot_be_are_refused_before_a_receipt_is_read(
    agent: Client, case: str
) -> None:
    changes, fields = WRONG_VERIFICATIONS[case]
    request = L.VerifyLatticeReceiptRequest(receipt_id=new_id("rcpt"), **changes)
    refusal = refused_by_grpc(agent, RPCS["VerifyLatticeReceipt"], request)
    assert (refusal.code, refusal.fields) == (INVALID, fields)
    assert rest_refusal(call_rest(agent, RPCS["VerifyLatticeReceipt"], request)) == refusal


def test_another_tenants_receipt_is_not_found_with_inputs_or_without(
    agent: Client, beta_admin: Client
) -> None:
    inputs: dict[str, Any] = {"dimension": DIMENSION, "anchors": ANCHORS.tobytes()}
    request = L.SettleOnceRequest(query=QUERY.tobytes(), **inputs)
    receipt_id = agent.lattices.SettleOnce(request, timeout=30).result.receipt.receipt_id
    rpc = RPCS["VerifyLatticeReceipt"]
    for fields in ({}, inputs):
        foreign = L.VerifyLatticeReceiptRequest(receipt_id=receipt_id, **fields)
        refusal = refused_by_grpc(beta_admin, rpc, foreign)
        assert refusal.reason == "RECEIPT_NOT_FOUND"
        assert rest_refusal(call_rest(beta_admin, rpc, foreign)) == refusal
        foreign.tenant_id = "tenant_alpha"
        assert refused_by_grpc(beta_admin, rpc, foreign).reason == "TENANT_FORBIDDEN"
