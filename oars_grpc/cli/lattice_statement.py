"""Lattice receipts made without a server, and receipts held against a lattice's inputs.

A receipt made here has the members of every other, in a chain of its own: of tenant `local` unless
told, sequence 1, nothing before it. What it says of the lattice is to the bit what a server would
say of the same inputs and query.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from oars_grpc.cli.lattice_build import BuiltLattice, software
from oars_grpc.core import ids
from oars_grpc.core.event import write_event
from oars_grpc.core.keys import SEED_BYTES, SigningKey, signing_key
from oars_grpc.core.lattice.arrays import Float32Array, Int32Array
from oars_grpc.core.lattice.chain_verdict import chain_verdict
from oars_grpc.core.lattice.components import node_components
from oars_grpc.core.lattice.conflicts import conflicts
from oars_grpc.core.lattice.finding import Malformed, decimal, member, whole
from oars_grpc.core.lattice.parameters import (
    LaplacianKind,
    LatticeParameters,
    checked_parameters,
)
from oars_grpc.core.lattice.progress import Proceed
from oars_grpc.core.lattice.provenance import nodes_digest
from oars_grpc.core.lattice.ranking import RankingParameters, rank
from oars_grpc.core.lattice.settled import read
from oars_grpc.core.lattice.statement import (
    FULL,
    full_statement,
    light_statement,
    scaled_components,
    statement_head,
)
from oars_grpc.core.lattice.statement_readings import check_nodes
from oars_grpc.core.lattice_verification import KnownLattice, LatticeEvent, check_receipt
from oars_grpc.core.receipt import LATTICE_PREDICATE_TYPE, Receipt
from oars_grpc.core.verification import Check, CheckResult
from oars_grpc.system import SystemChance, SystemClock

NODES = "nodes"


@dataclass(frozen=True, slots=True)
class Stated:
    """What a receipt says of a lattice, and the numbers of all nodes that a full one digests."""

    statement: dict[str, Any]
    nodes: Int32Array | None


def stated_lattice(
    built: BuiltLattice,
    query: Float32Array,
    ranking: RankingParameters,
    proceed: Proceed,
    *,
    full: bool,
) -> Stated:
    """The statement of a lattice under a query."""
    settled = built.settled
    head, reading = statement_head(settled, software()), read(settled, query)
    ranked = rank(reading, ranking)
    if not full:
        return Stated(light_statement(head, settled, reading.query, ranked), None)
    made = full_statement(
        head,
        settled,
        reading.query,
        node_components(reading),
        conflicts(settled.inputs.anchors, built.lists, proceed=proceed),
        None if settled.inputs.chain is None else chain_verdict(reading),
        ranked,
    )
    return Stated(made.statement, made.nodes)


def made_receipt(stated: Stated, tenant_id: str, key: SigningKey | None) -> Receipt:
    """The receipt of a statement; without a key its signature is nobody's and worth nothing.

    Raises:
        ValueError: it is larger than a receipt may be.
    """
    chance = SystemChance()
    if key is None:
        key, _ = signing_key(chance.random_bytes(SEED_BYTES))
    return write_event(
        receipt_id=chance.new_id(ids.RECEIPT),
        tenant_id=tenant_id,
        type_=LatticeEvent.SETTLED.value,
        caller=None,
        event=stated.statement,
        sequence=1,
        previous_receipt_digest="",
        now=SystemClock().now(),
        key=key,
        predicate_type=LATTICE_PREDICATE_TYPE,
    )


def stated_parameters(statement: Mapping[str, Any]) -> LatticeParameters:
    """The parameters that a receipt names, to build the same lattice with.

    Raises:
        ValueError: it names none, or some that no lattice has.
    """
    given = member(statement, "parameters")
    cap, kind = member(given, "rowCap"), member(given, "laplacian")
    if kind not in list(LaplacianKind):
        raise Malformed("laplacian is unknown")
    return checked_parameters(
        LatticeParameters(
            neighbors=whole(given, "neighbors"),
            row_cap=None if cap is None else decimal(given, "rowCap"),
            laplacian=LaplacianKind(kind),
            anchor_weight=decimal(given, "anchorWeight"),
            graph_weight=decimal(given, "graphWeight"),
            query_weight=decimal(given, "queryWeight"),
            chain_weight=decimal(given, "chainWeight"),
            tolerance=decimal(given, "tolerance"),
            max_iterations=whole(given, "maxIterations"),
        )
    )


def checked_claims(
    event: str,
    statement: Mapping[str, Any],
    built: BuiltLattice,
    query: Float32Array | None,
    nodes: Int32Array | None,
    proceed: Proceed,
) -> tuple[Check, ...]:
    """Every check of a receipt's statement against the lattice; `nodes` are those it digests."""
    known = KnownLattice(built.settled, built.lists, statement_head(built.settled, software()))
    checks = check_receipt(event, statement, known, query, proceed)
    if statement.get("detail") != FULL or query is None:
        return checks
    return (*checks, _checked_nodes(statement, built, query, nodes))


def _checked_nodes(
    statement: Mapping[str, Any],
    built: BuiltLattice,
    query: Float32Array,
    nodes: Int32Array | None,
) -> Check:
    """The numbers of all nodes, of which a receipt holds the digest alone."""
    reading, told = read(built.settled, query), statement.get(NODES)
    if nodes is None:
        numbers, exponent = scaled_components(node_components(reading))
        if told == {"exponent": exponent, "digest": nodes_digest(numbers)}:
            return Check(NODES, CheckResult.PASSED)
        detail = "is the digest of other numbers than those made here; --nodes FILE gives them"
        return Check(NODES, CheckResult.FAILED, detail)
    wrong = check_nodes(told, nodes, reading, 0.0)
    detail = "; ".join(f"{finding.check} {finding.description}" for finding in wrong)
    return Check(NODES, CheckResult.FAILED if wrong else CheckResult.PASSED, detail)
