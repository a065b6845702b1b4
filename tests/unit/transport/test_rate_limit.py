import time

import pytest

from oars_grpc.errors import ResourceExhausted
from oars_grpc.transport.rate_limit import RateLimit

AGENT = "spiffe://oars.dev/agent"


def test_calls_up_to_the_rate_pass_and_one_more_is_told_when_to_try_again() -> None:
    limit = RateLimit("3/hour")
    for _ in range(3):
        limit.check(AGENT)
    with pytest.raises(ResourceExhausted) as refused:
        limit.check(AGENT)
    assert 0 < refused.value.retry_after_ms <= 3_600_000
    assert AGENT in refused.value.message


def test_one_identity_does_not_use_up_the_rate_of_another() -> None:
    limit = RateLimit("1/hour")
    limit.check(AGENT)
    limit.check("spiffe://oars.dev/other")
    for subject in (AGENT, "spiffe://oars.dev/other"):
        with pytest.raises(ResourceExhausted):
            limit.check(subject)


def test_a_call_refused_for_another_reason_counts_though_the_rate_is_used_up() -> None:
    limit = RateLimit("2/hour")
    limit.check_before(AGENT)
    for _ in range(3):
        limit.count(AGENT)
    for check in (limit.check_before, limit.check):
        with pytest.raises(ResourceExhausted) as refused:
            check(AGENT)
        assert 0 < refused.value.retry_after_ms <= 3_600_000


def test_looking_before_a_call_counts_none() -> None:
    limit = RateLimit("1/hour")
    for _ in range(3):
        limit.check_before(AGENT)
    limit.check(AGENT)
    with pytest.raises(ResourceExhausted):
        limit.check_before(AGENT)


def test_the_delay_is_what_is_left_of_the_window() -> None:
    limit = RateLimit("1/hour")
    limit.check(AGENT)
    time.sleep(1.1)
    with pytest.raises(ResourceExhausted) as refused:
        limit.check(AGENT)
    assert refused.value.retry_after_ms <= 3_599_500


def test_a_call_after_the_delay_passes() -> None:
    limit = RateLimit("1/second")
    limit.check(AGENT)
    with pytest.raises(ResourceExhausted) as refused:
        limit.check(AGENT)
    time.sleep(refused.value.retry_after_ms / 1000 + 0.05)
    limit.check(AGENT)


def test_a_rate_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError):
        RateLimit("fast")


def test_people_who_called_once_are_not_kept_for_good() -> None:
    limit = RateLimit("1/second")
    for number in range(10_000):
        limit.check(f"oidc:https://idp.example.com#{number}")
    time.sleep(1.1)
    limit.check(AGENT)
    assert len(limit._windows) == 1
    with pytest.raises(ResourceExhausted):
        limit.check(AGENT)
