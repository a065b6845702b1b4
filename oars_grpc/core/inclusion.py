"""Whether a log holds a receipt: its checkpoint believed first, then the Merkle proof.

A checkpoint is believed when a key of the tenant that signs checkpoints, and nothing else, signed
it under the origin of the tenant's log, when that key is not revoked, and when the witnesses that
the verifier asks for have cosigned it. It carries no time: a revoked key's checkpoints are never
believed, and the end of a key's window shows only against the receipts that a checkpoint holds.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cryptography.exceptions import UnsupportedAlgorithm

from oars_grpc.core.checkpoint import (
    Checkpoint,
    checkpoint_verifier,
    log_origin,
    parse_checkpoint,
    parse_proof,
)
from oars_grpc.core.keys import KeyPurpose, KeyState, TrustedKey
from oars_grpc.core.note import Note, Verifier, verified_by
from oars_grpc.core.receipt import Receipt
from oars_grpc.core.witness_policy import WitnessPolicy


@dataclass(frozen=True, slots=True)
class LogTrust:
    """What a verifier asks of a log beside the signature of the tenant's key.

    Logs are named `<origin_prefix>/<tenant>`; without a prefix only the tenant is compared.
    """

    origin_prefix: str = ""
    witnesses: WitnessPolicy | None = None


ANY_LOG = LogTrust()


@dataclass(frozen=True, slots=True)
class VerifiedCheckpoint:
    """A checkpoint that is believed, and the key that signed it."""

    checkpoint: Checkpoint
    key: TrustedKey


@dataclass(frozen=True, slots=True)
class VerifiedInclusion:
    """The place of a receipt in a log, and the checkpoint that shows it."""

    leaf_index: int
    verified: VerifiedCheckpoint


def verify_checkpoint(
    note: Note, tenant_id: str, keys: Sequence[TrustedKey], log: LogTrust = ANY_LOG
) -> VerifiedCheckpoint:
    """The checkpoint of a note, believed.

    Raises:
        ValueError: it is not, and why.
    """
    checkpoint = parse_checkpoint(note)
    prefix, _, tenant = checkpoint.origin.rpartition("/")
    if tenant != tenant_id or not prefix:
        raise ValueError(f"{checkpoint.origin[:200]!r} is not the log of tenant {tenant_id}")
    if log.origin_prefix and checkpoint.origin != log_origin(log.origin_prefix, tenant_id):
        raise ValueError(
            f"the log is {checkpoint.origin[:200]!r},"
            f" not {log_origin(log.origin_prefix, tenant_id)!r}"
        )
    verified = VerifiedCheckpoint(checkpoint, _signer(note, checkpoint.origin, tenant_id, keys))
    refusal = log.witnesses.refusal(note) if log.witnesses else None
    if refusal:
        raise ValueError(refusal)
    return verified


def verify_proof(
    leaf: bytes,
    receipt: Receipt,
    proof: str,
    keys: Sequence[TrustedKey],
    log: LogTrust = ANY_LOG,
) -> VerifiedInclusion:
    """The place that a C2SP tlog-proof shows a receipt at, by its leaf hash.

    Raises:
        ValueError: it does not, and why.
    """
    inclusion, note = parse_proof(proof)
    verified = verify_checkpoint(note, receipt.tenant_id, keys, log)
    ends = verified.key.valid_until
    # A log cannot have signed for a receipt before that was written.
    if ends is not None and receipt.recorded_at >= ends:
        raise ValueError(
            f"the checkpoint holds a receipt of {receipt.recorded_at.isoformat()}, when key"
            f" {verified.key.key_id} was no longer valid"
        )
    if not inclusion.shows(leaf, verified.checkpoint):
        raise ValueError(
            f"the proof does not show the receipt as leaf {inclusion.leaf_index} of"
            f" {verified.checkpoint.size}"
        )
    return VerifiedInclusion(inclusion.leaf_index, verified)


def _signer(note: Note, origin: str, tenant_id: str, keys: Sequence[TrustedKey]) -> TrustedKey:
    """The key that the checkpoint is believed for."""
    candidates = list(_candidates(origin, tenant_id, keys))
    if not candidates:
        raise ValueError(f"no trusted key signs checkpoints of {origin[:200]!r}")
    signed = {
        verifier.public_key
        for verifier in verified_by(note, [verifier for verifier, _ in candidates])
    }
    signers = [key for verifier, key in candidates if verifier.public_key in signed]
    if not signers:
        raise ValueError("no trusted key signed the checkpoint")
    # Listed more than once, for whatever: a revocation anywhere counts.
    revoked = {key.public_key for key in keys if key.state is KeyState.REVOKED}
    believed = [key for key in signers if key.public_key not in revoked]
    if not believed:
        raise ValueError(f"key {signers[0].key_id}, which signed the checkpoint, was revoked")
    return believed[0]


def _candidates(
    origin: str, tenant_id: str, keys: Sequence[TrustedKey]
) -> Iterator[tuple[Verifier, TrustedKey]]:
    """The keys that may sign checkpoints of the log."""
    for key in keys:
        if (key.purpose, key.tenant_id) != (KeyPurpose.CHECKPOINT, tenant_id):
            continue
        if key.origin not in ("", origin):
            continue
        try:
            yield checkpoint_verifier(origin, key.public_key), key
        except (ValueError, UnsupportedAlgorithm):
            continue  # a key that can verify nothing, in a list that somebody supplied
