"""Files of lattices for the tests of `oars lattice`, and the command run in this process."""

from pathlib import Path
from typing import Any

import numpy as np
from click.testing import CliRunner, Result

from oars_grpc.cli import commands
from tests.support.lattice import Table, clustered


def run_lattice(*arguments: object) -> Result:
    """`oars lattice` with these arguments."""
    return CliRunner().invoke(commands, ["lattice", *map(str, arguments)])


def refused(*arguments: object) -> str:
    """What `oars lattice` says as it refuses these arguments, without a traceback."""
    result = run_lattice(*arguments)
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result.stderr


def sample_arrays(count: int = 60, dimension: int = 16) -> dict[str, Any]:
    """A clustered lattice with uneven gates, a chain with weights, ids and a query."""
    chance = np.random.default_rng(3)
    anchors = clustered(count, dimension, 5, 5)
    return {
        "anchors": anchors,
        "query": (anchors[3] + 0.2 * chance.standard_normal(dimension)).astype(np.float32),
        "gates": chance.random(count),
        "chain": np.array([1, 4, 9, 4, 2]),
        "chain_weights": np.array([1.0, 2.0, 0.5, 1.5]),
        "ids": np.array([f"note-{node}" for node in range(count)]),
    }


def write_npz(path: Path, **arrays: Any) -> Path:
    """A file of these arrays."""
    np.savez(path, **arrays)
    return path


def sample_npz(path: Path, **instead: Any) -> Path:
    """The sample, with other arrays in place of its own; None leaves one out."""
    arrays = sample_arrays() | instead
    return write_npz(path, **{name: array for name, array in arrays.items() if array is not None})


def torn_arrays() -> dict[str, Any]:
    """A lattice in which some items lie between two clusters, in conflict."""
    anchors = clustered(110, 24, 4, 5, spread=0.6)
    anchors[:8] = anchors[20:28] + anchors[60:68]
    return {"anchors": anchors, "query": anchors[30] + 0.1, "chain": np.array([30, 41, 5])}


def along_an_arc(count: int, dimension: int) -> Table:
    """Embeddings that turn step by step from one axis to the next: each follows from the last."""
    chance = np.random.default_rng(8)
    turns = np.linspace(0.0, np.pi / 2, count)
    rows = 0.01 * chance.standard_normal((count, dimension))
    rows[:, 0] += np.cos(turns)
    rows[:, 1] += np.sin(turns)
    return rows.astype(np.float32)
