"""How many threads a computation takes: the lattice's own, or those of a matrix product."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from threadpoolctl import ThreadpoolController

from oars_grpc.core.lattice.threads import limit_threads


@dataclass(frozen=True, slots=True)
class Threads:
    """As many threads for either contestant."""

    count: int
    controller: ThreadpoolController

    def of_products(self) -> AbstractContextManager[Any]:
        """While the other computes: all that it does beside others are its matrix products."""
        limited: AbstractContextManager[Any] = self.controller.limit(
            limits=self.count, user_api="blas"
        )
        return limited


@contextmanager
def computing_in(count: int | None) -> Iterator[Threads]:
    """Compute lattices in so many threads, as a service does that is set so.

    None: as many as matrix products take by default.
    """
    controller = ThreadpoolController()
    products = [each["num_threads"] for each in controller.info() if each["user_api"] == "blas"]
    threads = Threads(count or min(products, default=1), controller)
    with controller.limit(limits=1, user_api="blas"):
        before = limit_threads(threads.count)
        try:
            yield threads
        finally:
            limit_threads(before)
