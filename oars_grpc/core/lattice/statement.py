"""What a lattice receipt says: the predicate `urn:oars:receipt:lattice:v1`.

Canonical JSON of the restricted profile: ASCII member names, whole numbers within 2^53, no
floats. A member `exponent` gives the quantum 2^exponent of the whole numbers beside it.

    software     what computed it
    detail       "light" | "full"
    inputs       digests (provenance.py) of anchors, edges, gates, chain, parameters, query, and
                 `lattice`, one digest over all but the query; nodes, dimension, edgeCount,
                 chainLength
    parameters   as decimal text, for people; the digest is what binds
    state        the digest of V and w, which give U* = V + w psi^T
    solver       method, stop, converged, iterations
    certificate  residual |F - M U*| (up), minimumEigenvalue (down), bound on the distance from
                 the true state (up), side |F|: each {number, exponent}
    energy       exponent; before (at the anchors), after (at U*), drop = before - after: each
                 {anchor, graph, query, chain, total}, which add up as whole numbers
    ranking      where one was asked for: parameters, exponent, margin, items {node, score,
                 relevance, cosine} in order
    full only:
    nodes        exponent and digest of the 4 x N whole numbers: coherence drop, anchor, query,
                 chain drop of every node (`FullStatement.nodes`)
    conflicts    tension and likeness asked for, total, the tensest {node, pair, tension} of
                 the items in conflict; of nearest neighbours, which the anchors decide
    verdict      where there is a chain: coherent, weakestLink, gain, scores of the links

Everything in it comes from sums in fixed order, so that the bytes do not depend on the number of
threads. On another machine they may differ in the last quantum: a verifier checks the numbers
against its own (`statement_check.py`) and never digests its own floats.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from oars_grpc.core.lattice.arrays import Float64Array, Int32Array, frozen
from oars_grpc.core.lattice.certificate import BoundNumber, certificate, least_eigenvalue
from oars_grpc.core.lattice.chain_verdict import ChainVerdict
from oars_grpc.core.lattice.components import NodeComponents
from oars_grpc.core.lattice.conflicts import Conflicts
from oars_grpc.core.lattice.energy import Energies, EnergyTerms, Query
from oars_grpc.core.lattice.parameters import LatticeParameters
from oars_grpc.core.lattice.provenance import (
    Provenance,
    digests_of,
    nodes_digest,
    query_digest,
)
from oars_grpc.core.lattice.ranking import Ranking
from oars_grpc.core.lattice.scaled import (
    BITS,
    GAIN_BITS,
    NODE_BITS,
    SCORE_EXPONENT,
    exponent_of,
    nearest,
    nearest_all,
)
from oars_grpc.core.lattice.settled import SettledLattice

PREDICATE_TYPE = "urn:oars:receipt:lattice:v1"
LIGHT, FULL = "light", "full"
# A receipt is one leaf of the log, which holds 65 kB: what is longer is told by its count.
MAXIMUM_CONFLICTS = 64
MAXIMUM_LINKS = 256


@dataclass(frozen=True, slots=True)
class StatementHead:
    """What every statement about a lattice says, whatever the query; made once."""

    provenance: Provenance
    inputs: Mapping[str, Any]
    members: Mapping[str, Any]
    least_eigenvalue: BoundNumber


@dataclass(frozen=True, slots=True)
class FullStatement:
    """A full statement and the array that it digests, 4 x N whole numbers."""

    statement: dict[str, Any]
    nodes: Int32Array


def statement_head(
    lattice: SettledLattice, software: str, provenance: Provenance | None = None
) -> StatementHead:
    """Digest a lattice's inputs and state, for all its statements."""
    inputs, outcome = lattice.inputs, lattice.state.outcome
    given, state = digests_of(inputs, lattice.state, software, provenance)
    return StatementHead(
        provenance=given,
        inputs={
            "anchors": given.anchors,
            "edges": given.edges,
            "gates": given.gates,
            "chain": given.chain,
            "parameters": given.parameters,
            "lattice": given.lattice,
            "nodes": len(inputs),
            "dimension": inputs.dimension,
            "edgeCount": len(inputs.graph.edges),
            "chainLength": 0 if inputs.chain is None else inputs.chain.nodes.size,
        },
        members={
            "software": given.software,
            "parameters": parameters_json(inputs.parameters),
            "state": state,
            "solver": {
                "method": outcome.method.value,
                "stop": outcome.stop.value,
                "converged": outcome.converged,
                "iterations": outcome.iterations,
            },
        },
        least_eigenvalue=least_eigenvalue(lattice.system),
    )


def light_statement(
    head: StatementHead, lattice: SettledLattice, query: Query, ranking: Ranking | None = None
) -> dict[str, Any]:
    """The statement of energies and certificate: O(D) at any N."""
    energies = lattice.energies(query)
    statement: dict[str, Any] = {
        **head.members,
        "detail": LIGHT,
        "inputs": {**head.inputs, "query": query_digest(query.vector)},
        "certificate": certificate(head.least_eigenvalue, energies),
        "energy": energy_json(energies),
    }
    if ranking is not None:
        statement["ranking"] = ranking_json(ranking)
    return statement


def full_statement(
    head: StatementHead,
    lattice: SettledLattice,
    query: Query,
    components: NodeComponents,
    conflicts: Conflicts,
    verdict: ChainVerdict | None = None,
    ranking: Ranking | None = None,
) -> FullStatement:
    """The statement of everything read under a query."""
    statement = light_statement(head, lattice, query, ranking)
    numbers, exponent = scaled_components(components)
    statement["detail"] = FULL
    statement["nodes"] = {"exponent": exponent, "digest": nodes_digest(numbers)}
    statement["conflicts"] = conflicts_json(conflicts)
    if verdict is not None:
        statement["verdict"] = verdict_json(verdict)
    return FullStatement(statement, numbers)


def parameters_json(parameters: LatticeParameters) -> dict[str, Any]:
    """The parameters, reals as the shortest decimal text that reads back as the same number."""
    cap = parameters.row_cap
    return {
        "neighbors": parameters.neighbors,
        "rowCap": None if cap is None else repr(float(cap)),
        "laplacian": parameters.laplacian.value,
        "anchorWeight": repr(float(parameters.anchor_weight)),
        "graphWeight": repr(float(parameters.graph_weight)),
        "queryWeight": repr(float(parameters.query_weight)),
        "chainWeight": repr(float(parameters.chain_weight)),
        "tolerance": repr(float(parameters.tolerance)),
        "maxIterations": parameters.max_iterations,
    }


def energy_json(energies: Energies) -> dict[str, Any]:
    """Both energies and the drop, which add up as whole numbers."""
    exponent = exponent_of(max(energies.before + energies.after), BITS)
    # A power of two: exact, and faster than to scale each by itself.
    scale = math.ldexp(1.0, -exponent)
    before, after = _terms_json(energies.before, scale), _terms_json(energies.after, scale)
    return {
        "exponent": exponent,
        "before": before,
        "after": after,
        # Term by term: a loop over the names takes longer.
        "drop": {
            "anchor": before["anchor"] - after["anchor"],
            "graph": before["graph"] - after["graph"],
            "query": before["query"] - after["query"],
            "chain": before["chain"] - after["chain"],
            "total": before["total"] - after["total"],
        },
    }


def ranking_json(ranking: Ranking) -> dict[str, Any]:
    """The items chosen, in order, with the parameters that they were chosen by."""
    parameters = ranking.parameters
    return {
        "parameters": {
            "top": parameters.top,
            "power": parameters.power,
            "spread": repr(float(parameters.spread)),
            "diversity": repr(float(parameters.diversity)),
        },
        "exponent": SCORE_EXPONENT,
        # Nothing but the chosen: no margin.
        "margin": None if ranking.margin is None else nearest(ranking.margin, SCORE_EXPONENT),
        "items": [
            {"node": node, "score": score, "relevance": weight, "cosine": cosine}
            for node, score, weight, cosine in zip(
                ranking.nodes.tolist(),
                _scores(ranking.scores),
                _scores(ranking.relevance),
                _scores(ranking.cosines),
                strict=True,
            )
        ],
    }


def scaled_components(components: NodeComponents) -> tuple[Int32Array, int]:
    """The components of all nodes as 4 x N whole numbers with one exponent."""
    rows = (
        components.coherence_drop,
        components.anchor,
        components.query,
        components.chain_drop,
    )
    largest = max(float(max(row.max(), -row.min())) for row in rows)
    exponent = exponent_of(largest, NODE_BITS)
    numbers = np.empty((len(rows), rows[0].size), dtype=np.int32)
    for place, row in enumerate(rows):
        numbers[place] = nearest_all(row, exponent)
    return frozen(numbers), exponent


def conflicts_json(conflicts: Conflicts) -> dict[str, Any]:
    """The tensest items in conflict, and how many there are."""
    kept = slice(MAXIMUM_CONFLICTS)
    tensions = _scores(conflicts.tensions[kept])
    return {
        "exponent": SCORE_EXPONENT,
        "tension": repr(float(conflicts.tension)),
        "likeness": repr(float(conflicts.likeness)),
        "total": len(conflicts),
        "items": [
            {"node": node, "pair": pair, "tension": tension}
            for node, pair, tension in zip(
                conflicts.nodes[kept].tolist(),
                conflicts.pairs[kept].tolist(),
                tensions,
                strict=True,
            )
        ],
    }


def verdict_json(verdict: ChainVerdict) -> dict[str, Any]:
    """The verdict, and the scores of the chain's first links."""
    scores = _scores(verdict.scores)
    gain = exponent_of(abs(verdict.gain), GAIN_BITS)
    return {
        "coherent": verdict.coherent,
        "weakestLink": verdict.weakest_link,
        "weakestScore": scores[verdict.weakest_link],
        "threshold": repr(float(verdict.threshold)),
        "exponent": SCORE_EXPONENT,
        "scores": scores[:MAXIMUM_LINKS],
        "gain": {"number": nearest(verdict.gain, gain), "exponent": gain},
    }


def _scores(values: Float64Array) -> list[int]:
    return [int(number) for number in nearest_all(values, SCORE_EXPONENT).tolist()]


def _terms_json(terms: EnergyTerms, scale: float) -> dict[str, int]:
    anchor, graph = round(terms.anchor * scale), round(terms.graph * scale)
    query, chain = round(terms.query * scale), round(terms.chain * scale)
    total = anchor + graph + query + chain
    return {"anchor": anchor, "graph": graph, "query": query, "chain": chain, "total": total}
