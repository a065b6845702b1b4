"""Arrays as they come in, checked before any work and brought to one canonical form.

Canonical is C-contiguous little-endian float32 without negative zeros, so that equal inputs have
equal bytes and equal digests.
"""

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from oars_grpc.core.lattice.limits import DEFAULT_LIMITS, LatticeLimits
from oars_grpc.errors import InvalidArgument

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

ArrayT = TypeVar("ArrayT", bound=npt.NDArray[Any])

# Squares of such components, summed over any dimension in float64 or multiplied by the largest
# weight in float32, stay finite.
MAXIMUM_MAGNITUDE = 1e15
MAXIMUM_GATE = 1e6
MAXIMUM_LINK_WEIGHT = 1e6
_CANONICAL = np.dtype("<f4")
_CHECKED_ROWS = 8192


@dataclass(frozen=True, slots=True)
class Chain:
    """Nodes in the order of the reasoning, and one weight for each link between two of them."""

    nodes: Int32Array
    weights: Float64Array


def frozen(array: ArrayT) -> ArrayT:
    """The same array, read-only."""
    array.flags.writeable = False
    return array


def checked_anchors(
    value: object, field: str = "anchors", limits: LatticeLimits = DEFAULT_LIMITS
) -> Float32Array:
    """The anchors as canonical N x D rows, N and D at least 1."""
    rows = _table(value, field, "anchors", limits.max_anchors, limits)
    return _canonical(rows, field, MAXIMUM_MAGNITUDE)


def checked_query(value: object, dimension: int, field: str = "query") -> Float32Array:
    """One query as a canonical vector of the anchors' dimension."""
    vector = _numbers(value, field)
    if vector.shape != (dimension,):
        raise InvalidArgument.of(field, f"must be {dimension} numbers, not {_shape(vector)}")
    return _canonical(vector, field, MAXIMUM_MAGNITUDE)


def checked_queries(
    value: object,
    dimension: int,
    field: str = "queries",
    limits: LatticeLimits = DEFAULT_LIMITS,
) -> Float32Array:
    """Queries as canonical rows of the anchors' dimension, at least one."""
    rows = _table(value, field, "queries", limits.max_queries, limits)
    if rows.shape[1] != dimension:
        raise InvalidArgument.of(
            field, f"must have the anchors' dimension {dimension}, not {rows.shape[1]}"
        )
    return _canonical(rows, field, MAXIMUM_MAGNITUDE)


def checked_gates(value: object, nodes: int, field: str = "gates") -> Float32Array:
    """One gate for each node as canonical float32, each at least 0; None opens all fully."""
    if value is None:
        return frozen(np.ones(nodes, dtype=_CANONICAL))
    gates = _numbers(value, field)
    if gates.shape != (nodes,):
        raise InvalidArgument.of(field, f"must be {nodes} numbers, not {_shape(gates)}")
    canonical = _canonical(gates, field, MAXIMUM_GATE)
    negative = np.flatnonzero(canonical < 0)
    if negative.size:
        raise InvalidArgument.of(f"{field}[{negative[0]}]", "must be at least 0")
    return canonical


def checked_chain(
    nodes: object,
    count: int,
    weights: object = None,
    field: str = "chain",
    limits: LatticeLimits = DEFAULT_LIMITS,
) -> Chain:
    """A chain over nodes 0 to `count` - 1, in the order given; links weigh 1 unless told.

    A chain may come back to a node; a link from a node to itself would mean nothing.
    """
    indices = _numbers(nodes, f"{field}.nodes")
    if indices.dtype.kind not in "iu" or indices.ndim != 1:
        raise InvalidArgument.of(f"{field}.nodes", "must be a list of whole numbers")
    if not 2 <= indices.size <= limits.max_anchors:
        raise InvalidArgument.of(
            f"{field}.nodes", f"must be 2 to {limits.max_anchors} nodes, not {indices.size}"
        )
    outside = np.flatnonzero((indices < 0) | (indices >= count))
    if outside.size:
        raise InvalidArgument.of(f"{field}.nodes[{outside[0]}]", f"must be a node below {count}")
    standing = np.flatnonzero(indices[1:] == indices[:-1])
    if standing.size:
        raise InvalidArgument.of(
            f"{field}.nodes[{standing[0] + 1}]", "must differ from the node before it"
        )
    return Chain(
        nodes=frozen(np.array(indices, dtype=np.int32)),
        weights=_link_weights(weights, indices.size - 1, f"{field}.weights"),
    )


def _link_weights(value: object, links: int, field: str) -> Float64Array:
    if value is None:
        return frozen(np.ones(links))
    given = _numbers(value, field)
    if given.shape != (links,):
        raise InvalidArgument.of(field, f"must be {links} numbers, not {_shape(given)}")
    weights = given.astype(np.float64)
    # Not "<= 0 or >": a NaN fails this too.
    wrong = np.flatnonzero(~((weights > 0) & (weights <= MAXIMUM_LINK_WEIGHT)))
    if wrong.size:
        raise InvalidArgument.of(
            f"{field}[{wrong[0]}]", f"must be over 0 and at most {MAXIMUM_LINK_WEIGHT:g}"
        )
    return frozen(weights)


def _numbers(value: object, field: str) -> npt.NDArray[Any]:
    """The value as an array of real numbers; ragged lists and other things are refused."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as fault:
        raise InvalidArgument.of(field, "must be numbers in rows of one length") from fault
    if array.dtype.kind not in "fiu":
        raise InvalidArgument.of(field, "must be numbers")
    return array


def _table(
    value: object, field: str, what: str, max_rows: int, limits: LatticeLimits
) -> npt.NDArray[Any]:
    """A non-empty table within the limits of rows, columns and bytes."""
    array = _numbers(value, field)
    if array.ndim != 2:
        raise InvalidArgument.of(field, f"must be rows of numbers, not {_shape(array)}")
    rows, columns = array.shape
    if rows < 1 or columns < 1:
        raise InvalidArgument.of(field, "must not be empty")
    if rows > max_rows:
        raise InvalidArgument.of(field, f"must be at most {max_rows} {what}, not {rows}")
    if columns > limits.max_dimension:
        raise InvalidArgument.of(
            field, f"must have a dimension of at most {limits.max_dimension}, not {columns}"
        )
    size = rows * columns * _CANONICAL.itemsize
    if size > limits.max_bytes:
        raise InvalidArgument.of(field, f"must be at most {limits.max_bytes} bytes, not {size}")
    return array


def _canonical(array: npt.NDArray[Any], field: str, largest: float) -> Float32Array:
    """A read-only copy in the canonical form, its numbers finite and within +-`largest`."""
    result = np.empty(array.shape, dtype=_CANONICAL)
    for start in range(0, array.shape[0], _CHECKED_ROWS):
        block = array[start : start + _CHECKED_ROWS]
        # Compared before the cast, which would turn what is too large into infinity.
        sound = np.abs(block) <= largest if block.dtype.kind == "f" else _within(block, largest)
        if not sound.all():
            place = tuple(int(axis[0]) for axis in np.nonzero(~sound))
            value = block[place]
            name = field + "".join(f"[{i}]" for i in (start + place[0], *place[1:]))
            description = (
                f"must be from {-largest:g} to {largest:g}"
                if np.isfinite(value)
                else f"must be finite, not {value}"
            )
            raise InvalidArgument.of(name, description)
        # Adding zero turns -0 into +0 and changes nothing else.
        np.add(block.astype(_CANONICAL), np.float32(0), out=result[start : start + block.shape[0]])
    return frozen(result)


def _within(block: npt.NDArray[Any], largest: float) -> BoolArray:
    """Whether integers are within bounds; their absolute value may not fit their own type."""
    wide = block.astype(np.float64)
    return np.asarray(np.abs(wide) <= largest)


def _shape(array: npt.NDArray[Any]) -> str:
    return " x ".join(map(str, array.shape)) or "one number"
