"""`oars verify`: receipts and logs checked offline, with no server and no database."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import click

from oars_grpc.cli.approver_key_file import approver_key_option, read_approver_keys
from oars_grpc.cli.key_files import envelopes, proof_texts, read_json, trusted_keys
from oars_grpc.cli.verify_bundle import BundleAware
from oars_grpc.cli.verify_chains import GivenReceipts
from oars_grpc.cli.verify_log import (
    GivenLogs,
    GivenProof,
    given_proof,
    read_checkpoint,
    read_consistency,
    read_proof,
)
from oars_grpc.cli.verify_output import print_json, print_table
from oars_grpc.core.envelope import Envelope
from oars_grpc.core.inclusion import LogTrust
from oars_grpc.core.note import is_key_name
from oars_grpc.core.witness_policy import WitnessPolicy, parse_witness_policy

Content = TypeVar("Content")
_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command(cls=BundleAware)
@click.argument("files", nargs=-1, type=_FILE)
@click.option(
    "--keys",
    "keys_file",
    required=True,
    type=_FILE,
    help="Trusted keys: the JSON that GET /v1/trust/tenants/TENANT/keys answers.",
)
@click.option(
    "--proof",
    "proof_files",
    multiple=True,
    type=_FILE,
    help="Where one of the receipts stands in the log: a C2SP tlog-proof. Repeatable.",
)
@click.option(
    "--checkpoint",
    "checkpoint_files",
    multiple=True,
    type=_FILE,
    help="A checkpoint of the log, as a signed note. Repeatable.",
)
@click.option(
    "--consistency",
    "consistency_files",
    multiple=True,
    type=_FILE,
    help="That one checkpoint continues another: what GetConsistencyProof answers. Repeatable.",
)
@click.option(
    "--witnesses",
    "witnesses_file",
    type=_FILE,
    help='Who must have cosigned every checkpoint: {"threshold": K, "witnesses": [VKEY, …]}.',
)
@click.option("--origin", default="", help="Believe only logs named PREFIX/TENANT.")
@approver_key_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a receipt or proof.")
def verify(
    files: tuple[Path, ...],
    keys_file: Path,
    proof_files: tuple[Path, ...],
    checkpoint_files: tuple[Path, ...],
    consistency_files: tuple[Path, ...],
    witnesses_file: Path | None,
    origin: str,
    approver_key_files: tuple[Path, ...],
    *,
    as_json: bool,
) -> None:
    """Verify receipts, and the log that holds them, offline.

    Each FILE holds a receipt, an envelope, a list of them, or an answer of the API that contains
    receipts or the proof of one. Receipts of one chain that are given together are also checked as
    a chain: one that is missing between them, or a second one at the same place, makes the verdict
    invalid. Two roots of one log at one size do so, too, wherever they were found.

    An evidence bundle, a ZIP, is verified as a whole: `oars verify BUNDLE.zip --help`.

    Leaves with 0 when everything is valid, 1 when anything is not, 2 when a file cannot be read.
    """
    keys = _read([keys_file], lambda path: trusted_keys(read_json(path)))[0]
    log = LogTrust(_prefix(origin), _policy(witnesses_file))
    found: list[tuple[Path, Envelope]] = []
    proofs = _read(proof_files, read_proof)
    for path, (receipts, texts) in zip(files, _read(files, _contents), strict=True):
        found += [(path, envelope) for envelope in receipts]
        proofs += _read([path] * len(texts), _each(texts))
    checkpoints = _read(checkpoint_files, read_checkpoint)
    consistency = _read(consistency_files, read_consistency)
    if not found and (files or not (checkpoints or consistency)):
        raise click.UsageError("the files hold no receipts")
    if log.witnesses is not None and not (proofs or checkpoints or consistency):
        raise click.UsageError("--witnesses asks for a checkpoint, and none is given")
    by_leaf, unused = _match(proofs, [envelope for _, envelope in found])
    approver_keys = read_approver_keys(approver_key_files)
    envelopes_found = [envelope for _, envelope in found]
    given = GivenReceipts(envelopes_found, keys, log, by_leaf, approver_keys)
    results = [(path, given.verify(envelope)) for path, envelope in found]
    noted = list(zip(checkpoint_files, checkpoints, strict=True))
    findings = GivenLogs(keys, log, noted, consistency, proofs).findings(unused)
    (print_json if as_json else print_table)(results, findings)
    valid = all(result.valid for _, result in results) and all(f.valid for f in findings)
    sys.exit(0 if valid else 1)


def _read(files: Sequence[Path], read: Callable[[Path], Content]) -> list[Content]:
    """What the files hold.

    Raises:
        UsageError: naming the file that does not hold it.
    """
    contents = []
    for path in files:
        try:
            contents.append(read(path))
        except (ValueError, AttributeError) as error:
            raise click.UsageError(f"{path}: {error}") from error
    return contents


def _contents(path: Path) -> tuple[list[Envelope], list[str]]:
    """The receipts and the proofs in a file."""
    value = read_json(path)
    texts = list(proof_texts(value))
    return ([] if texts else list(envelopes(value))), texts


def _each(texts: Sequence[str]) -> Callable[[Path], GivenProof]:
    left = iter(texts)
    return lambda path: given_proof(path, next(left))


def _prefix(origin: str) -> str:
    if origin and (not is_key_name(origin) or origin.endswith("/")):
        raise click.UsageError("--origin: is not what the name of a log begins with")
    return origin


def _policy(path: Path | None) -> WitnessPolicy | None:
    if path is None:
        return None
    return _read([path], lambda file: parse_witness_policy(read_json(file)))[0]


def _match(
    proofs: Sequence[GivenProof], found: Sequence[Envelope]
) -> tuple[dict[bytes, list[str]], list[GivenProof]]:
    """The proofs of each leaf, and those that show none of the receipts.

    A proof does not say what it is a proof of. The only proof beside the only receipt is meant for
    it, and is told to fail by the receipt's own check.
    """
    leaves = {envelope.leaf_hash() for envelope in found}
    by_leaf: dict[bytes, list[str]] = {}
    unused = []
    for proof in proofs:
        shown = [leaf for leaf in leaves if proof.shows(leaf)]
        if not shown and len(leaves) == len(proofs) == 1:
            shown = list(leaves)
        for leaf in shown:
            by_leaf.setdefault(leaf, []).append(proof.text)
        if not shown:
            unused.append(proof)
    return by_leaf, unused
