"""`oars policy`: check, test, compare, replay and publish policy files."""

from importlib import import_module

import click

# Where each command is; imported when it is called.
_MODULES = {
    "check": "policy_check",
    "diff": "policy_diff",
    "publish": "policy_publish",
    "replay": "policy_replay",
    "test": "policy_test",
}


class _PolicyCommands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *_MODULES})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _MODULES:
            return super().get_command(ctx, cmd_name)
        module = import_module(f"oars_grpc.cli.{_MODULES[cmd_name]}")
        command: click.Command = getattr(module, cmd_name)
        return command


@click.group(cls=_PolicyCommands)
def policy() -> None:
    """Policies as files, in YAML or JSON: check, test, compare, replay and publish them."""
