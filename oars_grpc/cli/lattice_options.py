"""The options that the commands of `oars lattice` share."""

import os
from collections.abc import Callable
from functools import wraps
from os.path import samestat
from pathlib import Path
from typing import Any, TypeVar

import click

from oars_grpc.core.lattice.limits import within_limits
from oars_grpc.core.lattice.parameters import (
    LaplacianKind,
    LatticeParameters,
    checked_parameters,
)
from oars_grpc.core.lattice.ranking import DEFAULT_RANKING, RankingParameters, checked_ranking
from oars_grpc.errors import InvalidArgument

Command = TypeVar("Command", bound=Callable[..., object])

INPUT = click.Path(path_type=Path, exists=True, dir_okay=False)
OUTPUT = click.Path(path_type=Path, dir_okay=False)
_DEFAULT = LatticeParameters()
_NONE = "none"

file_argument = click.argument("file", type=INPUT)
query_option = click.option(
    "--query",
    "query_file",
    type=INPUT,
    help="Take the query from this .npy, .npz or Parquet file.  [default: that in FILE]",
)
exact_option = click.option(
    "--exact",
    is_flag=True,
    help="Compare all anchors with all, however many; default: by an index from 200,000 on.",
)
format_option = click.option(
    "--format",
    "output",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="How to print.",
)


def _row_cap(_context: click.Context, _option: click.Parameter, value: str) -> float | None:
    """A number, or none."""
    if value == _NONE:
        return None
    try:
        return float(value)
    except ValueError as error:
        raise click.BadParameter("is neither a number nor none") from error


def _laplacian(_context: click.Context, _option: click.Parameter, value: str) -> LaplacianKind:
    return LaplacianKind(value)


def parameter_options(command: Command) -> Command:
    """What a lattice is built with, as the argument `parameters`."""

    @wraps(command)
    def with_parameters(*args: Any, **given: Any) -> object:
        names = LatticeParameters.__slots__
        parameters = LatticeParameters(**{name: given.pop(name) for name in names})
        return command(*args, parameters=_checked(parameters), **given)

    wrapped: Any = with_parameters
    for option in reversed(_parameter_options()):
        wrapped = option(wrapped)
    decorated: Command = wrapped
    return decorated


def _parameter_options() -> list[Callable[[Any], Any]]:
    def number(name: str, default: float, help_: str) -> Callable[[Any], Any]:
        return click.option(name, type=float, default=default, show_default=True, help=help_)

    return [
        click.option(
            "--neighbors",
            type=int,
            default=_DEFAULT.neighbors,
            show_default=True,
            help="Nearest others of each anchor; two that are each other's are joined.",
        ),
        click.option(
            "--row-cap",
            callback=_row_cap,
            metavar="NUMBER|none",
            default=_NONE,
            show_default=True,
            help="The most that the weights at one anchor may sum to.",
        ),
        click.option(
            "--laplacian",
            type=click.Choice([kind.value for kind in LaplacianKind]),
            callback=_laplacian,
            default=_DEFAULT.laplacian.value,
            show_default=True,
            help="Which Laplacian draws neighbours together.",
        ),
        number("--anchor-weight", _DEFAULT.anchor_weight, "Holds each item to its embedding."),
        number("--graph-weight", _DEFAULT.graph_weight, "Draws neighbours together."),
        number("--query-weight", _DEFAULT.query_weight, "Draws items to the query, by their gate."),
        number("--chain-weight", _DEFAULT.chain_weight, "Draws the chain's links together."),
        number("--tolerance", _DEFAULT.tolerance, "Relative residual to settle to."),
        click.option(
            "--max-iterations",
            type=int,
            default=_DEFAULT.max_iterations,
            show_default=True,
            help="Iterations after which settling stops all the same.",
        ),
    ]


def ranking_options(most: int) -> Callable[[Command], Command]:
    """How items are ranked, `most` of them at most, as the argument `ranking`."""

    def decorate(command: Command) -> Command:
        @wraps(command)
        def with_ranking(
            *args: Any, top: int, spread: float, power: int, diversity: float, **given: Any
        ) -> object:
            ranking = RankingParameters(top, spread, power, diversity)
            return command(*args, ranking=_checked_ranking(ranking), **given)

        wrapped: Any = with_ranking
        for name, type_, help_ in reversed(
            (
                ("--top", click.IntRange(1, most), "Items to rank."),
                ("--spread", float, "How far relevance spreads over the graph."),
                ("--power", int, "How sharply likeness to the query counts."),
                ("--diversity", float, "How much likeness to items above holds one back: 0 to 1."),
            )
        ):
            default = getattr(DEFAULT_RANKING, name.removeprefix("--"))
            option = click.option(name, type=type_, default=default, show_default=True, help=help_)
            wrapped = option(wrapped)
        decorated: Command = wrapped
        return decorated

    return decorate


def checked_target(target: Path, *sources: Path | None) -> None:
    """Refuse a file that could not be written, or that is read: before the work, not after it.

    Raises:
        UsageError: naming it.
    """
    if not target.parent.is_dir():
        raise click.UsageError(f"{target}: there is no directory {target.parent}")
    if not os.access(target.parent, os.W_OK):
        raise click.UsageError(f"{target}: the directory is not writable")
    try:
        status = target.stat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise click.UsageError(f"{target}: {error.strerror}") from error
    if any(source is not None and samestat(status, source.stat()) for source in sources):
        raise click.UsageError(f"{target}: is what is read")


def _checked(parameters: LatticeParameters) -> LatticeParameters:
    try:
        return within_limits(checked_parameters(parameters))
    except InvalidArgument as error:
        raise _by_option(error) from error


def _checked_ranking(parameters: RankingParameters) -> RankingParameters:
    try:
        return checked_ranking(parameters)
    except InvalidArgument as error:
        raise _by_option(error) from error


def _by_option(error: InvalidArgument) -> click.UsageError:
    """The refusal of members as one of the options that they came from."""
    told = [
        f"--{violation.field.rpartition('.')[2].replace('_', '-')}: {violation.description}"
        for violation in error.violations
    ]
    return click.UsageError("; ".join(told))
