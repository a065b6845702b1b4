"""The lattice service over the whole stack: what it answers, what it signs, what it refuses."""

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from google.longrunning import operations_pb2, operations_pb2_grpc

from oars_grpc.core.lattice.graph import mutual_graph
from oars_grpc.core.lattice.neighbors import nearest_neighbors
from oars_grpc.generated.oars.v1 import receipt_pb2
from oars_grpc.local.stack import LocalStack
from tests.support.client import Client, client_for
from tests.support.lattices import L, dense_state, embeddings, pieces, unpacked
from tests.support.rpcs import RPCS, call_rest, grpc_refusal, refused_by_grpc, rest_refusal

COUNT, DIMENSION = 120, 16
ANCHORS = embeddings(COUNT, DIMENSION)
QUERY = (ANCHORS[5] + 0.1).astype("<f4")
INVALID = grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture(scope="module")
def operator(stack: LocalStack) -> Iterator[Client]:
    with client_for(stack, "operator") as client:
        yield client


def created(client: Client, anchors: Any = ANCHORS, **fields: Any) -> Any:
    request = L.CreateSmallLatticeRequest(
        dimension=anchors.shape[1], anchors=anchors.tobytes(), **fields
    )
    return client.lattices.CreateSmallLattice(request, timeout=30)


def queried(client: Client, lattice_id: str, queries: Any = QUERY, **fields: Any) -> Any:
    request = L.QueryLatticeRequest(lattice_id=lattice_id, queries=queries.tobytes(), **fields)
    return client.lattices.QueryLattice(request, timeout=30)


def statement(receipt: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(receipt.envelope.payload)
    assert found["predicateType"] == "urn:oars:receipt:lattice:v1"
    body: dict[str, Any] = found["predicate"]["lattice"]
    return body


def operations(client: Client) -> Any:
    return operations_pb2_grpc.OperationsStub(client.channel)


def waited(client: Client, operation: Any) -> Any:
    """The operation once it has ended."""
    while not operation.done:
        request = operations_pb2.WaitOperationRequest(name=operation.name)
        operation = operations(client).WaitOperation(request, timeout=15)
    return operation


def test_a_settled_state_is_that_of_a_dense_solve(agent: Client) -> None:
    request = L.SettleOnceRequest(
        dimension=DIMENSION,
        anchors=ANCHORS.tobytes(),
        query=QUERY.tobytes(),
        include_state=True,
        detail=L.LATTICE_DETAIL_FULL,
    )
    result = agent.lattices.SettleOnce(request, timeout=30).result
    graph = mutual_graph(nearest_neighbors(ANCHORS, 6))
    dense = dense_state(ANCHORS, QUERY, graph.edges, graph.edge_weights)
    assert np.abs(unpacked(result.state, DIMENSION) - dense).max() < 1e-5
    # And its certificate covers what is missing.
    missing = float(np.linalg.norm(unpacked(result.state, DIMENSION) - dense))
    assert missing <= result.certificate.bound + 1e-5
    assert result.solver.converged
    energy = result.energy
    assert energy.drop.total > 0
    for terms in (energy.before, energy.after, energy.drop):
        assert terms.total == terms.anchor + terms.graph + terms.query + terms.chain
    assert result.ranking[0].index == 5
    assert len(result.ranking) == 8
    assert list(result.ranking) == sorted(result.ranking, key=lambda item: -item.score)


def test_what_is_answered_is_what_is_signed_and_logged(operator: Client) -> None:
    lattice_id = created(operator, chain={"nodes": [1, 2, 3]}).lattice.lattice_id
    both = np.stack([QUERY, ANCHORS[9]])
    answer = queried(operator, lattice_id, both, top=4, detail=L.LATTICE_DETAIL_FULL, state_rows=3)
    assert len(answer.results) == 2
    for result in answer.results:
        told = statement(result.receipt)
        items, quantum = told["ranking"]["items"], 2.0 ** told["ranking"]["exponent"]
        assert [(item["node"], item["score"] * quantum) for item in items] == [
            (item.index, item.score) for item in result.ranking
        ]
        unit = 2.0 ** told["energy"]["exponent"]
        assert told["energy"]["drop"]["total"] * unit == result.energy.drop.total
        assert told["verdict"]["coherent"] == result.verdict.coherent
        assert (told["latticeId"], told["version"]) == (lattice_id, answer.version)
        assert len(result.state) == 3 * DIMENSION * 4
        stored = operator.rest.get(f"/v1/receipts/{result.receipt.receipt_id}").json()["receipt"]
        assert stored["receiptDigest"] == result.receipt.receipt_digest
        assert stored["type"] == "lattice.queried"
        checked = operator.rest.post(
            "/v1/receipts/verify", json={"receiptId": result.receipt.receipt_id}
        ).json()
        assert checked["valid"], checked


def test_changes_give_the_lattice_that_a_new_one_would_be(operator: Client) -> None:
    gates = np.linspace(0.2, 1.0, COUNT, dtype="<f4")
    lattice_id = created(
        operator, gates=gates.tobytes(), chain={"nodes": [7, 90, 12]}
    ).lattice.lattice_id
    new = embeddings(3, DIMENSION, seed=9)
    upserted = operator.lattices.UpsertAnchors(
        L.UpsertAnchorsRequest(
            lattice_id=lattice_id,
            indices=[COUNT + 1, 4, COUNT],
            anchors=new.tobytes(),
            expected_version=1,
        ),
        timeout=30,
    )
    assert (upserted.lattice.anchors, upserted.lattice.version) == (COUNT + 2, 2)
    removed = operator.lattices.RemoveAnchors(
        L.RemoveAnchorsRequest(lattice_id=lattice_id, indices=[0, 50]), timeout=30
    ).lattice
    assert (removed.anchors, removed.version) == (COUNT, 3)
    wanted = np.concatenate([ANCHORS, np.zeros((2, DIMENSION), "<f4")])
    wanted[[COUNT + 1, 4, COUNT]] = new
    opened = np.concatenate([gates, np.ones(2, "<f4")])
    kept = np.delete(np.arange(COUNT + 2), [0, 50])
    fresh = created(
        operator,
        wanted[kept],
        gates=opened[kept].tobytes(),
        chain={"nodes": [6, 88, 11]},
    ).lattice
    assert fresh.edges == removed.edges
    compare = L.CompareLatticesRequest(lattice_id=lattice_id, other_lattice_id=fresh.lattice_id)
    compared = operator.lattices.CompareLattices(compare, timeout=30)
    assert compared.equal, compared.differences
    one, other = (queried(operator, id_).results[0] for id_ in (lattice_id, fresh.lattice_id))
    assert one.ranking == other.ranking
    assert statement(one.receipt)["state"] == statement(other.receipt)["state"]
    base = created(operator).lattice.lattice_id
    differing = operator.lattices.CompareLattices(
        L.CompareLatticesRequest(lattice_id=base, other_lattice_id=fresh.lattice_id), timeout=30
    )
    assert [each.input for each in differing.differences] == ["anchors", "chain", "gates", "graph"]


def test_a_comparison_tells_each_parameter_that_differs_and_leaves_no_receipt(
    operator: Client,
) -> None:
    one = created(operator, parameters={"neighbors": 5}).lattice.lattice_id
    other = created(
        operator, parameters={"neighbors": 5, "row_cap": 2.5, "query_weight": 3.0}
    ).lattice.lattice_id
    newest = operator.rest.get("/v1/receipts", params={"pageSize": 1}).json()["receipts"]
    request = L.CompareLatticesRequest(lattice_id=one, other_lattice_id=other)
    compared = operator.lattices.CompareLattices(request, timeout=30)
    found = {each.input: (each.one, each.other) for each in compared.differences}
    assert not compared.equal
    # Every edge is within the cap or not: the graph may be another one, too.
    assert found.keys() - {"graph"} == {
        "parameters",
        "parameters.row_cap",
        "parameters.query_weight",
    }
    assert found["parameters.row_cap"] == ("", "2.5")
    assert found["parameters.query_weight"] == ("4.0", "3.0")
    assert len(found["parameters"][0]) == 64
    again = operator.rest.get("/v1/receipts", params={"pageSize": 1}).json()["receipts"]
    assert again == newest


def test_gates_stay_within_their_range_and_fade_from_the_query(operator: Client) -> None:
    lattice_id = created(operator).lattice.lattice_id
    request = L.ComputeGatesRequest(lattice_id=lattice_id, query=QUERY.tobytes())
    answer = operator.lattices.ComputeGates(request, timeout=30)
    gates = unpacked(answer.gates, 1).ravel()
    assert gates.shape == (COUNT,)
    assert 0 <= gates.min() <= gates.max() <= 1
    assert gates[5] > np.median(gates)
    assert answer.solver.converged
    assert statement(answer.receipt)["gates"]["screening"] == "0.1"


def settle(**changes: Any) -> Any:
    fields = {
        "dimension": DIMENSION,
        "anchors": ANCHORS.tobytes(),
        "query": QUERY.tobytes(),
        **changes,
    }
    return L.SettleOnceRequest(**fields)


def with_value(value: float, row: int = 2, column: int = 3) -> bytes:
    wrong = ANCHORS.copy()
    wrong[row, column] = value
    return wrong.tobytes()


REFUSED: dict[str, tuple[Callable[[], Any], tuple[str, ...]]] = {
    "NaN": (lambda: settle(anchors=with_value(np.nan)), ("anchors[2][3]",)),
    "infinite": (lambda: settle(anchors=with_value(-np.inf)), ("anchors[2][3]",)),
    "too large": (lambda: settle(anchors=with_value(1e16)), ("anchors[2][3]",)),
    "half a row": (lambda: settle(anchors=ANCHORS.tobytes()[:-4]), ("anchors",)),
    "half a number": (lambda: settle(query=QUERY.tobytes()[:-2]), ("query",)),
    "short query": (lambda: settle(query=QUERY.tobytes()[:-4]), ("query",)),
    "negative gate": (
        lambda: settle(gates=(-np.ones(COUNT, "<f4")).tobytes()),
        ("gates[0]",),
    ),
    "too few gates": (lambda: settle(gates=np.ones(3, "<f4").tobytes()), ("gates",)),
    "neighbors over the role's limit": (
        lambda: settle(parameters={"neighbors": 33}),
        ("parameters.neighbors",),
    ),
    "iterations over the role's limit": (
        lambda: settle(parameters={"max_iterations": 1025}),
        ("parameters.max_iterations",),
    ),
    "no anchor weight, no tolerance": (
        lambda: settle(parameters={"anchor_weight": 0.0, "tolerance": 2.0}),
        ("parameters.anchor_weight", "parameters.tolerance"),
    ),
    "NaN weight": (
        lambda: settle(parameters={"query_weight": float("nan")}),
        ("parameters.query_weight",),
    ),
    "no condition": (
        lambda: settle(parameters={"anchor_weight": 1e-6, "query_weight": 0.0}),
        ("parameters.anchor_weight",),
    ),
    "chain of one": (lambda: settle(chain={"nodes": [1]}), ("chain.nodes",)),
    "chain beyond": (lambda: settle(chain={"nodes": [1, COUNT]}), ("chain.nodes[1]",)),
    "standing chain": (lambda: settle(chain={"nodes": [1, 1]}), ("chain.nodes[1]",)),
    "long chain": (lambda: settle(chain={"nodes": [0, 1] * 3000}), ("chain.nodes",)),
    "weightless link": (
        lambda: settle(chain={"nodes": [1, 2], "weights": np.zeros(1, "<f4").tobytes()}),
        ("chain.weights[0]",),
    ),
    "top": (lambda: settle(top=257), ("top",)),
    "negative dimension": (lambda: settle(dimension=-1), ("dimension",)),
    "too large an array": (
        lambda: settle(anchors=b"\0" * (720_896 + 64), dimension=1),
        ("anchors",),
    ),
}


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_wrong_arrays_are_refused_with_the_field_named(agent: Client, case: str) -> None:
    made, fields = REFUSED[case]
    refusal = refused_by_grpc(agent, RPCS["SettleOnce"], made())
    assert (refusal.code, refusal.fields) == (INVALID, fields)
    if case != "NaN weight":  # which JSON lacks
        assert rest_refusal(call_rest(agent, RPCS["SettleOnce"], made())) == refusal


def test_changes_that_do_not_fit_are_refused(operator: Client, agent: Client) -> None:
    lattice_id = created(operator, chain={"nodes": [1, 2]}).lattice.lattice_id
    row = ANCHORS[:1].tobytes()
    upsert, remove = RPCS["UpsertAnchors"], RPCS["RemoveAnchors"]
    for rpc, request, fields in (
        (upsert, {"indices": [COUNT + 1], "anchors": row}, ("indices",)),
        (upsert, {"indices": [0, 0], "anchors": row * 2}, ("indices",)),
        (upsert, {"indices": [-1], "anchors": row}, ("indices",)),
        (upsert, {"indices": [0, 1], "anchors": row}, ("anchors",)),
        (upsert, {"indices": [0], "anchors": row[:-4]}, ("anchors",)),
        (upsert, {"indices": [0], "anchors": row, "gates": row[:8]}, ("gates",)),
        (remove, {"indices": [COUNT]}, ("indices",)),
        (remove, {"indices": [2]}, ("indices",)),  # of the chain
        (remove, {"indices": list(range(COUNT))}, ("indices",)),
    ):
        made = rpc.request_class(lattice_id=lattice_id, **request)
        refusal = refused_by_grpc(operator, rpc, made)
        assert (refusal.code, refusal.fields) == (INVALID, fields), request
    late: Any = L.RemoveAnchorsRequest(lattice_id=lattice_id, indices=[9], expected_version=7)
    assert refused_by_grpc(operator, remove, late).reason == "VERSION_MISMATCH"
    # An agent asks any lattice of its tenant, and changes its own.
    assert queried(agent, lattice_id).results
    late.expected_version = 0
    assert refused_by_grpc(agent, remove, late).reason == "LATTICE_FORBIDDEN"
    gone: Any = L.DeleteLatticeRequest(lattice_id=lattice_id)
    assert refused_by_grpc(agent, RPCS["DeleteLattice"], gone).reason == "LATTICE_FORBIDDEN"
    own = created(agent).lattice.lattice_id
    agent.lattices.DeleteLattice(L.DeleteLatticeRequest(lattice_id=own), timeout=30)
    asked = L.QueryLatticeRequest(lattice_id=own, queries=QUERY.tobytes())
    assert refused_by_grpc(agent, RPCS["QueryLattice"], asked).reason == "LATTICE_NOT_FOUND"


def test_a_large_lattice_is_uploaded_in_pieces_and_built(operator: Client) -> None:
    """Larger than the sidecar lets any other request be; rows and chunks need not agree."""
    anchors = embeddings(9_000, 64, seed=4)
    gates = np.linspace(0.0, 1.0, 9_000, dtype="<f4")
    assert anchors.nbytes > 2 * 1024 * 1024
    begun = operator.lattices.CreateLattice(
        pieces(anchors, 1_700, gates, display_name="corpus", chain={"nodes": [8_999, 0]}),
        timeout=60,
    )
    assert begun.lattice.state == L.LATTICE_STATE_BUILDING
    done = waited(operator, begun.operation)
    lattice = L.Lattice()
    assert done.response.Unpack(lattice), done
    metadata = L.LatticeOperationMetadata()
    assert done.metadata.Unpack(metadata)
    assert (metadata.progress, metadata.attempts) == (1.0, 1)
    assert (lattice.anchors, lattice.gated, lattice.chain_length) == (9_000, True, 2)
    assert lattice.state == L.LATTICE_STATE_READY
    assert lattice.edges > 9_000
    answer = queried(operator, lattice.lattice_id, anchors[70], top=1)
    assert answer.results[0].ranking[0].index == 70
    # Its receipt was written by the server itself.
    listed = operator.receipts.ListReceipts(
        receipt_pb2.ListReceiptsRequest(type="lattice.created", page_size=200), timeout=20
    )
    told = [json.loads(receipt.envelope.payload)["predicate"] for receipt in listed.receipts]
    (own,) = [each for each in told if each["lattice"]["latticeId"] == lattice.lattice_id]
    assert own["caller"]["subject"] == "system"
    assert own["lattice"]["createdBy"] == "spiffe://oars.dev/operator"
    assert own["lattice"]["inputs"]["nodes"] == 9_000


WRONG_UPLOADS: dict[str, tuple[Callable[[], list[Any]], tuple[str, ...]]] = {
    "nothing": (list, ("header",)),
    "no header": (lambda: list(pieces(ANCHORS))[1:], ("header",)),
    "two headers": (lambda: list(pieces(ANCHORS))[:1] * 2, ("header",)),
    "an empty message": (
        lambda: [*list(pieces(ANCHORS))[:1], L.CreateLatticeRequest()],
        ("part",),
    ),
    "too few rows": (lambda: list(pieces(ANCHORS, 50))[:-1], ("anchors",)),
    "too many rows": (
        lambda: [
            *pieces(ANCHORS),
            L.CreateLatticeRequest(anchors={"first_row": COUNT, "data": ANCHORS[:1].tobytes()}),
        ],
        ("anchors.data",),
    ),
    "rows twice": (
        lambda: [*list(pieces(ANCHORS, 60))[:2], list(pieces(ANCHORS, 60))[1]],
        ("anchors.first_row",),
    ),
    "half a row": (
        lambda: [
            *list(pieces(ANCHORS))[:1],
            L.CreateLatticeRequest(anchors={"data": ANCHORS.tobytes()[:-4]}),
        ],
        ("anchors.data",),
    ),
    "NaN": (
        lambda: [
            *list(pieces(ANCHORS))[:1],
            L.CreateLatticeRequest(anchors={"data": with_value(np.nan)}),
        ],
        ("anchors.data[2][3]",),
    ),
    "gates unannounced": (
        lambda: [
            *pieces(ANCHORS),
            L.CreateLatticeRequest(gates={"data": np.ones(COUNT, "<f4").tobytes()}),
        ],
        ("gates",),
    ),
    "gates missing": (lambda: list(pieces(ANCHORS, gated=True)), ("gates",)),
    "gates before anchors": (
        lambda: (
            list(pieces(ANCHORS, gates=np.ones(COUNT, "<f4")))[:1]
            + list(pieces(ANCHORS, gates=np.ones(COUNT, "<f4")))[2:]
        ),
        ("anchors",),
    ),
    "more anchors than the role may have": (
        lambda: [L.CreateLatticeRequest(header={"anchors": 50_001, "dimension": 4})],
        ("header.anchors",),
    ),
    "more bytes than the role may have": (
        lambda: [L.CreateLatticeRequest(header={"anchors": 50_000, "dimension": 2048})],
        ("header.anchors",),
    ),
    "no shape": (
        lambda: [L.CreateLatticeRequest(header={})],
        ("header.anchors", "header.dimension"),
    ),
    "wrong parameters": (
        lambda: list(pieces(ANCHORS, parameters={"neighbors": 33})),
        ("header.parameters.neighbors",),
    ),
    "control character": (
        lambda: list(pieces(ANCHORS, display_name="a\x00")),
        ("header.display_name",),
    ),
    "too large a piece": (
        lambda: [
            *list(pieces(ANCHORS))[:1],
            L.CreateLatticeRequest(anchors={"data": b"\0" * 983_044}),
        ],
        ("anchors.data",),
    ),
}


@pytest.mark.parametrize("case", sorted(WRONG_UPLOADS))
def test_an_upload_that_cannot_be_is_refused(agent: Client, case: str) -> None:
    made, fields = WRONG_UPLOADS[case]
    with pytest.raises(grpc.RpcError) as caught:
        agent.lattices.CreateLattice(iter(made()), timeout=30)
    refusal = grpc_refusal(caught.value)
    assert (refusal.code, refusal.fields) == (INVALID, fields), refusal


def test_uploads_that_stall_are_ended_and_nobody_takes_all_places(operator: Client) -> None:
    go_on = threading.Event()

    def stalling() -> Iterator[Any]:
        yield from list(pieces(ANCHORS, 50))[:2]
        go_on.wait(60)

    calls = [operator.lattices.CreateLattice.future(stalling(), timeout=60) for _ in range(5)]
    try:
        refusals = []
        for call in calls:
            with pytest.raises(grpc.RpcError) as caught:
                call.result()
            refusals.append(caught.value.code())
    finally:
        go_on.set()
    # One too many at once; the others after ten seconds in which nothing came.
    assert sorted(code.name for code in refusals) == [*["CANCELLED"] * 4, "RESOURCE_EXHAUSTED"]
    begun = operator.lattices.CreateLattice(pieces(ANCHORS), timeout=30)  # their places are free
    waited(operator, begun.operation)


def test_an_upload_under_one_key_makes_one_lattice(operator: Client) -> None:
    def upload(key: str, rows: int, anchors: Any = ANCHORS) -> tuple[Any, dict[str, Any]]:
        answer, call = operator.lattices.CreateLattice.with_call(
            pieces(anchors, rows), timeout=30, metadata=(("idempotency-key", key),)
        )
        return answer, dict(call.trailing_metadata())

    first, headers = upload("upload-1", 50)
    assert "x-idempotent-replay" not in headers
    again, headers = upload("upload-1", 70)  # the same rows, in other pieces
    assert (again, headers["x-idempotent-replay"]) == (first, "true")
    with pytest.raises(grpc.RpcError) as caught:
        upload("upload-1", 50, embeddings(COUNT, DIMENSION, seed=8))
    assert grpc_refusal(caught.value).reason == "IDEMPOTENCY_KEY_REUSED"
    waited(operator, first.operation)


def test_operations_are_listed_found_and_forgotten(operator: Client, beta_admin: Client) -> None:
    for _ in range(2):
        begun = operator.lattices.CreateLattice(pieces(ANCHORS), timeout=30).operation
        done = waited(operator, begun)
    name = done.name
    assert operator.rest.get(f"/v1/{name}").json()["done"] is True
    for query in ({}, {"filter": 'tenant_id="tenant_alpha"'}):
        page = operator.rest.get("/v1/operations", params=query)
        assert page.status_code == 200, page.text
        assert page.json()["operations"][0]["name"] == name
    spaced = operations_pb2.ListOperationsRequest(filter="tenant_id = tenant_alpha", page_size=1)
    assert operations(operator).ListOperations(spaced, timeout=10).operations[0] == done
    for wrong in ("state=done", "tenant_id=A b"):
        with pytest.raises(grpc.RpcError) as caught:
            operations(operator).ListOperations(
                operations_pb2.ListOperationsRequest(filter=wrong), timeout=10
            )
        assert grpc_refusal(caught.value).fields == ("filter",)
    first = operator.rest.get("/v1/operations", params={"pageSize": 1}).json()
    more = operator.rest.get("/v1/operations", params={"pageToken": first["nextPageToken"]})
    assert name not in more.text
    # To cancel what has ended changes nothing.
    assert operator.rest.post(f"/v1/{name}:cancel", json={}).json() == {}
    assert (
        operations(operator).GetOperation(operations_pb2.GetOperationRequest(name=name), timeout=10)
        == done
    )
    # Another tenant's are not there, and saying whose they are does not help.
    assert rest_refusal(beta_admin.rest.get(f"/v1/{name}")).reason == "TENANT_FORBIDDEN"
    foreign = name.replace("tenant_alpha", "tenant_beta")
    assert rest_refusal(beta_admin.rest.get(f"/v1/{foreign}")).reason == "OPERATION_NOT_FOUND"
    forgotten = operator.rest.request("DELETE", f"/v1/{name}", json={})
    assert forgotten.json() == {}, forgotten.text
    assert rest_refusal(operator.rest.get(f"/v1/{name}")).reason == "OPERATION_NOT_FOUND"


@pytest.mark.parametrize(
    "name",
    ["operations", "operations/x", "x/tenant_alpha/op_1", "operations/tenant_alpha/op_1", ""],
)
def test_a_name_that_is_no_operations_is_refused(operator: Client, name: str) -> None:
    for rpc, request in (
        ("GetOperation", operations_pb2.GetOperationRequest(name=name)),
        ("CancelOperation", operations_pb2.CancelOperationRequest(name=name)),
        ("DeleteOperation", operations_pb2.DeleteOperationRequest(name=name)),
        ("WaitOperation", operations_pb2.WaitOperationRequest(name=name)),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            getattr(operations(operator), rpc)(request, timeout=10)
        refusal = grpc_refusal(caught.value)
        assert (refusal.code, refusal.fields) == (INVALID, ("name",))


def test_an_auditor_reads_and_asks_nothing(auditor: Client, operator: Client) -> None:
    lattice_id = created(operator).lattice.lattice_id
    named = L.GetLatticeRequest(lattice_id=lattice_id)
    assert auditor.lattices.GetLattice(named, timeout=10).lattice.anchors == COUNT
    begun = operator.lattices.CreateLattice(pieces(ANCHORS), timeout=30).operation
    for call in (
        lambda: queried(auditor, lattice_id),
        lambda: auditor.lattices.CreateLattice(pieces(ANCHORS), timeout=30),
        lambda: operations(auditor).CancelOperation(
            operations_pb2.CancelOperationRequest(name=begun.name), timeout=10
        ),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            call()
        assert grpc_refusal(caught.value).reason == "ROLE_FORBIDDEN"
    waited(operator, begun)
