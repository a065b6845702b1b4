"""Checkpoints of a log (C2SP tlog-checkpoint) and proofs that carry one (C2SP tlog-proof).

The text of a checkpoint, a signed note, and a proof of one entry:

    <origin>                        c2sp.org/tlog-proof@v1
    <size>                          index <leaf index>
    <base64 root hash>              <base64 hash>, one line each, from the leaf's sibling upwards

                                    <the checkpoint, a whole signed note>
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from oars_grpc.core.canonical import decode_base64, encode_base64
from oars_grpc.core.keys import SigningKey
from oars_grpc.core.merkle import HASH_BYTES, verify_inclusion
from oars_grpc.core.note import (
    ED25519,
    Note,
    NoteSignature,
    Verifier,
    parse_note,
    raw_public_key,
    sign_note,
)

PROOF_HEADER = "c2sp.org/tlog-proof@v1"
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a log commits to: its size and the root over all its leaves."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """The three lines that are signed."""
        return f"{self.origin}\n{self.size}\n{encode_base64(self.root)}\n"


@dataclass(frozen=True, slots=True)
class InclusionProof:
    """Where a leaf stands in the tree of a checkpoint."""

    leaf_index: int
    hashes: tuple[bytes, ...]

    def shows(self, leaf: bytes, checkpoint: Checkpoint) -> bool:
        """Whether the leaf hash stands there."""
        return verify_inclusion(
            leaf, self.leaf_index, checkpoint.size, self.hashes, checkpoint.root
        )


def log_origin(prefix: str, tenant_id: str) -> str:
    """The name of a tenant's log: the origin of its checkpoints and the name of their key."""
    return f"{prefix}/{tenant_id}"


def sign_checkpoint(checkpoint: Checkpoint, key: SigningKey) -> Note:
    """The checkpoint signed by the log under its origin."""
    text = checkpoint.text()
    return Note(text, (sign_note(text, checkpoint.origin, key.private_key),))


def checkpoint_verifier(origin: str, public_key: bytes) -> Verifier:
    """What verifies a log's own signature, from the key's DER SubjectPublicKeyInfo.

    Raises:
        ValueError: it is not an Ed25519 key.
    """
    return Verifier(origin, ED25519, raw_public_key(public_key))


def parse_checkpoint(note: Note) -> Checkpoint:
    """The checkpoint of a note's text. Extension lines are refused: this log has none.

    Raises:
        ValueError: naming what is wrong.
    """
    lines = note.text.split("\n")
    if len(lines) != 4 or lines[3]:
        raise ValueError("a checkpoint has three lines")
    origin, size, root = lines[:3]
    if not origin:
        raise ValueError("the checkpoint names no origin")
    if not _SIZE.fullmatch(size):
        raise ValueError(f"{size[:80]!r} is not the size of a log")
    hash_ = decode_base64(root)
    if len(hash_) != HASH_BYTES:
        raise ValueError("the root is not a SHA-256 hash")
    return Checkpoint(origin, int(size), hash_)


def format_proof(proof: InclusionProof, checkpoint: Note) -> str:
    """The proof of one entry as C2SP tlog-proof."""
    lines = [PROOF_HEADER, f"index {proof.leaf_index}", *map(encode_base64, proof.hashes)]
    return "\n".join(lines) + "\n\n" + checkpoint.format()


def parse_proof(text: str) -> tuple[InclusionProof, Note]:
    """The inverse of `format_proof`; extra data, which nothing vouches for, is passed over.

    Raises:
        ValueError: naming what is wrong.
    """
    head, separator, note = text.partition("\n\n")
    lines = head.split("\n")
    if not separator or lines[0] != PROOF_HEADER:
        raise ValueError(f"a proof begins with {PROOF_HEADER}")
    del lines[0]
    if lines and lines[0].startswith("extra "):
        decode_base64(lines.pop(0).removeprefix("extra "))
    index = lines[0].removeprefix("index ") if lines else ""
    if not lines or not lines[0].startswith("index ") or not _SIZE.fullmatch(index):
        raise ValueError("the proof does not name the index of its entry")
    hashes = tuple(map(decode_base64, lines[1:]))
    if len(hashes) > 64 or any(len(hash_) != HASH_BYTES for hash_ in hashes):
        raise ValueError("the proof is not made of SHA-256 hashes")
    return InclusionProof(int(index), hashes), parse_note(note)


def add_signatures(note: Note, signatures: Sequence[NoteSignature]) -> Note:
    """The note with more signatures, none of them twice."""
    known = set(note.signatures)
    return Note(note.text, (*note.signatures, *(s for s in signatures if s not in known)))
