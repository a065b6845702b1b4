"""A receipt with all that came before it."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest

from oars_grpc.core.envelope import PAYLOAD_TYPE, Envelope, Signature
from oars_grpc.core.event import KEY_ROTATED, write_event
from oars_grpc.core.keys import KeyPurpose, KeyState, TrustedKey
from oars_grpc.core.receipt import Receipt
from oars_grpc.core.verification import CheckResult, Surroundings, Verification, verify_receipt
from tests.support.factories import (
    NOW,
    TENANT,
    append_receipt,
    make_action,
    make_signing_key,
    make_stored_key,
    new_id,
)

TRUSTED = make_stored_key().trusted
NEW_SEED = bytes(32)
NEW_KEY = make_stored_key(seed=NEW_SEED).trusted
PASSED, FAILED, NOT_CHECKED = CheckResult


def make_chain(length: int, rotated_at: int = 0) -> list[Receipt]:
    """The chain of one action; from `rotated_at` on (if set) the new key signs."""
    action = make_action()
    chain = []
    for number in range(1, length + 1):
        seed = NEW_SEED if rotated_at and number >= rotated_at else bytes(range(32))
        action, receipt = append_receipt(action, f"action.{number}", key=make_signing_key(seed))
        chain.append(receipt)
    return chain


CHAIN = [receipt.envelope for receipt in make_chain(5)]
LAST = CHAIN[-1]


def verify(
    envelope: Envelope,
    chain: Sequence[Envelope],
    keys: Sequence[TrustedKey] = (TRUSTED,),
    *,
    whole: bool = True,
) -> tuple[CheckResult, str, Verification]:
    found = verify_receipt(envelope, keys, Surroundings(chain=chain, whole_chain=whole))
    return found.checks[3].result, found.checks[3].detail, found


def test_a_whole_chain_passes() -> None:
    for position, envelope in enumerate(CHAIN):
        result, detail, found = verify(envelope, CHAIN[:position])
        assert (result, detail, found.valid) == (PASSED, "", True)


def test_no_part_of_the_chain_can_be_left_out() -> None:
    for missing in range(4):
        chain = CHAIN[:missing] + CHAIN[missing + 1 : 4]
        result, detail, found = verify(LAST, chain)
        assert (result, found.valid) == (FAILED, False)
        assert f"receipt {missing + 1}" in detail
    result, detail, _ = verify(LAST, ())
    assert (result, detail) == (FAILED, "receipt 4 of the chain is missing")


def test_nothing_can_be_added_or_reordered() -> None:
    stranger = make_chain(1)[0].envelope
    for chain in (
        [stranger, *CHAIN[:4]],
        [*CHAIN[:4], stranger],
        [*CHAIN[:2], stranger, *CHAIN[2:4]],
        [CHAIN[1], CHAIN[0], *CHAIN[2:4]],
        [*CHAIN[:4], CHAIN[3]],
        [CHAIN[0], *CHAIN[:4]],
        [*CHAIN[:4], LAST],
        list(reversed(CHAIN[:4])),
        CHAIN,
    ):
        result, detail, found = verify(LAST, chain)
        assert (result, found.valid) == (FAILED, False)
        assert detail
    assert verify(CHAIN[0], [stranger])[:2] == (
        FAILED,
        "receipt 0: nothing precedes receipt 1",
    )


def test_the_last_of_a_long_chain_pass_and_say_so() -> None:
    assert verify(LAST, CHAIN[2:4], whole=False)[:2] == (PASSED, "the last 2 receipts before it")
    assert verify(LAST, CHAIN[:4], whole=False)[:2] == (PASSED, "")
    assert verify(LAST, [CHAIN[1], CHAIN[3]], whole=False)[0] is FAILED


@pytest.mark.parametrize("place", range(4))
def test_every_signature_within_the_chain_counts(place: int) -> None:
    """The payloads are the right ones, and the links hold; only the signature is another."""
    (good,) = CHAIN[place].signatures
    for signatures in (
        (),
        (good, good),
        (replace(good, sig=bytes(64)),),
        (Signature("0" * 16, good.sig),),
    ):
        chain = [*CHAIN[:4]]
        chain[place] = replace(chain[place], signatures=signatures)
        result, detail, _ = verify(LAST, chain)
        assert result is FAILED
        assert detail.startswith(f"receipt {place + 1}: ")


ROTATED = [receipt.envelope for receipt in make_chain(5, rotated_at=3)]


def test_a_chain_goes_on_under_the_next_key() -> None:
    assert verify(ROTATED[4], ROTATED[:4], [TRUSTED, NEW_KEY])[0] is PASSED
    result, detail, _ = verify(ROTATED[4], ROTATED[:4], [NEW_KEY])
    assert result is FAILED
    assert "receipt 1: no trusted key of the tenant has the id" in detail
    assert "receipt 2: no trusted key of the tenant has the id" in detail


@pytest.mark.parametrize(
    "changes",
    [
        {"tenant_id": "globex"},
        {"purpose": KeyPurpose.CHECKPOINT},
        {"valid_until": NOW},
        {"valid_from": NOW + timedelta(seconds=1)},
    ],
)
def test_a_receipt_within_the_chain_is_signed_by_the_tenants_key_in_its_window(
    changes: dict[str, object],
) -> None:
    old = replace(TRUSTED, **changes)  # type: ignore[arg-type]  # fields by name
    assert verify(ROTATED[4], ROTATED[:4], [old, NEW_KEY])[0] is FAILED


def test_what_a_revoked_key_signed_before_is_vouched_for_by_what_comes_after() -> None:
    """By the digest that a good key signed; at the end of the chain nothing does."""
    revoked = replace(TRUSTED, state=KeyState.REVOKED, revoked_at=NOW)
    assert verify(ROTATED[4], ROTATED[:4], [revoked, NEW_KEY])[2].valid
    assert not verify(ROTATED[1], ROTATED[:1], [revoked, NEW_KEY])[2].valid


def test_events_chain_in_the_tenants_own_chain() -> None:
    events: list[Receipt] = []
    for number in range(3):
        previous = events[-1].envelope.digest() if events else ""
        event = write_event(
            receipt_id=new_id("rcpt"),
            tenant_id=TENANT,
            type_=KEY_ROTATED,
            caller=None,
            event={"number": number},
            sequence=number + 1,
            previous_receipt_digest=previous,
            now=NOW,
            key=make_signing_key(),
        )
        events.append(event)
    envelopes = [event.envelope for event in events]
    assert verify(envelopes[2], envelopes[:2])[2].valid
    assert verify(envelopes[2], [CHAIN[0], envelopes[1]])[0] is FAILED
    # An action's chain is none of the tenant's.
    assert verify(CHAIN[1], envelopes[:1])[0] is FAILED


def test_garbage_in_a_chain_is_answered_and_never_raised() -> None:
    for payload in (b"", b"{}", b"\xff", b"[" * 10_000):
        garbage = Envelope(PAYLOAD_TYPE, payload, ())
        assert verify(LAST, [*CHAIN[:3], garbage])[0] is FAILED
        assert verify(LAST, [garbage, *CHAIN[1:4]])[0] is FAILED
