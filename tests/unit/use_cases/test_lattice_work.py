"""Places for heavy computations, and the cache of ready lattices."""

import threading
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import scipy.sparse as sp

from oars_grpc.errors import DeadlineExceeded, ResourceExhausted
from oars_grpc.use_cases.lattice_work import HeavyWork, LatticeCache, bytes_of

A, B, C = (("tenant", "lat", name) for name in "abc")


def going_on(_share: float, /) -> None:
    return


class Ended:
    """Stops once it is told to."""

    def __init__(self) -> None:
        self.told = threading.Event()

    def __call__(self, _share: float, /) -> None:
        if self.told.is_set():
            raise DeadlineExceeded("the call ended")


@dataclass(frozen=True, slots=True)
class Kept:
    name: str
    size: int


def cache(budget: int) -> LatticeCache[Kept]:
    return LatticeCache(budget, lambda kept: kept.size)


def never() -> Kept:
    raise AssertionError("it was kept")


def test_only_so_many_compute_at_a_time() -> None:
    heavy, lock = HeavyWork(2, 8), threading.Lock()
    now, most = 0, 0

    def compute() -> None:
        nonlocal now, most
        with heavy.place(going_on):
            with lock:
                now += 1
                most = max(most, now)
            threading.Event().wait(0.02)
            with lock:
                now -= 1

    threads = [threading.Thread(target=compute) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 2


def test_who_waits_for_a_place_leaves_when_its_call_ends() -> None:
    heavy, ended = HeavyWork(1, 32), Ended()
    failed = threading.Event()

    def wait() -> None:
        with pytest.raises(DeadlineExceeded), heavy.place(ended):
            raise AssertionError("there was no place")
        failed.set()

    with heavy.place(going_on):
        waiting = threading.Thread(target=wait)
        waiting.start()
        ended.told.set()
        waiting.join(10)
    assert failed.is_set()
    with heavy.place(going_on):  # its place was never taken
        pass


def test_too_many_are_refused_at_once() -> None:
    heavy, ended = HeavyWork(1, 32), Ended()

    def wait() -> None:
        with pytest.raises(DeadlineExceeded), heavy.place(ended):
            raise AssertionError("there was no place")

    with heavy.place(going_on):
        threads = [threading.Thread(target=wait) for _ in range(32)]
        for thread in threads:
            thread.start()
        while heavy._waiting._value:
            threading.Event().wait(0.01)
        with pytest.raises(ResourceExhausted) as caught, heavy.place(going_on):
            raise AssertionError("there was no place")
        ended.told.set()
        for thread in threads:
            thread.join(10)
    assert caught.value.retry_after_ms
    with heavy.place(going_on):  # the room is free again
        pass


def test_there_is_room_for_who_finds_a_place_whoever_else_waits() -> None:
    heavy, ended = HeavyWork(1, 1, 250), Ended()

    def wait() -> None:
        with pytest.raises(DeadlineExceeded), heavy.place(ended):
            raise AssertionError("there was no place")

    heavy._waiting.acquire()  # as many wait as may
    with heavy.place(going_on):  # who need not wait needs no room for it
        with pytest.raises(ResourceExhausted) as caught, heavy.place(going_on):
            raise AssertionError("there was no place")
        assert caught.value.retry_after_ms == 250
        heavy._waiting.release()
        waiting = threading.Thread(target=wait)
        waiting.start()
        ended.told.set()
        waiting.join(10)
        assert not waiting.is_alive()
    with pytest.raises(DeadlineExceeded), heavy.place(ended):  # nothing is done for who has left
        raise AssertionError("its call had ended")


def test_what_is_kept_is_not_made_again_and_the_oldest_goes_first() -> None:
    kept = cache(100)
    for key in (A, B):
        kept.get(key, partial(Kept, key[2], 40), going_on)
    assert kept.get(A, never, going_on).name == "a"  # used last
    kept.get(C, lambda: Kept("c", 40), going_on)
    assert kept.held_bytes == 80
    assert kept.get(A, never, going_on).name == "a"
    with pytest.raises(AssertionError, match="it was kept"):  # B was let go
        kept.get(B, never, going_on)


def test_what_is_larger_than_the_budget_is_answered_and_not_kept() -> None:
    kept = cache(100)
    kept.get(A, lambda: Kept("a", 60), going_on)
    assert kept.get(B, lambda: Kept("b", 101), going_on).name == "b"
    assert kept.held_bytes == 60
    assert kept.get(A, never, going_on).name == "a"


def test_one_makes_it_while_the_others_wait() -> None:
    kept, begun, go_on = cache(100), threading.Event(), threading.Event()
    made: list[int] = []
    found: list[Kept] = []

    def make() -> Kept:
        made.append(1)
        begun.set()
        assert go_on.wait(10)
        return Kept("a", 1)

    threads = [
        threading.Thread(target=lambda: found.append(kept.get(A, make, going_on))) for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    assert begun.wait(10)
    ended = Ended()
    ended.told.set()
    with pytest.raises(DeadlineExceeded):  # one whose call has ended waits no longer
        kept.get(A, never, ended)
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert (len(made), found) == (1, [Kept("a", 1)] * 5)


def test_a_maker_that_fails_leaves_the_making_to_the_next() -> None:
    kept, begun, go_on = cache(100), threading.Event(), threading.Event()
    found: list[Kept] = []

    def fail() -> Kept:
        begun.set()
        assert go_on.wait(10)
        raise DeadlineExceeded("the call ended")

    def first() -> None:
        with pytest.raises(DeadlineExceeded):
            kept.get(A, fail, going_on)

    def second() -> None:
        found.append(kept.get(A, lambda: Kept("a", 1), going_on))

    one = threading.Thread(target=first)
    one.start()
    assert begun.wait(10)
    two = threading.Thread(target=second)
    two.start()
    go_on.set()
    one.join(10)
    two.join(10)
    assert found == [Kept("a", 1)]


@dataclass(frozen=True, slots=True)
class Holder:
    array: object
    other: object


def test_the_bytes_of_a_value_are_those_of_its_arrays_each_counted_once() -> None:
    array = np.zeros(100, np.float64)
    assert bytes_of(Holder(array, array)) == 800
    assert bytes_of(Holder(array, array[:3])) == 800  # a view holds the whole
    assert bytes_of(Holder(Holder(array, "text"), np.ones(2, np.float32))) == 808
    matrix = sp.csr_array(np.eye(10))
    held = matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes
    assert bytes_of(Holder(matrix, None)) == held
