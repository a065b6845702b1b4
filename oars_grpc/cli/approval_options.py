"""The options that all commands about approvals have, and an argument."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

from oars_grpc.cli.connection import connection_option, tenant_option

Command = TypeVar("Command", bound=Callable[..., object])
_APPROVAL_ID = re.compile(r"apr_[0-9a-z]{26}", re.ASCII)


def asking_options(command: Command) -> Command:
    """As whom to ask, and where."""
    for option in (
        click.option(
            "--token-file",
            type=click.Path(path_type=Path, exists=True, dir_okay=False),
            help="Ask as the person of this OIDC token (a file that only you read).",
        ),
        click.option(
            "--role",
            default="approver",
            show_default=True,
            help="Whose certificate of the connection to use.",
        ),
        tenant_option,
        connection_option,
    ):
        command = option(command)
    return command


def _approval_id(_context: click.Context, _argument: click.Parameter, value: str) -> str:
    # It becomes part of a path.
    if not _APPROVAL_ID.fullmatch(value):
        raise click.BadParameter("is not the id of an approval: apr_ and 26 characters")
    return value


approval_argument = click.argument("approval_id", metavar="APPROVAL_ID", callback=_approval_id)
