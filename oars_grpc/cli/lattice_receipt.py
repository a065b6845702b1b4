"""`oars lattice receipt`: makes the receipt of a lattice, or checks one against the inputs."""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click
import numpy as np

from oars_grpc.cli.approver_key_file import read_approver_key
from oars_grpc.cli.durable_files import write_atomically
from oars_grpc.cli.lattice_build import built_lattice
from oars_grpc.cli.lattice_file import read_lattice
from oars_grpc.cli.lattice_options import (
    INPUT,
    OUTPUT,
    checked_target,
    exact_option,
    file_argument,
    parameter_options,
    query_option,
    ranking_options,
)
from oars_grpc.cli.lattice_output import appearing, print_shortfall
from oars_grpc.cli.lattice_progress import shown_stages
from oars_grpc.cli.lattice_receipt_check import check_file
from oars_grpc.cli.lattice_statement import made_receipt, stated_lattice
from oars_grpc.core.keys import SigningKey
from oars_grpc.core.lattice.arrays import Int32Array
from oars_grpc.core.lattice.parameters import LatticeParameters
from oars_grpc.core.lattice.ranking import RankingParameters
from oars_grpc.core.lattice.statement import FULL, LIGHT
from oars_grpc.core.receipt import Receipt
from oars_grpc.core.tenant import TENANT_ID

# As many as a receipt has room for.
_MAXIMUM_TOP = 256


@click.command()
@file_argument
@query_option
@click.option(
    "--detail",
    type=click.Choice([LIGHT, FULL]),
    default=FULL,
    show_default=True,
    help="Energies, certificate and ranking; or also all nodes, conflicts and the chain's verdict.",
)
@click.option(
    "--signing-key",
    "key_file",
    type=INPUT,
    help="Sign with this Ed25519 key (PEM, PKCS #8, for its owner alone): a DSSE envelope.",
)
@click.option(
    "--tenant", "tenant_id", default="local", show_default=True, help="Whose receipt it is."
)
@click.option("--out", "target", type=OUTPUT, help="Write it here instead of printing it.")
@click.option(
    "--nodes",
    "nodes_file",
    type=OUTPUT,
    help="Write, or with --check read, the nodes' numbers that a full receipt digests (.npy).",
)
@click.option(
    "--check", "receipt_file", type=INPUT, help="Check this receipt against FILE instead."
)
@click.option(
    "--keys",
    "keys_file",
    type=INPUT,
    help="With --check: trusted keys, as `oars keys list` prints them.",
)
@click.option(
    "--public-key",
    "public_key_file",
    type=INPUT,
    help="With --check: the key that must have signed, PEM or DER, in place of --keys.",
)
@parameter_options
@ranking_options(_MAXIMUM_TOP)
@exact_option
@click.option("--json", "as_json", is_flag=True, help="With --check: print one JSON object.")
def receipt(
    file: Path,
    query_file: Path | None,
    detail: str,
    key_file: Path | None,
    tenant_id: str,
    target: Path | None,
    nodes_file: Path | None,
    receipt_file: Path | None,
    keys_file: Path | None,
    public_key_file: Path | None,
    parameters: LatticeParameters,
    ranking: RankingParameters,
    *,
    exact: bool,
    as_json: bool,
) -> None:
    """Make the receipt of FILE's lattice under its query, or check one.

    The receipt is an in-toto statement, urn:oars:receipt:lattice:v1, with the members of those
    that a server writes: digests of all inputs, outputs as whole numbers, the solver's outcome and
    the residual certificate. With --signing-key it comes signed, in an envelope (DSSE).

    --check takes a receipt made here or by a server, an envelope or a statement. The lattice is
    built from FILE with the parameters that the receipt names; every digest and number in it must
    be that of FILE. A signed one needs --keys or --public-key.

    Leaves with 0, with 1 when the state did not settle to the tolerance or the receipt checked is
    not valid, with 2 when a file cannot be used.

    Example: oars lattice receipt notes.npz --signing-key key.pem --out receipt.json

    Example: oars lattice receipt notes.npz --check receipt.json --public-key key.pub
    """
    if receipt_file is not None:
        if target is not None or key_file is not None:
            raise click.UsageError("--check takes neither --out nor --signing-key")
        if keys_file is not None and public_key_file is not None:
            raise click.UsageError("--keys and --public-key are one too many")
        keys = (keys_file, public_key_file)
        valid = check_file(
            receipt_file, file, query_file, nodes_file, keys, exact=exact, as_json=as_json
        )
        sys.exit(0 if valid else 1)
    if keys_file is not None or public_key_file is not None or as_json:
        raise click.UsageError("--keys, --public-key and --json go with --check")
    if nodes_file is not None and detail != FULL:
        raise click.UsageError(f"--nodes goes with --detail {FULL}")
    if not TENANT_ID.fullmatch(tenant_id):
        raise click.BadParameter("is not the id of a tenant", param_hint="--tenant")
    _check_targets((target, nodes_file), (file, query_file, key_file))
    key = None if key_file is None else _key(key_file)
    with shown_stages() as stage:
        given = read_lattice(file, query_file, stage("reading"))
        asked = given.query
        built = built_lattice(given, parameters, stage, exact=exact)
        ranking = replace(ranking, top=min(ranking.top, len(given)))
        stated = stated_lattice(built, asked, ranking, stage("conflicts"), full=detail == FULL)
    try:
        made = made_receipt(stated, tenant_id, key)
    except ValueError as error:
        raise click.UsageError(f"{file}: {error}") from error
    _write(made, stated.nodes, target, nodes_file, signed=key is not None)
    if built.shortfall:
        print_shortfall(built)
        sys.exit(1)


def _check_targets(targets: Sequence[Path | None], sources: Sequence[Path | None]) -> None:
    if targets[0] is not None and targets[0] == targets[1]:
        raise click.UsageError("--out and --nodes are one file")
    for target in targets:
        if target is not None:
            checked_target(target, *sources)


def _write(
    made: Receipt,
    nodes: Int32Array | None,
    target: Path | None,
    nodes_file: Path | None,
    *,
    signed: bool,
) -> None:
    """Write or print the receipt, after what it digests."""
    if nodes_file is not None and nodes is not None:
        with appearing(nodes_file) as opened:
            np.save(opened, nodes.T, allow_pickle=False)  # one row for each node
    value = made.envelope.to_json() if signed else json.loads(made.envelope.payload)
    text = json.dumps(value, indent=2) + "\n"
    if target is None:
        click.echo(text, nl=False)
        return
    try:
        write_atomically(target, text.encode())
    except OSError as error:
        raise click.UsageError(f"{target}: {error.strerror}") from error
    how = f"signed with key {made.key_id}" if signed else "unsigned"
    click.echo(f"wrote {target}: {made.receipt_id}, {how}")


def _key(path: Path) -> SigningKey:
    try:
        key, _ = read_approver_key(path)
    except ValueError as error:
        raise click.UsageError(f"{path}: {error}") from error
    return key
