"""`oars lattice query`: rankings and what each item adds, for one query or many."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
from rich.console import Console

from oars_grpc.cli.lattice_build import BuiltLattice, built_lattice
from oars_grpc.cli.lattice_file import read_lattice
from oars_grpc.cli.lattice_options import (
    OUTPUT,
    checked_target,
    exact_option,
    file_argument,
    format_option,
    parameter_options,
    query_option,
    ranking_options,
)
from oars_grpc.cli.lattice_output import (
    energies_json,
    lattice_json,
    print_items,
    print_lattice,
    print_shortfall,
    ranking_json,
    write_arrays,
)
from oars_grpc.cli.lattice_progress import shown_stages
from oars_grpc.core.lattice.arrays import Float32Array, Float64Array
from oars_grpc.core.lattice.components import NodeComponents, node_components
from oars_grpc.core.lattice.energy import Energies
from oars_grpc.core.lattice.parameters import LatticeParameters
from oars_grpc.core.lattice.progress import Proceed
from oars_grpc.core.lattice.ranking import (
    MAXIMUM_TOP,
    Ranking,
    RankingParameters,
    rank,
    spreading,
)
from oars_grpc.core.lattice.settled import read

# So that a table is no wider than a terminal.
_SHORT = {"coherence_drop": "coherence", "chain_drop": "chain"}
_COMPONENTS = tuple(field.name for field in fields(NodeComponents))


@dataclass(frozen=True, slots=True)
class _Answer:
    ranking: Ranking
    energies: Energies
    components: dict[str, Float64Array]  # by kind, of the ranked items in order


@click.command()
@file_argument
@query_option
@parameter_options
@ranking_options(MAXIMUM_TOP)
@exact_option
@click.option("--out", "target", type=OUTPUT, help="Write the arrays to this .npz.")
@format_option
def query(
    file: Path,
    query_file: Path | None,
    parameters: LatticeParameters,
    ranking: RankingParameters,
    target: Path | None,
    output: str,
    *,
    exact: bool,
) -> None:
    """Rank the anchors of FILE for its query, or for each row of --query.

    The lattice is settled once for all of them. Beside each item stands what it adds to the energy:
    coherence_drop (what settling won on the graph; below 0 where neighbours drew it apart), anchor
    (how far it moved), query (how far from the query it stays), chain_drop.

    --out writes, a row for each query, ranking, scores, relevance, cosines, energy_drop, and
    components (M x top x 4, of the ranked items, in the order above).

    Leaves with 0, with 1 when the state did not settle to the tolerance, with 2 when a file cannot
    be used.

    Example: oars lattice query notes.npz --query questions.npy --top 5
    """
    if target is not None:
        checked_target(target, file, query_file)
    with shown_stages() as stage:
        given = read_lattice(file, query_file, stage("reading"))
        asked = given.asked
        built = built_lattice(given, parameters, stage, exact=exact)
        ranking = replace(ranking, top=min(ranking.top, len(given)))
        answers = list(_answers(built, asked, ranking, stage("queries")))
        if target is not None:
            write_arrays(target, _arrays(answers))
    if output == "json":
        told = [
            {
                "energy": energies_json(answer.energies),
                "ranking": ranking_json(built, answer.ranking, answer.components),
            }
            for answer in answers
        ]
        click.echo(json.dumps(lattice_json(built) | {"queries": told}, indent=2))
    else:
        console = Console()
        print_lattice(console, built)
        for place, answer in enumerate(answers):
            title = f"query {place}: energy drop {answer.energies.drop.total:.6g}"
            columns = {"score": answer.ranking.scores, "cosine": answer.ranking.cosines}
            columns |= {_SHORT.get(name, name): parts for name, parts in answer.components.items()}
            print_items(console, built, answer.ranking.nodes, columns, title)
        if target is not None:
            click.echo(f"wrote {target}")
    if built.shortfall:
        print_shortfall(built)
        sys.exit(1)


def _answers(
    built: BuiltLattice,
    asked: Float32Array,
    ranking: RankingParameters,
    proceed: Proceed,
) -> Iterator[_Answer]:
    settled = built.settled
    ready = spreading(settled.inputs.graph, ranking.spread)
    for place, one in enumerate(asked):
        proceed(place / len(asked))
        reading = read(settled, one)
        ranked = rank(reading, ranking, ready)
        parts = node_components(reading)
        # Of many queries all nodes' numbers would not fit: those of the ranked are kept.
        kept = {name: getattr(parts, name)[ranked.nodes] for name in _COMPONENTS}
        yield _Answer(ranked, settled.energies(reading.query), kept)


def _arrays(answers: list[_Answer]) -> dict[str, npt.NDArray[Any]]:
    rankings = [answer.ranking for answer in answers]
    return {
        "ranking": np.stack([ranking.nodes for ranking in rankings]),
        "scores": np.stack([ranking.scores for ranking in rankings]),
        "relevance": np.stack([ranking.relevance for ranking in rankings]),
        "cosines": np.stack([ranking.cosines for ranking in rankings]),
        "energy_drop": np.array([answer.energies.drop.total for answer in answers]),
        "components": np.stack(
            [
                np.stack([answer.components[name] for name in _COMPONENTS], axis=1)
                for answer in answers
            ]
        ),
    }
