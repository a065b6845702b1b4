"""`oars log`: check, export and witness the log of receipts."""

import click

from oars_grpc.cli.lazy_group import LazyGroup

# Where each command is.
_MODULES = {
    "check": "log_check",
    "checkpoint": "log_fetch",
    "export": "log_export",
    "proof": "log_fetch",
    "witness": "log_witness",
}


@click.group(cls=LazyGroup, modules=_MODULES)
def log() -> None:
    """The log of receipts: check it, export it, witness it."""
