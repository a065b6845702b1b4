from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest

from oars_grpc.core.envelope import PAYLOAD_TYPE, Envelope, Signature, sign_payload
from oars_grpc.core.keys import KeyState, TrustedKey
from oars_grpc.core.receipt import Receipt
from oars_grpc.core.verification import (
    CHAIN,
    INCLUSION,
    KEY_TRUST,
    SCHEMA,
    SIGNATURE,
    Check,
    CheckResult,
    Surroundings,
    Verification,
    verify_receipt,
)
from tests.support.factories import (
    NOW,
    append_receipt,
    make_action,
    make_request,
    make_signing_key,
    make_stored_key,
)

TRUSTED = make_stored_key().trusted
OTHER_SEED = bytes(32)
PASSED, FAILED, NOT_CHECKED = CheckResult


def make_chain(length: int) -> list[Receipt]:
    action = make_action()
    chain = []
    for number in range(length):
        action, receipt = append_receipt(action, "action.requested" if number == 0 else "")
        chain.append(receipt)
    return chain


CHAINED = make_chain(3)
FIRST, SECOND, THIRD = (receipt.envelope for receipt in CHAINED)


def results(found: Verification) -> dict[str, CheckResult]:
    return {check.name: check.result for check in found.checks}


def verify(
    envelope: Envelope,
    keys: Sequence[TrustedKey] = (TRUSTED,),
    previous: Envelope | None = None,
) -> Verification:
    """Verify, and hold every answer to what any answer must be."""
    found = verify_receipt(envelope, keys, Surroundings(previous=previous))
    outcome = results(found)
    assert list(outcome) == [SIGNATURE, KEY_TRUST, SCHEMA, CHAIN, INCLUSION]
    assert outcome[INCLUSION] is NOT_CHECKED  # nothing here brings a proof along
    failed = [name for name, result in outcome.items() if result is FAILED]
    assert [error.partition(":")[0] for error in found.errors] == failed
    needed = all(outcome[name] is PASSED for name in (SIGNATURE, KEY_TRUST, SCHEMA))
    assert found.valid is (needed and not failed)
    assert all(check.detail for check in found.checks if check.result is not PASSED)
    return found


def test_a_receipt_as_written_passes_every_check() -> None:
    found = verify(FIRST)
    assert found.checks[:4] == tuple(
        Check(name, PASSED) for name in (SIGNATURE, KEY_TRUST, SCHEMA, CHAIN)
    )
    assert (found.valid, found.key_id, found.receipt) == (True, TRUSTED.key_id, CHAINED[0])
    assert results(verify(SECOND, previous=FIRST))[CHAIN] is PASSED


def test_no_changed_byte_of_the_payload_goes_unnoticed() -> None:
    for position in range(len(FIRST.payload)):
        for bit in (0x01, 0x20, 0x80):
            changed = bytearray(FIRST.payload)
            changed[position] ^= bit
            found = verify(replace(FIRST, payload=bytes(changed)))
            assert not found.valid
            assert results(found)[SIGNATURE] is FAILED, position


def test_no_payload_cut_or_extended_goes_unnoticed() -> None:
    for length in range(len(FIRST.payload)):
        found = verify(replace(FIRST, payload=FIRST.payload[:length]))
        assert results(found)[SIGNATURE] is results(found)[SCHEMA] is FAILED
    for extra in (b" ", b"\n", b"\x00", b"{}"):
        for payload in (FIRST.payload + extra, extra + FIRST.payload):
            found = verify(replace(FIRST, payload=payload))
            assert results(found)[SIGNATURE] is results(found)[SCHEMA] is FAILED


def test_no_changed_byte_of_the_signature_goes_unnoticed() -> None:
    (signature,) = FIRST.signatures
    assert len(signature.sig) == 64
    for position in range(64):
        for bit in range(8):
            changed = bytearray(signature.sig)
            changed[position] ^= 1 << bit
            found = verify(replace(FIRST, signatures=(replace(signature, sig=bytes(changed)),)))
            assert not found.valid
            assert results(found) == {
                SIGNATURE: FAILED,
                KEY_TRUST: NOT_CHECKED,
                SCHEMA: PASSED,
                CHAIN: PASSED,
                INCLUSION: NOT_CHECKED,
            }


def test_no_changed_character_of_the_key_id_goes_unnoticed() -> None:
    (signature,) = FIRST.signatures
    for position in range(len(signature.keyid)):
        for other in ("0", "1", "A", ""):
            keyid = signature.keyid[:position] + other + signature.keyid[position + 1 :]
            if keyid == signature.keyid:
                continue
            found = verify(replace(FIRST, signatures=(replace(signature, keyid=keyid),)))
            assert not found.valid
            assert "no trusted key has the id" in found.errors[0]


def test_no_changed_character_of_the_payload_type_goes_unnoticed() -> None:
    for position in range(len(PAYLOAD_TYPE)):
        changed = PAYLOAD_TYPE[:position] + "_" + PAYLOAD_TYPE[position + 1 :]
        found = verify(replace(FIRST, payload_type=changed))
        assert results(found)[SIGNATURE] is results(found)[SCHEMA] is FAILED


def test_the_malleable_twin_of_a_signature_is_refused() -> None:
    """RFC 8032 section 5.1.7: S must be below the group order, or there were two signatures."""
    order = 2**252 + 27742317777372353535851937790883648493
    (signature,) = FIRST.signatures
    scalar = int.from_bytes(signature.sig[32:], "little") + order
    twin = signature.sig[:32] + scalar.to_bytes(32, "little")
    assert not verify(replace(FIRST, signatures=(replace(signature, sig=twin),))).valid


@pytest.mark.parametrize("count", [0, 2, 3])
def test_exactly_one_signature_is_expected(count: int) -> None:
    found = verify(replace(FIRST, signatures=FIRST.signatures * count))
    assert found.errors == (f"signature: expected one signature, found {count}",)
    assert results(found)[KEY_TRUST] is NOT_CHECKED


def test_a_good_signature_beside_a_bad_one_does_not_count() -> None:
    bad = Signature(TRUSTED.key_id, bytes(64))
    for signatures in ((*FIRST.signatures, bad), (bad, *FIRST.signatures)):
        assert not verify(replace(FIRST, signatures=signatures)).valid


def test_without_keys_nothing_is_valid() -> None:
    found = verify(FIRST, ())
    assert results(found)[SIGNATURE] is FAILED
    assert found.key_id == ""


def test_a_swapped_key_is_found_whatever_its_label_says() -> None:
    other = make_stored_key(seed=OTHER_SEED).trusted
    assert not verify(FIRST, [other]).valid
    # The key file claims the other key under the id that the receipt names.
    found = verify(FIRST, [replace(other, key_id=TRUSTED.key_id)])
    assert "no trusted key has the id" in found.errors[0]


def test_a_receipt_signed_by_an_unknown_key_under_a_trusted_id_is_refused() -> None:
    forged = sign_payload(
        FIRST.payload, replace(make_signing_key(OTHER_SEED), key_id=TRUSTED.key_id)
    )
    found = verify(forged)
    assert "is not one of key" in found.errors[0]


def test_a_key_of_another_tenant_is_not_trusted() -> None:
    found = verify(FIRST, [replace(TRUSTED, tenant_id="globex")])
    assert results(found) == {
        SIGNATURE: PASSED,
        KEY_TRUST: FAILED,
        SCHEMA: PASSED,
        CHAIN: PASSED,
        INCLUSION: NOT_CHECKED,
    }
    assert "is not one of tenant acme" in found.errors[0]


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"valid_from": NOW + timedelta(microseconds=1)}, "not yet valid"),
        ({"valid_until": NOW}, "no longer valid"),
        ({"state": KeyState.REVOKED, "revoked_at": NOW + timedelta(days=1)}, "was revoked"),
        ({"state": KeyState.REVOKED}, "was revoked"),
    ],
)
def test_a_signature_outside_its_keys_window_is_not_trusted(
    changes: dict[str, object], error: str
) -> None:
    found = verify(FIRST, [replace(TRUSTED, **changes)])  # type: ignore[arg-type]  # fields by name
    assert results(found)[SIGNATURE] is PASSED
    assert results(found)[KEY_TRUST] is FAILED
    assert error in found.errors[0]


def test_a_retired_key_is_trusted_for_what_it_signed_in_its_window() -> None:
    retired = replace(TRUSTED, state=KeyState.RETIRED, valid_until=NOW + timedelta(microseconds=1))
    assert verify(FIRST, [retired]).valid


def test_a_missing_predecessor_is_said_and_never_counted_as_checked() -> None:
    found = verify(SECOND)
    assert results(found)[CHAIN] is NOT_CHECKED
    assert found.checks[3].detail == "receipt 1 of the chain was not supplied"
    assert found.valid  # of itself; whoever needs the chain supplies it


def _errors_of_chain(envelope: Envelope, previous: Envelope) -> str:
    found = verify(envelope, previous=previous)
    assert results(found)[CHAIN] is FAILED
    assert not found.valid
    return found.errors[0]


def test_a_gap_in_the_chain_is_found() -> None:
    error = _errors_of_chain(THIRD, FIRST)
    assert "receipt 1 does not precede 3" in error
    assert "previousReceiptDigest is not that" in error


def test_receipts_in_the_wrong_order_are_found() -> None:
    assert "receipt 3 does not precede 2" in _errors_of_chain(SECOND, THIRD)
    assert "receipt 2 does not precede 2" in _errors_of_chain(SECOND, SECOND)
    assert "receipt 1 does not precede 1" in _errors_of_chain(FIRST, FIRST)


def test_a_predecessor_of_another_action_or_tenant_is_found() -> None:
    assert "of another action" in _errors_of_chain(SECOND, make_chain(1)[0].envelope)
    action = make_action(make_request("globex"), action_id=CHAINED[0].action_id)
    assert "of another action" in _errors_of_chain(SECOND, append_receipt(action)[1].envelope)


def test_a_rewritten_predecessor_is_found_by_its_digest_alone() -> None:
    """Signed by the tenant's own key, at the right place: only the digest tells."""
    action = make_action(action_id=CHAINED[0].action_id)
    rewritten = append_receipt(action, "action.requested", {"note": "other"})[1].envelope
    assert verify(rewritten).valid
    assert _errors_of_chain(SECOND, rewritten) == (
        "chain: previousReceiptDigest is not that of the receipt before"
    )


def test_a_predecessor_that_is_no_receipt_is_found() -> None:
    garbage = Envelope(PAYLOAD_TYPE, b"{}", ())
    assert "the receipt before: _type" in _errors_of_chain(SECOND, garbage)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x00",
        b"\xff" * 100,
        b"null",
        b"[" * 1_000_000,
        b'{"a":' * 300 + b"1" + b"}" * 300,
        b'{"a":' * 1000 + b"1" + b"}" * 1000,
        b'{"_type":1,"_type":2}',
        b'{ "a" : 1 }',
        b"9" * 100_000,
        b'{"a":1e999}',
        b'{"a":18446744073709551616}',
        b'{"predicate":{"sequence":9007199254740993}}',
    ],
)
def test_a_signed_payload_of_garbage_is_answered_and_never_raised(payload: bytes) -> None:
    found = verify(sign_payload(payload, make_signing_key()), previous=FIRST)
    assert results(found) == {
        SIGNATURE: PASSED,
        KEY_TRUST: NOT_CHECKED,
        SCHEMA: FAILED,
        CHAIN: NOT_CHECKED,
        INCLUSION: NOT_CHECKED,
    }
    assert found.receipt is None


def test_every_error_is_told_at_once() -> None:
    other = replace(TRUSTED, tenant_id="globex")
    names = [error.partition(":")[0] for error in verify(THIRD, [other], FIRST).errors]
    assert names == [KEY_TRUST, CHAIN]
