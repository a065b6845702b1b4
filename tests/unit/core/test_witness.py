"""What a witness cosigns, and what it refuses."""

import pytest

from oars_grpc.core.checkpoint import Checkpoint
from oars_grpc.core.keys import signing_key
from oars_grpc.core.note import COSIGNATURE, Note, Verifier, sign_note
from oars_grpc.core.witness import Refusal, check_offer, verified_checkpoint
from tests.support.forked_log import LOG_SEED, History, history, log_key

ONE, OTHER = history(5, "one"), history(5, "other")


def test_the_first_checkpoint_is_cosigned_whatever_its_size() -> None:
    check_offer(None, ONE.checkpoint(0), [])
    check_offer(None, ONE.checkpoint(40), [])


@pytest.mark.parametrize(("old", "new"), [(0, 9), (1, 2), (4, 8), (7, 7), (7, 64)])
def test_what_continues_the_last_one_is_cosigned(old: int, new: int) -> None:
    check_offer(ONE.checkpoint(old), ONE.checkpoint(new), ONE.proof(old, new))


def refused(last: Checkpoint | None, offered: Checkpoint, proof: list[bytes]) -> Refusal:
    with pytest.raises(Refusal) as caught:
        check_offer(last, offered, proof)
    return caught.value


def test_a_smaller_log_is_refused_even_of_the_same_history() -> None:
    found = refused(ONE.checkpoint(8), ONE.checkpoint(7), [])
    assert "cut off" in str(found)
    assert found.is_fork


def test_another_root_at_the_same_size_is_refused() -> None:
    found = refused(ONE.checkpoint(8), OTHER.checkpoint(8), [])
    assert "two roots at size 8" in str(found)
    assert found.is_fork


@pytest.mark.parametrize("proof", [[], ONE.proof(8, 12), OTHER.proof(8, 12), [bytes(32)] * 3])
def test_a_larger_log_of_another_history_is_refused_with_any_proof(proof: list[bytes]) -> None:
    assert refused(ONE.checkpoint(8), OTHER.checkpoint(12), proof).is_fork


def test_a_log_that_forks_after_what_was_cosigned_has_not_forked() -> None:
    check_offer(ONE.checkpoint(5), OTHER.checkpoint(12), OTHER.proof(5, 12))


def test_a_log_of_another_origin_is_refused() -> None:
    elsewhere = History(ONE.leaves, origin="example.com/globex")
    assert not refused(ONE.checkpoint(8), elsewhere.checkpoint(9), ONE.proof(8, 9)).is_fork


def test_an_empty_log_has_the_root_of_one() -> None:
    forged = Checkpoint("example.com/acme", 0, bytes(32))
    assert "empty" in str(refused(None, forged, []))


def test_a_checkpoint_is_taken_from_the_pinned_key_alone() -> None:
    assert verified_checkpoint(ONE.note(8), [log_key()]) == ONE.checkpoint(8)
    rotated = log_key(seed=bytes(32))
    assert verified_checkpoint(ONE.note(8), [rotated, log_key()]) == ONE.checkpoint(8)
    with pytest.raises(Refusal, match="not signed by a known key"):
        verified_checkpoint(ONE.note(8), [rotated])
    as_cosignature = Verifier("example.com/acme", COSIGNATURE, log_key().public_key)
    with pytest.raises(Refusal, match="not signed by a known key"):
        verified_checkpoint(ONE.note(8), [as_cosignature])


def test_a_key_signs_for_its_own_origin_only() -> None:
    text = History(ONE.leaves, origin="example.com/globex").checkpoint(8).text()
    lent = Note(text, (sign_note(text, "example.com/acme", signing_key(LOG_SEED)[0].private_key),))
    with pytest.raises(
        Refusal, match=r"is of example\.com/globex, and signed by example\.com/acme"
    ):
        verified_checkpoint(lent, [log_key()])
