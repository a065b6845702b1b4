"""Whether the receipt of a lattice is true of given inputs: one check for each thing it states.

    inputs.<name>   the digest of that input made anew, with the counts told beside it
    inputs.lattice  the digest over all of them but the query
    software        what computed it: other software may settle to other bits
    judged          the chain that was scored has the digest stated
    statement       all other numbers, against the inputs' own

What is not supplied is not checked and says so; numbers of other inputs are not looked at.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from typing import Any

from oars_grpc.core.lattice.arrays import Chain, Float32Array, checked_chain
from oars_grpc.core.lattice.chain_verdict import chain_verdict
from oars_grpc.core.lattice.finding import Malformed, decimal, member
from oars_grpc.core.lattice.gates import diffusion_gates, query_sources
from oars_grpc.core.lattice.neighbors import NeighborLists
from oars_grpc.core.lattice.progress import Proceed
from oars_grpc.core.lattice.provenance import chain_digest, gates_digest, query_digest
from oars_grpc.core.lattice.settled import SettledLattice, read
from oars_grpc.core.lattice.solver import SolveOutcome
from oars_grpc.core.lattice.statement import StatementHead, verdict_json
from oars_grpc.core.lattice.statement_check import check_statement
from oars_grpc.core.verification import Check, CheckResult
from oars_grpc.errors import InvalidArgument

STATEMENT = "statement"
SOFTWARE = "software"
JUDGED = "judged"
LATTICE = "inputs.lattice"
# Each input, and the counts that are told of it.
_LATTICE_INPUTS: Mapping[str, tuple[str, ...]] = {
    "anchors": ("nodes", "dimension"),
    "edges": ("edgeCount",),
    "gates": (),
    "chain": ("chainLength",),
    "parameters": (),
}
_PARAMETERS, _QUERY = "parameters", "query"
# Members that say which lattice it is: the log binds them, nothing is computed from them.
_ABOUT = ("latticeId", "version", "createdBy")
_OF_OTHERS = "not all inputs are those stated: its numbers are of others"


class LatticeEvent(StrEnum):
    """What the receipt of a lattice tells of."""

    CREATED = "lattice.created"
    CHANGED = "lattice.changed"
    DELETED = "lattice.deleted"
    SETTLED = "lattice.settled"
    QUERIED = "lattice.queried"
    CHAIN_SCORED = "lattice.chain_scored"
    GATES_COMPUTED = "lattice.gates_computed"

    @property
    def asks(self) -> bool:
        """Whether a query is among its inputs."""
        return self not in (LatticeEvent.CREATED, LatticeEvent.CHANGED, LatticeEvent.DELETED)


@dataclass(frozen=True, slots=True)
class KnownLattice:
    """A lattice that the verifier has settled itself, from the inputs that it was given."""

    settled: SettledLattice
    lists: NeighborLists
    head: StatementHead


def check_receipt(
    event: str,
    statement: Mapping[str, Any],
    known: KnownLattice | None,
    query: Float32Array | None,
    proceed: Proceed,
) -> tuple[Check, ...]:
    """Every check of a statement; `known` None means that there are no inputs to check it by."""
    if event not in list(LatticeEvent):
        return (_failed(STATEMENT, f"nothing is known of {event}"),)
    kind = LatticeEvent(event)
    if kind is LatticeEvent.DELETED:
        return (_unchecked(STATEMENT, "a deletion states no inputs"),)
    names = [*_LATTICE_INPUTS, *([_QUERY] if kind.asks else [])]
    if known is None:
        missing = "no inputs were supplied"
        checks = [_unchecked(f"inputs.{name}", missing) for name in names]
        return (*checks, _unchecked(SOFTWARE, missing), _unchecked(STATEMENT, missing))
    checks = [*_inputs(statement, known, query, names), _software(statement, known)]
    if any(check.result is CheckResult.FAILED for check in checks):
        return (*checks, _unchecked(STATEMENT, _OF_OTHERS))
    if kind.asks and query is None:
        return (*checks, _unchecked(STATEMENT, "no query was supplied"))
    return (*checks, *_numbers(kind, statement, known, query, proceed))


def chain_json(chain: Chain) -> dict[str, Any]:
    """The chain that was judged, as a receipt names it."""
    weights = [repr(float(weight)) for weight in chain.weights]
    return {"digest": chain_digest(chain), "nodes": chain.nodes.tolist(), "weights": weights}


def solver_json(outcome: SolveOutcome | None) -> dict[str, Any] | None:
    """How a solver ended, as a receipt tells it."""
    if outcome is None:
        return None
    return {
        "method": outcome.method.value,
        "stop": outcome.stop.value,
        "converged": outcome.converged,
        "iterations": outcome.iterations,
    }


def _inputs(
    statement: Mapping[str, Any],
    known: KnownLattice,
    query: Float32Array | None,
    names: Collection[str],
) -> Iterator[Check]:
    """The digest of each input, and the digest over all."""
    stated = statement.get("inputs")
    if not isinstance(stated, Mapping):
        yield _failed("inputs", "are not stated")
        return
    own: dict[str, Any] = dict(known.head.inputs)
    software = str(statement.get(SOFTWARE))
    own["lattice"] = replace(known.head.provenance, software=software).lattice
    if query is not None:
        own[_QUERY] = query_digest(query)
    for name in names:
        if name not in own:
            yield _unchecked(f"inputs.{name}", "no query was supplied")
            continue
        wrong = [
            f"{member} is stated as {stated.get(member)}, that of these inputs is {own[member]}"
            for member in (name, *_LATTICE_INPUTS.get(name, ()))
            if type(stated.get(member)) is not type(own[member]) or stated[member] != own[member]
        ]
        if name == _PARAMETERS and name in statement:
            text = known.head.members[name]
            wrong += [] if statement[name] == text else ["the text is of other parameters"]
        yield _told(f"inputs.{name}", wrong)
    same = stated.get("lattice") == own["lattice"]
    yield _told(LATTICE, [] if same else ["it is the digest of other inputs"])
    unknown = stated.keys() - own.keys() - ({_QUERY} if _QUERY in names else set())
    if unknown:
        yield _failed("inputs", f"has the unknown members {', '.join(sorted(unknown))}")


def _software(statement: Mapping[str, Any], known: KnownLattice) -> Check:
    """Whether the same software computed it: if not, its bits may differ and be as true."""
    stated, own = statement.get(SOFTWARE), known.head.provenance.software
    if not isinstance(stated, str):
        return _failed(SOFTWARE, "is not stated")
    if stated == own:
        return Check(SOFTWARE, CheckResult.PASSED)
    return _unchecked(SOFTWARE, f"the receipt is by {stated}, this check by {own}")


def _numbers(
    kind: LatticeEvent,
    statement: Mapping[str, Any],
    known: KnownLattice,
    query: Float32Array | None,
    proceed: Proceed,
) -> tuple[Check, ...]:
    """What was computed from the inputs, all of which are those stated."""
    same = statement[SOFTWARE] == known.head.provenance.software
    own = {name: value for name, value in statement.items() if name not in _ABOUT}
    if query is None:
        members = {name: known.head.members[name] for name in ("state", "solver")}
        wrong = _differing(own, members, {SOFTWARE, "inputs", _PARAMETERS})
        return (_bits(STATEMENT, wrong, same=same),)
    if kind is LatticeEvent.GATES_COMPUTED:
        return (_guarded(STATEMENT, lambda: _gates(own, known, query, proceed, same=same)),)
    checks: list[Check] = []
    if kind is LatticeEvent.CHAIN_SCORED:
        judged, verdict = own.pop(JUDGED, None), own.pop("verdict", None)
        check = partial(_judged, judged, verdict, known, query, same=same)
        checks.append(_guarded(JUDGED, check))
    # Another state than the verifier's own may be as near to the true one.
    given = known.settled.state if same else None
    findings = check_statement(
        own, known.settled.inputs, query, state=given, lists=known.lists, proceed=proceed
    )
    wrong = [f"{each.check} {each.description}" for each in findings]
    return (*checks, _told(STATEMENT, wrong))


def _judged(
    judged: object, verdict: object, known: KnownLattice, query: Float32Array, *, same: bool
) -> Check:
    """The chain that was scored, and the verdict on it."""
    weights = [float(weight) for weight in member(judged, "weights")]
    chain = checked_chain(member(judged, "nodes"), len(known.settled), weights, JUDGED)
    if chain_json(chain) != judged:
        return _failed(JUDGED, "is not the chain of its digest")
    own = verdict_json(chain_verdict(read(known.settled, query), chain))
    return _bits(JUDGED, [] if own == verdict else ["the verdict"], same=same)


def _gates(
    statement: Mapping[str, Any],
    known: KnownLattice,
    query: Float32Array,
    proceed: Proceed,
    *,
    same: bool,
) -> Check:
    """Gates are told by their digest alone, so they are computed again."""
    stated, inputs = member(statement, "gates"), known.settled.inputs
    made = diffusion_gates(
        inputs.graph,
        query_sources(inputs.anchors, query),
        screening=decimal(stated, "screening"),
        proceed=proceed,
    )
    own = {
        "gates": {"digest": gates_digest(made.gates), "screening": stated["screening"]},
        "solver": solver_json(made.outcome),
    }
    return _bits(STATEMENT, _differing(statement, own, {SOFTWARE, "inputs"}), same=same)


def _differing(
    stated: Mapping[str, Any], own: Mapping[str, Any], compared: Collection[str]
) -> list[str]:
    """The members that are not the verifier's own, and those that belong to no such statement."""
    wrong = [name for name, value in own.items() if stated.get(name) != value]
    return wrong + sorted(stated.keys() - own.keys() - set(compared))


def _bits(name: str, differing: list[str], *, same: bool) -> Check:
    """What is compared exactly: other software need not come to the same bits."""
    if differing and not same:
        told = f"{', '.join(differing)}: made by other software, perhaps to other bits"
        return _unchecked(name, told)
    return _told(name, [f"{each} is not that of these inputs" for each in differing])


def _guarded(name: str, check: Callable[[], Check]) -> Check:
    """A statement that cannot be read is not true."""
    try:
        return check()
    except (Malformed, InvalidArgument, TypeError, ValueError) as fault:
        return _failed(name, str(fault) or "cannot be read")


def _told(name: str, wrong: list[str]) -> Check:
    return _failed(name, "; ".join(wrong)) if wrong else Check(name, CheckResult.PASSED)


def _failed(name: str, detail: str) -> Check:
    return Check(name, CheckResult.FAILED, detail)


def _unchecked(name: str, detail: str) -> Check:
    return Check(name, CheckResult.NOT_CHECKED, detail)
