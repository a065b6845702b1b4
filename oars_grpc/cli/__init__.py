"""The `oars` command."""

import sys

import click

from oars_grpc.cli.approvals import approvals
from oars_grpc.cli.approvers import approvers
from oars_grpc.cli.demo import demo
from oars_grpc.cli.dev import dev
from oars_grpc.cli.evidence import evidence
from oars_grpc.cli.keys import keys
from oars_grpc.cli.lattice import lattice
from oars_grpc.cli.log import log
from oars_grpc.cli.policy import policy
from oars_grpc.cli.receipts import receipts
from oars_grpc.cli.serve import migrate, serve
from oars_grpc.cli.verify import verify
from oars_grpc.errors import OarsError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="oars-grpc")
def commands() -> None:
    """OARS decides what AI agents may do, and leaves a signed receipt for every step."""


commands.add_command(serve)
commands.add_command(migrate)
commands.add_command(dev)
commands.add_command(demo)
commands.add_command(verify)
commands.add_command(keys)
commands.add_command(approvals)
commands.add_command(approvers)
commands.add_command(policy)
commands.add_command(log)
commands.add_command(evidence)
commands.add_command(receipts)
commands.add_command(lattice)


def main() -> None:
    """Run the command; errors of ours are one line, not a traceback."""
    try:
        commands()
    except OarsError as error:
        click.echo(f"oars: {error.message}", err=True)
        sys.exit(2)
