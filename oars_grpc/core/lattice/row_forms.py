"""The one pass over anchors and state that every reading of a settled lattice rests on.

It takes some rows at a time, with the rows that they are linked to, so that memory beyond the
lattice stays bounded: a node has few neighbours, and only one that a chain links to most others
asks for most rows at once. It adds in an order that depends on the lattice alone: no BLAS takes
part.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from oars_grpc.core.lattice.arrays import Float32Array, Float64Array, Int64Array
from oars_grpc.core.lattice.laplacian import SparseMatrix
from oars_grpc.core.lattice.links import Links
from oars_grpc.core.lattice.locality import Surroundings, places_of, row_slices, rows_of
from oars_grpc.core.lattice.progress import Proceed, between, keep_going
from oars_grpc.core.lattice.system import System
from oars_grpc.core.lattice.threads import side_by_side

# Values up to which a lattice is passed over whole, and so many at a time beyond.
_WHOLE_VALUES = 1 << 18
_PART_VALUES = 1 << 17
# Parts whose sums are held before they are added.
_BATCH = 64


@dataclass(frozen=True, slots=True)
class RowWeights:
    """The weights with which rows add up to the linear parts of the forms."""

    missing: Float64Array  # N: for the rows of V's residual
    field: Float64Array  # K x N: for those of V
    anchors: Float64Array  # K x N: for those of Y


@dataclass(slots=True)
class RowSums:
    """Weighted sums of rows, and the squared length of V's residual."""

    missing: Float64Array  # D
    field: Float64Array  # K x D
    anchors: Float64Array  # K x D
    missing_square: float

    @classmethod
    def none(cls, weights: RowWeights, dimension: int) -> "RowSums":
        """The sums of no rows."""
        return cls(
            np.zeros(dimension),
            np.zeros((len(weights.field), dimension)),
            np.zeros((len(weights.anchors), dimension)),
            0.0,
        )

    def add(self, other: "RowSums") -> None:
        """Take the sums of further rows in."""
        self.missing += other.missing
        self.field += other.field
        self.anchors += other.anchors
        self.missing_square += other.missing_square


@dataclass(frozen=True, slots=True)
class RowForms:
    """What the pass finds of each node and link, and its sums over the nodes."""

    anchor_squares: Float64Array
    field_squares: Float64Array
    offset_squares: Float64Array
    edge_gaps: Float64Array  # 2 x E: at the anchors and at V
    link_gaps: Float64Array  # 2 x links of the chain
    sums: RowSums


def row_forms(
    anchors: Float32Array,
    field: Float32Array,
    system: System,
    links: tuple[Links, Links],
    weights: RowWeights,
    proceed: Proceed = keep_going,
) -> RowForms:
    """The forms of a state V; `links` are the graph's and the chain's."""
    (count, dimension), (edges, chain) = anchors.shape, links
    found = RowForms(
        anchor_squares=np.empty(count),
        field_squares=np.empty(count),
        offset_squares=np.empty(count),
        edge_gaps=np.empty((2, len(edges))),
        link_gaps=np.empty((2, len(chain))),
        sums=RowSums.none(weights, dimension),
    )
    ready = _Pass(found, weights, system.parameters.anchor_weight)
    if anchors.size <= _WHOLE_VALUES:
        proceed(0.0)
        every = slice(None)
        whole = _Part(
            nodes=every,
            own=count,
            given=anchors.astype(np.float64),
            settled=field.astype(np.float64),
            matrix=system.matrix,
            links=((every, edges), (every, chain)),
        )
        sums = RowSums.none(weights, dimension)
        side_by_side([partial(work, whole, sums) for work in ready.works], anchors.size)
        found.sums.add(sums)
        return found

    def pass_over(cut: _Cut, within: Proceed) -> RowSums:
        within(0.0)
        part, sums = cut.part(anchors, field), RowSums.none(weights, dimension)
        for work in ready.works:
            work(part, sums, within)
        return sums

    cuts = list(_cuts(system, links, max(1, _PART_VALUES // dimension)))
    for start in range(0, len(cuts), _BATCH):
        batch = cuts[start : start + _BATCH]
        ahead = between(proceed, start / len(cuts), (start + len(batch)) / len(cuts))
        for sums in side_by_side([partial(pass_over, cut) for cut in batch], anchors.size, ahead):
            found.sums.add(sums)
    return found


@dataclass(frozen=True, slots=True)
class _Part:
    """Some nodes, and behind them those that they are linked to, as float64 copies."""

    nodes: Int64Array | slice
    own: int  # as many rows are those of `nodes`
    given: Float64Array
    settled: Float64Array
    matrix: SparseMatrix
    links: tuple[tuple[Int64Array | slice, Links], ...]  # each kind's, with their places


_Work = Callable[[_Part, RowSums, Proceed], None]


@dataclass(frozen=True, slots=True)
class _Pass:
    """The works on a part. Each finds numbers of its own: they can stand side by side."""

    found: RowForms
    weights: RowWeights
    anchor_weight: float

    @property
    def works(self) -> tuple[_Work, ...]:
        return (self.residual, self.rows, self.anchor_gaps, self.field_gaps)

    def residual(self, part: _Part, sums: RowSums, _: Proceed) -> None:
        given, settled = part.given[: part.own], part.settled[: part.own]
        lacking = self.anchor_weight * given
        lacking -= part.matrix @ part.settled
        sums.missing = np.einsum("n,nc->c", self.weights.missing[part.nodes], lacking)
        sums.missing_square = float(np.add.reduce(_row_squares(lacking)))
        np.subtract(settled, given, out=lacking)
        self.found.offset_squares[part.nodes] = _row_squares(lacking)

    def rows(self, part: _Part, sums: RowSums, _: Proceed) -> None:
        given, settled = part.given[: part.own], part.settled[: part.own]
        sums.field = np.einsum("kn,nc->kc", self.weights.field[:, part.nodes], settled)
        sums.anchors = np.einsum("kn,nc->kc", self.weights.anchors[:, part.nodes], given)
        self.found.anchor_squares[part.nodes] = _row_squares(given)
        self.found.field_squares[part.nodes] = _row_squares(settled)

    def anchor_gaps(self, part: _Part, _s: RowSums, _: Proceed) -> None:
        self._gaps(part, part.given, 0)

    def field_gaps(self, part: _Part, _s: RowSums, _: Proceed) -> None:
        self._gaps(part, part.settled, 1)

    def _gaps(self, part: _Part, rows: Float64Array, state: int) -> None:
        kinds = (self.found.edge_gaps, self.found.link_gaps)
        for gaps, (places, links) in zip(kinds, part.links, strict=True):
            if len(links):
                gaps[state, places] = links.gaps(rows)


@dataclass(frozen=True, slots=True)
class _Cut:
    """Where a part lies: nothing of its rows is held yet."""

    rows: slice
    order: Int64Array | None
    matrix: SparseMatrix
    links: tuple["_Sorted", ...]

    def part(self, anchors: Float32Array, field: Float32Array) -> _Part:
        matrix = rows_of(self.matrix, self.rows)
        columns = matrix.indices.astype(np.int64)
        kinds = [each.from_rows(self.rows) for each in self.links]
        around = Surroundings.of(
            self.rows, np.concatenate([columns, *(kind.high for kind in kinds)])
        )
        nodes = around.nodes(self.order)
        return _Part(
            nodes=nodes[: around.own],
            own=around.own,
            given=anchors.take(nodes, axis=0).astype(np.float64),
            settled=field.take(nodes, axis=0).astype(np.float64),
            matrix=SparseMatrix(
                (matrix.data, around.local(columns), matrix.indptr),
                shape=(around.own, len(around)),
            ),
            links=tuple((kind.places, kind.among(around, nodes)) for kind in kinds),
        )


def _cuts(system: System, links: tuple[Links, ...], step: int) -> Iterator[_Cut]:
    matrix, order = system.arranged().matrix, system.order
    kinds = tuple(_Sorted.of(each, order) for each in links)
    for rows in row_slices(len(system), step):
        yield _Cut(rows, order, matrix, kinds)


@dataclass(frozen=True, slots=True)
class _Sorted:
    """Links by that end which comes first in the order of the rows."""

    links: Links
    places: Int64Array  # among all links
    low: Int64Array  # in the order of the rows, ascending
    high: Int64Array

    @classmethod
    def of(cls, links: Links, order: Int64Array | None) -> "_Sorted":
        low, high = links.low, links.high
        if order is not None:
            places = places_of(order)
            low, high = places[low], places[high]
        first = np.minimum(low, high)
        by = np.argsort(first, kind="stable")
        return cls(links, by, first[by], np.maximum(low, high)[by])

    def from_rows(self, rows: slice) -> "_Sorted":
        """The links whose first end is among some rows."""
        start, end = np.searchsorted(self.low, (rows.start, rows.stop))
        part = slice(start, end)
        return _Sorted(self.links, self.places[part], self.low[part], self.high[part])

    def among(self, around: Surroundings, nodes: Int64Array) -> Links:
        """These links as ones between some nodes. A gap is as wide from either end."""
        scale = self.links.scale
        return Links(
            low=around.local(self.low),
            high=around.local(self.high),
            strengths=self.links.strengths[self.places],
            scale=None if scale is None else scale[nodes],
            nodes=nodes.size,
        )


def _row_squares(rows: Float64Array) -> Float64Array:
    return np.asarray(np.einsum("nc,nc->n", rows, rows))
