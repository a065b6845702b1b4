"""Oscillink, from a checkout: what it offers for one query, done as its documentation does it."""

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

# Above this its full receipt needs 2 N^2 D floats at once and more memory than machines have.
FULL_RECEIPT_BYTES = 4 << 30


class Peer:
    """The package, imported from a checkout: its wheel cannot be imported as published."""

    def __init__(self, checkout: Path) -> None:
        # First on the path only while it is imported: the checkout has folders `tests` and
        # `benchmarks` too.
        sys.path.insert(0, str(checkout.resolve()))
        try:
            self._package: Any = importlib.import_module("oscillink")
        finally:
            sys.path.remove(str(checkout.resolve()))
        found = Path(str(self._package.__file__))
        if not found.is_relative_to(checkout.resolve()):
            raise ValueError(f"not imported from {checkout} but from {found}")
        self.version = str(self._package.__version__)

    def lattice(self, anchors: Floats, neighbors: int = 6) -> "PeerLattice":
        """Its graph of the anchors, with its default parameters."""
        return PeerLattice(self._package.OscillinkLattice(anchors, kneighbors=neighbors))


class PeerLattice:
    """One of its lattices."""

    def __init__(self, lattice: Any) -> None:
        self._lattice = lattice
        rows, columns = lattice.Y.shape
        self.full = 2 * rows * rows * columns * 4 <= FULL_RECEIPT_BYTES
        lattice.set_receipt_detail("full" if self.full else "light")

    def answer(self, query: Floats, top: int = 8) -> tuple[float, list[int]]:
        """Settle, solve, receipt and bundle for a query: its energy and its items."""
        self._lattice.set_query(query)
        self._lattice.settle()
        receipt = self._lattice.receipt()
        return receipt["deltaH_total"], self.bundle(top)

    def ranked(self, query: Floats, top: int) -> list[int]:
        """Its bundle for a query, without a receipt."""
        self._lattice.set_query(query)
        return self.bundle(top)

    def bundle(self, top: int) -> list[int]:
        """Its items for the query that is set."""
        return [item["id"] for item in self._lattice.bundle(k=top)]
