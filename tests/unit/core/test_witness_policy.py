"""Whose word is asked for: policies of witnesses, and what meets them."""

import json
from typing import Any

import pytest

from oars_grpc.core.note import COSIGNATURE, ED25519, Note, NoteSignature, Verifier
from oars_grpc.core.witness_policy import WitnessPolicy, parse_witness_policy
from tests.support.logs import MemoryLog, Witness

WITNESSES = [Witness(f"w{n}.example", bytes([n]) * 32) for n in range(1, 5)]
VKEYS = [witness.verifier.vkey() for witness in WITNESSES]
NOTE = MemoryLog([bytes(32)]).note()


def policy(threshold: int, count: int = 4) -> WitnessPolicy:
    return parse_witness_policy({"threshold": threshold, "witnesses": VKEYS[:count]})


def cosigned(*witnesses: Witness) -> Note:
    return MemoryLog([bytes(32)]).note(None, *witnesses)


@pytest.mark.parametrize("threshold", [1, 2, 3, 4])
def test_so_many_of_so_many_must_have_cosigned(threshold: int) -> None:
    for count in range(5):
        refusal = policy(threshold).refusal(cosigned(*WITNESSES[:count]))
        assert (refusal is None) is (count >= threshold)
        if refusal:
            assert refusal.startswith(f"{count} of the 4 trusted witnesses cosigned")


def test_cosignatures_of_others_do_not_count() -> None:
    others = [Witness("other.example", bytes(32)), Witness("w1.example", bytes(32))]
    assert policy(1).refusal(cosigned(*others))
    assert policy(1).refusal(cosigned(*others, WITNESSES[0])) is None


def test_a_cosignature_of_another_checkpoint_does_not_count() -> None:
    (line,) = MemoryLog([bytes(32)] * 2).note(None, WITNESSES[0]).signatures[1:]
    assert "is not that key's" in str(policy(1).refusal(Note(NOTE.text, (*NOTE.signatures, line))))


def test_the_logs_own_kind_of_signature_is_no_cosignature() -> None:
    """The same key, under the same name: what it signs as a log says nothing as a witness."""
    witness = WITNESSES[0]
    as_log = Verifier(witness.name, ED25519, witness.verifier.public_key)
    line = NoteSignature(witness.name, as_log.key_id, witness.private.sign(NOTE.text.encode()))
    assert as_log.verifies(NOTE.text, line)
    assert policy(1).refusal(Note(NOTE.text, (*NOTE.signatures, line)))


def test_one_key_counts_once_whatever_its_names() -> None:
    """Such a file is refused; a policy made in another way counts the key once all the same."""
    twin = Witness("twin.example", bytes([1]) * 32)
    with pytest.raises(ValueError, match=r"twin\.example has the key of w1\.example"):
        parse_witness_policy({"threshold": 2, "witnesses": [VKEYS[0], twin.verifier.vkey()]})
    made = WitnessPolicy(2, (WITNESSES[0].verifier, twin.verifier))
    assert made.refusal(cosigned(WITNESSES[0], twin))


def test_a_repeated_cosignature_counts_once() -> None:
    (line,) = cosigned(WITNESSES[0]).signatures[1:]
    assert policy(2).refusal(Note(NOTE.text, (*NOTE.signatures, line, line)))


LOG_VKEY = Verifier("log.example", ED25519, bytes(range(32))).vkey()
SAME_NAME = Verifier("w1.example", COSIGNATURE, bytes(range(32))).vkey()


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (None, "is not an object"),
        ([], "is not an object"),
        ({}, "is not an object"),
        ({"threshold": 1}, "is not an object"),
        ({"threshold": 1, "witnesses": VKEYS, "extra": 1}, "is not an object"),
        ({"threshold": 0, "witnesses": VKEYS}, "threshold is not a number from 1 to 4"),
        ({"threshold": 5, "witnesses": VKEYS}, "threshold is not a number from 1 to 4"),
        ({"threshold": -1, "witnesses": VKEYS}, "threshold"),
        ({"threshold": True, "witnesses": VKEYS}, "threshold"),
        ({"threshold": 1.0, "witnesses": VKEYS}, "threshold"),
        ({"threshold": "1", "witnesses": VKEYS}, "threshold"),
        ({"threshold": 1, "witnesses": []}, "witnesses is not a list of 1 to 64"),
        ({"threshold": 1, "witnesses": VKEYS[0]}, "witnesses is not a list"),
        ({"threshold": 1, "witnesses": [VKEYS[0]] * 65}, "witnesses is not a list of 1 to 64"),
        ({"threshold": 1, "witnesses": [VKEYS[0], 7]}, r"witnesses\[1\]: is not a vkey"),
        ({"threshold": 1, "witnesses": [VKEYS[0], "x"]}, r"witnesses\[1\]: "),
        ({"threshold": 1, "witnesses": [VKEYS[0][:-1]]}, r"witnesses\[0\]: "),
        ({"threshold": 1, "witnesses": [LOG_VKEY]}, "log.example is not a cosignature key"),
        ({"threshold": 1, "witnesses": [VKEYS[0], VKEYS[0]]}, "w1.example is named twice"),
        ({"threshold": 1, "witnesses": [VKEYS[0], SAME_NAME]}, "w1.example is named twice"),
    ],
)
def test_a_policy_that_is_not_meant_as_it_reads_is_refused(value: Any, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        parse_witness_policy(json.loads(json.dumps(value)))
