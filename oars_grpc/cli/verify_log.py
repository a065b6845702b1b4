"""What `oars verify` is given of logs: proofs, checkpoints and consistency proofs, and verdicts.

Checkpoints that are believed are compared with each other, wherever they come from: two roots of
one log at one size are two histories, told to two people.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from oars_grpc.cli.key_files import MAXIMUM_FILE_BYTES, read_json
from oars_grpc.core.canonical import decode_base64
from oars_grpc.core.checkpoint import Checkpoint, InclusionProof, parse_checkpoint, parse_proof
from oars_grpc.core.inclusion import LogTrust, verify_checkpoint
from oars_grpc.core.keys import TrustedKey
from oars_grpc.core.merkle import verify_consistency
from oars_grpc.core.note import Note, parse_note


@dataclass(frozen=True, slots=True)
class GivenProof:
    """An inclusion proof and the file that it came in; not yet judged."""

    path: Path
    text: str
    inclusion: InclusionProof
    checkpoint: Checkpoint
    note: Note

    def shows(self, leaf: bytes) -> bool:
        """Whether it is a proof of this leaf, be its checkpoint believed or not."""
        return self.inclusion.shows(leaf, self.checkpoint)


@dataclass(frozen=True, slots=True)
class GivenConsistency:
    """A consistency proof and the file that it came in; not yet judged."""

    path: Path
    earlier: Note
    later: Note
    hashes: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of a checkpoint, a proof, or of several together."""

    kind: str
    path: Path
    detail: str
    error: str = ""

    @property
    def valid(self) -> bool:
        """Whether it holds."""
        return not self.error


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        ValueError: unreadable, too large, or no text.
    """
    try:
        if path.stat().st_size > MAXIMUM_FILE_BYTES:
            raise ValueError(f"is larger than {MAXIMUM_FILE_BYTES} bytes")
        return path.read_bytes().decode()
    except OSError as error:
        raise ValueError(str(error.strerror)) from error


def given_proof(path: Path, text: str) -> GivenProof:
    """A proof in the form of C2SP tlog-proof.

    Raises:
        ValueError: it is none.
    """
    inclusion, note = parse_proof(text)
    return GivenProof(path, text, inclusion, parse_checkpoint(note), note)


def read_proof(path: Path) -> GivenProof:
    """The proof in a file: a tlog-proof, or an answer of GetReceiptProof."""
    text = read_text(path)
    if text.lstrip().startswith("{"):
        text = _text(read_json(path), "proof")
    return given_proof(path, text)


def read_checkpoint(path: Path) -> Note:
    """The checkpoint in a file: a signed note, or an answer of GetCheckpoint."""
    text = read_text(path)
    if text.lstrip().startswith("{"):
        value = read_json(path)
        text = _text(value.get("checkpoint", value), "note")
    return parse_note(text)


def read_consistency(path: Path) -> GivenConsistency:
    """The consistency proof in a file: an answer of GetConsistencyProof."""
    value = read_json(path)
    if not isinstance(value, Mapping):
        raise ValueError("holds no consistency proof")
    hashes = value.get("hashes", [])
    if not isinstance(hashes, list) or not all(isinstance(hash_, str) for hash_ in hashes):
        raise ValueError("hashes is not a list of texts")
    earlier, later = (parse_note(_text(value.get(name), "note")) for name in ("from", "to"))
    return GivenConsistency(path, earlier, later, tuple(map(decode_base64, hashes)))


def _text(value: Any, name: str) -> str:
    found = value.get(name) if isinstance(value, Mapping) else None
    if not isinstance(found, str):
        raise ValueError(f"holds no {name}")
    return found


class GivenLogs:
    """All that was given of logs, judged by the same keys."""

    def __init__(
        self,
        keys: Sequence[TrustedKey],
        log: LogTrust,
        checkpoints: Sequence[tuple[Path, Note]],
        consistency: Sequence[GivenConsistency],
        proofs: Sequence[GivenProof],
    ) -> None:
        self._keys = keys
        self._log = log
        self._checkpoints = checkpoints
        self._consistency = consistency
        self._proofs = proofs
        self._believed: dict[tuple[str, int], dict[bytes, Path]] = {}

    def findings(self, unused: Sequence[GivenProof]) -> list[Finding]:
        """The verdicts; `unused` are the proofs that show none of the receipts given."""
        found = [self._judge_checkpoint(path, note) for path, note in self._checkpoints]
        proven: set[tuple[Checkpoint, Checkpoint]] = set()
        found += [self._judge_consistency(given, proven) for given in self._consistency]
        found += [
            Finding("proof", proof.path, "", "it shows none of the receipts given")
            for proof in unused
        ]
        for proof in self._proofs:
            self._believe(proof.path, proof.note)
        found += self._unlinked(proven)
        found += self._forks()
        return found

    def _believe(self, path: Path, note: Note) -> Checkpoint | str:
        """The checkpoint of a note, or why it is not believed."""
        try:
            checkpoint = parse_checkpoint(note)
            tenant_id = checkpoint.origin.rpartition("/")[2]
            verify_checkpoint(note, tenant_id, self._keys, self._log)
        except ValueError as error:
            return str(error)
        roots = self._believed.setdefault((checkpoint.origin, checkpoint.size), {})
        roots.setdefault(checkpoint.root, path)
        return checkpoint

    def _judge_checkpoint(self, path: Path, note: Note) -> Finding:
        found = self._believe(path, note)
        if isinstance(found, str):
            return Finding("checkpoint", path, "", found)
        return Finding("checkpoint", path, f"{found.origin}, {found.size} leaves")

    def _judge_consistency(
        self, given: GivenConsistency, proven: set[tuple[Checkpoint, Checkpoint]]
    ) -> Finding:
        earlier = self._believe(given.path, given.earlier)
        later = self._believe(given.path, given.later)
        if isinstance(earlier, str) or isinstance(later, str):
            error = earlier if isinstance(earlier, str) else str(later)
            return Finding("consistency", given.path, "", error)
        detail = f"{later.origin}, from {earlier.size} to {later.size} leaves"
        if earlier.origin != later.origin:
            return Finding("consistency", given.path, detail, "the checkpoints are of two logs")
        if not verify_consistency(earlier.size, later.size, earlier.root, later.root, given.hashes):
            error = (
                f"the log of {later.size} leaves is not shown to continue that of {earlier.size}"
            )
            return Finding("consistency", given.path, detail, error)
        proven.add((earlier, later))
        return Finding("consistency", given.path, detail)

    def _unlinked(self, proven: set[tuple[Checkpoint, Checkpoint]]) -> Iterator[Finding]:
        """Checkpoints that the consistency proofs given were to connect, and do not."""
        if not self._consistency:
            return
        given: list[tuple[Checkpoint, Path]] = []
        for path, note in self._checkpoints:
            found = self._believe(path, note)
            if isinstance(found, Checkpoint):
                given.append((found, path))
        given.sort(key=lambda pair: (pair[0].origin, pair[0].size))
        for (earlier, _), (later, path) in pairwise(given):
            same_log = earlier.origin == later.origin
            if same_log and earlier != later and (earlier, later) not in proven:
                error = (
                    f"no proof given shows that the log of {later.size} leaves continues that of"
                    f" {earlier.size}"
                )
                yield Finding("consistency", path, "", error)

    def _forks(self) -> Iterator[Finding]:
        for (origin, size), roots in self._believed.items():
            if len(roots) > 1:
                first, second = list(roots.values())[:2]
                error = f"{origin} has another root of {size} leaves here than in {first}: a fork"
                yield Finding("checkpoint", second, "", error)
