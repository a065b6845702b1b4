"""Whether a statement's components, conflicts and chain verdict are true."""

from typing import Any

import numpy as np

from oars_grpc.core.lattice.arrays import Float32Array, Float64Array, Int32Array
from oars_grpc.core.lattice.chain_verdict import chain_verdict
from oars_grpc.core.lattice.components import node_components
from oars_grpc.core.lattice.conflicts import conflicts, pair_tension
from oars_grpc.core.lattice.finding import (
    Finding,
    Malformed,
    decimal,
    exponent,
    member,
    objects,
    whole,
)
from oars_grpc.core.lattice.links import LinkForms
from oars_grpc.core.lattice.neighbors import NeighborLists
from oars_grpc.core.lattice.provenance import nodes_digest
from oars_grpc.core.lattice.ranking_check import product_error
from oars_grpc.core.lattice.scaled import SCORE_EXPONENT, real
from oars_grpc.core.lattice.settled import Reading
from oars_grpc.core.lattice.statement import MAXIMUM_CONFLICTS, MAXIMUM_LINKS
from oars_grpc.errors import InvalidArgument

# Partial correlations divide by what is left of single precision cosines.
_TENSION_SLACK = 2.0**-12
# Logarithms and medians of settled distances, relative to a deviation; of one state, and of two.
_SCORE_SLACK, _STATE_SLACK = 2.0**-13, 2.0**-7


def check_nodes(
    stated: Any, numbers: Int32Array, reading: Reading, distance: float
) -> list[Finding]:
    """The components of all nodes: their digest, and each number."""
    try:
        return _nodes(stated, numbers, reading, distance)
    except Malformed as fault:
        return [Finding("nodes", str(fault))]


def check_conflicts(stated: Any, reading: Reading, lists: NeighborLists | None) -> list[Finding]:
    """The items in conflict; with the nearest neighbours, also that none is left out."""
    try:
        return _conflicts(stated, reading, lists)
    except (Malformed, InvalidArgument) as fault:
        return [Finding("conflicts", str(fault))]


def check_verdict(stated: Any, reading: Reading, distance: float) -> list[Finding]:
    """The verdict on the lattice's chain."""
    try:
        return _verdict(stated, reading, distance)
    except (Malformed, InvalidArgument) as fault:
        return [Finding("verdict", str(fault))]


def _nodes(stated: Any, numbers: Int32Array, reading: Reading, distance: float) -> list[Finding]:
    quantum = real(1, exponent(stated))
    if numbers.shape != (4, len(reading.lattice)):
        return [Finding("nodes", "are not four numbers for each node")]
    if member(stated, "digest") != nodes_digest(numbers):
        return [Finding("nodes.digest", "is not that of the numbers given")]
    own = node_components(reading)
    lattice = reading.lattice
    parameters, response = lattice.inputs.parameters, lattice.state.response
    # A product V psi or Y psi is off by so much; a state by `distance`, in every row at most.
    lengths = np.sqrt(np.maximum(lattice.nodes.field_squares, lattice.nodes.anchor_squares))
    off = product_error(reading) * lengths * reading.query.square**0.5
    gates = parameters.query_weight * lattice.system.gates
    columns = (
        ("coherenceDrop", own.coherence_drop, _drop_error(lattice.edges, off, distance, reading)),
        (
            "anchor",
            own.anchor,
            parameters.anchor_weight * 4.0 * np.abs(response) * off
            + 2.0 * np.sqrt(own.anchor * parameters.anchor_weight) * distance
            + parameters.anchor_weight * distance**2,
        ),
        (
            "query",
            own.query,
            gates * 2.0 * np.abs(response - 1.0) * off
            + 2.0 * np.sqrt(own.query * gates) * distance
            + gates * distance**2,
        ),
        ("chainDrop", own.chain_drop, _drop_error(lattice.chain, off, distance, reading)),
    )
    largest = max(float(np.abs(values).max()) for _, values, _ in columns)
    findings = []
    if largest > 0 and quantum > largest * 2.0**-16:
        findings.append(Finding("nodes.exponent", "is too coarse"))
    rounding = largest * 2.0**-40
    for place, (name, values, allowed) in enumerate(columns):
        wrong = ~(
            np.abs(numbers[place] * quantum - values) <= 2.0 * allowed + 0.51 * quantum + rounding
        )
        if wrong.any():
            node = int(np.flatnonzero(wrong)[0])
            findings.append(
                Finding(f"nodes.{name}", f"differs at {int(wrong.sum())} nodes, first at {node}")
            )
    return findings


def _drop_error(
    forms: LinkForms, off: Float64Array, distance: float, reading: Reading
) -> Float64Array:
    """What each node's drop over its links may be off by."""
    links = forms.links
    if not len(links):
        return np.zeros(off.size)
    scaled = off if links.scale is None else off * links.scale
    products = scaled[links.low] + scaled[links.high]
    gaps = forms.settled_gaps(reading.field_products, reading.query.square)
    scale = (
        1.0 if links.scale is None else np.maximum(links.scale[links.low], links.scale[links.high])
    )
    shift = 2.0 * scale * distance
    moved = 2.0 * np.abs(forms.response_differences) * products
    moved += 2.0 * np.sqrt(gaps) * shift + shift * shift
    return links.halved(links.strengths * moved)


def _conflicts(stated: Any, reading: Reading, lists: NeighborLists | None) -> list[Finding]:
    anchors = reading.lattice.inputs.anchors
    tension, likeness = decimal(stated, "tension"), decimal(stated, "likeness")
    items, total = objects(stated, "items"), whole(stated, "total")
    if exponent(stated) != SCORE_EXPONENT:
        return [Finding("conflicts.exponent", f"is not {SCORE_EXPONENT}")]
    findings = []
    if len(items) != min(total, MAXIMUM_CONFLICTS):
        findings.append(Finding("conflicts.items", "is not as many as there are or may be listed"))
    quantum, before, listed = real(1, SCORE_EXPONENT), np.inf, set[int]()
    for place, item in enumerate(items):
        path = f"conflicts.items[{place}]"
        node, pair = whole(item, "node"), member(item, "pair")
        value = whole(item, "tension") * quantum
        if not _are_nodes([node, *pair] if isinstance(pair, list) else [], len(anchors)):
            findings.append(Finding(path, "does not name three different items"))
            continue
        own, alike = pair_tension(anchors, node, (pair[0], pair[1]))
        if abs(own - value) > _TENSION_SLACK:
            findings.append(Finding(f"{path}.tension", f"is not {own:.6g}"))
        if value < tension - quantum or alike > likeness + _TENSION_SLACK:
            findings.append(Finding(path, "is no conflict by the thresholds stated"))
        if node in listed or value > before:
            findings.append(Finding(path, "is listed twice or not in order"))
        listed.add(node)
        before = value
    if lists is not None:
        findings += _all_conflicts(anchors, lists, (tension, likeness), total, listed)
    return findings


def _all_conflicts(
    anchors: Float32Array,
    lists: NeighborLists,
    thresholds: tuple[float, float],
    total: int,
    listed: set[int],
) -> list[Finding]:
    """Whether the statement leaves none out, by everybody's nearest."""
    tension, likeness = thresholds
    # Where the two machines' products straddle a threshold, an item may be in one list alone.
    sure = conflicts(
        anchors, lists, min(1.0, tension + _TENSION_SLACK), max(-1.0, likeness - _TENSION_SLACK)
    )
    loose = conflicts(
        anchors,
        lists,
        max(_TENSION_SLACK, tension - _TENSION_SLACK),
        min(1.0, likeness + _TENSION_SLACK),
    )
    findings = []
    if not len(sure) <= total <= len(loose):
        findings.append(Finding("conflicts.total", f"is not {len(sure)}"))
    if listed - set(loose.nodes.tolist()):
        findings.append(Finding("conflicts.items", "names items whose nearest do not conflict"))
    if total <= MAXIMUM_CONFLICTS and set(sure.nodes.tolist()) - listed:
        findings.append(Finding("conflicts.items", "leaves items in conflict out"))
    return findings


def _are_nodes(values: list[Any], count: int) -> bool:
    return (
        len(values) == 3
        and all(type(value) is int and 0 <= value < count for value in values)
        and len(set(values)) == 3
    )


def _verdict(stated: Any, reading: Reading, distance: float) -> list[Finding]:
    threshold = decimal(stated, "threshold")
    own = chain_verdict(reading, threshold=threshold)
    if exponent(stated) != SCORE_EXPONENT:
        return [Finding("verdict.exponent", f"is not {SCORE_EXPONENT}")]
    quantum = real(1, SCORE_EXPONENT)
    scores = member(stated, "scores")
    if not isinstance(scores, list | tuple) or len(scores) != min(own.scores.size, MAXIMUM_LINKS):
        return [Finding("verdict.scores", "is not one for each link")]
    findings = []
    slack = _STATE_SLACK if distance > 0 else _SCORE_SLACK
    allowed = slack * (1.0 + np.abs(own.scores)) + quantum
    for place, score in enumerate(scores):
        if type(score) is not int or abs(score * quantum - own.scores[place]) > allowed[place]:
            findings.append(Finding(f"verdict.scores[{place}]", f"is not {own.scores[place]:.6g}"))
    weakest = whole(stated, "weakestLink")
    worst = float(own.scores.max())
    if not 0 <= weakest < own.scores.size or own.scores[weakest] < worst - 2.0 * allowed.max():
        findings.append(Finding("verdict.weakestLink", f"is not {own.weakest_link}"))
    elif abs(whole(stated, "weakestScore") * quantum - own.scores[weakest]) > allowed[weakest]:
        findings.append(Finding("verdict.weakestScore", f"is not {own.scores[weakest]:.6g}"))
    gain = member(stated, "gain")
    unit = real(1, exponent(gain))
    size = float(np.add.reduce(reading.lattice.chain.anchor_gaps)) + abs(own.gain)
    gain_error = size * 2.0**-18 + 4.0 * distance * size**0.5 + unit
    if abs(whole(gain, "number") * unit - own.gain) > gain_error:
        findings.append(Finding("verdict.gain", f"is not {own.gain:.6g}"))
    coherent = member(stated, "coherent")
    near = abs(worst - threshold) <= allowed.max() or abs(own.gain) <= gain_error
    if type(coherent) is not bool or (coherent is not own.coherent and not near):
        findings.append(Finding("verdict.coherent", f"is not {own.coherent}"))
    return findings
