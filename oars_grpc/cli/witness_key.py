"""The key of a witness, in the form that Go's sumdb/note has for private keys.

PRIVATE+KEY+<name>+<key id in hexadecimal>+<base64 of the type and the 32-byte seed>
"""

import os
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from oars_grpc.cli.private_file import read_private, write_private
from oars_grpc.core.canonical import decode_base64, encode_base64
from oars_grpc.core.keys import SEED_BYTES
from oars_grpc.core.note import COSIGNATURE, Note, NoteSignature, Verifier, cosign_note

_PREFIX = "PRIVATE+KEY+"


@dataclass(frozen=True, slots=True)
class WitnessKey:
    """A named key that cosigns."""

    name: str
    private_key: Ed25519PrivateKey

    @property
    def verifier(self) -> Verifier:
        """What verifies its cosignatures."""
        public = self.private_key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        return Verifier(self.name, COSIGNATURE, public)

    def cosign(self, note: Note, timestamp: int) -> NoteSignature:
        """The cosignature over a note, at a time in seconds since 1970."""
        return cosign_note(note.text, self.name, self.private_key, timestamp)


def make_key(name: str, path: Path) -> WitnessKey:
    """A new key, in a file that only its owner reads.

    Raises:
        OSError: the file is there already, or cannot be written.
    """
    seed = os.urandom(SEED_BYTES)
    key = WitnessKey(name, Ed25519PrivateKey.from_private_bytes(seed))
    encoded = encode_base64(bytes([COSIGNATURE]) + seed)
    write_private(path, f"{_PREFIX}{name}+{key.verifier.key_id.hex()}+{encoded}\n".encode())
    return key


def read_key(path: Path) -> WitnessKey:
    """The key in a file.

    Raises:
        ValueError: there is none, or others can read it.
    """
    text = read_private(path).decode().strip()
    name, key_id, encoded = (*text.removeprefix(_PREFIX).split("+", 2), "", "")[:3]
    material = decode_base64(encoded)
    if not text.startswith(_PREFIX) or len(material) != 1 + SEED_BYTES:
        raise ValueError("is not the private key of a witness")
    key = WitnessKey(name, Ed25519PrivateKey.from_private_bytes(material[1:]))
    if material[0] != COSIGNATURE or key.verifier.key_id.hex() != key_id:
        raise ValueError("is not the private key of a witness")
    return key
