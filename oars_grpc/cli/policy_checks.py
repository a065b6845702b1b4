"""What `oars policy` does with every file before anything else: read, check, look for oddities."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from oars_grpc.cli.policy_faults import check_document, warnings
from oars_grpc.cli.policy_fields import FileFault
from oars_grpc.cli.policy_file import PolicyFile, read_policy_file
from oars_grpc.cli.policy_names_file import read_list_file
from oars_grpc.core.policy_document import CompiledPolicy
from oars_grpc.core.policy_vocabulary import Vocabulary

Command = TypeVar("Command", bound=Callable[..., object])

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)

file_argument = click.argument("file", type=_FILE)
format_option = click.option(
    "--format",
    "output",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="How to print.",
)
strict_option = click.option("--strict", is_flag=True, help="Warnings are errors.")


def names_options(command: Command) -> Command:
    """`--tools` and `--workflows`."""
    for name, what in (("workflows", "workflow ids"), ("tools", "tool ids, or id and operations")):
        command = click.option(
            f"--{name}",
            f"{name}_file",
            type=_FILE,
            default=None,
            help=f"List of {what}: other names are warned of.  [default: `{name}:` of FILE]",
        )(command)
    return command


@dataclass(frozen=True, slots=True)
class CheckedFile:
    """A policy file and what was found; `policy` is None if there is any error."""

    file: PolicyFile
    policy: CompiledPolicy | None
    faults: tuple[FileFault, ...]

    def fails(self, *, strict: bool) -> bool:
        """Whether what was found forbids to go on."""
        levels = {"error", "warning"} if strict else {"error"}
        return any(fault.level in levels for fault in self.faults)

    def summary(self) -> str:
        """In one line."""
        counts = {
            level: sum(fault.level == level for fault in self.faults)
            for level in ("error", "warning", "note")
        }
        found = ", ".join(
            f"{count} {level}{'s' if count > 1 else ''}" for level, count in counts.items() if count
        )
        if self.policy is None:
            return f"{self.file.path}: not valid: {found}"
        rules = len(self.policy.rules)
        ending = f"; {found}" if found else ""
        return f"{self.file.path}: valid: rules {rules}, digest {self.policy.digest}{ending}"

    def to_json(self) -> dict[str, Any]:
        """For `--format json`."""
        return {
            "file": str(self.file.path),
            "valid": self.policy is not None,
            "digest": self.policy.digest if self.policy else None,
            "faults": [fault.to_json() for fault in self.faults],
        }


def checked_file(
    path: Path, tools_file: Path | None = None, workflows_file: Path | None = None
) -> CheckedFile:
    """Read a file and check it as the server would."""
    try:
        file = read_policy_file(path)
        tools, workflows = file.vocabulary.tools, file.vocabulary.workflows
        if tools_file is not None:
            tools = read_list_file(tools_file, "tools").tools
        if workflows_file is not None:
            workflows = read_list_file(workflows_file, "workflows").workflows
    except OSError as error:
        raise click.UsageError(f"{error.filename}: {error.strerror}") from error
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if not file.is_readable:
        return CheckedFile(file, None, tuple(sorted(file.faults, key=_order)))
    policy, faults = check_document(file)
    if policy is None:
        return CheckedFile(file, None, tuple(sorted((*file.faults, *faults), key=_order)))
    faults += _cases_without_rules(file, policy)
    valid = None if faults else policy
    faults += warnings(file, policy, Vocabulary(tools, workflows))
    found = sorted((*file.faults, *faults), key=_order)
    return CheckedFile(file, valid, tuple(found))


def _order(fault: FileFault) -> tuple[str, int, int]:
    return str(fault.file), fault.place.line, fault.place.column


def _cases_without_rules(file: PolicyFile, policy: CompiledPolicy) -> list[FileFault]:
    """Cases that expect rules which there are not: they could never pass."""
    known = {rule.id for rule in policy.rules}
    return [
        FileFault(located.file, located.place, f"case {located.case.name!r}: no rule {name!r}")
        for located in file.cases
        for name in (*(located.case.rules or ()), *(located.case.indeterminate or ()))
        if name not in known
    ]


def print_faults(faults: Sequence[FileFault]) -> None:
    """One a line, to standard error."""
    for fault in faults:
        click.echo(str(fault), err=True)


def print_json(value: Any) -> None:
    """One JSON value, to standard output."""
    click.echo(json.dumps(value, indent=2, sort_keys=True))
