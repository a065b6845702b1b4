"""`oars serve` and `oars migrate`: settings come from the environment."""

import os

import click

from oars_grpc.settings import SETTINGS, read_settings


def _documented(summary: str) -> str:
    lines = [summary, "", "\b", "Settings (environment variables):"]
    for name, (default, meaning) in SETTINGS.items():
        lines.append(f"  {name:<32} {meaning}" + (f" [{default}]" if default else ""))
    return "\n".join(lines)


@click.command(help=_documented("Serve the gRPC API until SIGTERM, then drain."))
def serve() -> None:
    """Serve."""
    from oars_grpc import main, process  # noqa: PLC0415 - `oars verify` needs no server

    settings = read_settings(os.environ)
    process.configure_logging(settings.log_level)
    main.serve(settings)


@click.command(help=_documented("Bring the database schema up to date, then leave."))
def migrate() -> None:
    """Migrate."""
    from oars_grpc import main, process  # noqa: PLC0415 - as above

    settings = read_settings(os.environ)
    process.configure_logging(settings.log_level)
    main.run_migrations(settings)
    click.echo("the schema is up to date")
