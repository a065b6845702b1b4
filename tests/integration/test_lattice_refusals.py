"""Numbers that cannot be, in every rpc about lattices: refused with the field named."""

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from oars_grpc.local.stack import LocalStack
from tests.support.client import Client, client_for
from tests.support.lattices import L, embeddings
from tests.support.rpcs import RPCS, Rpc, call_rest, refused_by_grpc, rest_refusal

COUNT, DIMENSION = 120, 16
ANCHORS = embeddings(COUNT, DIMENSION)
QUERY = (ANCHORS[5] + 0.1).astype("<f4")
INVALID = grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture(scope="module")
def operator(stack: LocalStack) -> Iterator[Client]:
    with client_for(stack, "operator") as client:
        yield client


@pytest.fixture(scope="module")
def kept(operator: Client) -> str:
    """A lattice that refusals are about."""
    found: str = created(operator).lattice.lattice_id
    return found


def created(client: Client, **fields: Any) -> Any:
    request = L.CreateSmallLatticeRequest(dimension=DIMENSION, anchors=ANCHORS.tobytes(), **fields)
    return client.lattices.CreateSmallLattice(request, timeout=30)


def with_value(value: float) -> bytes:
    wrong = ANCHORS.copy()
    wrong[2, 3] = value
    return wrong.tobytes()


def named(rpc: Rpc, lattice_id: str) -> dict[str, str]:
    """The lattice, for the rpcs that name one."""
    return {"lattice_id": lattice_id} if "lattice_id" in rpc.fields else {}


NOT_FINITE = {"NaN": np.nan, "infinite": np.inf, "minus infinite": -np.inf}


def spoiled(value: float, count: int = DIMENSION) -> bytes:
    numbers = np.ones(count, "<f4")
    numbers[-1] = value
    return numbers.tobytes()


# Of every rpc that takes numbers: what spoils them, and the field that is named.
SPOILED: dict[str, tuple[str, Callable[[float], dict[str, Any]], str]] = {
    "created anchors": (
        "CreateSmallLattice",
        lambda value: {"dimension": DIMENSION, "anchors": with_value(value)},
        "anchors[2][3]",
    ),
    "created gates": (
        "CreateSmallLattice",
        lambda value: {
            "dimension": DIMENSION,
            "anchors": ANCHORS.tobytes(),
            "gates": spoiled(value, COUNT),
        },
        f"gates[{COUNT - 1}]",
    ),
    "created chain": (
        "CreateSmallLattice",
        lambda value: {
            "dimension": DIMENSION,
            "anchors": ANCHORS.tobytes(),
            "chain": {"nodes": [1, 2, 3], "weights": spoiled(value, 2)},
        },
        "chain.weights[1]",
    ),
    "settled query": (
        "SettleOnce",
        lambda value: {
            "dimension": DIMENSION,
            "anchors": ANCHORS.tobytes(),
            "query": spoiled(value),
        },
        f"query[{DIMENSION - 1}]",
    ),
    "queries": (
        "QueryLattice",
        lambda value: {"queries": QUERY.tobytes() + spoiled(value)},
        f"queries[1][{DIMENSION - 1}]",
    ),
    "chain's query": (
        "ScoreChain",
        lambda value: {"query": spoiled(value), "chain": {"nodes": [1, 2]}},
        f"query[{DIMENSION - 1}]",
    ),
    "chain's weights": (
        "ScoreChain",
        lambda value: {
            "query": QUERY.tobytes(),
            "chain": {"nodes": [1, 2], "weights": spoiled(value, 1)},
        },
        "chain.weights[0]",
    ),
    "gates' query": (
        "ComputeGates",
        lambda value: {"query": spoiled(value)},
        f"query[{DIMENSION - 1}]",
    ),
    "screening": (
        "ComputeGates",
        lambda value: {"query": QUERY.tobytes(), "screening": value},
        "screening",
    ),
    "upserted anchors": (
        "UpsertAnchors",
        lambda value: {"indices": [3], "anchors": spoiled(value)},
        f"anchors[0][{DIMENSION - 1}]",
    ),
    "upserted gates": (
        "UpsertAnchors",
        lambda value: {"indices": [3], "anchors": spoiled(1), "gates": spoiled(value, 1)},
        "gates[0]",
    ),
}


@pytest.mark.parametrize("case", sorted(SPOILED))
def test_what_is_not_finite_is_refused_by_every_rpc_with_the_field_named(
    operator: Client, kept: str, case: str
) -> None:
    name, made, field = SPOILED[case]
    rpc = RPCS[name]
    for told, value in NOT_FINITE.items():
        request = rpc.request_class(**made(value), **named(rpc, kept))
        refusal = refused_by_grpc(operator, rpc, request)
        assert (refusal.code, refusal.fields) == (INVALID, (field,)), told
        assert rest_refusal(call_rest(operator, rpc, request)) == refusal


# Wrong lengths, signs and sizes: the rpc, what it is asked, and the field that is named.
MISSHAPEN: dict[str, tuple[str, dict[str, Any], str]] = {
    "negative gate": (
        "UpsertAnchors",
        {"indices": [3], "anchors": QUERY.tobytes(), "gates": spoiled(-0.5, 1)},
        "gates[0]",
    ),
    "query of another length": ("QueryLattice", {"queries": bytes(4)}, "queries"),
    "half a query": ("QueryLattice", {"queries": QUERY.tobytes()[:-1]}, "queries"),
    "more queries than the role may": (
        "QueryLattice",
        {"queries": QUERY.tobytes() * 1025},
        "queries",
    ),
    "rows that are not there": (
        "QueryLattice",
        {"queries": QUERY.tobytes(), "state_first_row": COUNT - 1, "state_rows": 2},
        "state_rows",
    ),
    "short chain query": (
        "ScoreChain",
        {"query": QUERY.tobytes()[:-4], "chain": {"nodes": [1, 2]}},
        "query",
    ),
    "chain of another lattice": (
        "ScoreChain",
        {"query": QUERY.tobytes(), "chain": {"nodes": [1, COUNT]}},
        "chain.nodes[1]",
    ),
    "screening of nothing": (
        "ComputeGates",
        {"query": QUERY.tobytes(), "screening": 0},
        "screening",
    ),
    "long gates' query": ("ComputeGates", {"query": QUERY.tobytes() * 2}, "query"),
    "dimension over the role's": (
        "SettleOnce",
        {"dimension": 4097, "anchors": bytes(4 * 4097), "query": bytes(4 * 4097)},
        "anchors",
    ),
    "no anchors": (
        "CreateSmallLattice",
        {"dimension": 4, "anchors": b""},
        "anchors",
    ),
}


@pytest.mark.parametrize("case", sorted(MISSHAPEN))
def test_what_does_not_fit_is_refused_with_the_field_named(
    operator: Client, kept: str, case: str
) -> None:
    name, changes, field = MISSHAPEN[case]
    rpc = RPCS[name]
    request = rpc.request_class(**changes, **named(rpc, kept))
    refusal = refused_by_grpc(operator, rpc, request)
    assert (refusal.code, refusal.fields) == (INVALID, (field,))
    assert rest_refusal(call_rest(operator, rpc, request)) == refusal


def test_more_anchors_than_a_role_may_have_are_refused(agent: Client) -> None:
    request = L.SettleOnceRequest(dimension=1, anchors=bytes(4 * 50_001), query=bytes(4))
    refusal = refused_by_grpc(agent, RPCS["SettleOnce"], request)
    assert (refusal.code, refusal.fields) == (INVALID, ("anchors",))
    assert rest_refusal(call_rest(agent, RPCS["SettleOnce"], request)) == refusal
