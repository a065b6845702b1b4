"""Groups of commands whose modules are imported when one of them is called."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click


class LazyGroup(click.Group):
    """A group that knows of each command by name in which module of this package it is.

    So a command needs no more than what it uses itself: `oars verify` no database, say.
    """

    def __init__(self, *args: Any, modules: Mapping[str, str], **named: Any) -> None:
        super().__init__(*args, **named)
        self._modules = modules

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands, sorted."""
        return sorted({*super().list_commands(ctx), *self._modules})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a name; None if there is none."""
        if cmd_name not in self._modules:
            return super().get_command(ctx, cmd_name)
        module = import_module(f"oars_grpc.cli.{self._modules[cmd_name]}")
        command: click.Command = getattr(module, cmd_name)
        return command
