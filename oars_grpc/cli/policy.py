"""`oars policy`: check, test, compare, replay and publish policy files."""

import click

from oars_grpc.cli.lazy_group import LazyGroup

# Where each command is.
_MODULES = {
    "check": "policy_check",
    "diff": "policy_diff",
    "publish": "policy_publish",
    "replay": "policy_replay",
    "test": "policy_test",
}


@click.group(cls=LazyGroup, modules=_MODULES)
def policy() -> None:
    """Policies as files, in YAML or JSON: check, test, compare, replay and publish them."""
