"""The lattice and the queries of files, checked as a server checks what it is sent."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from oars_grpc.cli.lattice_npz import TEXTS, read_npy, read_npz
from oars_grpc.cli.lattice_parquet import read_parquet
from oars_grpc.core.lattice.arrays import (
    Chain,
    Float32Array,
    checked_anchors,
    checked_chain,
    checked_gates,
    checked_queries,
    checked_query,
    frozen,
)
from oars_grpc.core.lattice.progress import Proceed, between, keep_going
from oars_grpc.errors import InvalidArgument

_NAMES = ("anchors", "query", "gates", "chain", "chain_weights", TEXTS)
_ZIP, _PARQUET, _NPY = b"PK", b"PAR1", b"\x93NUMPY"
_LONGEST_MAGIC = 6


@dataclass(frozen=True, slots=True)
class LatticeFile:
    """What a lattice is built from, in canonical form, and what it is asked."""

    path: Path
    anchors: Float32Array
    gates: Float32Array
    chain: Chain | None
    ids: tuple[str, ...] | None
    queries: Float32Array | None  # M x D

    def __len__(self) -> int:
        return len(self.anchors)

    @property
    def asked(self) -> Float32Array:
        """All queries, at least one.

        Raises:
            UsageError: there is none.
        """
        if self.queries is None:
            raise click.UsageError(f"{self.path}: query: is missing; --query FILE gives one")
        return self.queries

    @property
    def query(self) -> Float32Array:
        """The one query.

        Raises:
            UsageError: there is none, or there are many.
        """
        if len(self.asked) != 1:
            raise click.UsageError(
                f"{self.path}: query: there are {len(self.asked)};"
                " only `oars lattice query` takes many"
            )
        query: Float32Array = self.asked[0]
        return query


def read_lattice(
    path: Path, query_path: Path | None = None, proceed: Proceed = keep_going
) -> LatticeFile:
    """The lattice in a file, with the query of another file where one is given.

    Raises:
        UsageError: naming the file and the array at fault.
        ConfigurationError: a Parquet file, and the extra for it is not installed.
    """
    arrays = _read(path, between(proceed, 0.0, 0.9))
    given: Any = arrays.pop("query", None)
    try:
        anchors = checked_anchors(_present(arrays, "anchors"))
        # The file's own form is done with: with both, memory would be needed twice.
        del arrays["anchors"]
        count, dimension = anchors.shape
        gates = checked_gates(arrays.get("gates"), count)
        chain = _chain(arrays, count)
        ids = _ids(arrays.get(TEXTS), count)
        queries = None if given is None else _queries(given, dimension)
    except (InvalidArgument, ValueError) as error:
        raise _refusal(path, error) from error
    except MemoryError as error:
        raise click.UsageError(f"{path}: does not fit into memory") from error
    if query_path is not None:
        try:
            queries = _queries(_read_query(query_path, keep_going), dimension)
        except (InvalidArgument, ValueError) as error:
            raise _refusal(query_path, error) from error
    proceed(1.0)
    return LatticeFile(path, anchors, gates, chain, ids, queries)


def _read(path: Path, proceed: Proceed) -> dict[str, Any]:
    try:
        if _magic(path).startswith(_PARQUET):
            return dict(read_parquet(path, proceed))
        # What is no ZIP either is refused as that.
        return dict(read_npz(path, _NAMES, proceed))
    except (OSError, ValueError) as error:
        raise _refusal(path, error) from error


def _read_query(path: Path, proceed: Proceed) -> Any:
    magic = _magic(path)
    if magic.startswith(_NPY):
        return read_npy(path, "query", proceed)
    if magic.startswith(_ZIP):
        return _present(read_npz(path, ("query",), proceed), "query")
    if magic.startswith(_PARQUET):
        return read_parquet(path, proceed)["anchors"]
    raise ValueError("is neither an .npy, an .npz nor a Parquet file")


def _magic(path: Path) -> bytes:
    """How a file begins; what is no file, such as a pipe, can be read but once."""
    if not path.is_file():
        raise ValueError("is not a file")
    with path.open("rb") as file:
        return file.read(_LONGEST_MAGIC)


def _present(arrays: dict[str, npt.NDArray[Any]], name: str) -> npt.NDArray[Any]:
    if name not in arrays:
        raise ValueError(f"{name}: is missing")
    return arrays[name]


def _queries(given: npt.NDArray[Any], dimension: int) -> Float32Array:
    if given.ndim == 2:
        return checked_queries(given, dimension, "query")
    return frozen(checked_query(given, dimension)[None, :])


def _chain(arrays: dict[str, Any], count: int) -> Chain | None:
    if "chain" in arrays:
        return checked_chain(arrays["chain"], count, arrays.get("chain_weights"))
    if "chain_weights" in arrays:
        raise InvalidArgument.of("chain_weights", "are of no chain")
    return None


def _ids(texts: npt.NDArray[np.str_] | None, count: int) -> tuple[str, ...] | None:
    if texts is None:
        return None
    if texts.shape != (count,):
        raise InvalidArgument.of(TEXTS, f"must be {count} texts")
    return tuple(texts.tolist())


def _refusal(path: Path, error: Exception) -> click.UsageError:
    told = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return click.UsageError(f"{path}: {told}")
