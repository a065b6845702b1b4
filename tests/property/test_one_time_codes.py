"""Whatever is tried in whatever order, a code counts at most once and guesses stay few."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st
from pyotp import TOTP

from oars_grpc.core.second_factor import (
    LOCK_TIME,
    MAXIMUM_FAILURES,
    SecondFactor,
    secret_text,
    try_code,
)

SECRET = bytes(range(20))
START = datetime(2026, 3, 1, tzinfo=UTC)
CODES = TOTP(secret_text(SECRET))

# How much later in seconds, and which code: of the step so far from the present one, or a guess.
TRIES = st.lists(
    st.tuples(
        st.sampled_from([0, 0, 0, 1, 29, 30, 31, 90, 450, 899, 900]),
        st.one_of(st.integers(-3, 3), st.just(None)),
    ),
    max_size=60,
)


def guess(present: int) -> str:
    near = {CODES.generate_otp(step) for step in range(present - 1, present + 2)}
    return next(text for text in ("000000", "111111", "222222", "333333") if text not in near)


@given(tries=TRIES)
def test_every_step_counts_at_most_once_and_never_after_a_later_one(
    tries: list[tuple[int, int | None]],
) -> None:
    factor = SecondFactor("acme", "alice", b"", START, "admin")
    now, accepted, in_a_row = START, [], 0
    for seconds, offset in tries:
        now += timedelta(seconds=seconds)
        present = CODES.timecode(now)
        code = guess(present) if offset is None else CODES.generate_otp(present + offset)
        locked = factor.locked_for(now) is not None
        before = factor
        factor, step = try_code(factor, SECRET, code, now)
        right = offset is not None and abs(offset) <= 1 and present + offset > before.last_step
        if locked:
            assert (factor, step) == (before, None)
            continue
        assert (step is not None) == right
        if step is None:
            in_a_row += 1
            locks = in_a_row >= MAXIMUM_FAILURES
            expected = replace(
                before, failures=in_a_row, locked_until=now + LOCK_TIME if locks else None
            )
            assert factor == expected
        else:
            assert CODES.generate_otp(step) == code
            accepted.append(step)
            in_a_row = 0
    assert accepted == sorted(set(accepted))
