"""`oars policy diff`: what changes between two policy documents."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from oars_grpc.cli.connection import optional_connection_option, tenant_option
from oars_grpc.cli.policy_checks import (
    checked_file,
    format_option,
    print_faults,
    print_json,
)
from oars_grpc.cli.policy_client import PolicyRefused, policy_client
from oars_grpc.cli.policy_file import PolicyFile
from oars_grpc.core.policy_case import CaseResult, run_case
from oars_grpc.core.policy_diff import DocumentDiff, FieldChange, diff_documents
from oars_grpc.core.policy_document import CompiledPolicy, validate_document
from oars_grpc.errors import InvalidArgument

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
_ROLE = "auditor"


@dataclass(frozen=True, slots=True)
class _Side:
    """One of the documents, what to call it, and the file that it is from."""

    name: str
    policy: CompiledPolicy
    file: PolicyFile | None = None


@click.command()
@click.argument("files", metavar="[OLD] NEW", type=_FILE, nargs=-1, required=True)
@click.option("--published", is_flag=True, help="OLD is the tenant's published policy.")
@optional_connection_option
@tenant_option
@click.option("--exit-code", is_flag=True, help="Leave with 1 if anything differs.")
@format_option
@click.pass_context
def diff(
    context: click.Context,
    files: tuple[Path, ...],
    connection_file: Path,
    tenant_id: str,
    output: str,
    *,
    published: bool,
    exit_code: bool,
) -> None:
    """Compare the documents of two files, or that of a file with the published one.

    Tells rules that came, went or changed, field by field, and which of the cases of NEW are
    decided otherwise (with the risk weights of NEW).

    Leaves with 0, or with 1 if a document is not valid or --exit-code finds a difference, 2 if they
    could not be compared.
    """
    if len(files) != (1 if published else 2):
        raise click.UsageError("give OLD and NEW, or NEW and --published", context)
    sides = [_valid(path) for path in files]
    old = _published(connection_file, tenant_id) if published else sides[0]
    new = sides[-1]
    changes = diff_documents(old.policy.document, new.policy.document)
    decided = _decided_otherwise(old, new)
    if output == "json":
        print_json(_to_json(changes, decided))
    else:
        for line in _lines(old.name, new.name, changes, decided):
            click.echo(line)
    if exit_code and (changes or decided):
        sys.exit(1)


def _valid(path: Path) -> _Side:
    checked = checked_file(path)
    if checked.policy is None:
        print_faults(checked.faults)
        click.echo(checked.summary(), err=True)
        sys.exit(1)
    return _Side(str(path), checked.policy, checked.file)


def _published(connection_file: Path, tenant_id: str) -> _Side:
    with policy_client(connection_file, tenant_id, _ROLE) as client:
        try:
            found = client.get(client.published().policy_id)
        except PolicyRefused as refused:
            raise click.ClickException(refused.message) from refused
    if found.document is None:
        raise click.ClickException("the server answers without a document")
    try:
        policy = validate_document(found.document)
    except InvalidArgument as error:
        raise click.ClickException(f"the published policy: {error.message}") from error
    return _Side(f"published policy {found.policy_id}, version {found.version}", policy)


def _decided_otherwise(old: _Side, new: _Side) -> list[tuple[CaseResult, CaseResult]]:
    """The cases of the new file whose decision changes, before and after."""
    if new.file is None:
        return []
    cases, risk = [located.case for located in new.file.cases], new.file.risk
    both = [(run_case(case, old.policy, risk), run_case(case, new.policy, risk)) for case in cases]
    return [
        (before, after)
        for before, after in both
        if before.decision.effect is not after.decision.effect
    ]


def _lines(
    old: str,
    new: str,
    changes: DocumentDiff,
    decided: Sequence[tuple[CaseResult, CaseResult]],
) -> Iterator[str]:
    if not changes and not decided:
        yield f"{old} and {new} say the same"
        return
    yield f"--- {old}"
    yield f"+++ {new}"
    for change in changes.head:
        yield f"~ {_shown(change)}"
    for rule in changes.removed:
        yield f"- rule {rule.id} ({rule.effect.value.upper()})"
    for rule in changes.added:
        yield f"+ rule {rule.id} ({rule.effect.value.upper()})"
    for changed in changes.changed:
        yield f"~ rule {changed.rule_id}"
        for change in changed.fields:
            yield f"    {_shown(change)}"
    if changes.reordered:
        yield "~ the rules are asked in another order"
    for before, after in decided:
        one, other = before.decision.evaluation, after.decision.evaluation
        turn = f"{one.effect.value.upper()} -> {other.effect.value.upper()}"
        yield f"! case {before.case.name}: {turn}"
        yield f"    before: {one.explanation}"
        yield f"    after: {other.explanation}"


def _shown(change: FieldChange) -> str:
    if change.added or change.removed:
        values = [f"-{value}" for value in change.removed] + [f"+{value}" for value in change.added]
        return f"{change.field}: {' '.join(values)}"
    return f"{change.field}: {change.before!r} -> {change.after!r}"


def _to_json(
    changes: DocumentDiff, decided: Sequence[tuple[CaseResult, CaseResult]]
) -> dict[str, Any]:
    return {
        "different": bool(changes or decided),
        "head": [asdict(change) for change in changes.head],
        "addedRules": [rule.id for rule in changes.added],
        "removedRules": [rule.id for rule in changes.removed],
        "changedRules": [
            {"ruleId": rule.rule_id, "fields": [asdict(change) for change in rule.fields]}
            for rule in changes.changed
        ],
        "reordered": changes.reordered,
        "cases": [
            {
                "name": before.case.name,
                "before": before.decision.effect.value,
                "after": after.decision.effect.value,
            }
            for before, after in decided
        ],
    }
