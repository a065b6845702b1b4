"""`oars lattice chain`: whether a chain of items holds together."""

import json
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from oars_grpc.cli.lattice_build import BuiltLattice, built_lattice
from oars_grpc.cli.lattice_file import LatticeFile, read_lattice
from oars_grpc.cli.lattice_options import (
    exact_option,
    file_argument,
    format_option,
    parameter_options,
    query_option,
)
from oars_grpc.cli.lattice_output import (
    lattice_json,
    print_lattice,
    print_shortfall,
    printable,
)
from oars_grpc.cli.lattice_progress import shown_stages
from oars_grpc.core.lattice.arrays import Chain, checked_chain
from oars_grpc.core.lattice.chain_verdict import DEFAULT_THRESHOLD, ChainVerdict, chain_verdict
from oars_grpc.core.lattice.parameters import LatticeParameters
from oars_grpc.core.lattice.settled import read
from oars_grpc.errors import InvalidArgument

# A table of more links than these would be read by nobody: then those that are out are printed.
_SHOWN_LINKS = 100


@click.command()
@file_argument
@query_option
@click.option(
    "--chain",
    "nodes",
    metavar="NODES",
    help="Judge these anchors, such as 4,1,7, instead of the chain in FILE.",
)
@click.option(
    "--threshold",
    type=float,
    default=DEFAULT_THRESHOLD,
    show_default=True,
    help="Deviations beyond the edges' median from which on a link is out.",
)
@parameter_options
@exact_option
@format_option
def chain(
    file: Path,
    query_file: Path | None,
    nodes: str | None,
    threshold: float,
    parameters: LatticeParameters,
    output: str,
    *,
    exact: bool,
) -> None:
    """Judge the chain of FILE, link by link, in the state settled under its query.

    A link's settled distance is told in deviations from that of the lattice's edges. The chain is
    coherent if no link is further out than --threshold and settling did not draw its ends apart
    (gain at least 0). A chain in FILE also pulls on the state; one of --chain is only judged.

    Leaves with 0 when the chain is coherent, with 1 when it is not or the state did not settle to
    the tolerance, with 2 when FILE cannot be used.

    Example: oars lattice chain notes.npz --chain 4,1,7
    """
    if not threshold > 0:
        raise click.BadParameter("must be over 0", param_hint="--threshold")
    with shown_stages() as stage:
        given = read_lattice(file, query_file, stage("reading"))
        asked = given.query
        judged = _judged(given, nodes)
        built = built_lattice(given, parameters, stage, exact=exact)
        reading = read(built.settled, asked)
        verdict = chain_verdict(reading, None if nodes is None else judged, threshold)
    if output == "json":
        click.echo(json.dumps(_json(built, judged, verdict), indent=2))
    else:
        console = Console()
        print_lattice(console, built)
        _print(console, built, judged, verdict)
    if built.shortfall:
        print_shortfall(built)
    sys.exit(0 if verdict.coherent and not built.shortfall else 1)


def _judged(given: LatticeFile, nodes: str | None) -> Chain:
    if nodes is None:
        if given.chain is None:
            raise click.UsageError(f"{given.path}: chain: is missing; --chain NODES gives one")
        return given.chain
    try:
        listed = [int(node) for node in nodes.split(",")]
        return checked_chain(listed, len(given))
    except InvalidArgument as error:
        raise click.UsageError(f"--chain: {error}") from error
    except (ValueError, OverflowError) as error:
        message = "must be rows of anchors, separated by commas"
        raise click.BadParameter(message, param_hint="--chain") from error


def _print(console: Console, built: BuiltLattice, judged: Chain, verdict: ChainVerdict) -> None:
    scores = verdict.scores.tolist()
    links = list(range(len(scores)))
    if len(links) > _SHOWN_LINKS:
        links = sorted(sorted(links, key=lambda link: -scores[link])[:_SHOWN_LINKS])
        console.print(f"the {_SHOWN_LINKS} weakest of {len(scores):,} links")
    table = Table("link", "from", "to", "weight", "score", "")
    for link in links:
        score = scores[link]
        marks = [
            *(["[bold red]out[/]"] if score > verdict.threshold else []),
            *(["weakest"] if link == verdict.weakest_link else []),
        ]
        table.add_row(
            str(link),
            *(printable(built.name(int(node))) for node in judged.nodes[link : link + 2]),
            f"{judged.weights[link]:g}",
            f"{score:+.3f}",
            ", ".join(marks),
        )
    console.print(table)
    told = "[bold green]coherent[/]" if verdict.coherent else "[bold red]NOT COHERENT[/]"
    console.print(f"{told}: weakest link {verdict.weakest_link}, gain {verdict.gain:.6g}")


def _json(built: BuiltLattice, judged: Chain, verdict: ChainVerdict) -> dict[str, Any]:
    return lattice_json(built) | {
        "chain": {"nodes": judged.nodes.tolist(), "weights": judged.weights.tolist()},
        "verdict": {
            "coherent": verdict.coherent,
            "weakestLink": verdict.weakest_link,
            "scores": verdict.scores.tolist(),
            "gain": verdict.gain,
            "threshold": verdict.threshold,
        },
    }
