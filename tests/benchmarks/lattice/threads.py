"""How many threads a computation takes: a matrix product, and the lattice's own as many."""

from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import threadpool_info, threadpool_limits

from oars_grpc.core.lattice.threads import limit_threads


@contextmanager
def computing_in(threads: int | None) -> Iterator[None]:
    """Compute in so many threads, as a service does that is set so; None: in as many as BLAS."""
    with threadpool_limits(threads, "blas"):
        products = [each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"]
        before = limit_threads(min(products, default=1))
        try:
            yield
        finally:
            limit_threads(before)
