"""One-time codes: the RFC's own values, a window of three steps, once each, and few guesses."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from pyotp import TOTP

from oars_grpc.core.sealing import seal, unseal
from oars_grpc.core.second_factor import (
    LOCK_TIME,
    MAXIMUM_FAILURES,
    SecondFactor,
    enrolment_uri,
    is_code,
    secret_text,
    try_code,
)

# RFC 6238, appendix B: the secret of SHA-1.
SECRET = b"12345678901234567890"
FACTOR = SecondFactor("acme", "spiffe://a/b", b"sealed", datetime(2026, 1, 1, tzinfo=UTC), "admin")


def at(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def code(step: int) -> str:
    return TOTP(secret_text(SECRET)).generate_otp(step)


@pytest.mark.parametrize(
    ("seconds", "digits"),
    # Appendix B has eight digits; six are their end (RFC 4226, section 5.3: modulo 10^digits).
    [
        (59, "94287082"),
        (1111111109, "07081804"),
        (1111111111, "14050471"),
        (1234567890, "89005924"),
        (2000000000, "69279037"),
        (20000000000, "65353130"),
    ],
)
def test_the_codes_of_the_rfc_are_accepted(seconds: int, digits: str) -> None:
    tried, step = try_code(FACTOR, SECRET, digits[-6:], at(seconds))
    assert step == seconds // 30
    assert tried == replace(FACTOR, last_step=step)


@pytest.mark.parametrize("offset", [-3, -2, -1, 0, 1, 2, 3])
def test_one_step_of_drift_is_forgiven_on_either_side(offset: int) -> None:
    _, step = try_code(FACTOR, SECRET, code(1000 + offset), at(30_000))
    assert step == (1000 + offset if abs(offset) <= 1 else None)


def test_a_code_counts_once_and_so_do_all_before_it() -> None:
    used, step = try_code(FACTOR, SECRET, code(1000), at(30_000))
    assert step == 1000
    for earlier in (999, 1000):
        refused, step = try_code(used, SECRET, code(earlier), at(30_000))
        assert step is None
        assert refused == replace(used, failures=1)
    assert try_code(used, SECRET, code(1001), at(30_000))[1] == 1001


def test_a_code_that_two_steps_share_is_used_up_for_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TOTP, "generate_otp", lambda _self, _step: "000000")
    used, step = try_code(FACTOR, SECRET, "000000", at(30_000))
    assert step == 1001
    assert try_code(used, SECRET, "000000", at(30_000))[1] is None


def wrong(factor: SecondFactor, times: int, now: datetime) -> SecondFactor:
    bad = next(text for text in ("000000", "000001") if text not in {code(n) for n in (999, 1000)})
    for _ in range(times):
        factor, step = try_code(factor, SECRET, bad, now)
        assert step is None
    return factor


def test_five_wrong_codes_in_a_row_lock_and_a_right_one_unlocks_only_afterwards() -> None:
    now = at(30_000)
    nearly = wrong(FACTOR, MAXIMUM_FAILURES - 1, now)
    assert nearly.locked_for(now) is None
    locked = wrong(nearly, 1, now)
    assert locked.locked_for(now) == LOCK_TIME == timedelta(minutes=15)
    # While locked nothing is tried: neither does a right code count, nor a wrong one lengthen it.
    assert try_code(locked, SECRET, code(1000), now) == (locked, None)
    after = now + LOCK_TIME
    assert locked.locked_for(after - timedelta(microseconds=1)) == timedelta(microseconds=1)
    assert locked.locked_for(after) is None
    opened, step = try_code(locked, SECRET, code(1030), after)
    assert step == 1030
    assert (opened.failures, opened.locked_until) == (0, None)


def test_after_a_lock_the_next_wrong_code_locks_again() -> None:
    locked = wrong(FACTOR, MAXIMUM_FAILURES, at(30_000))
    after = at(30_000) + LOCK_TIME
    again = wrong(locked, 1, after)
    assert again.locked_for(after) == LOCK_TIME


def test_a_right_code_in_between_begins_the_count_anew() -> None:
    nearly = wrong(FACTOR, MAXIMUM_FAILURES - 1, at(30_000))
    reset, step = try_code(nearly, SECRET, code(1000), at(30_000))
    assert step == 1000
    assert wrong(reset, MAXIMUM_FAILURES - 1, at(30_000)).locked_until is None


FULL_WIDTH = "\uff11\uff12\uff13\uff14\uff15\uff16"


@pytest.mark.parametrize(
    "text", ["", "12345", "1234567", "12345a", FULL_WIDTH, "123456\n", " 12345"]
)
def test_only_six_ascii_digits_are_a_code(text: str) -> None:
    assert not is_code(text)
    assert is_code("012345")


def test_the_uri_is_what_authenticator_apps_read() -> None:
    uri = urlsplit(enrolment_uri(SECRET, "acme", "spiffe://example/päule"))
    assert (uri.scheme, uri.netloc) == ("otpauth", "totp")
    assert unquote(uri.path) == "/OARS acme:spiffe://example/päule"
    asked = parse_qs(uri.query)
    assert asked == {"secret": ["GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"], "issuer": ["OARS acme"]}


def test_a_sealed_secret_opens_under_its_key_for_its_owner_only() -> None:
    sealed = seal(bytes(32), SECRET, "factor of a", bytes(12))
    assert SECRET not in sealed
    assert unseal(bytes(32), sealed, "factor of a") == SECRET
    changed = bytes([*sealed[:-1], sealed[-1] ^ 1])
    for key, data, owner in (
        (b"k" * 32, sealed, "factor of a"),
        (bytes(32), sealed, "factor of b"),
        (bytes(32), changed, "factor of a"),
        (bytes(32), sealed[:10], "factor of a"),
        (bytes(32), b"", "factor of a"),
    ):
        with pytest.raises(ValueError):
            unseal(key, data, owner)
