import threading

import pytest

from oars_grpc.transport.admission import BoundedPool, Pools, StreamPool

SECONDS = 10


def is_full(pool: BoundedPool) -> bool:
    """Asked anew each time, which a type checker does not expect of a property."""
    return pool.full


def test_a_pool_is_full_with_its_threads_and_waiting_places_taken() -> None:
    pool, release = BoundedPool(1, 1, "test"), threading.Event()
    first = pool.submit(release.wait, SECONDS)
    assert not is_full(pool)
    pool.submit(release.wait, SECONDS)
    assert is_full(pool)
    ended = threading.Event()
    first.add_done_callback(lambda _: ended.set())
    release.set()
    assert ended.wait(SECONDS)
    assert not is_full(pool)
    pool.shutdown()


def test_who_asks_after_the_end_is_called_back_at_once() -> None:
    pool = BoundedPool(1, 0, "test")
    ended = threading.Event()
    submitted = pool.submit(int)
    submitted.add_done_callback(lambda _: ended.set())
    assert ended.wait(SECONDS)
    called: list[object] = []
    submitted.add_done_callback(called.append)
    assert called == [submitted]
    pool.shutdown()


def test_calls_run_at_once_on_as_many_threads_as_there_are() -> None:
    pool, together = BoundedPool(3, 0, "test"), threading.Barrier(4)
    for _ in range(3):
        pool.submit(together.wait, SECONDS)
    together.wait(SECONDS)
    pool.shutdown()


def test_a_call_that_raises_frees_its_place_and_its_thread() -> None:
    pool, ended = BoundedPool(1, 0, "test"), threading.Event()
    pool.submit(int, "no number").add_done_callback(lambda _: ended.set())
    assert ended.wait(SECONDS)
    assert not is_full(pool)
    served = threading.Event()
    pool.submit(served.set)
    assert served.wait(SECONDS)
    pool.shutdown()


def test_a_pool_that_is_shut_down_has_served_what_was_submitted_and_takes_no_more() -> None:
    pool = BoundedPool(1, 8, "test")
    served: list[int] = []
    for number in range(5):
        pool.submit(served.append, number)
    pool.shutdown()
    assert served == list(range(5))
    with pytest.raises(RuntimeError):
        pool.submit(served.append, 5)


def test_lattices_have_threads_of_their_own_and_health_too() -> None:
    pools = Pools(
        calls=BoundedPool(1, 1, "rpc"),
        lattices=BoundedPool(1, 1, "lattice"),
        streams=StreamPool(1, "stream"),
    )
    for method, pool in {
        "/oars.v1.ActionService/SubmitAction": pools.calls,
        "/oars.v1.LatticeService/QueryLattice": pools.lattices,
        "/oars.v1.LatticeService/SettleOnce": pools.lattices,
        "/google.longrunning.Operations/GetOperation": pools.calls,
        "/grpc.health.v1.Health/Check": pools.health,
    }.items():
        assert pools.serving(method) is pool, method
    pools.shutdown()
