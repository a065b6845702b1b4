"""Receipts of lattices: written, parsed and verified like all others."""

import base64
import json
from typing import Any

import pytest

from oars_grpc.core.canonical import canonical_json
from oars_grpc.core.envelope import sign_payload
from oars_grpc.core.event import write_event
from oars_grpc.core.receipt import LATTICE_PREDICATE_TYPE, Receipt, parse_receipt
from oars_grpc.core.verification import Surroundings, verify_receipt
from tests.support.factories import (
    NOW,
    make_principal,
    make_signing_key,
    make_stored_key,
    new_id,
)
from tests.support.verify_command import VerifyCommand, receipt_json, results

KEYS = [make_stored_key().trusted]


def lattice_receipt(**changes: Any) -> Receipt:
    given: dict[str, Any] = {
        "receipt_id": new_id("rcpt"),
        "tenant_id": "acme",
        "type_": "lattice.queried",
        "caller": make_principal(),
        "event": {"energy": {"exponent": -40, "drop": 7}, "latticeId": new_id("lat")},
        "sequence": 1,
        "previous_receipt_digest": "",
        "now": NOW,
        "key": make_signing_key(),
        "predicate_type": LATTICE_PREDICATE_TYPE,
    }
    return write_event(**{**given, **changes})


def test_it_says_what_the_lattice_said_in_a_member_of_its_own() -> None:
    receipt = lattice_receipt()
    statement = json.loads(receipt.envelope.payload)
    assert statement["predicateType"] == "urn:oars:receipt:lattice:v1"
    assert statement["predicate"]["lattice"]["energy"] == {"exponent": -40, "drop": 7}
    assert "event" not in statement["predicate"]
    assert parse_receipt(receipt.envelope) == receipt
    assert receipt.action_id == ""


def test_it_stands_in_the_chain_of_the_tenants_events() -> None:
    event = lattice_receipt(
        type_="key.rotated", predicate_type="urn:oars:receipt:event:v1", event={"keyId": "k"}
    )
    lattice = lattice_receipt(sequence=2, previous_receipt_digest=event.envelope.digest())
    found = verify_receipt(
        lattice.envelope, KEYS, Surroundings(chain=[event.envelope], has_chain=True)
    )
    assert found.valid
    assert [check.result.value for check in found.checks] == [*["passed"] * 4, "not_checked"]


@pytest.mark.parametrize(
    "changes",
    [
        {"type": "key.rotated"},
        {"lattice": None},
        {"lattice": []},
        {"caller": None},
        {"sequence": 0},
    ],
)
def test_what_oars_would_not_have_written_is_no_receipt(changes: dict[str, Any]) -> None:
    statement = json.loads(lattice_receipt().envelope.payload)
    statement["predicate"].update(changes)
    envelope = sign_payload(canonical_json(statement), make_signing_key())
    with pytest.raises(ValueError, match=r"predicate|chain"):
        parse_receipt(envelope)


def test_an_event_cannot_call_itself_a_lattices() -> None:
    receipt = lattice_receipt(predicate_type="urn:oars:receipt:event:v1")
    with pytest.raises(ValueError, match=r"predicate\.type"):
        parse_receipt(receipt.envelope)


def test_one_too_large_for_the_log_is_not_written() -> None:
    with pytest.raises(ValueError, match="too large"):
        lattice_receipt(event={"text": "x" * 65_000})


def test_the_command_verifies_it_without_its_inputs(tmp_path: Any) -> None:
    run, receipt = VerifyCommand(tmp_path), lattice_receipt()
    code, (verdict,) = run.verdicts(receipt_json(receipt))
    assert (code, verdict["valid"]) == (0, True)
    assert results(verdict)[:3] == ["passed"] * 3
    tampered = receipt_json(receipt)
    payload = receipt.envelope.payload.replace(b'"drop":7', b'"drop":8')
    tampered["envelope"]["payload"] = base64.b64encode(payload).decode()
    code, (verdict,) = run.verdicts(tampered)
    assert (code, verdict["valid"]) == (1, False)
    assert results(verdict)[0] == "failed"
