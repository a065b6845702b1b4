"""Parts side by side: in order, bounded, and stopped together."""

from _thread import _count
from collections.abc import Iterator
from functools import partial
from threading import Barrier, Event, Lock, get_ident
from time import monotonic, sleep

import numpy as np
import pytest

from oars_grpc.core.canonical import statement_json
from oars_grpc.core.lattice.arrays import checked_chain
from oars_grpc.core.lattice.neighbors import nearest_neighbors
from oars_grpc.core.lattice.progress import Proceed
from oars_grpc.core.lattice.threads import limit_threads, side_by_side
from tests.support.lattice import clustered, gaussian
from tests.support.settled_lattices import built, stated

MANY = 1 << 20
SECONDS = 20.0


class Stopped(Exception):
    pass


@pytest.fixture(autouse=True)
def _one_thread_afterwards() -> Iterator[None]:
    threads = _count()
    yield
    limit_threads(1)
    # A helper frees its lock with the last thing that it does; `threading` never knew of it.
    deadline = monotonic() + SECONDS
    while _count() > threads:
        assert monotonic() < deadline
        sleep(0.001)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_results_come_in_the_order_of_the_parts(threads: int) -> None:
    limit_threads(threads)
    parts = [partial(lambda place, _: place, place) for place in range(20)]
    assert side_by_side(parts, MANY) == list(range(20))
    assert side_by_side(parts[:0], MANY) == []


def test_two_parts_run_at_the_same_time() -> None:
    limit_threads(2)
    meeting = Barrier(2, timeout=SECONDS)
    assert sorted(side_by_side([lambda _: meeting.wait()] * 2, MANY)) == [0, 1]


def test_never_more_at_a_time_than_allowed() -> None:
    limit_threads(2)
    lock, now, most = Lock(), 0, 0
    meeting = Barrier(2, timeout=SECONDS)

    def part(_: Proceed) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        meeting.wait()
        with lock:
            now -= 1

    side_by_side([part] * 8, MANY)
    assert most == 2


@pytest.mark.parametrize(("threads", "values"), [(1, MANY), (2, 100)])
def test_one_thread_or_little_to_do_stays_in_the_callers_thread(threads: int, values: int) -> None:
    limit_threads(threads)
    assert set(side_by_side([lambda _: get_ident()] * 4, values)) == {get_ident()}


def test_less_than_one_thread_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        limit_threads(0)


@pytest.mark.parametrize("caller_fails", [True, False])
def test_a_fault_of_either_thread_is_the_callers_and_ends_the_other(*, caller_fails: bool) -> None:
    limit_threads(2)
    caller, meeting, later = get_ident(), Barrier(2, timeout=SECONDS), Event()

    def part(within: Proceed) -> None:
        meeting.wait()
        if (get_ident() == caller) is caller_fails:
            raise Stopped
        while True:
            within(0.5)

    def another(_: Proceed) -> None:
        later.set()

    with pytest.raises(Stopped):
        side_by_side([part, part, another], MANY)
    assert not later.is_set()


def test_a_caller_with_nothing_left_to_do_still_hears_that_it_is_to_stop() -> None:
    limit_threads(2)
    caller, helping = get_ident(), Event()

    def part(within: Proceed) -> None:
        if get_ident() == caller:
            assert helping.wait(SECONDS)
            return
        helping.set()
        while True:
            within(0.5)

    def stop_at_the_end(share: float, /) -> None:
        assert get_ident() == caller
        if share == 1.0:
            raise Stopped

    with pytest.raises(Stopped):
        side_by_side([part, part], MANY, stop_at_the_end)


@pytest.mark.parametrize("threads", [1, 2])
def test_shares_ascend_and_are_told_in_the_callers_thread(threads: int) -> None:
    limit_threads(threads)
    shares: list[float] = []
    tellers: set[int] = set()

    def proceed(share: float, /) -> None:
        shares.append(share)
        tellers.add(get_ident())

    def part(within: Proceed) -> None:
        for share in (0.0, 0.5, 1.0):
            within(share)

    side_by_side([part] * 6, MANY, proceed)
    assert shares == sorted(shares)
    assert tellers <= {get_ident()}
    assert threads > 1 or len(shares) == 18


@pytest.mark.parametrize("count", [1100, 2300])
def test_a_lattice_has_the_same_bits_with_one_thread_and_two(count: int) -> None:
    rows = np.concatenate([clustered(count - 100, 96, 12, 4), gaussian(100, 96, 9)])
    query = rows[5] * 0.9 + rows[6] * 0.1
    found = []
    for threads in (1, 2):
        limit_threads(threads)
        chain = checked_chain([3, 9, 27, 81], count)
        example = built(rows, query, None, np.linspace(0, 1, count), chain)
        full = stated(example)
        found.append(
            (
                statement_json(full.statement),
                full.nodes.tobytes(),
                example.lists.indices.tobytes(),
                example.lists.cosines.tobytes(),
                example.lattice.state.field.tobytes(),
                example.lattice.state.outcome,
            )
        )
    assert found[0] == found[1]


def test_a_search_in_two_threads_stops_when_told_to() -> None:
    limit_threads(2)
    for count in (1200, 2500):

        def stop_at_half(share: float, /) -> None:
            if share >= 0.5:
                raise Stopped

        with pytest.raises(Stopped):
            nearest_neighbors(gaussian(count, 64, 3), 6, stop_at_half)
