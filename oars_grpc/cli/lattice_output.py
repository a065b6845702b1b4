"""What `oars lattice` writes and prints: arrays in a file, tables for people, JSON for programs."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import click
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from oars_grpc.cli.durable_files import sync_directory
from oars_grpc.cli.lattice_build import BuiltLattice
from oars_grpc.cli.visible_text import visible
from oars_grpc.core.lattice.arrays import Float64Array, Int64Array
from oars_grpc.core.lattice.energy import Energies, EnergyTerms
from oars_grpc.core.lattice.ranking import Ranking
from oars_grpc.core.lattice.statement import parameters_json

_TERMS = ("anchor", "graph", "query", "chain", "total")


@contextmanager
def appearing(target: Path) -> Iterator[BinaryIO]:
    """A file that stands under its name only once it is whole and on the disk.

    Raises:
        UsageError: it cannot be written.
    """
    # In the same directory, for a rename is atomic within a file system only.
    unfinished = target.with_name(f".{target.name}.{os.getpid()}.unfinished")
    try:
        opened = unfinished.open("xb")
        try:
            with opened as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(target)
            sync_directory(target.parent)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise click.UsageError(f"{target}: {error.strerror or error}") from error


def write_arrays(target: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write an `.npz`; the same arrays give the same bytes."""
    with appearing(target) as file:
        np.savez(file, allow_pickle=False, **arrays)


def print_lattice(console: Console, built: BuiltLattice) -> None:
    """The lattice in two lines."""
    inputs, outcome = built.settled.inputs, built.settled.state.outcome
    edges = counted(len(inputs.graph.edges), "edge")
    chain = "" if inputs.chain is None else f", a chain of {inputs.chain.nodes.size}"
    _line(
        console,
        f"{visible(str(built.file.path))}: {counted(len(inputs), 'anchor')} of"
        f" {counted(inputs.dimension, 'number')}, {edges}{chain}",
    )
    _line(
        console,
        f"settled by {outcome.method.value} in {counted(outcome.iterations, 'iteration')},"
        f" residual {outcome.residual:.1e}",
    )


def print_energies(console: Console, energies: Energies) -> None:
    """Each term at the anchors, settled, and what that won."""
    table = Table("energy", *_TERMS)
    for name, terms in (
        ("at the anchors", energies.before),
        ("settled", energies.after),
        ("drop", energies.drop),
    ):
        table.add_row(name, *(f"{value:.6g}" for value in _values(terms)))
    for column in table.columns[1:]:
        column.justify = "right"
    console.print(table)


def print_ranking(console: Console, built: BuiltLattice, ranking: Ranking) -> None:
    """The items chosen, first the best."""
    columns = {
        "score": ranking.scores,
        "relevance": ranking.relevance,
        "cosine": ranking.cosines,
    }
    print_items(console, built, ranking.nodes, columns)


def print_items(
    console: Console,
    built: BuiltLattice,
    nodes: Int64Array,
    columns: Mapping[str, Float64Array],
    title: str | None = None,
) -> None:
    """Items in order, with numbers of theirs by name."""
    ids = built.file.ids
    table = Table("#", "node", *([] if ids is None else ["id"]), title=title, title_justify="left")
    for name in columns:
        table.add_column(name, justify="right")
    for place, node in enumerate(nodes.tolist()):
        table.add_row(
            str(place + 1),
            str(node),
            *([] if ids is None else [printable(ids[node])]),
            *(f"{values[place]:.4g}" for values in columns.values()),
        )
    console.print(table)


def print_shortfall(built: BuiltLattice) -> None:
    """Say, where others look for errors, why a state is not to be relied on."""
    click.echo(f"oars: {built.file.path}: {built.shortfall}", err=True)


def lattice_json(built: BuiltLattice) -> dict[str, Any]:
    """The lattice for `--format json`."""
    inputs, outcome = built.settled.inputs, built.settled.state.outcome
    return {
        "file": str(built.file.path),
        "nodes": len(inputs),
        "dimension": inputs.dimension,
        "edges": len(inputs.graph.edges),
        "chainLength": 0 if inputs.chain is None else int(inputs.chain.nodes.size),
        "parameters": parameters_json(inputs.parameters),
        "solver": {
            "method": outcome.method.value,
            "stop": outcome.stop.value,
            "converged": outcome.converged,
            "iterations": outcome.iterations,
            "residual": outcome.residual,
        },
    }


def energies_json(energies: Energies) -> dict[str, Any]:
    """The energies for `--format json`."""
    moments = {"before": energies.before, "after": energies.after, "drop": energies.drop}
    return {
        moment: dict(zip(_TERMS, _values(terms), strict=True)) for moment, terms in moments.items()
    }


def ranking_json(
    built: BuiltLattice,
    ranking: Ranking,
    more: Mapping[str, Float64Array] | None = None,
) -> list[dict[str, Any]]:
    """The items chosen for `--format json`."""
    ids = built.file.ids
    items = []
    for place, node in enumerate(ranking.nodes.tolist()):
        item: dict[str, Any] = {"node": node}
        if ids is not None:
            item["id"] = ids[node]
        item |= {
            "score": float(ranking.scores[place]),
            "relevance": float(ranking.relevance[place]),
            "cosine": float(ranking.cosines[place]),
        }
        items.append(item | {name: float(values[place]) for name, values in (more or {}).items()})
    return items


def counted(number: int, noun: str) -> str:
    """A number of things."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def printable(text: str) -> str:
    """Text of a file made safe for a terminal and for the tables."""
    return escape(visible(text))


def _line(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _values(terms: EnergyTerms) -> tuple[float, ...]:
    return (terms.anchor, terms.graph, terms.query, terms.chain, terms.total)
