"""Verifies receipts of lattices, against inputs where there are any.

Inputs are those that the caller brings along, or those of the lattice as it is stored now. Without
either a receipt is verified as any other: signature, key, chain and place in the log.
"""

from dataclasses import dataclass
from typing import Any

import orjson

from oars_grpc.core.call import Call
from oars_grpc.core.lattice.arrays import Float32Array, checked_query
from oars_grpc.core.lattice.progress import Proceed
from oars_grpc.core.lattice_verification import SOFTWARE, STATEMENT, KnownLattice, check_receipt
from oars_grpc.core.receipt import LATTICE_PREDICATE_TYPE
from oars_grpc.core.verification import Check, CheckResult
from oars_grpc.errors import InvalidArgument
from oars_grpc.use_cases.lattice_arrays import unpacked
from oars_grpc.use_cases.lattices import LatticeDraft, Lattices, checked_draft
from oars_grpc.use_cases.ready_lattice import ReadyLattice, ReadyLattices
from oars_grpc.use_cases.verification import ReceiptVerifier


@dataclass(frozen=True, slots=True)
class VerifiableReceipt:
    """Which receipt to verify, and by what; `lattice_id` and `draft` may be missing."""

    tenant_id: str
    receipt_id: str
    lattice_id: str
    draft: LatticeDraft | None
    query: bytes


@dataclass(frozen=True, slots=True)
class LatticeVerification:
    """What verification found.

    `valid` takes that every input was compared and the statement follows from them; without inputs
    there is only `receipt_valid`, which is what any receipt's verification says.
    """

    checks: tuple[Check, ...]
    errors: tuple[str, ...]
    receipt_valid: bool
    valid: bool


class LatticeVerifier:
    """The part of the lattice service that verifies."""

    def __init__(
        self, *, lattices: Lattices, ready: ReadyLattices, receipts: ReceiptVerifier
    ) -> None:
        self._lattices = lattices
        self._ready = ready
        self._receipts = receipts

    def verify(self, call: Call, asked: VerifiableReceipt, proceed: Proceed) -> LatticeVerification:
        """Check the receipt as any other, and its statement against the inputs.

        Raises:
            InvalidArgument: the receipt is of another thing, or the inputs cannot be.
        """
        stored, dimension = None, None
        tenant_id, checked = asked.tenant_id, None
        if asked.lattice_id:
            stored = self._lattices.get(call, tenant_id, asked.lattice_id)
            tenant_id, dimension = stored.tenant_id, stored.dimension
        if asked.draft is not None:
            checked = checked_draft(call, asked.draft)
            dimension = checked.anchors.shape[1]
        query = None
        if asked.query and dimension is None:
            raise InvalidArgument.of("query", "is compared only with a lattice_id or anchors")
        if asked.query and dimension is not None:
            query = checked_query(unpacked(asked.query, "query"), dimension)
        verified = self._receipts.stored(call, tenant_id, asked.receipt_id, ())
        payload = None if verified.stored is None else verified.stored.receipt.envelope.payload
        verification = verified.verification
        found: tuple[Check, ...]
        if not payload:
            found = (Check(STATEMENT, CheckResult.NOT_CHECKED, "the payload was erased"),)
        elif verification.receipt is None:
            found = (Check(STATEMENT, CheckResult.NOT_CHECKED, "the payload is no statement"),)
        else:
            event, statement = _statement(payload)
            if asked.lattice_id and statement.get("latticeId") != asked.lattice_id:
                raise InvalidArgument.of(
                    "receipt_id", f"is not a receipt of lattice {asked.lattice_id}"
                )
            ready = None
            if checked is not None:
                passing = self._lattices.passing(call, tenant_id, checked)
                ready = self._lattices.settled(passing, checked, proceed)
            elif stored is not None:
                ready = self._ready.load(stored, proceed)
            found = self._compared(event, statement, ready, query, proceed)
        errors = [
            f"{check.name}: {check.detail}" for check in found if check.result is CheckResult.FAILED
        ]
        # Other software is no reason for doubt where every number is within its quantum.
        passed = (check.result is CheckResult.PASSED for check in found if check.name != SOFTWARE)
        return LatticeVerification(
            checks=(*verification.checks, *found),
            errors=(*verification.errors, *errors),
            receipt_valid=verification.valid,
            valid=verification.valid and all(passed),
        )

    def _compared(
        self,
        event: str,
        statement: dict[str, Any],
        ready: ReadyLattice | None,
        query: Float32Array | None,
        proceed: Proceed,
    ) -> tuple[Check, ...]:
        if ready is None:
            return check_receipt(event, statement, None, query, proceed)
        known = KnownLattice(ready.settled, ready.lists, ready.head)
        with self._ready.asking.place(proceed):
            return check_receipt(event, statement, known, query, proceed)


def _statement(payload: bytes) -> tuple[str, dict[str, Any]]:
    """The type and the body of a payload."""
    found: dict[str, Any] = orjson.loads(payload)
    if found["predicateType"] != LATTICE_PREDICATE_TYPE:
        raise InvalidArgument.of("receipt_id", "is not a receipt of a lattice")
    predicate = found["predicate"]
    return predicate["type"], predicate["lattice"]
