import hashlib
import struct
from dataclasses import replace

import numpy as np
import pytest

from oars_grpc.core.lattice.arrays import checked_anchors, checked_chain, checked_gates
from oars_grpc.core.lattice.comparison import ChangedParameter, compare
from oars_grpc.core.lattice.graph import graph_of_edges
from oars_grpc.core.lattice.parameters import LaplacianKind, LatticeParameters
from oars_grpc.core.lattice.provenance import (
    anchors_digest,
    chain_digest,
    edges_digest,
    parameters_digest,
    provenance_of,
)
from oars_grpc.core.lattice.settled import LatticeInputs
from tests.support.settled_lattices import SOFTWARE, sample


def changed(inputs: LatticeInputs, what: str) -> LatticeInputs:
    """The inputs with the least change of one kind."""
    count, graph = len(inputs), inputs.graph
    assert inputs.chain is not None
    nodes, weights = inputs.chain.nodes, inputs.chain.weights
    edges = graph.edges.astype(np.int64)
    match what:
        case "anchor":
            rows = inputs.anchors.copy()
            rows[-1, -1] = np.nextafter(rows[-1, -1], np.float32(9))
            return replace(inputs, anchors=checked_anchors(rows))
        case "gate":
            gates = inputs.gates.copy()
            gates[-1] = np.nextafter(gates[-1], np.float32(9))
            return replace(inputs, gates=checked_gates(gates, count))
        case "edge gone":
            rest = graph_of_edges(count, edges[:-1, 0], edges[:-1, 1], graph.edge_weights[:-1])
            return replace(inputs, graph=rest)
        case "edge weight":
            heavier = graph.edge_weights.copy()
            heavier[-1] = np.nextafter(heavier[-1], 2.0)
            return replace(inputs, graph=graph_of_edges(count, edges[:, 0], edges[:, 1], heavier))
        case "chain order":
            return replace(inputs, chain=checked_chain(nodes[::-1], count, weights))
        case "chain weight":
            return replace(inputs, chain=checked_chain(nodes, count, weights * (1 + 2**-50)))
        case "chain nodes":
            return replace(inputs, chain=checked_chain([1, 4, 9, 4, 3], count, weights))
        case "no chain":
            return replace(inputs, chain=None)
    raise AssertionError(what)


CHANGES = {
    "anchor": "anchors",
    "gate": "gates",
    "edge gone": "edges",
    "edge weight": "edges",
    "chain order": "chain",
    "chain weight": "chain",
    "chain nodes": "chain",
    "no chain": "chain",
}


@pytest.mark.parametrize(("what", "name"), CHANGES.items())
def test_the_least_change_of_any_input_changes_its_digest_and_the_lattices(
    what: str, name: str
) -> None:
    inputs = sample().inputs
    other = changed(inputs, what)
    one, two = provenance_of(inputs, SOFTWARE), provenance_of(other, SOFTWARE)
    found = compare(inputs, one, other, two)
    assert found.differing == (name,)
    assert not found.same
    assert one.lattice != two.lattice


@pytest.mark.parametrize(
    "change",
    [
        {"neighbors": 7},
        {"row_cap": 1.0},
        {"laplacian": LaplacianKind.NORMALIZED},
        {"anchor_weight": 1.0000000000000002},
        {"graph_weight": 0.25},
        {"query_weight": 3.0},
        {"chain_weight": 0.1},
        {"tolerance": 1e-5},
        {"max_iterations": 511},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_parameter_is_digested_and_compared(change: dict[str, object]) -> None:
    inputs = sample().inputs
    other = replace(inputs, parameters=replace(inputs.parameters, **change))  # type: ignore[arg-type] # names and types above
    found = compare(inputs, provenance_of(inputs, "a"), other, provenance_of(other, "a"))
    assert found.differing == ("parameters",)
    ((name, value),) = change.items()
    assert found.parameters == (ChangedParameter(name, getattr(inputs.parameters, name), value),)


def test_another_software_is_another_lattice() -> None:
    inputs = sample().inputs
    one, other = provenance_of(inputs, "oars 1"), provenance_of(inputs, "oars 2")
    assert compare(inputs, one, inputs, other).differing == ("software",)
    assert one.lattice != other.lattice
    same = compare(inputs, one, inputs, provenance_of(inputs, "oars 1"))
    assert same.same


def test_a_comparison_counts_what_differs() -> None:
    inputs = sample().inputs
    count, edges = len(inputs), inputs.graph.edges.astype(np.int64)
    weights = inputs.graph.edge_weights.copy()
    weights[3] *= 0.5
    low, high = np.append(edges[1:, 0], count - 2), np.append(edges[1:, 1], count - 1)
    order = np.argsort(low * count + high)
    graph = graph_of_edges(count, low[order], high[order], np.append(weights[1:], 0.25)[order])
    rows = inputs.anchors.copy()
    rows[[2, 5]] += 1
    gates = inputs.gates.copy()
    gates[7] = 0.123
    other = replace(
        inputs,
        anchors=checked_anchors(rows),
        graph=graph,
        gates=checked_gates(gates, count),
        chain=None,
    )
    found = compare(inputs, provenance_of(inputs, "a"), other, provenance_of(other, "a"))
    assert found.differing == ("anchors", "edges", "gates", "chain")
    assert (found.anchors_changed, found.gates_changed) == (2, 1)
    assert (found.edges_added, found.edges_removed, found.edges_reweighted) == (1, 1, 1)
    assert found.chain_changed


def test_digests_have_the_layout_that_is_written_down() -> None:
    rows = checked_anchors([[1.0, -2.0], [0.5, 0.25]])
    domain = b"urn:oars:lattice:v1:"
    by_hand = domain + b"anchors\0" + struct.pack("<QQ4f", 2, 2, 1.0, -2.0, 0.5, 0.25)
    assert anchors_digest(rows) == hashlib.sha256(by_hand).hexdigest()
    graph = graph_of_edges(2, np.array([0]), np.array([1]), np.array([0.5]))
    by_hand = domain + b"edges\0" + struct.pack("<QQiid", 2, 1, 0, 1, 0.5)
    assert edges_digest(graph) == hashlib.sha256(by_hand).hexdigest()
    by_hand = domain + b"chain\0" + struct.pack("<Qiid", 2, 1, 0, 3.0)
    assert chain_digest(checked_chain([1, 0], 2, [3.0])) == hashlib.sha256(by_hand).hexdigest()
    numbers = (6, 0, 0.0, 1, 1.0, 0.5, 4.0, 0.2, 1e-6, 512)
    by_hand = domain + b"parameters\0" + struct.pack("<QBdBdddddQ", *numbers)
    assert parameters_digest(LatticeParameters()) == hashlib.sha256(by_hand).hexdigest()
