"""`oars lattice plot`: a picture of the graph and of the energy."""

import sys
from dataclasses import replace
from pathlib import Path

import click

from oars_grpc.cli.lattice_build import built_lattice
from oars_grpc.cli.lattice_course import energy_course
from oars_grpc.cli.lattice_file import read_lattice
from oars_grpc.cli.lattice_options import (
    OUTPUT,
    checked_target,
    exact_option,
    file_argument,
    parameter_options,
    query_option,
    ranking_options,
)
from oars_grpc.cli.lattice_output import appearing, print_shortfall
from oars_grpc.cli.lattice_picture import Picture, check_library, draw
from oars_grpc.cli.lattice_progress import shown_stages
from oars_grpc.core.lattice.chain_verdict import chain_verdict
from oars_grpc.core.lattice.conflicts import conflicts
from oars_grpc.core.lattice.parameters import LatticeParameters
from oars_grpc.core.lattice.ranking import RankingParameters, query_cosines_of, rank
from oars_grpc.core.lattice.settled import read

_KINDS = {".png": "png", ".svg": "svg"}
# More names would hide the graph.
_MAXIMUM_NAMED = 50
_MOST_DRAWN = 5000


@click.command()
@file_argument
@query_option
@click.option(
    "--out", "target", type=OUTPUT, required=True, help="Write the picture here: .png or .svg."
)
@click.option(
    "--most",
    type=click.IntRange(1, 100_000),
    default=_MOST_DRAWN,
    show_default=True,
    help="Of more items than these, draw those most like the query.",
)
@parameter_options
@ranking_options(_MAXIMUM_NAMED)
@exact_option
def plot(
    file: Path,
    query_file: Path | None,
    target: Path,
    most: int,
    parameters: LatticeParameters,
    ranking: RankingParameters,
    *,
    exact: bool,
) -> None:
    """Draw the lattice of FILE, settled under its query, and how its energy fell.

    Items lie where the settled state has its two principal axes, coloured by their likeness to the
    query, the best --top with their names. Those in conflict are ringed and joined to the two that
    they stand between; the chain has its weakest link marked. Needs the extra `plots`.

    Leaves with 0, with 1 when the state did not settle to the tolerance, with 2 when FILE cannot
    be used or the picture not be drawn.

    Example: oars lattice plot notes.npz --out notes.png
    """
    kind = _KINDS.get(target.suffix.lower())
    if kind is None:
        raise click.BadParameter("must end in .png or .svg", param_hint="--out")
    checked_target(target, file, query_file)
    check_library()
    with shown_stages() as stage:
        given = read_lattice(file, query_file, stage("reading"))
        asked = given.query
        built = built_lattice(given, parameters, stage, exact=exact)
        settled = built.settled
        reading = read(settled, asked)
        found = conflicts(given.anchors, built.lists, proceed=stage("conflicts"))
        picture = Picture(
            built=built,
            query=asked,
            state=settled.states(reading.query),
            cosines=query_cosines_of(reading),
            ranking=rank(reading, replace(ranking, top=min(ranking.top, len(given)))),
            conflicts=found,
            verdict=None if given.chain is None else chain_verdict(reading),
            course=energy_course(settled, reading.query, stage("energies")),
            most=most,
        )
        stage("drawing")
        with appearing(target) as opened:
            draw(picture, opened, kind)
    click.echo(f"wrote {target}: {len(found)} of {len(given)} items in conflict")
    if built.shortfall:
        print_shortfall(built)
        sys.exit(1)
