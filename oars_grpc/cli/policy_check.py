"""`oars policy check`: is a policy file valid, and does it say what its author means?"""

import sys
from pathlib import Path

import click

from oars_grpc.cli.policy_checks import (
    checked_file,
    file_argument,
    format_option,
    names_options,
    print_json,
    strict_option,
)


@click.command()
@file_argument
@names_options
@strict_option
@format_option
def check(
    file: Path, tools_file: Path | None, workflows_file: Path | None, output: str, *, strict: bool
) -> None:
    """Check FILE as the server does, and warn of what it may not mean.

    Warned of: rules that never match, never decide or repeat another one, that allow everything,
    and names of tools, operations and workflows that there are not. Notes are no reason to change
    anything.

    Leaves with 0 if FILE is valid, 1 if not (with --strict: or warned of), 2 if it could not be
    checked.
    """
    found = checked_file(file, tools_file, workflows_file)
    if output == "json":
        print_json(found.to_json())
    else:
        for fault in found.faults:
            click.echo(str(fault))
        click.echo(found.summary())
    if found.fails(strict=strict):
        sys.exit(1)
