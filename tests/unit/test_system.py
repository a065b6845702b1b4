import time
from concurrent.futures import ThreadPoolExecutor

from oars_grpc.core.ids import is_id
from oars_grpc.system import SystemChance

_DIGITS = "0123456789abcdefghjkmnpqrstvwxyz"


def _milliseconds(made: str) -> int:
    value = 0
    for digit in made.partition("_")[2]:
        value = value << 5 | _DIGITS.index(digit)
    return value >> 80


def test_later_ids_sort_later_and_none_comes_twice() -> None:
    chance = SystemChance()
    made = [chance.new_id("act") for _ in range(20_000)]
    assert made == sorted(made)
    assert len(set(made)) == len(made)
    assert all(is_id("act", one) for one in made[:100])


def test_ids_of_many_threads_are_distinct() -> None:
    chance = SystemChance()
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: chance.new_id("act"), range(5_000)))
    assert len(set(made)) == len(made)


def test_ids_stay_true_to_the_clock_however_many_are_made() -> None:
    chance = SystemChance()
    for _ in range(20_000):
        last = chance.new_id("act")
    assert abs(_milliseconds(last) - time.time_ns() // 1_000_000) < 1_000
