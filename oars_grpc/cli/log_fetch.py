"""`oars log checkpoint` and `oars log proof`: what to keep of a log, fetched from the server."""

from collections.abc import Callable
from pathlib import Path

import click

from oars_grpc.cli.connection import connection_option, tenant_option
from oars_grpc.cli.durable_files import write_atomically
from oars_grpc.cli.log_client import LogClient, LogRefused, LogUnreachable, log_client

_output = click.option(
    "--output", type=click.Path(path_type=Path, dir_okay=False), help="File; default: print it."
)


@click.command()
@connection_option
@tenant_option
@_output
def checkpoint(connection_file: Path, tenant_id: str, output: Path | None) -> None:
    """Fetch the signed checkpoint of the log as it is now.

    Kept outside of OARS, it is what `oars log check --checkpoint` holds the log against later.
    """
    _fetch(connection_file, tenant_id, output, LogClient.checkpoint)


@click.command()
@click.argument("receipt_id")
@connection_option
@tenant_option
@_output
def proof(receipt_id: str, connection_file: Path, tenant_id: str, output: Path | None) -> None:
    """Fetch the proof that the log holds a receipt: a C2SP tlog-proof."""
    _fetch(connection_file, tenant_id, output, lambda client: client.proof(receipt_id))


def _fetch(
    connection_file: Path, tenant_id: str, output: Path | None, get: Callable[[LogClient], str]
) -> None:
    try:
        with log_client(connection_file, tenant_id) as client:
            text = get(client)
    except ValueError as error:
        raise click.UsageError(f"{connection_file}: {error}") from error
    except (LogUnreachable, LogRefused) as error:
        raise click.ClickException(str(error)) from error
    if output is None:
        click.echo(text, nl=False)
    else:
        write_atomically(output, text.encode())
