"""Checkpoints that somebody saved earlier, to hold a log against."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from oars_grpc.core.checkpoint import Checkpoint, checkpoint_verifier, parse_checkpoint
from oars_grpc.core.keys import KeyPurpose, TrustedKey
from oars_grpc.core.note import Note, Verifier, parse_note, verified_by


@dataclass(frozen=True, slots=True)
class SavedCheckpoint:
    """A checkpoint that somebody saved, as its file has it."""

    path: Path
    note: Note
    checkpoint: Checkpoint

    @property
    def tenant_id(self) -> str:
        """The tenant whose log its origin names."""
        return self.checkpoint.origin.rpartition("/")[2]

    def refusal(self, keys: Sequence[TrustedKey]) -> str | None:
        """Why it cannot be held against the log of a tenant with these keys; None if it can."""
        try:
            signed = verified_by(self.note, list(_verifiers(self.checkpoint.origin, keys)))
        except ValueError as error:
            return str(error)
        return None if signed else "no checkpoint key that the tenant has now signed it"


def read_checkpoint(path: Path) -> SavedCheckpoint:
    """The checkpoint in a file.

    Raises:
        UsageError: there is none.
    """
    try:
        note = parse_note(path.read_bytes().decode())
        return SavedCheckpoint(path, note, parse_checkpoint(note))
    except (OSError, ValueError) as error:
        raise click.UsageError(f"{path}: {error}") from error


def _verifiers(origin: str, keys: Sequence[TrustedKey]) -> Iterator[Verifier]:
    for key in keys:
        if key.purpose is KeyPurpose.CHECKPOINT:
            yield checkpoint_verifier(origin, key.public_key)
