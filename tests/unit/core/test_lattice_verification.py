"""Receipts of lattices against inputs: a change of any of these is told by its own check."""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from oars_grpc.core.lattice.arrays import checked_chain, frozen
from oars_grpc.core.lattice.chain_verdict import chain_verdict
from oars_grpc.core.lattice.gates import diffusion_gates, query_sources
from oars_grpc.core.lattice.graph import Graph, mutual_graph
from oars_grpc.core.lattice.parameters import LaplacianKind
from oars_grpc.core.lattice.progress import keep_going
from oars_grpc.core.lattice.provenance import gates_digest, query_digest
from oars_grpc.core.lattice.settled import LatticeInputs, read, settle_lattice
from oars_grpc.core.lattice.statement import light_statement, statement_head, verdict_json
from oars_grpc.core.lattice_verification import (
    KnownLattice,
    LatticeEvent,
    chain_json,
    check_receipt,
    solver_json,
)
from oars_grpc.core.verification import CheckResult
from oars_grpc.errors import DeadlineExceeded
from tests.support.settled_lattices import SOFTWARE, Built, sample, stated

BUILT = sample()
INPUTS = BUILT.inputs
NAMES = ["anchors", "edges", "gates", "chain", "parameters"]
ASKING = [LatticeEvent.SETTLED, LatticeEvent.QUERIED, LatticeEvent.CHAIN_SCORED]


def known(inputs: LatticeInputs = INPUTS, software: str = SOFTWARE) -> KnownLattice:
    settled = settle_lattice(inputs)
    return KnownLattice(settled, BUILT.lists, statement_head(settled, software))


SAME = known()


def statement(event: LatticeEvent, made: Built = BUILT) -> dict[str, Any]:
    """What the service writes of an event."""
    head = statement_head(made.lattice, SOFTWARE)
    about = {"latticeId": "lat_x", "version": 3}
    reading = read(made.lattice, made.query)
    match event:
        case LatticeEvent.CREATED | LatticeEvent.CHANGED:
            body: dict[str, Any] = {**head.members, "inputs": dict(head.inputs), "createdBy": "me"}
        case LatticeEvent.CHAIN_SCORED:
            chain = checked_chain([3, 1, 2], len(made.lattice), [0.5, 2.0])
            verdict = verdict_json(chain_verdict(reading, chain))
            body = light_statement(head, made.lattice, reading.query)
            body |= {"judged": chain_json(chain), "verdict": verdict}
        case LatticeEvent.GATES_COMPUTED:
            sources = query_sources(made.inputs.anchors, made.query)
            gates = diffusion_gates(made.inputs.graph, sources, screening=0.25)
            body = {
                "software": SOFTWARE,
                "inputs": {**head.inputs, "query": query_digest(made.query)},
                "gates": {"digest": gates_digest(gates.gates), "screening": "0.25"},
                "solver": solver_json(gates.outcome),
            }
        case _:
            body = stated(made).statement
    return copy.deepcopy({**body, **about})


COMPARED: list[LatticeEvent] = [
    event for event in LatticeEvent if event is not LatticeEvent.DELETED
]
STATED: dict[LatticeEvent, dict[str, Any]] = {event: statement(event) for event in COMPARED}


def results(
    event: LatticeEvent,
    told: dict[str, Any] | None = None,
    by: KnownLattice | None = SAME,
    query: Any = BUILT.query,
) -> dict[str, CheckResult]:
    checks = check_receipt(
        event,
        STATED[event] if told is None else told,
        by,
        query if event.asks else None,
        keep_going,
    )
    found = {check.name: check.result for check in checks}
    assert len(found) == len(checks)
    for check in checks:
        assert bool(check.detail) is (check.result is not CheckResult.PASSED), check
    return found


def failed(found: dict[str, CheckResult]) -> set[str]:
    return {name for name, result in found.items() if result is CheckResult.FAILED}


@pytest.mark.parametrize("event", COMPARED)
def test_of_the_same_inputs_every_check_is_made_and_passes(event: LatticeEvent) -> None:
    found = results(event)
    assert set(found.values()) == {CheckResult.PASSED}
    judged = {"judged"} if event is LatticeEvent.CHAIN_SCORED else set()
    query = {"inputs.query"} if event.asks else set()
    inputs = {f"inputs.{name}" for name in [*NAMES, "lattice"]}
    assert found.keys() == inputs | query | judged | {"software", "statement"}


def moved(values: Any, place: Any, by: float) -> Any:
    changed = values.copy()
    changed[place] += np.asarray(by, dtype=changed.dtype)
    return frozen(changed)


def other_edge(factor: float) -> Graph:
    """The graph with one edge of another weight or, by the factor 0, without it."""
    low, high = (int(end) for end in INPUTS.graph.edges[0])
    cosines = BUILT.lists.cosines.copy()
    for node, neighbor in ((low, high), (high, low)):
        cosines[node, BUILT.lists.indices[node] == neighbor] *= factor
    return mutual_graph(replace(BUILT.lists, cosines=frozen(cosines)))


def with_parameter(name: str, value: Any) -> LatticeInputs:
    return replace(INPUTS, parameters=replace(INPUTS.parameters, **{name: value}))


def chained(nodes: list[int], weights: list[float]) -> Any:
    return checked_chain(nodes, len(INPUTS), weights)


CHANGES: dict[str, tuple[str, Callable[[], LatticeInputs]]] = {
    "an anchor": (
        "inputs.anchors",
        lambda: replace(INPUTS, anchors=moved(INPUTS.anchors, (7, 2), 2.0**-20)),
    ),
    "a gate": ("inputs.gates", lambda: replace(INPUTS, gates=moved(INPUTS.gates, 5, 2.0**-20))),
    "an edge's weight": (
        "inputs.edges",
        lambda: replace(INPUTS, graph=other_edge(1.0 - 2.0**-10)),
    ),
    "an edge": ("inputs.edges", lambda: replace(INPUTS, graph=other_edge(0.0))),
    "the chain's order": (
        "inputs.chain",
        lambda: replace(INPUTS, chain=chained([4, 1, 9, 4, 2], [1.0, 2.0, 0.5, 1.5])),
    ),
    "a link's weight": (
        "inputs.chain",
        lambda: replace(INPUTS, chain=chained([1, 4, 9, 4, 2], [1.0, 2.0, 0.5, 1.25])),
    ),
    "no chain": ("inputs.chain", lambda: replace(INPUTS, chain=None)),
    **{
        f"parameter {name}": (
            "inputs.parameters",
            partial(with_parameter, name, value),
        )
        for name, value in {
            "neighbors": 7,
            "row_cap": 50.0,
            "laplacian": LaplacianKind.NORMALIZED,
            "anchor_weight": 1.25,
            "graph_weight": 0.25,
            "query_weight": 3.0,
            "chain_weight": 0.1,
            "tolerance": 1e-5,
            "max_iterations": 100,
        }.items()
    },
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("event", COMPARED)
def test_one_changed_input_fails_the_check_of_its_name(event: LatticeEvent, change: str) -> None:
    check, made = CHANGES[change]
    found = results(event, by=known(made()))
    assert failed(found) == {check, "inputs.lattice"}
    assert found["statement"] is CheckResult.NOT_CHECKED  # its numbers are of others


@pytest.mark.parametrize("event", [event for event in COMPARED if event.asks])
def test_another_query_or_none_is_told_by_its_check(event: LatticeEvent) -> None:
    other = results(event, query=moved(BUILT.query, 3, 2.0**-18))
    assert failed(other) == {"inputs.query"}
    none = results(event, query=None)
    assert failed(none) == set()
    unchecked = [name for name in none if none[name] is CheckResult.NOT_CHECKED]
    assert unchecked == ["inputs.query", "statement"]  # the other inputs were compared
    assert none["inputs.gates"] is CheckResult.PASSED


@pytest.mark.parametrize("event", COMPARED)
@pytest.mark.parametrize(
    "member",
    ["anchors", "edges", "gates", "chain", "parameters", "lattice", "nodes", "edgeCount"],
)
def test_a_statement_that_names_other_inputs_fails(event: LatticeEvent, member: str) -> None:
    names = {"nodes": "anchors", "edgeCount": "edges"}
    told = copy.deepcopy(STATED[event])
    value = told["inputs"][member]
    told["inputs"][member] = value + 1 if isinstance(value, int) else "0" * 64
    assert failed(results(event, told)) == {f"inputs.{names.get(member, member)}"}
    del told["inputs"][member]
    assert failed(results(event, told)) == {f"inputs.{names.get(member, member)}"}


@pytest.mark.parametrize("event", COMPARED)
def test_a_statement_without_inputs_or_with_unknown_ones_fails(event: LatticeEvent) -> None:
    told = copy.deepcopy(STATED[event])
    told["inputs"]["more"] = "0" * 64
    assert failed(results(event, told)) == {"inputs"}
    told["inputs"] = "none"
    assert failed(results(event, told)) == {"inputs"}


@pytest.mark.parametrize("event", COMPARED)
def test_other_software_is_told_and_makes_no_true_receipt_false(event: LatticeEvent) -> None:
    found = results(event, by=known(software="oars-grpc/next"))
    assert failed(found) == set()
    assert found["software"] is CheckResult.NOT_CHECKED
    assert found["statement"] is CheckResult.PASSED
    told = copy.deepcopy(STATED[event])
    told["software"] = "oars-grpc/other"  # but what the receipt names is under its digest
    assert failed(results(event, told)) == {"inputs.lattice"}


def test_what_other_software_settled_to_other_bits_is_not_called_false() -> None:
    next_one = known(software="oars-grpc/next")
    for event, change in (
        (LatticeEvent.CREATED, {"state": "0" * 64}),
        (LatticeEvent.GATES_COMPUTED, {"gates": {"digest": "0" * 64, "screening": "0.25"}}),
        (LatticeEvent.CHAIN_SCORED, {"verdict": {"coherent": True}}),
    ):
        told = copy.deepcopy(STATED[event]) | change
        check = "judged" if event is LatticeEvent.CHAIN_SCORED else "statement"
        assert failed(results(event, told)) == {check}
        assert results(event, told, by=next_one)[check] is CheckResult.NOT_CHECKED
    # Of numbers that carry their quantum no more is asked than that they are near.
    told = copy.deepcopy(STATED[LatticeEvent.QUERIED]) | {"state": "0" * 64}
    assert failed(results(LatticeEvent.QUERIED, told)) == {"statement"}
    assert results(LatticeEvent.QUERIED, told, by=next_one)["statement"] is CheckResult.PASSED


@pytest.mark.parametrize(
    ("event", "path", "value", "check"),
    [
        (LatticeEvent.CREATED, ("solver", "iterations"), 1, "statement"),
        (LatticeEvent.QUERIED, ("energy", "drop", "total"), 1, "statement"),
        (LatticeEvent.SETTLED, ("ranking", "items"), [], "statement"),
        (LatticeEvent.CHAIN_SCORED, ("judged", "nodes"), [1, 3, 2], "judged"),
        (LatticeEvent.CHAIN_SCORED, ("judged", "nodes"), [1, 1], "judged"),
        (LatticeEvent.CHAIN_SCORED, ("judged", "weights"), ["x"], "judged"),
        (LatticeEvent.CHAIN_SCORED, ("judged",), None, "judged"),
        (LatticeEvent.CHAIN_SCORED, ("verdict", "coherent"), 5, "judged"),
        (LatticeEvent.CHAIN_SCORED, ("energy", "after", "graph"), 1, "statement"),
        (LatticeEvent.GATES_COMPUTED, ("gates", "digest"), "0" * 64, "statement"),
        (LatticeEvent.GATES_COMPUTED, ("gates", "screening"), "0.5", "statement"),
        (LatticeEvent.GATES_COMPUTED, ("gates", "screening"), "1e-9", "statement"),
        (LatticeEvent.GATES_COMPUTED, ("gates",), [], "statement"),
        (LatticeEvent.GATES_COMPUTED, ("solver", "iterations"), 1, "statement"),
    ],
)
def test_a_number_that_does_not_follow_fails(
    event: LatticeEvent, path: tuple[str, ...], value: object, check: str
) -> None:
    told = copy.deepcopy(STATED[event])
    holder = told
    for name in path[:-1]:
        holder = holder[name]
    holder[path[-1]] = value
    assert failed(results(event, told)) == {check}


@pytest.mark.parametrize("event", COMPARED)
def test_members_of_no_such_statement_are_refused(event: LatticeEvent) -> None:
    told = copy.deepcopy(STATED[event]) | {"more": 1}
    assert failed(results(event, told)) == {"statement"}


@pytest.mark.parametrize("event", COMPARED)
def test_without_inputs_nothing_is_compared_and_each_check_says_so(event: LatticeEvent) -> None:
    found = results(event, by=None, query=None)
    assert set(found.values()) == {CheckResult.NOT_CHECKED}
    assert {f"inputs.{name}" for name in NAMES} < found.keys()
    assert ("inputs.query" in found) is event.asks


def test_a_deletion_states_no_inputs_and_an_unknown_event_is_refused() -> None:
    (check,) = check_receipt("lattice.deleted", {"latticeId": "x"}, SAME, None, keep_going)
    assert check.result is CheckResult.NOT_CHECKED
    (check,) = check_receipt("lattice.eaten", {}, SAME, None, keep_going)
    assert check.result is CheckResult.FAILED


def test_a_call_that_ends_stops_the_check() -> None:
    def ended(_share: float, /) -> None:
        raise DeadlineExceeded("the call ended")

    with pytest.raises(DeadlineExceeded):
        check_receipt(
            LatticeEvent.GATES_COMPUTED,
            STATED[LatticeEvent.GATES_COMPUTED],
            SAME,
            BUILT.query,
            ended,
        )
