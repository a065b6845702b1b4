"""What a revoked key signed: believed where the log vouches for it, and nowhere else."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import product

import pytest

from oars_grpc.core.checkpoint import log_origin
from oars_grpc.core.inclusion import LogTrust
from oars_grpc.core.keys import KeyPurpose, KeyState, TrustedKey
from oars_grpc.core.verification import (
    INCLUSION,
    KEY_TRUST,
    CheckResult,
    Surroundings,
    verify_receipt,
)
from tests.support.factories import NOW, TENANT, append_receipt, make_action, make_stored_key
from tests.support.logs import PREFIX, MemoryLog, checkpoint_key, log_of

TRUSTED = make_stored_key().trusted
LOG_KEY = checkpoint_key()
RECEIPT = append_receipt(make_action(), "action.requested")[1]
ENVELOPE = RECEIPT.envelope
INDEX = 5
LOG = log_of([ENVELOPE], INDEX, 6)
TICK = timedelta(microseconds=1)

# How the receipt's key is listed, and whether that alone lets it be believed.
STATES = {"active": KeyState.ACTIVE, "retired": KeyState.RETIRED, "revoked": KeyState.REVOKED}
WINDOWS: dict[str, tuple[datetime, datetime | None, bool]] = {
    "open": (NOW - TICK, None, True),
    "from now": (NOW, NOW + TICK, True),
    "until now": (NOW - TICK, NOW, False),
    "from later": (NOW + TICK, None, False),
}
SIZES = {"unset": None, "nothing": 0, "below": INDEX, "just": INDEX + 1, "far": 1_000}
PURPOSES = {"receipt": KeyPurpose.RECEIPT, "checkpoint": KeyPurpose.CHECKPOINT}
TENANTS = {"own": TENANT, "other": "globex"}
# Proofs by the place they show; None shows none.
PROOFS: dict[str, tuple[str | None, int | None]] = {
    "absent": (None, None),
    "good": (LOG.proof(INDEX), INDEX),
    "earlier": (LOG.proof(INDEX, INDEX + 1), INDEX),
    "other leaf": (LOG.proof(INDEX - 1), None),
    "other tenant": (MemoryLog(LOG.leaves, log_origin(PREFIX, "globex")).proof(INDEX), None),
    "other origin": (MemoryLog(LOG.leaves, log_origin("evil", TENANT)).proof(INDEX), None),
    "other key": (MemoryLog(LOG.leaves, seed=bytes(32)).proof(INDEX), None),
    # Whoever has the key of the receipts has not the one of the checkpoints.
    "receipt key": (MemoryLog(LOG.leaves, seed=bytes(range(32))).proof(INDEX), None),
    "garbage": ("c2sp.org/tlog-proof@v1\nindex 5\n\n", None),
}


def cases() -> Iterator[tuple[str, ...]]:
    return product(STATES, WINDOWS, SIZES, PURPOSES, TENANTS, PROOFS)


def test_every_combination_of_key_and_proof() -> None:
    """Written as the specification says it, not as the code does it."""
    believed = 0
    for state, window, size, purpose, tenant, proof in cases():
        opens, ends, within = WINDOWS[window]
        key = replace(
            TRUSTED,
            state=STATES[state],
            valid_from=opens,
            valid_until=ends,
            trusted_log_size=SIZES[size],
            purpose=PURPOSES[purpose],
            tenant_id=TENANTS[tenant],
        )
        text, place = PROOFS[proof]
        beside = Surroundings(proof=text, log=LogTrust(PREFIX))
        found = verify_receipt(ENVELOPE, [key, LOG_KEY], beside)
        results = {check.name: check.result for check in found.checks}

        vouched = state != "revoked" or (
            place is not None and SIZES[size] is not None and place < (SIZES[size] or 0)
        )
        trusted = within and purpose == "receipt" and tenant == "own" and vouched
        case = (state, window, size, purpose, tenant, proof)
        assert (results[KEY_TRUST] is CheckResult.PASSED) is trusted, case
        shown = text is None or place is not None
        assert (results[INCLUSION] is CheckResult.FAILED) is not shown, case
        assert found.leaf_index == place, case
        assert found.valid is (trusted and shown), case
        believed += found.valid
    assert believed > 10


def revoked(**changes: object) -> TrustedKey:
    key = replace(TRUSTED, state=KeyState.REVOKED, revoked_at=NOW, trusted_log_size=INDEX + 1)
    return replace(key, **changes)  # type: ignore[arg-type]  # fields by name


def error_of(key: TrustedKey, proof: str | None) -> str:
    found = verify_receipt(ENVELOPE, [key, LOG_KEY], Surroundings(proof=proof))
    assert not found.valid
    (error,) = found.errors
    return error


def test_what_is_not_believed_says_how_it_could_be() -> None:
    said = error_of(revoked(), None)
    assert said.startswith(f"key_trust: key {TRUSTED.key_id} was revoked at 2026-03-01T12:00:00")
    assert "a proof that the log holds the receipt below index 6 would show" in said
    assert "below index 5 of the log only" in error_of(
        revoked(trusted_log_size=INDEX), LOG.proof(INDEX)
    )
    for nothing in (None, 0):
        said = error_of(revoked(trusted_log_size=nothing), LOG.proof(INDEX))
        assert said.endswith("nothing that it signed is believed")


def test_a_key_listed_twice_is_believed_as_little_as_the_stricter_entry_says() -> None:
    proof = Surroundings(proof=LOG.proof(INDEX))
    strict, wide = revoked(trusted_log_size=INDEX), revoked(trusted_log_size=1_000)
    for keys in ([TRUSTED, wide], [wide, TRUSTED]):
        assert verify_receipt(ENVELOPE, [*keys, LOG_KEY], proof).valid
        assert not verify_receipt(ENVELOPE, [*keys, LOG_KEY]).valid
    for keys in ([strict, wide], [wide, strict], [TRUSTED, wide, strict]):
        assert not verify_receipt(ENVELOPE, [*keys, LOG_KEY], proof).valid


def test_every_entry_of_a_key_must_let_it_pass() -> None:
    ended = replace(TRUSTED, state=KeyState.RETIRED, valid_until=NOW)
    for keys in ([TRUSTED, ended], [ended, TRUSTED]):
        assert not verify_receipt(ENVELOPE, keys).valid
    elsewhere = replace(TRUSTED, tenant_id="globex", purpose=KeyPurpose.CHECKPOINT)
    for keys in ([TRUSTED, elsewhere], [elsewhere, TRUSTED]):
        assert verify_receipt(ENVELOPE, keys).valid
        compromised = [replace(key, state=KeyState.REVOKED) for key in keys]
        assert not verify_receipt(ENVELOPE, [keys[0], compromised[1]]).valid
        assert not verify_receipt(ENVELOPE, [compromised[0], keys[1]]).valid


def test_a_stolen_key_gains_nothing_by_claiming_an_early_time() -> None:
    """Signed after the theft with a time from before it: no proof, or one of a later place."""
    forged = append_receipt(make_action(updated_at=NOW - timedelta(days=30)), "action.approved")[1]
    keys = [revoked(), LOG_KEY]
    assert not verify_receipt(forged.envelope, keys).valid
    log = MemoryLog([*LOG.leaves, forged.envelope.leaf_hash()])
    late = Surroundings(proof=log.proof(len(LOG.leaves)))
    assert not verify_receipt(forged.envelope, keys, late).valid
    # The proof of a good receipt does not help a forged one either.
    assert not verify_receipt(forged.envelope, keys, Surroundings(proof=LOG.proof(INDEX))).valid
    assert verify_receipt(ENVELOPE, keys, Surroundings(proof=log.proof(INDEX))).valid


def test_a_piece_of_the_log_found_complete_takes_the_place_of_a_proof() -> None:
    keys = [revoked(), LOG_KEY]
    assert verify_receipt(ENVELOPE, keys, Surroundings(leaf_index=INDEX)).valid
    assert not verify_receipt(ENVELOPE, keys, Surroundings(leaf_index=INDEX + 1)).valid


@pytest.mark.parametrize("state", [KeyState.ACTIVE, KeyState.RETIRED])
def test_a_bad_proof_makes_a_receipt_of_a_good_key_invalid(state: KeyState) -> None:
    """Whoever brings a proof along wants to know whether it holds."""
    found = verify_receipt(
        ENVELOPE, [replace(TRUSTED, state=state), LOG_KEY], Surroundings(proof=LOG.proof(0))
    )
    assert not found.valid
    assert [error.partition(":")[0] for error in found.errors] == [INCLUSION]
