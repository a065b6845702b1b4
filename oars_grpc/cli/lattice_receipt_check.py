"""Checks the receipt of a lattice: as any other, and its statement against the inputs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from oars_grpc.cli.key_files import envelopes, read_json, trusted_keys
from oars_grpc.cli.lattice_build import built_lattice
from oars_grpc.cli.lattice_file import LatticeFile, read_lattice
from oars_grpc.cli.lattice_npz import read_npy
from oars_grpc.cli.lattice_output import printable
from oars_grpc.cli.lattice_progress import shown_stages
from oars_grpc.cli.lattice_statement import NODES, checked_claims, stated_parameters
from oars_grpc.core.approver_key import parse_public_key
from oars_grpc.core.canonical import sha256_hex, statement_json
from oars_grpc.core.envelope import PAYLOAD_TYPE, Envelope
from oars_grpc.core.keys import KeyState, TrustedKey, key_id_of
from oars_grpc.core.lattice.arrays import Float32Array, Int32Array
from oars_grpc.core.lattice.limits import within_limits
from oars_grpc.core.lattice.progress import keep_going
from oars_grpc.core.lattice.provenance import query_digest
from oars_grpc.core.lattice_verification import STATEMENT
from oars_grpc.core.receipt import LATTICE_PREDICATE_TYPE, Receipt, parse_receipt
from oars_grpc.core.verification import SCHEMA, SIGNATURE, Check, CheckResult, verify_receipt
from oars_grpc.errors import InvalidArgument

SUBJECT = "subject"
_MARKS = {
    CheckResult.PASSED: "[green]passed[/]",
    CheckResult.FAILED: "[bold red]FAILED[/]",
    CheckResult.NOT_CHECKED: "[dim]not checked[/]",
}
_UNLIMITED = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class _Given:
    """A receipt of a lattice as its file has it."""

    envelope: Envelope
    receipt: Receipt
    predicate: Mapping[str, Any]
    subject: Mapping[str, Any]

    @property
    def statement(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.predicate["lattice"]
        return found


def check_file(
    receipt_file: Path,
    file: Path,
    query_file: Path | None,
    nodes_file: Path | None,
    key_files: tuple[Path | None, Path | None],
    *,
    exact: bool,
    as_json: bool,
) -> bool:
    """Print every check of the receipt against the inputs in `file`; whether it is valid."""
    given = _given(receipt_file)
    keys = _keys(given, *key_files)
    try:
        parameters = within_limits(stated_parameters(given.statement))
    except (ValueError, InvalidArgument) as error:
        raise click.UsageError(f"{receipt_file}: {error}") from error
    checks = _checked_receipt(given, keys)
    nodes = None if nodes_file is None else _nodes(nodes_file)
    with shown_stages() as stage:
        lattice = read_lattice(file, query_file, stage("reading"))
        built = built_lattice(lattice, parameters, stage, exact=exact)
        asked = _asked(given, lattice)
        event = given.receipt.type
        proceed = stage("checking")
        checks += checked_claims(event, given.statement, built, asked, nodes, proceed)
    by_name = {check.name: check.result for check in checks}
    signed = bool(given.envelope.signatures)
    valid = (
        CheckResult.FAILED not in by_name.values()
        and by_name.get(STATEMENT) is CheckResult.PASSED
        # Whose it is was asked, or nobody has signed it and it does not say so.
        and (by_name.get(SIGNATURE) is CheckResult.PASSED or not signed)
    )
    if as_json:
        click.echo(json.dumps(_json(given, checks, valid=valid), indent=2))
    else:
        _print(given, checks, valid=valid)
    return valid


def _given(path: Path) -> _Given:
    """The receipt of a lattice: a bare statement, an envelope, or an answer that holds one."""
    try:
        value = read_json(path)
        if isinstance(value, Mapping) and "predicateType" in value:
            envelope = Envelope(PAYLOAD_TYPE, statement_json(value), ())
        else:
            envelope = _only(list(envelopes(value)))
        receipt = parse_receipt(envelope)
        statement = json.loads(envelope.payload)
    except (ValueError, AttributeError, RecursionError) as error:
        raise click.UsageError(f"{path}: {error}") from error
    if statement["predicateType"] != LATTICE_PREDICATE_TYPE:
        raise click.UsageError(f"{path}: is not a receipt of a lattice")
    return _Given(envelope, receipt, statement["predicate"], statement["subject"][0])


def _only(found: Sequence[Envelope]) -> Envelope:
    if len(found) != 1:
        raise ValueError(f"holds {len(found)} receipts, not one")
    return found[0]


def _keys(
    given: _Given, keys_file: Path | None, public_key_file: Path | None
) -> tuple[TrustedKey, ...] | None:
    """The keys that the receipt may be signed with; None if none are given."""
    path = keys_file or public_key_file
    if path is None:
        return None
    try:
        if keys_file is not None:
            return trusted_keys(read_json(path))
        public_key = parse_public_key(path.read_bytes())
    except OSError as error:
        raise click.UsageError(f"{path}: {error.strerror}") from error
    except (ValueError, AttributeError) as error:
        raise click.UsageError(f"{path}: {error}") from error
    return (
        TrustedKey(
            key_id=key_id_of(public_key),
            tenant_id=given.receipt.tenant_id,
            public_key=public_key,
            state=KeyState.ACTIVE,
            valid_from=_UNLIMITED,
        ),
    )


def _checked_receipt(given: _Given, keys: Sequence[TrustedKey] | None) -> tuple[Check, ...]:
    """What can be said of it without the lattice."""
    own = sha256_hex(statement_json(given.statement))
    stated = given.subject.get("digest")
    same = isinstance(stated, Mapping) and stated.get("sha256") == own
    subject = Check(
        SUBJECT,
        CheckResult.PASSED if same else CheckResult.FAILED,
        "" if same else "is not the digest of what is said of the lattice",
    )
    if keys is not None:
        # As it would be told of any receipt; places in chain and log are not asked for here.
        found = verify_receipt(given.envelope, keys).checks
        return (*(c for c in found if c.result is not CheckResult.NOT_CHECKED), subject)
    signed = "no keys were supplied" if given.envelope.signatures else "it is not signed"
    return (
        Check(SIGNATURE, CheckResult.NOT_CHECKED, signed),
        Check(SCHEMA, CheckResult.PASSED),
        subject,
    )


def _asked(given: _Given, lattice: LatticeFile) -> Float32Array | None:
    """The query; of many the one that the receipt names."""
    if lattice.queries is None:
        return None
    inputs = given.statement.get("inputs")
    named = inputs.get("query") if isinstance(inputs, Mapping) else None
    found = [query for query in lattice.queries if query_digest(query) == named]
    query: Float32Array = (found or list(lattice.queries))[0]
    return query


def _nodes(path: Path) -> Int32Array:
    try:
        nodes = read_npy(path, NODES, keep_going)
    except OSError as error:
        raise click.UsageError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise click.UsageError(f"{path}: {error}") from error
    if nodes.dtype != np.int32 or nodes.ndim != 2:
        raise click.UsageError(f"{path}: {NODES}: must be a table of int32")
    return nodes.T  # one row for each node


def _print(given: _Given, checks: Sequence[Check], *, valid: bool) -> None:
    console = Console()
    told = printable(f"{given.receipt.type} {given.receipt.receipt_id}")
    console.print(told, soft_wrap=True)
    table = Table("check", "", "detail")
    for check in checks:
        table.add_row(printable(check.name), _MARKS[check.result], printable(check.detail))
    console.print(table)
    verdict = "[bold green]valid[/]" if valid else "[bold red]NOT VALID[/]"
    unsigned = "" if given.envelope.signatures else ", of nobody: it is not signed"
    console.print(f"{verdict}{unsigned if valid else ''}")


def _json(given: _Given, checks: Sequence[Check], *, valid: bool) -> dict[str, Any]:
    return {
        "receiptId": given.receipt.receipt_id,
        "type": given.receipt.type,
        "valid": valid,
        "signed": bool(given.envelope.signatures),
        "checks": {
            check.name: {"result": check.result.value, "detail": check.detail} for check in checks
        },
    }
