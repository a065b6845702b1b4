"""`oars dev`: the whole stack on this machine until Ctrl-C."""

import signal
import threading
from pathlib import Path

import click

from oars_grpc.local.stack import TENANT, LocalStack


@click.command()
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(".oars"),
    show_default=True,
    help="Directory of everything that is kept: database, certificates, keys, logs.",
)
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port; 0 takes a free one.")
def dev(state: Path, port: int) -> None:
    """Run Postgres, the server and Envoy with development certificates.

    Writes STATE/connection.json when everything is healthy, with URL, certificates and tenant.
    """
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    click.echo("starting Postgres, server and Envoy …")
    with LocalStack(state, port=port) as stack:
        admin = stack.certificates / "admin"
        click.echo(f"OARS is at {stack.rest_url} (REST and gRPC), tenant {TENANT}")
        click.echo(f"connection: {state / 'connection.json'}")
        click.echo(
            f"try: curl --cacert {stack.certificates / 'ca.pem'} "
            f"--cert {admin}.pem --key {admin}.key {stack.rest_url}/v1/actions"
        )
        stopping.wait()
        click.echo("stopping …")
