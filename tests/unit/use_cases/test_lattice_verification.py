"""Receipts that no longer can be read, or are of something else, when a lattice's is asked for."""

from types import SimpleNamespace
from typing import Any

import pytest

from oars_grpc.core.verification import Check, CheckResult, Verification
from oars_grpc.errors import InvalidArgument
from oars_grpc.use_cases.lattice_verification import LatticeVerifier, VerifiableReceipt
from oars_grpc.use_cases.verification import VerifiedReceipt

ASKED = VerifiableReceipt("tenant_x", "rcpt_x", "", None, b"")
# Any: whatever of these is used would be an error here.
NOTHING: Any = None


def verify(payload: bytes | None, verification: Verification) -> Any:
    """What is found of a stored payload, of which the receipt's own verification says so much."""
    envelope = SimpleNamespace(payload=payload)
    stored: Any = SimpleNamespace(receipt=SimpleNamespace(envelope=envelope))
    verified = VerifiedReceipt(verification, "tenant", stored)
    receipts: Any = SimpleNamespace(stored=lambda *_: verified)
    verifier = LatticeVerifier(lattices=NOTHING, ready=NOTHING, receipts=receipts)
    return verifier.verify(NOTHING, ASKED, lambda _share: None)


@pytest.mark.parametrize(
    ("payload", "told"), [(b"{", "the payload is no statement"), (None, "the payload was erased")]
)
def test_what_cannot_be_read_is_not_compared_and_says_why(payload: bytes | None, told: str) -> None:
    broken = Verification((Check("schema", CheckResult.FAILED, "is no JSON"),))
    found = verify(payload, broken)
    assert found.checks[-1] == Check("statement", CheckResult.NOT_CHECKED, told)
    assert (found.valid, found.receipt_valid) == (False, False)
    assert found.errors == ("schema: is no JSON",)


def test_the_receipt_of_an_action_is_refused_by_its_field() -> None:
    read: Any = object()
    payload = b'{"predicateType": "urn:oars:receipt:action:v1", "predicate": {}}'
    with pytest.raises(InvalidArgument) as caught:
        verify(payload, Verification((), receipt=read))
    assert [each.field for each in caught.value.violations] == ["receipt_id"]
