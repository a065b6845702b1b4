"""Proofs of receipts in logs: which checkpoints are believed, and what they show."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from oars_grpc.core.checkpoint import log_origin
from oars_grpc.core.inclusion import LogTrust, verify_checkpoint
from oars_grpc.core.keys import KeyPurpose, KeyState, TrustedKey
from oars_grpc.core.note import Note
from oars_grpc.core.verification import (
    CHAIN,
    INCLUSION,
    KEY_TRUST,
    SCHEMA,
    SIGNATURE,
    CheckResult,
    Surroundings,
    Verification,
    verify_erased,
    verify_receipt,
)
from oars_grpc.core.witness_policy import WitnessPolicy
from tests.support.factories import (
    NOW,
    TENANT,
    append_receipt,
    make_action,
    make_stored_key,
)
from tests.support.logs import PREFIX, MemoryLog, Witness, checkpoint_key, log_of

TRUSTED = make_stored_key().trusted
LOG_KEY = checkpoint_key()
RECEIPT = append_receipt(make_action(), "action.requested")[1]
LEAF = RECEIPT.envelope.leaf_hash()
PASSED, FAILED, NOT_CHECKED = CheckResult


def verify(
    proof: str,
    *keys: TrustedKey,
    log: LogTrust = LogTrust(PREFIX),  # noqa: B008 - frozen
) -> Verification:
    found = verify_receipt(
        RECEIPT.envelope, [TRUSTED, *(keys or [LOG_KEY])], Surroundings(proof=proof, log=log)
    )
    assert [check.name for check in found.checks] == [
        SIGNATURE,
        KEY_TRUST,
        SCHEMA,
        CHAIN,
        INCLUSION,
    ]
    passed = found.checks[4].result is PASSED
    assert found.valid is passed  # the receipt itself is good
    assert (found.leaf_index is None) is not passed
    return found


def error_of(proof: str, *keys: TrustedKey, **options: Any) -> str:
    found = verify(proof, *keys, **options)
    assert found.checks[4].result is FAILED
    (error,) = found.errors
    return error


@pytest.mark.parametrize("before", range(9))
@pytest.mark.parametrize("after", [0, 1, 5])
def test_a_receipt_is_shown_wherever_it_stands(before: int, after: int) -> None:
    found = verify(log_of([RECEIPT.envelope], before, after).proof(before))
    assert found.leaf_index == before
    assert found.checks[4].detail == (
        f"leaf {before} of {before + 1 + after}, by key {LOG_KEY.key_id}"
    )


PROOF = log_of([RECEIPT.envelope], 5, 6).proof(5)


def test_no_changed_byte_of_a_proof_goes_unnoticed() -> None:
    """Each byte in three ways; those that make it another text for the same claim are none."""
    raw = PROOF.encode()
    for position in range(len(raw)):
        for bit in (0x01, 0x04, 0x20):
            changed = bytearray(raw)
            changed[position] ^= bit
            text = bytes(changed).decode(errors="replace")
            assert verify(text).checks[4].result is FAILED, (position, bit)


def test_no_proof_cut_or_lengthened_goes_unnoticed() -> None:
    lines = PROOF.split("\n")
    for position in range(len(lines)):
        assert verify("\n".join(lines[:position])).checks[4].result is FAILED
        assert (
            verify("\n".join(lines[:position] + lines[position + 1 :])).checks[4].result is FAILED
        )
    for position in range(2, 2 + 4):
        assert (
            verify("\n".join([*lines[:position], lines[position], *lines[position:]]))
            .checks[4]
            .result
            is FAILED
        )


def test_a_proof_of_another_leaf_shows_nothing() -> None:
    log = log_of([RECEIPT.envelope], 5, 6)
    for index in range(12):
        if index != 5:
            assert "does not show the receipt as leaf" in error_of(log.proof(index))


def test_a_proof_into_another_root_shows_nothing() -> None:
    """Signed by the log itself: the root must be the one that the proof leads to."""
    other = MemoryLog([LEAF] * 12)
    head, _, _ = PROOF.partition("\n\n")
    assert "does not show" in error_of(f"{head}\n\n{other.note(12).format()}")


def test_without_a_key_for_checkpoints_nothing_is_shown() -> None:
    for keys in ([TRUSTED], [replace(LOG_KEY, tenant_id="globex")]):
        assert "no trusted key signs checkpoints of" in error_of(PROOF, *keys)


def test_a_checkpoint_by_another_key_is_not_believed() -> None:
    log = log_of([RECEIPT.envelope])
    forged = MemoryLog(log.leaves, seed=bytes(32))
    assert "no trusted key signed the checkpoint" in error_of(forged.proof(0))


@pytest.mark.parametrize(
    ("origin", "error"),
    [
        (log_origin(PREFIX, "globex"), "is not the log of tenant acme"),
        (log_origin("other.example", TENANT), "the log is 'other.example/acme'"),
        (log_origin(f"{PREFIX}/x", TENANT), "the log is 'log.example/x/acme'"),
        (TENANT, "is not the log of tenant acme"),
        (f"/{TENANT}", "is not a name|is not the log|name of a key"),
        (f"{PREFIX}/{TENANT}/", "is not the log of tenant"),
    ],
)
def test_the_log_of_somebody_else_shows_nothing(origin: str, error: str) -> None:
    log = MemoryLog([LEAF], origin)
    said = error_of(log.proof(0))
    assert any(part in said for part in error.split("|"))


def test_without_a_prefix_any_log_of_the_tenant_will_do() -> None:
    log = MemoryLog([LEAF], log_origin("other.example", TENANT))
    assert verify(log.proof(0), log=LogTrust()).valid


def test_a_key_that_names_its_log_signs_for_no_other() -> None:
    named = replace(LOG_KEY, origin=log_origin("other.example", TENANT))
    assert "no trusted key signs checkpoints of" in error_of(PROOF, named, log=LogTrust())
    assert verify(PROOF, replace(LOG_KEY, origin=log_origin(PREFIX, TENANT))).valid


def test_a_key_is_believed_for_its_own_purpose_only() -> None:
    """In both directions, and whichever purpose the list of keys names first."""
    log = log_of([RECEIPT.envelope])
    seed_of_receipts = bytes(range(32))
    signed_by_receipt_key = MemoryLog(log.leaves, seed=seed_of_receipts).proof(0)
    assert "no trusted key signed" in error_of(signed_by_receipt_key)
    posing = replace(TRUSTED, purpose=KeyPurpose.CHECKPOINT)
    said = error_of(signed_by_receipt_key, posing)
    assert said == f"inclusion: key {TRUSTED.key_id} signed both the receipt and the checkpoint"
    found = verify_receipt(RECEIPT.envelope, [posing])
    assert found.errors == (f"key_trust: key {TRUSTED.key_id} signs checkpoints and no receipts",)


def test_a_revoked_keys_checkpoints_are_never_believed() -> None:
    for changes in (
        {"revoked_at": NOW},
        {"revoked_at": NOW + timedelta(days=900)},
        {"trusted_log_size": 1_000},
    ):
        revoked = replace(LOG_KEY, state=KeyState.REVOKED, **changes)
        assert "which signed the checkpoint, was revoked" in error_of(PROOF, revoked)
        # Nor where the list has it a second time, in any other role.
        for other in (LOG_KEY, replace(LOG_KEY, origin=log_origin(PREFIX, TENANT))):
            assert "was revoked" in error_of(PROOF, other, revoked)
            assert "was revoked" in error_of(PROOF, revoked, other)
        posing = replace(revoked, purpose=KeyPurpose.RECEIPT, tenant_id="globex")
        assert "was revoked" in error_of(PROOF, LOG_KEY, posing)


def test_a_checkpoint_that_another_good_key_signed_too_is_believed() -> None:
    log = log_of([RECEIPT.envelope])
    other = MemoryLog(log.leaves, seed=bytes(32))
    note = log.note()
    both = Note(note.text, (*note.signatures, *other.note().signatures))
    revoked = replace(LOG_KEY, state=KeyState.REVOKED)
    good = checkpoint_key(seed=bytes(32))
    assert verify_checkpoint(both, TENANT, [revoked, good]).key == good
    with pytest.raises(ValueError, match="was revoked"):
        verify_checkpoint(both, TENANT, [revoked])


def test_a_checkpoint_with_a_bad_signature_beside_a_good_one_is_refused() -> None:
    log = log_of([RECEIPT.envelope])
    note = log.note()
    (good,) = note.signatures
    for bad in (replace(good, signature=bytes(64)), replace(good, signature=good.signature[:-1])):
        with pytest.raises(ValueError, match="is not that key's"):
            verify_checkpoint(Note(note.text, (good, bad)), TENANT, [LOG_KEY])


def test_a_checkpoint_cannot_hold_what_was_written_after_its_key_had_ended() -> None:
    retired = replace(LOG_KEY, state=KeyState.RETIRED, valid_until=NOW)
    assert "was no longer valid" in error_of(PROOF, retired)
    assert verify(PROOF, replace(retired, valid_until=NOW + timedelta(microseconds=1))).valid


def test_a_key_that_can_verify_nothing_is_passed_over() -> None:
    broken = replace(LOG_KEY, public_key=b"\x00")
    assert verify(PROOF, broken, LOG_KEY).valid
    assert "no trusted key signs" in error_of(PROOF, broken)


W1, W2, W3 = (Witness(f"w{n}.example", bytes([n]) * 32) for n in (1, 2, 3))


def test_a_policy_asks_for_so_many_witnesses() -> None:
    log = log_of([RECEIPT.envelope], 2, 3)
    policy = LogTrust(PREFIX, WitnessPolicy(2, (W1.verifier, W2.verifier, W3.verifier)))
    for witnesses in ((W1, W2), (W1, W3), (W1, W2, W3)):
        assert verify(log.proof(2, None, *witnesses), log=policy).valid
    for few in ((), (W1,), (W3,), (W1, W1)):
        said = error_of(log.proof(2, None, *few), log=policy)
        assert said == (
            f"inclusion: {len(set(few))} of the 3 trusted witnesses cosigned the checkpoint, 2 must"
        )


def test_without_a_proof_the_check_is_not_made() -> None:
    found = verify_receipt(RECEIPT.envelope, [TRUSTED, LOG_KEY])
    assert found.checks[4].result is NOT_CHECKED
    assert found.checks[4].detail == "no proof was supplied"
    assert found.valid


def test_of_an_erased_receipt_only_its_place_is_left() -> None:
    log = log_of([RECEIPT.envelope], 2, 3)
    beside = Surroundings(proof=log.proof(2), log=LogTrust(PREFIX))
    found = verify_erased(RECEIPT, LEAF, [TRUSTED, LOG_KEY], beside)
    assert [check.result for check in found.checks] == [*[NOT_CHECKED] * 4, PASSED]
    assert (found.valid, found.errors, found.leaf_index) == (False, (), 2)
    found = verify_erased(RECEIPT, bytes(32), [TRUSTED, LOG_KEY], beside)
    assert found.checks[4].result is FAILED
