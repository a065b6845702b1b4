"""`oars log`: check, export and witness the log of receipts."""

from importlib import import_module

import click

# Where each command is; imported when it is called, as `oars verify` needs no database.
_MODULES = {
    "check": "log_check",
    "checkpoint": "log_fetch",
    "export": "log_export",
    "proof": "log_fetch",
    "witness": "log_witness",
}


class _LogCommands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *_MODULES})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _MODULES:
            return super().get_command(ctx, cmd_name)
        module = import_module(f"oars_grpc.cli.{_MODULES[cmd_name]}")
        command: click.Command = getattr(module, cmd_name)
        return command


@click.group(cls=_LogCommands)
def log() -> None:
    """The log of receipts: check it, export it, witness it."""
