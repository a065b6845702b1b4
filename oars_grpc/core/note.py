"""Signed notes (C2SP signed-note v1): a text and the signatures of named keys.

    example.com/acme                      ┐
    7                                     │ text, ends in a newline
    CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2…=    ┘
                                            an empty line
    — example.com/acme Az3grlgtzPICa5OS…    a signature: name, base64(key id ‖ signature)

Two kinds of signatures are made and checked: Ed25519 of the log (type 0x01, signed-note) and
time-stamped Ed25519 cosignatures of witnesses (type 0x04, C2SP tlog-cosignature v1).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from oars_grpc.core.canonical import decode_base64, encode_base64
from oars_grpc.core.keys import ed25519_key

ED25519 = 0x01
COSIGNATURE = 0x04
KEY_ID_BYTES = 4
RAW_KEY_BYTES = 32
_TIMESTAMP_BYTES = 8
MAXIMUM_NOTE_BYTES = 64 * 1024
MAXIMUM_SIGNATURES = 64
_MARK = "\u2014 "


@dataclass(frozen=True, slots=True)
class NoteSignature:
    """One signature line."""

    name: str
    key_id: bytes
    signature: bytes

    def line(self) -> str:
        """The line with its newline."""
        return f"{_MARK}{self.name} {encode_base64(self.key_id + self.signature)}\n"


@dataclass(frozen=True, slots=True)
class Note:
    """A text and its signatures, none of them judged."""

    text: str
    signatures: tuple[NoteSignature, ...]

    def format(self) -> str:
        """The note as it is written."""
        return f"{self.text}\n{''.join(signature.line() for signature in self.signatures)}"


@dataclass(frozen=True, slots=True)
class Verifier:
    """A public key with the name and the kind of signatures that it is trusted for."""

    name: str
    kind: int
    public_key: bytes

    @property
    def key_id(self) -> bytes:
        """The 4 bytes that signatures name the key by."""
        return note_key_id(self.name, self.kind, self.public_key)

    def vkey(self) -> str:
        """The text form of signed-note: name, hexadecimal id and base64 key, joined by plus."""
        encoded = encode_base64(bytes([self.kind]) + self.public_key)
        return f"{self.name}+{self.key_id.hex()}+{encoded}"

    def verifies(self, text: str, signature: NoteSignature) -> bool:
        """Whether the signature is this key's over the text."""
        if (signature.name, signature.key_id) != (self.name, self.key_id):
            return False
        try:
            key = Ed25519PublicKey.from_public_bytes(self.public_key)
            if self.kind == COSIGNATURE:
                stamp, made = _split_stamp(signature.signature)
                key.verify(made, _cosigned(text, stamp))
            else:
                key.verify(signature.signature, text.encode())
        except (InvalidSignature, ValueError):
            return False
        return True


def note_key_id(name: str, kind: int, public_key: bytes) -> bytes:
    """SHA-256(name ‖ 0x0A ‖ type ‖ 32-byte public key), its first 4 bytes."""
    return hashlib.sha256(name.encode() + b"\n" + bytes([kind]) + public_key).digest()[
        :KEY_ID_BYTES
    ]


def is_key_name(name: str) -> bool:
    """Whether the text may name a key: not empty, no spaces, no plus, nothing unprintable."""
    return bool(name) and "+" not in name and name.isprintable() and not any(map(str.isspace, name))


def parse_vkey(text: str) -> Verifier:
    """A verifier of its text form.

    Raises:
        ValueError: naming what is wrong.
    """
    name, found_id, encoded = (*text.strip().split("+", 2), "", "")[:3]
    if not is_key_name(name):
        raise ValueError("a vkey begins with the name of its key")
    material = decode_base64(encoded)
    if len(material) != 1 + RAW_KEY_BYTES or material[0] not in {ED25519, COSIGNATURE}:
        raise ValueError(f"the vkey of {name} is not an Ed25519 key")
    verifier = Verifier(name, material[0], material[1:])
    if verifier.key_id.hex() != found_id:
        raise ValueError(f"the vkey of {name} does not have the id {found_id}")
    return verifier


def raw_public_key(der: bytes) -> bytes:
    """The 32 bytes of an Ed25519 key, from its DER SubjectPublicKeyInfo.

    Raises:
        ValueError: it is another kind of key, or none.
    """
    return ed25519_key(der).public_bytes(Encoding.Raw, PublicFormat.Raw)


def sign_note(text: str, name: str, key: Ed25519PrivateKey) -> NoteSignature:
    """The log's own signature over a text."""
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return NoteSignature(name, note_key_id(name, ED25519, public), key.sign(text.encode()))


def cosign_note(text: str, name: str, key: Ed25519PrivateKey, timestamp: int) -> NoteSignature:
    """A witness's cosignature over a text at a time in seconds since 1970."""
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    stamp = timestamp.to_bytes(_TIMESTAMP_BYTES, "big")
    signed = key.sign(_cosigned(text, timestamp))
    return NoteSignature(name, note_key_id(name, COSIGNATURE, public), stamp + signed)


def cosigned_at(signature: NoteSignature) -> int:
    """When a cosignature says that it was made, in seconds since 1970.

    Raises:
        ValueError: it is too short for one.
    """
    return _split_stamp(signature.signature)[0]


def parse_note(text: str) -> Note:
    """Split a note into its text and its signature lines.

    Raises:
        ValueError: naming what is wrong.
    """
    if len(text.encode()) > MAXIMUM_NOTE_BYTES:
        raise ValueError(f"the note is longer than {MAXIMUM_NOTE_BYTES} bytes")
    if any(character < " " and character != "\n" for character in text):
        raise ValueError("the note has control characters")
    body, separator, lines = text.rpartition("\n\n")
    if not separator or not lines.endswith("\n"):
        raise ValueError("the note does not end in an empty line and signature lines")
    found = lines[:-1].split("\n")
    if len(found) > MAXIMUM_SIGNATURES:
        raise ValueError(f"the note has more than {MAXIMUM_SIGNATURES} signatures")
    return Note(body + "\n", tuple(map(_parse_line, found)))


def verified_by(note: Note, verifiers: Sequence[Verifier]) -> list[Verifier]:
    """Those of the verifiers that signed the note; each key counts once, whatever its names.

    Raises:
        ValueError: a signature under a known name and key id is not that key's. Such a note is
            rejected as a whole (signed-note, Signatures).
    """
    signed: dict[bytes, Verifier] = {}
    for verifier in verifiers:
        lines = [
            line
            for line in note.signatures
            if (line.name, line.key_id) == (verifier.name, verifier.key_id)
        ]
        if not lines:
            continue
        if not all(verifier.verifies(note.text, line) for line in lines):
            raise ValueError(f"a signature under {verifier.name} is not that key's")
        signed.setdefault(verifier.public_key, verifier)
    return list(signed.values())


def _parse_line(line: str) -> NoteSignature:
    if not line.startswith(_MARK):
        raise ValueError("a signature line begins with an em dash and a space")
    name, _, encoded = line[len(_MARK) :].partition(" ")
    if not is_key_name(name):
        raise ValueError(f"{name[:80]!r} is not the name of a key")
    data = decode_base64(encoded)
    if len(data) <= KEY_ID_BYTES:
        raise ValueError(f"the signature of {name} is too short")
    return NoteSignature(name, data[:KEY_ID_BYTES], data[KEY_ID_BYTES:])


def _split_stamp(signature: bytes) -> tuple[int, bytes]:
    if len(signature) <= _TIMESTAMP_BYTES:
        raise ValueError("a cosignature begins with its time")
    return int.from_bytes(signature[:_TIMESTAMP_BYTES], "big"), signature[_TIMESTAMP_BYTES:]


def _cosigned(text: str, timestamp: int) -> bytes:
    return f"cosignature/v1\ntime {timestamp}\n{text}".encode()
