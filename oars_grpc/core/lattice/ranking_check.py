"""Whether a stated ranking is true: the field is spread again, and the order followed.

Single precision products decide it; what one can be off by, in any order of adding, is at most
dimension * 2^-24 of the two lengths. Items within that of each other may stand in either order.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from oars_grpc.core.lattice.arrays import Float64Array, Int64Array
from oars_grpc.core.lattice.diversity import Choice, choose
from oars_grpc.core.lattice.finding import (
    Finding,
    Malformed,
    decimal,
    exponent,
    member,
    objects,
    whole,
)
from oars_grpc.core.lattice.ranking import (
    RankingParameters,
    checked_ranking,
    held_back,
    merits_of,
    query_cosines_of,
    relevance_field,
    spreading,
)
from oars_grpc.core.lattice.scaled import SCORE_EXPONENT, real
from oars_grpc.core.lattice.settled import Reading
from oars_grpc.errors import InvalidArgument

_UNIT = 2.0**-24
# Half a quantum, and the rounding of that.
_HALF = 0.51 * 2.0**SCORE_EXPONENT


def check_ranking(stated: Any, reading: Reading) -> list[Finding]:
    """The items, their order and their scores."""
    try:
        return _ranking(stated, reading)
    except (Malformed, InvalidArgument) as fault:
        return [Finding("ranking", str(fault))]


def product_error(reading: Reading) -> float:
    """What a single precision product may be off by, relative to both lengths."""
    return (reading.lattice.inputs.dimension + 8) * _UNIT


def _ranking(stated: Any, reading: Reading) -> list[Finding]:
    given = member(stated, "parameters")
    parameters = checked_ranking(
        RankingParameters(
            top=whole(given, "top"),
            spread=decimal(given, "spread"),
            power=whole(given, "power"),
            diversity=decimal(given, "diversity"),
        )
    )
    if exponent(stated) != SCORE_EXPONENT:
        return [Finding("ranking.exponent", f"is not {SCORE_EXPONENT}")]
    items = objects(stated, "items")
    order = np.array([whole(item, "node") for item in items], dtype=np.int64)
    count = len(reading.lattice)
    if order.size != min(parameters.top, count) or np.unique(order).size != order.size:
        return [Finding("ranking.items", "is not as many different items as were asked for")]
    if order.min() < 0 or order.max() >= count:
        return [Finding("ranking.items", "names an item that there is not")]

    ready = spreading(reading.lattice.inputs.graph, parameters.spread)
    cosines = query_cosines_of(reading)
    field = relevance_field(ready, cosines, parameters)
    merits = merits_of(field, cosines)
    choice = choose(
        reading.lattice.inputs.anchors,
        reading.lattice.nodes.anchor_squares,
        merits,
        parameters.top,
        held_back(parameters.diversity),
        order,
    )
    moved = _moved(reading, field, parameters)
    findings = _items(items, order, choice, merits, cosines, (moved, 2.0 * product_error(reading)))
    margin = choice.margin
    if margin is None or member(stated, "margin") is None:
        if margin is not member(stated, "margin"):
            findings.append(Finding("ranking.margin", "is not of these items"))
    elif abs(real(whole(stated, "margin"), SCORE_EXPONENT) - margin) > 2.0 * moved + _HALF:
        findings.append(Finding("ranking.margin", f"is not {margin:.6g}"))
    return findings


def _moved(reading: Reading, field: Float64Array, parameters: RankingParameters) -> float:
    """What a merit may be off by."""
    # h is a mean of s = max(cos, 0)^power, and merits are relative to the largest h.
    best = float(field.max())
    steepness = parameters.power / best if best > 0 else 0.0
    return 4.0 * product_error(reading) * (1.0 + steepness)


def _items(
    items: list[Mapping[str, Any]],
    order: Int64Array,
    choice: Choice,
    merits: Float64Array,
    cosines: Float64Array,
    errors: tuple[float, float],
) -> list[Finding]:
    """Each item's numbers, and whether it was its turn."""
    moved, turned = errors
    findings = []
    for place, item in enumerate(items):
        node = int(order[place])
        for name, value, allowed in (
            ("score", choice.values[place], moved),
            ("relevance", merits[node], moved),
            ("cosine", cosines[node], turned),
        ):
            stated = real(whole(item, name), SCORE_EXPONENT)
            if not abs(stated - value) <= allowed + _HALF:
                findings.append(Finding(f"ranking.items[{place}].{name}", f"is not {value:.6g}"))
        if choice.values[place] < choice.rivals[place] - 2.0 * moved:
            findings.append(Finding(f"ranking.items[{place}].node", "another item was better"))
    return findings
