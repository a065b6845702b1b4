"""Verifies receipts of lattices against the lattices, as they are stored now."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from oars_grpc.core.call import Call
from oars_grpc.core.lattice.arrays import checked_chain, checked_query
from oars_grpc.core.lattice.chain_verdict import chain_verdict
from oars_grpc.core.lattice.progress import Proceed
from oars_grpc.core.lattice.provenance import query_digest
from oars_grpc.core.lattice.settled import read
from oars_grpc.core.lattice.statement import verdict_json
from oars_grpc.core.lattice.statement_check import check_statement
from oars_grpc.core.receipt import LATTICE_PREDICATE_TYPE
from oars_grpc.core.verification import Check, CheckResult
from oars_grpc.errors import InvalidArgument
from oars_grpc.use_cases.lattice_answers import chain_json
from oars_grpc.use_cases.lattice_arrays import unpacked
from oars_grpc.use_cases.lattice_records import CHAIN_SCORED, CHANGED, CREATED, QUERIED
from oars_grpc.use_cases.lattices import Lattices
from oars_grpc.use_cases.ready_lattice import ReadyLattice, ReadyLattices
from oars_grpc.use_cases.verification import ReceiptVerifier

STATEMENT = "statement"
_ABOUT = ("latticeId", "version", "createdBy")


@dataclass(frozen=True, slots=True)
class LatticeVerification:
    """What verification found."""

    checks: tuple[Check, ...]
    errors: tuple[str, ...]
    valid: bool


class LatticeVerifier:
    """The part of the lattice service that verifies."""

    def __init__(
        self, *, lattices: Lattices, ready: ReadyLattices, receipts: ReceiptVerifier
    ) -> None:
        self._lattices = lattices
        self._ready = ready
        self._receipts = receipts

    def verify(
        self,
        call: Call,
        tenant_id: str,
        lattice_id: str,
        receipt_id: str,
        query: bytes,
        proceed: Proceed,
    ) -> LatticeVerification:
        """Check the receipt as any other, and its statement against lattice and query.

        Raises:
            InvalidArgument: the receipt is of another thing, or the query is not its lattice's.
        """
        stored = self._lattices.get(call, tenant_id, lattice_id)
        verified = self._receipts.stored(call, stored.tenant_id, receipt_id, ())
        verification = verified.verification
        payload = None if verified.stored is None else verified.stored.receipt.envelope.payload
        statement, type_ = _statement(payload)
        if statement is not None and statement.get("latticeId") != lattice_id:
            raise InvalidArgument.of("receipt_id", f"is not a receipt of lattice {lattice_id}")
        if statement is None:
            found = Check(STATEMENT, CheckResult.NOT_CHECKED, "the payload was erased")
        else:
            asked = checked_query(unpacked(query, "query"), stored.dimension) if query else None
            ready = self._ready.load(stored, proceed)
            with self._ready.asking.place(proceed):
                found = _checked(type_, statement, ready, asked, proceed)
        checks = (*verification.checks, found)
        errors = verification.errors
        if found.result is CheckResult.FAILED:
            errors = (*errors, f"{STATEMENT}: {found.detail}")
        valid = verification.valid and found.result is CheckResult.PASSED
        return LatticeVerification(checks, errors, valid)


def _statement(payload: bytes | None) -> tuple[dict[str, Any] | None, str]:
    """The body and the type of a payload; no body where retention has erased it."""
    if not payload:
        return None, ""
    found: dict[str, Any] = orjson.loads(payload)
    if found["predicateType"] != LATTICE_PREDICATE_TYPE:
        raise InvalidArgument.of("receipt_id", "is not a receipt of a lattice")
    predicate = found["predicate"]
    return predicate["lattice"], predicate["type"]


def _checked(
    type_: str,
    statement: Mapping[str, Any],
    ready: ReadyLattice,
    query: Any,
    proceed: Proceed,
) -> Check:
    own = {name: value for name, value in statement.items() if name not in _ABOUT}
    if type_ in (CREATED, CHANGED):
        inputs = {**ready.head.members, "inputs": dict(ready.head.inputs)}
        return _told([name for name, value in inputs.items() if own.get(name) != value])
    if query is None:
        return Check(STATEMENT, CheckResult.NOT_CHECKED, "no query was supplied")
    if type_ not in (QUERIED, CHAIN_SCORED):
        wanted = {**ready.head.inputs, "query": query_digest(query)}
        wrong = [name for name, value in wanted.items() if own["inputs"].get(name) != value]
        if wrong:
            return _told(wrong)
        # Its numbers would take a solve: the digest binds them, and nobody has compared it.
        return Check(STATEMENT, CheckResult.NOT_CHECKED, "only the inputs were compared: they fit")
    judged = own.pop("judged", None)
    verdict = None if judged is None else own.pop("verdict")
    findings = check_statement(
        own,
        ready.inputs,
        query,
        state=ready.settled.state,
        lists=ready.lists,
        proceed=proceed,
    )
    wrong = [f"{finding.check} {finding.description}" for finding in findings]
    if judged is not None:
        weights = [float(weight) for weight in judged["weights"]]
        chain = checked_chain(judged["nodes"], len(ready.settled), weights)
        if chain_json(chain) != judged:
            wrong.append("judged is not the chain of its digest")
        if verdict_json(chain_verdict(read(ready.settled, query), chain)) != verdict:
            wrong.append("verdict is not that of the chain")
    return _told(wrong)


def _told(wrong: list[str]) -> Check:
    if not wrong:
        return Check(STATEMENT, CheckResult.PASSED)
    return Check(
        STATEMENT, CheckResult.FAILED, f"not of this lattice and query: {'; '.join(wrong)}"
    )
