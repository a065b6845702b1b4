"""Whether a lattice statement is true of the inputs and the state it names.

The verifier solves nothing: it digests what it was given, makes one sparse product over the state
for the residual and the energies, and compares numbers with the statement's, each within half the
stated quantum and what rounding can do. Another machine, another BLAS: the same verdict.

Without the state it settles the inputs itself; then the numbers may differ by what both
certificates leave open, for each is within its bound of the one true state.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from oars_grpc.core.lattice.arrays import Float32Array, Int32Array
from oars_grpc.core.lattice.certificate import (
    bound_above,
    bound_value,
    certificate,
    least_eigenvalue,
)
from oars_grpc.core.lattice.energy import Energies, EnergyTerms, Query
from oars_grpc.core.lattice.finding import Finding, Malformed, bound, exponent, member, whole
from oars_grpc.core.lattice.neighbors import NeighborLists
from oars_grpc.core.lattice.parameters import LaplacianKind
from oars_grpc.core.lattice.progress import Proceed, keep_going
from oars_grpc.core.lattice.provenance import query_digest
from oars_grpc.core.lattice.ranking_check import check_ranking
from oars_grpc.core.lattice.scaled import real
from oars_grpc.core.lattice.settled import (
    LatticeInputs,
    SettledLattice,
    SettledState,
    read,
    restored_lattice,
    settle_lattice,
)
from oars_grpc.core.lattice.solver import (
    CHEBYSHEV_CONDITION,
    SolveMethod,
    SolveStop,
    chebyshev_steps,
)
from oars_grpc.core.lattice.statement import FULL, LIGHT, StatementHead, statement_head
from oars_grpc.core.lattice.statement_readings import (
    check_conflicts,
    check_nodes,
    check_verdict,
)

# How much larger than the verifier's own a stated residual may be.
_RESIDUAL_SLACK = 2.0**-20
# A sum of squares in float64, told to one part in 2^29.
_SIDE_SLACK = 1.01 * 2.0**-29
# Storing V in float32 moves each of its numbers by less than this share.
_STORED = 2.0**-23
_ALWAYS = {"software", "detail", "inputs", "parameters", "state", "solver", "certificate", "energy"}
_FULL_ONLY = {"nodes", "conflicts"}
_TERMS = ("anchor", "graph", "query", "chain")


@dataclass(frozen=True, slots=True)
class _Claim:
    """A statement beside what the verifier has made of the inputs itself."""

    statement: Mapping[str, Any]
    lattice: SettledLattice
    head: StatementHead
    query: Query
    energies: Energies
    own_state: bool
    distance: float  # how far the two states may be apart


def check_statement(
    statement: Mapping[str, Any],
    inputs: LatticeInputs,
    query: Float32Array,
    state: SettledState | None = None,
    nodes: Int32Array | None = None,
    lists: NeighborLists | None = None,
    proceed: Proceed = keep_going,
) -> tuple[Finding, ...]:
    """Every check that a statement fails; none if it is true.

    `nodes` is the array that a full statement digests; without it, the digest stays unchecked
    and so does what it says. `state` is what the statement calls so; without it, one is made.
    `lists` are the anchors' nearest neighbours, which decide whether a conflict was left out.
    """
    shape = _shape(statement)
    if shape:
        return shape
    if state is None:
        lattice = settle_lattice(inputs, proceed)
    elif state.field.shape != inputs.anchors.shape or state.response.shape != (len(inputs),):
        return (Finding("state", "is not of the anchors' shape"),)
    elif not (np.isfinite(state.field).all() and np.isfinite(state.response).all()):
        return (Finding("state", "is not finite"),)
    else:
        lattice = restored_lattice(inputs, state, proceed)
    asked = Query.of(query)
    energies = lattice.energies(asked)
    claim = _Claim(
        statement=statement,
        lattice=lattice,
        head=statement_head(lattice, str(statement["software"])),
        query=asked,
        energies=energies,
        own_state=state is None,
        distance=_distance(statement, lattice, energies) if state is None else 0.0,
    )
    findings = [
        *_guarded("inputs", _inputs, claim),
        *_guarded("solver", _solver, claim),
        *_guarded("certificate", _certificate, claim),
        *_guarded("energy", _energy, claim),
    ]
    reading = read(lattice, query)
    if "ranking" in statement:
        findings += check_ranking(statement["ranking"], reading)
    if statement["detail"] == FULL:
        if nodes is not None:
            findings += check_nodes(statement["nodes"], nodes, reading, claim.distance)
        findings += check_conflicts(statement["conflicts"], reading, lists)
        if "verdict" in statement:
            findings += check_verdict(statement["verdict"], reading, claim.distance)
    return tuple(findings)


def _shape(statement: Mapping[str, Any]) -> tuple[Finding, ...]:
    """Whether the statement has the members of its detail and no others."""
    detail = statement.get("detail")
    if detail not in (LIGHT, FULL):
        return (Finding("detail", f"is neither {LIGHT} nor {FULL}"),)
    needed = _ALWAYS | _FULL_ONLY if detail == FULL else _ALWAYS
    allowed = needed | ({"ranking", "verdict"} if detail == FULL else {"ranking"})
    missing, unknown = needed - statement.keys(), statement.keys() - allowed
    if not isinstance(statement.get("software"), str):
        return (Finding("software", "is not text"),)
    return tuple(
        [Finding(name, "is missing") for name in sorted(missing)]
        + [Finding(str(name), "is unknown") for name in sorted(unknown, key=str)]
    )


def _guarded(
    check: str, function: Callable[[_Claim], list[Finding]], claim: _Claim
) -> list[Finding]:
    try:
        return function(claim)
    except Malformed as fault:
        return [Finding(check, str(fault))]


def _inputs(claim: _Claim) -> list[Finding]:
    """Digests, counts and parameters, each compared exactly."""
    stated, findings = claim.statement["inputs"], []
    own = {**claim.head.inputs, "query": query_digest(claim.query.vector)}
    if not isinstance(stated, Mapping) or stated.keys() != own.keys():
        raise Malformed(f"does not have the members {', '.join(sorted(own))}")
    for name, value in own.items():
        if type(stated[name]) is not type(value) or stated[name] != value:
            findings.append(Finding(f"inputs.{name}", "is not that of what was given"))
    if claim.statement["parameters"] != claim.head.members["parameters"]:
        findings.append(Finding("parameters", "are not those given"))
    if not claim.own_state and claim.statement["state"] != claim.head.members["state"]:
        findings.append(Finding("state", "is not the digest of the state given"))
    return findings


def _solver(claim: _Claim) -> list[Finding]:
    """The outcome: what the system allows and what the residual bears out."""
    stated, system = claim.statement["solver"], claim.lattice.system
    findings = []
    parameters = system.parameters
    by_steps = system.condition_bound <= CHEBYSHEV_CONDITION
    method = SolveMethod.CHEBYSHEV_JACOBI if by_steps else SolveMethod.CONJUGATE_GRADIENT
    if member(stated, "method") != method.value:
        findings.append(Finding("solver.method", f"is not {method.value}, which the system asks"))
    iterations = whole(stated, "iterations")
    if by_steps and iterations != min(chebyshev_steps(system), parameters.max_iterations):
        findings.append(Finding("solver.iterations", "is not the number that the system asks"))
    if not 0 <= iterations <= parameters.max_iterations:
        findings.append(Finding("solver.iterations", "is over the limit"))
    reached = member(stated, "stop") == SolveStop.TOLERANCE_REACHED.value
    if stated["stop"] not in list(SolveStop):
        findings.append(Finding("solver.stop", "is unknown"))
    if member(stated, "converged") is not reached:
        findings.append(Finding("solver.converged", "does not follow from why it stopped"))
    if reached is not _converged(claim.lattice):
        findings.append(Finding("solver.stop", "is not borne out by the residual"))
    return findings


def _converged(lattice: SettledLattice) -> bool:
    """Whether both parts of the state are within the tolerance, but for their storage."""
    tolerance = lattice.inputs.parameters.tolerance
    stored = _STORED * 2.0 * float(lattice.system.diagonal.max())
    lengths = float(np.add.reduce(lattice.nodes.field_squares))
    sizes = lengths, float(np.add.reduce(lattice.state.response**2))
    # First of V, then of w.
    for residual, side, size in zip(*lattice.energy_forms.scalars[-2:], sizes, strict=True):
        if residual**0.5 > tolerance * (1.0 + 2.0**-20) * side**0.5 + stored * size**0.5:
            return False
    return True


def _certificate(claim: _Claim) -> list[Finding]:
    stated, energies = claim.statement["certificate"], claim.energies
    residual = bound_value(bound(stated, "residual"))
    eigenvalue = bound(stated, "minimumEigenvalue")
    distance = bound(stated, "bound")
    own = certificate(claim.head.least_eigenvalue, energies)
    findings = []
    if eigenvalue != own["minimumEigenvalue"]:
        findings.append(Finding("certificate.minimumEigenvalue", "is not that of the inputs"))
    if not claim.own_state:
        slack = energies.residual_rounding
        if residual < energies.residual - slack:
            findings.append(Finding("certificate.residual", "is less than the state's"))
        if residual > (bound_value(own["residual"]) + slack) * (1.0 + _RESIDUAL_SLACK):
            findings.append(Finding("certificate.residual", "is more than the state's"))
    if not eigenvalue["number"] or distance != bound_above(residual / bound_value(eigenvalue)):
        findings.append(
            Finding("certificate.bound", "does not follow from residual and eigenvalue")
        )
    side = bound_value(bound(stated, "side"))
    if abs(side - energies.side) > energies.side * _SIDE_SLACK:
        findings.append(Finding("certificate.side", "is not that of the inputs"))
    return findings


def _energy(claim: _Claim) -> list[Finding]:
    stated, energies = claim.statement["energy"], claim.energies
    quantum = real(1, exponent(stated))
    findings = []
    for moment, own in (("before", energies.before), ("after", energies.after)):
        terms = member(stated, moment)
        weights = _sensitivities(claim) if moment == "after" else (0.0, 0.0, 0.0, 0.0)
        for name, value, weight in zip(_TERMS, _values(own), weights, strict=True):
            moved = _moved(value, weight, claim.distance)
            allowed = 0.5 * quantum * (1.0 + 2.0**-20) + energies.rounding + moved
            if not abs(whole(terms, name) * quantum - value) <= allowed:
                findings.append(Finding(f"energy.{moment}.{name}", "is not that of the state"))
    for name in (*_TERMS, "total"):
        before, after = whole(stated["before"], name), whole(stated["after"], name)
        if whole(member(stated, "drop"), name) != before - after:
            findings.append(Finding(f"energy.drop.{name}", "is not before less after"))
    for moment in ("before", "after", "drop"):
        terms = stated[moment]
        if terms["total"] != sum(terms[name] for name in _TERMS):
            findings.append(Finding(f"energy.{moment}.total", "is not the sum of its terms"))
    largest = max(*_values(energies.before), *_values(energies.after))
    # A quantum so coarse that every number is 0 would say nothing.
    if largest > 0 and quantum > largest * 2.0**-30:
        findings.append(Finding("energy.exponent", "is too coarse"))
    return findings


def _sensitivities(claim: _Claim) -> tuple[float, float, float, float]:
    """The largest curvature of each term: how fast it can change with the state."""
    inputs = claim.lattice.inputs
    parameters, gates = inputs.parameters, claim.lattice.system.gates
    combinatorial = parameters.laplacian is LaplacianKind.COMBINATORIAL
    spread = float(inputs.graph.degrees.max()) if combinatorial else 1.0
    chain = claim.lattice.chain.links
    pull = float(chain.halved(chain.strengths).max()) if len(chain) else 0.0
    return (
        parameters.anchor_weight,
        2.0 * parameters.graph_weight * spread,
        parameters.query_weight * float(gates.max()),
        4.0 * pull,
    )


def _moved(value: float, curvature: float, distance: float) -> float:
    """How far |A u|^2 moves when u does: 2 |A u| |A| d + |A|^2 d^2."""
    return float(2.0 * (max(value, 0.0) * curvature) ** 0.5 * distance + curvature * distance**2)


def _distance(statement: Mapping[str, Any], lattice: SettledLattice, energies: Energies) -> float:
    """Both states are within their bounds of the true one, hence this near each other."""
    try:
        stated = bound_value(bound(statement["certificate"], "bound"))
    except Malformed:
        return 0.0  # told by the check of the certificate
    own = bound_value(certificate(least_eigenvalue(lattice.system), energies)["bound"])
    solver = statement["solver"]
    if isinstance(solver, Mapping) and solver.get("converged") is False:
        return own + stated
    # Who claims to have converged may not be excused by a bound that says otherwise.
    size = energies.side / lattice.system.minimum_eigenvalue
    return own + min(stated, size * 10.0 * lattice.inputs.parameters.tolerance + own)


def _values(terms: EnergyTerms) -> tuple[float, float, float, float]:
    return (terms.anchor, terms.graph, terms.query, terms.chain)
