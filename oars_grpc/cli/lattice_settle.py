"""`oars lattice settle`: the settled state under one query."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
from rich.console import Console

from oars_grpc.cli.lattice_build import built_lattice
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
    print_energies,
    print_lattice,
    print_ranking,
    print_shortfall,
    ranking_json,
    write_arrays,
)
from oars_grpc.cli.lattice_progress import shown_stages
from oars_grpc.core.lattice.parameters import LatticeParameters
from oars_grpc.core.lattice.ranking import MAXIMUM_TOP, RankingParameters, rank
from oars_grpc.core.lattice.settled import read


@click.command()
@file_argument
@query_option
@parameter_options
@ranking_options(MAXIMUM_TOP)
@exact_option
@click.option("--out", "target", type=OUTPUT, help="Write the arrays to this .npz.")
@format_option
def settle(
    file: Path,
    query_file: Path | None,
    parameters: LatticeParameters,
    ranking: RankingParameters,
    target: Path | None,
    output: str,
    *,
    exact: bool,
) -> None:
    """Settle the lattice of FILE under its query, and rank its anchors.

    --out writes state (N x D, the settled embeddings), edges (E x 2, i < j), weights (E),
    energy_drop (one number) and ranking (the nodes, best first).

    Leaves with 0, with 1 when the state did not settle to the tolerance, with 2 when FILE cannot
    be used.

    Example: oars lattice settle notes.npz --neighbors 6 --out settled.npz
    """
    if target is not None:
        checked_target(target, file, query_file)
    with shown_stages() as stage:
        given = read_lattice(file, query_file, stage("reading"))
        asked = given.query
        built = built_lattice(given, parameters, stage, exact=exact)
        settled = built.settled
        reading = read(settled, asked)
        ranked = rank(reading, replace(ranking, top=min(ranking.top, len(given))))
        energies = settled.energies(reading.query)
        if target is not None:
            stage("writing")
            graph = settled.inputs.graph
            write_arrays(
                target,
                {
                    "state": settled.states(reading.query),
                    "edges": graph.edges,
                    "weights": graph.edge_weights,
                    "energy_drop": np.array(energies.drop.total),
                    "ranking": ranked.nodes,
                },
            )
    if output == "json":
        told = lattice_json(built) | {
            "energy": energies_json(energies),
            "ranking": ranking_json(built, ranked),
        }
        click.echo(json.dumps(told, indent=2))
    else:
        console = Console()
        print_lattice(console, built)
        print_energies(console, energies)
        print_ranking(console, built, ranked)
        if target is not None:
            click.echo(f"wrote {target}")
    if built.shortfall:
        print_shortfall(built)
        sys.exit(1)
