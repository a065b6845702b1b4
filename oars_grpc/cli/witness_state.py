"""The files of a witness.

    <state>/lock                        held by the one witness that runs here
    <state>/<origin>/cosigning          the last checkpoint that it decided to cosign, signed
    <state>/<origin>/checkpoint         the last one with the cosignature: what is published
    <state>/<origin>/by-size/<size>     the same for each size
    <state>/<origin>/evidence/…         checkpoints that it refused, beside the last one cosigned

`cosigning` is on the disk before a cosignature leaves this process: a crash in between loses a
cosignature, which is made again, and never the memory of one.
"""

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from oars_grpc.cli.durable_files import make_directories, write_atomically
from oars_grpc.core.checkpoint import Checkpoint
from oars_grpc.core.note import Note, Verifier, parse_note
from oars_grpc.core.witness import Refusal, verified_checkpoint


class WitnessState:
    """What a witness remembers of one log."""

    def __init__(self, state: Path, keys: Sequence[Verifier]) -> None:
        self._keys = keys
        # Escaped whole, so that no origin names a directory of another.
        self.directory = state / quote(keys[0].name, safe="").replace(".", "%2E")

    @property
    def published(self) -> Path:
        """Where the cosigned checkpoint is."""
        return self.directory / "checkpoint"

    def last(self) -> tuple[Note, Checkpoint] | None:
        """The last checkpoint that it decided to cosign.

        Raises:
            Refusal: the file is not such a checkpoint; without it, nothing may be cosigned.
        """
        path = self.directory / "cosigning"
        try:
            note = parse_note(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            if self.published.exists():
                raise Refusal(f"{path} is gone, and with it what was cosigned") from None
            return None
        except ValueError as error:
            raise Refusal(f"{path}: {error}") from error
        return note, verified_checkpoint(note, self._keys)

    def remember(self, note: Note) -> None:
        """Decide for a checkpoint: from now on, nothing else is cosigned."""
        write_atomically(self.directory / "cosigning", note.format().encode())

    def is_published(self, checkpoint: Checkpoint) -> bool:
        """Whether the checkpoint is the one that was published last."""
        try:
            return parse_note(self.published.read_text(encoding="utf-8")).text == checkpoint.text()
        except FileNotFoundError:
            return False
        except ValueError as error:
            raise Refusal(f"{self.published}: {error}") from error

    def publish(self, note: Note, size: int) -> None:
        """Give a cosigned checkpoint to the world."""
        data = note.format().encode()
        write_atomically(self.directory / "by-size" / str(size), data)
        write_atomically(self.published, data)

    def keep_evidence(self, refused: Note, reason: str) -> Path:
        """Keep a refused checkpoint and the last cosigned one; where they are."""
        evidence = self.directory / "evidence"
        number = len(list(evidence.glob("*"))) if evidence.is_dir() else 0
        directory = evidence / f"{number:04}"
        write_atomically(directory / "refused", refused.format().encode())
        write_atomically(directory / "reason", f"{reason}\n".encode())
        cosigned = self.directory / "cosigning"
        if cosigned.exists():
            write_atomically(directory / "cosigned", cosigned.read_bytes())
        return directory


@contextmanager
def locked(state: Path) -> Iterator[None]:
    """Hold the state directory: two witnesses on one state could cosign two histories.

    Raises:
        Refusal: another process holds it.
    """
    make_directories(state)
    descriptor = os.open(state / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refusal(f"another witness runs on {state}") from None
        yield
    finally:
        os.close(descriptor)
