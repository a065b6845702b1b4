"""Lattices in Parquet files, one row for each anchor; needs the extra `parquet`.

    embedding     list or fixed-size list of numbers, all of one length
    gate          number, optional
    id            text, optional
    chain         whole number, optional: the anchor's place in the chain; null where it has none
    chain_weight  number, optional: of the link from the anchor before it; null counts as 1

The file's key-value metadata may hold the query under `query`, as a JSON list of numbers.
"""

import importlib
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from oars_grpc.cli.lattice_npz import MAXIMUM_TEXT, Array
from oars_grpc.core.lattice.limits import DEFAULT_LIMITS
from oars_grpc.core.lattice.progress import Proceed
from oars_grpc.errors import ConfigurationError

_EMBEDDING = "embedding"
_OPTIONAL = ("gate", "id", "chain", "chain_weight")
_QUERY = b"query"
_BATCH_ROWS = 4096
_MAXIMUM_METADATA = 1 << 20
_MAXIMUM_THRIFT = 64 << 20


def read_parquet(path: Path, proceed: Proceed) -> dict[str, Array]:
    """The arrays of a lattice, named as in an `.npz`.

    Raises:
        ValueError: the file is not such a lattice, or is larger than one may be.
        OSError: the file cannot be read.
        ConfigurationError: the extra is not installed.
    """
    arrow, parquet = _library("pyarrow"), _library("pyarrow.parquet")
    try:
        with parquet.ParquetFile(
            path,
            thrift_string_size_limit=_MAXIMUM_THRIFT,
            thrift_container_size_limit=_MAXIMUM_THRIFT,
        ) as file:
            schema = file.schema_arrow
            _check_schema(arrow, schema)
            rows = _checked_rows(file)
            arrays = _query(schema.metadata or {})
            columns = [_EMBEDDING, *(name for name in _OPTIONAL if name in schema.names)]
            arrays |= _columns(file, columns, rows, proceed)
            return arrays
    except arrow.ArrowException as error:
        told = str(error).partition("\n")[0]
        raise ValueError(f"is not a sound Parquet file: {told}") from error


def _library(name: str) -> Any:
    # Imported when it is used: whoever has no Parquet files need not install it.
    try:
        return importlib.import_module(name)
    except ImportError as fault:
        raise ConfigurationError(
            "Parquet files need the library pyarrow: install oars-grpc[parquet]"
        ) from fault


def _check_schema(arrow: Any, schema: Any) -> None:
    """Refuse columns of other types, and a name that is there twice."""
    types = arrow.types

    def is_number(type_: Any) -> bool:
        return bool(types.is_integer(type_) or types.is_floating(type_))

    def is_text(type_: Any) -> bool:
        return bool(types.is_string(type_) or types.is_large_string(type_))

    def is_numbers(type_: Any) -> bool:
        nested = (types.is_list, types.is_large_list, types.is_fixed_size_list)
        return any(kind(type_) for kind in nested) and is_number(type_.value_type)

    wanted = {
        _EMBEDDING: (is_numbers, "lists of numbers"),
        "gate": (is_number, "numbers"),
        "id": (is_text, "text"),
        "chain": (types.is_integer, "whole numbers"),
        "chain_weight": (is_number, "numbers"),
    }
    if _EMBEDDING not in schema.names:
        raise ValueError(f"has no column {_EMBEDDING}")
    for name, (fits, told) in wanted.items():
        found = schema.get_all_field_indices(name)
        if len(found) > 1:
            raise ValueError(f"{name}: is there twice")
        if found and not fits(schema.field(found[0]).type):
            raise ValueError(f"{name}: must be {told}, not {schema.field(found[0]).type}")


def _checked_rows(file: Any) -> int:
    """The number of rows, after the file's own count of all its numbers was found bearable."""
    metadata, limits = file.metadata, DEFAULT_LIMITS
    rows = int(metadata.num_rows)
    if not 0 < rows <= limits.max_anchors:
        raise ValueError(f"must have 1 to {limits.max_anchors} rows, not {rows}")
    for group in range(metadata.num_row_groups):
        part = metadata.row_group(group)
        # Of rows that are lists, their numbers are counted.
        most = min(part.num_rows * limits.max_dimension, limits.max_bytes // 4)
        for place in range(metadata.num_columns):
            column = part.column(place)
            if column.num_values > most:
                raise ValueError(
                    f"{column.path_in_schema}: must be at most {most} numbers in {part.num_rows}"
                    f" rows, not {column.num_values}"
                )
    return rows


def _query(metadata: dict[bytes, bytes]) -> dict[str, Array]:
    if _QUERY not in metadata:
        return {}
    text = metadata[_QUERY]
    try:
        value = json.loads(text) if len(text) <= _MAXIMUM_METADATA else None
        query = np.array(value, dtype=np.float64)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError("query: must be a JSON list of numbers in the metadata") from error
    if not isinstance(value, list):
        raise ValueError("query: must be a JSON list of numbers in the metadata")
    return {"query": query}


def _columns(file: Any, columns: list[str], rows: int, proceed: Proceed) -> dict[str, Array]:
    """The columns as arrays, read batch after batch into one room."""
    anchors: Array | None = None
    found: dict[str, list[Any]] = {name: [] for name in columns if name != _EMBEDDING}
    start = 0
    for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=columns):
        proceed(start / rows)
        table = _embeddings(batch.column(_EMBEDDING), start)
        if anchors is None:
            anchors = _room(rows, table)
        if table.shape[1] != anchors.shape[1]:
            raise ValueError(
                f"anchors[{start}]: must be {anchors.shape[1]} numbers, not {table.shape[1]}"
            )
        end = start + len(table)
        if end > rows:
            raise ValueError("has more rows than it says")
        anchors[start:end] = table
        for name, values in found.items():
            values.extend(batch.column(name).to_pylist())
        start = end
    if anchors is None or start != rows:
        raise ValueError(f"ends after {start} of {rows} rows")
    arrays = {"anchors": anchors}
    if "gate" in found:
        arrays["gates"] = _numbers("gates", found["gate"])
    if "id" in found:
        arrays["ids"] = _texts(found["id"])
    if "chain" in found:
        arrays |= _chain(found["chain"], found.get("chain_weight"))
    return arrays


def _room(rows: int, table: Array) -> Array:
    dimension, limits = table.shape[1], DEFAULT_LIMITS
    if dimension > limits.max_dimension or rows * dimension * 4 > limits.max_bytes:
        raise ValueError(f"anchors: {rows} rows of {dimension} numbers are more than are taken")
    try:
        return np.empty((rows, dimension), dtype=table.dtype)
    except MemoryError as error:
        raise ValueError(f"anchors: {rows} rows do not fit into memory") from error


def _embeddings(column: Any, start: int) -> Array:
    """A batch's embeddings as a table."""
    if column.null_count:
        missing = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        raise ValueError(f"anchors[{start + missing}]: is missing")
    lengths = np.array(column.value_lengths().to_numpy(zero_copy_only=False), dtype=np.int64)
    uneven = np.flatnonzero(lengths != lengths[0])
    if uneven.size:
        place = int(uneven[0])
        raise ValueError(
            f"anchors[{start + place}]: must be {lengths[0]} numbers, not {lengths[place]}"
        )
    values = column.flatten()
    if values.null_count:
        missing = int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0])
        row, place = divmod(missing, int(lengths[0]))
        raise ValueError(f"anchors[{start + row}][{place}]: is missing")
    flat: Array = values.to_numpy(zero_copy_only=False)
    return flat.reshape(lengths.size, int(lengths[0]))


def _numbers(name: str, values: list[Any]) -> npt.NDArray[np.float64]:
    for place, value in enumerate(values):
        if value is None:
            raise ValueError(f"{name}[{place}]: is missing")
    return np.array(values, dtype=np.float64)


def _texts(values: list[Any]) -> Array:
    for place, value in enumerate(values):
        if value is None or len(value) > MAXIMUM_TEXT:
            raise ValueError(f"ids[{place}]: must be text of at most {MAXIMUM_TEXT} characters")
    return np.array(values, dtype=np.str_)


def _chain(places: list[Any], weights: list[Any] | None) -> dict[str, Array]:
    """The anchors in the order of their places, and the weights of the links to them."""
    members = sorted((place, node) for node, place in enumerate(places) if place is not None)
    if not members:
        return {}
    for (place, _), (following, node) in pairwise(members):
        if place == following:
            raise ValueError(f"chain[{node}]: another anchor has the place {place}, too")
    nodes = [node for _, node in members]
    arrays: dict[str, Array] = {"chain": np.array(nodes, dtype=np.int64)}
    if weights is not None:
        linked = [1.0 if weights[node] is None else float(weights[node]) for node in nodes[1:]]
        arrays["chain_weights"] = np.array(linked, dtype=np.float64)
    return arrays
