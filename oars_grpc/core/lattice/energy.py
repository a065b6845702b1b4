"""The lattice's energy and what settling it wins, term by term.

    H(U) = anchor |U - Y|^2 + graph tr(U^T L U) + query sum_i b_i |u_i - psi|^2
           + chain tr(U^T L_path U)

The settled state is U* = V + w psi^T, so each term at U*, and at the anchors, is a quadratic in
the query alone: a + 2 c.psi + e |psi|^2. Those are stored, and an energy costs O(D) at any N.
"""

import math
from dataclasses import dataclass
from operator import add
from typing import NamedTuple

import numpy as np

from oars_grpc.core.lattice.arrays import Float32Array, Float64Array, frozen

# Of sums of squares in float64: pairwise or blockwise over any N x D, a few roundings each.
ROUNDING = 2.0**-40


@dataclass(frozen=True, slots=True)
class Quadratic:
    """a + 2 c.psi + e |psi|^2."""

    constant: float
    linear: Float64Array
    square: float

    @classmethod
    def constantly(cls, value: float, dimension: int) -> "Quadratic":
        """A quadratic that does not depend on the query."""
        return cls(value, np.zeros(dimension), 0.0)


# What every light reading makes is a tuple: a frozen dataclass takes twice as long to make.
class EnergyTerms(NamedTuple):
    """The four terms of an energy, or of a difference of two."""

    anchor: float
    graph: float
    query: float
    chain: float

    @property
    def total(self) -> float:
        """Their sum."""
        return self.anchor + self.graph + self.query + self.chain

    def __sub__(self, other: "EnergyTerms") -> "EnergyTerms":
        return EnergyTerms(
            self.anchor - other.anchor,
            self.graph - other.graph,
            self.query - other.query,
            self.chain - other.chain,
        )


class Energies(NamedTuple):
    """The energy at the anchors and at the settled state, and that state's residual.

    Norms are Frobenius'. `rounding` bounds what rounding did to any of the energies, and
    `residual_rounding` what it did to the residual.
    """

    before: EnergyTerms
    after: EnergyTerms
    residual: float  # |F - M U|
    side: float  # |F|
    rounding: float
    residual_rounding: float

    @property
    def drop(self) -> EnergyTerms:
        """What settling won; the anchor term's part is what it cost, at most 0."""
        return self.before - self.after


class Query(NamedTuple):
    """A query in the two forms that readings take it in."""

    vector: Float32Array
    wide: Float64Array
    square: float

    @classmethod
    def of(cls, vector: Float32Array) -> "Query":
        """The forms of a canonical vector."""
        wide = vector.astype(np.float64)
        # Not a BLAS product: the sum's order is NumPy's own, whatever the number of threads.
        return cls(vector, wide, float(np.add.reduce(wide * wide)))


@dataclass(frozen=True, slots=True)
class EnergyForms:
    """The quadratics of one lattice, one row for each, in the order of `Energies`."""

    # A handful of numbers: faster one by one than as arrays.
    scalars: tuple[tuple[float, float], ...]  # a, e
    doubled: Float64Array  # 2 c

    @classmethod
    def of(
        cls,
        before: tuple[Quadratic, Quadratic, Quadratic],
        after: tuple[Quadratic, Quadratic, Quadratic, Quadratic],
        residual: Quadratic,
        side: Quadratic,
    ) -> "EnergyForms":
        """From the quadratics of graph, query, chain before; anchor and these after; norms."""
        rows = (*before, *after, residual, side)
        return cls(
            tuple((row.constant, row.square) for row in rows),
            frozen(2.0 * np.stack([row.linear for row in rows])),
        )

    def at(self, query: Query) -> Energies:
        """The energies under a query, in O(D)."""
        square = query.square
        dots = np.add.reduce(self.doubled * query.wide, axis=1).tolist()
        parts = [constant + per_square * square for constant, per_square in self.scalars]
        values = list(map(add, parts, dots))
        # Each is a sum of squares, below 0 only by rounding; |2 c.psi| <= a + e |psi|^2.
        if min(values) < 0.0:
            values = [max(value, 0.0) for value in values]
        graph0, query0, chain0, anchor, graph, asked, chain, residual, side = values
        *energies, residual_parts, side_parts = parts
        # In order: names would take longer than the numbers.
        return Energies(
            EnergyTerms(0.0, graph0, query0, chain0),
            EnergyTerms(anchor, graph, asked, chain),
            math.sqrt(residual),
            math.sqrt(side),
            ROUNDING * max(energies),
            math.sqrt(ROUNDING * residual_parts) + ROUNDING * math.sqrt(side_parts),
        )
