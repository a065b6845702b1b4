"""Signed notes (C2SP signed-note) and cosignatures (C2SP tlog-cosignature)."""

import base64
import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from oars_grpc.core.note import (
    COSIGNATURE,
    ED25519,
    MAXIMUM_NOTE_BYTES,
    MAXIMUM_SIGNATURES,
    Note,
    NoteSignature,
    Verifier,
    cosign_note,
    cosigned_at,
    is_key_name,
    parse_note,
    parse_vkey,
    sign_note,
    verified_by,
)

# The example of Go's golang.org/x/mod/sumdb/note, from which the specification was written.
GO_NOTE = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
    "\n"
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6"
    "KE6RyyBwJnAM=\n"
)
GO_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
NAME = "example.com/log"
TEXT = f"{NAME}\n7\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"


def raw(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def log_verifier(name: str = NAME, key: Ed25519PrivateKey = KEY) -> Verifier:
    return Verifier(name, ED25519, raw(key))


def witness(name: str = "witness.example", key: Ed25519PrivateKey = OTHER) -> Verifier:
    return Verifier(name, COSIGNATURE, raw(key))


def signed(*more: NoteSignature) -> Note:
    return Note(TEXT, (sign_note(TEXT, NAME, KEY), *more))


def test_the_example_of_go_verifies_and_comes_out_as_it_went_in() -> None:
    note = parse_note(GO_NOTE)
    verifier = parse_vkey(GO_KEY)
    assert verified_by(note, [verifier]) == [verifier]
    assert note.format() == GO_NOTE
    assert verifier.vkey() == GO_KEY


def test_a_changed_text_of_the_example_does_not_verify() -> None:
    note = parse_note(GO_NOTE.replace("answer", "cause"))
    with pytest.raises(ValueError, match="under PeterNeumann is not that key's"):
        verified_by(note, [parse_vkey(GO_KEY)])


def test_a_signature_is_over_the_text_under_the_id_of_the_specification() -> None:
    (line,) = signed().signatures
    assert line.key_id == hashlib.sha256(f"{NAME}\n\x01".encode() + raw(KEY)).digest()[:4]
    KEY.public_key().verify(line.signature, TEXT.encode())
    encoded = base64.b64encode(line.key_id + line.signature).decode()
    assert signed().format() == f"{TEXT}\n— {NAME} {encoded}\n"


def test_a_cosignature_is_over_its_time_and_the_text() -> None:
    line = cosign_note(TEXT, "witness.example", OTHER, 1_679_315_147)
    assert line.key_id == hashlib.sha256(b"witness.example\n\x04" + raw(OTHER)).digest()[:4]
    assert line.signature[:8] == (1_679_315_147).to_bytes(8, "big")
    OTHER.public_key().verify(
        line.signature[8:], f"cosignature/v1\ntime 1679315147\n{TEXT}".encode()
    )
    assert cosigned_at(line) == 1_679_315_147
    assert witness().verifies(TEXT, line)


def test_a_cosignature_at_another_time_or_over_another_text_does_not_verify() -> None:
    line = cosign_note(TEXT, "witness.example", OTHER, 5)
    later = NoteSignature(line.name, line.key_id, bytes(7) + b"\x06" + line.signature[8:])
    assert not witness().verifies(TEXT, later)
    assert not witness().verifies(TEXT.replace("7", "8", 1), line)
    assert not witness().verifies(TEXT, NoteSignature(line.name, line.key_id, bytes(8)))
    assert not witness().verifies(TEXT, NoteSignature(line.name, line.key_id, b""))


def test_a_signature_of_the_log_is_no_cosignature_and_the_reverse() -> None:
    as_witness, as_log = Verifier(NAME, COSIGNATURE, raw(KEY)), log_verifier()
    of_log, of_witness = sign_note(TEXT, NAME, KEY), cosign_note(TEXT, NAME, KEY, 1)
    assert as_log.verifies(TEXT, of_log)
    assert as_witness.verifies(TEXT, of_witness)
    assert not as_witness.verifies(TEXT, of_log)
    assert not as_log.verifies(TEXT, of_witness)
    # Not even under the id of the other kind.
    assert not as_log.verifies(TEXT, NoteSignature(NAME, as_log.key_id, of_witness.signature))
    assert not as_witness.verifies(TEXT, NoteSignature(NAME, as_witness.key_id, of_log.signature))


def test_one_witness_key_under_two_names_counts_once() -> None:
    note = signed(cosign_note(TEXT, "one", OTHER, 1), cosign_note(TEXT, "two", OTHER, 2))
    found = verified_by(note, [witness("one"), witness("two")])
    assert found == [witness("one")]
    third = Ed25519PrivateKey.from_private_bytes(bytes(range(2, 34)))
    more = Note(TEXT, (*note.signatures, cosign_note(TEXT, "three", third, 3)))
    assert len(verified_by(more, [witness("one"), witness("two"), witness("three", third)])) == 2


def test_unknown_signatures_are_passed_over() -> None:
    note = signed(sign_note(TEXT, "stranger", OTHER))
    assert verified_by(note, [log_verifier()]) == [log_verifier()]
    assert verified_by(note, [log_verifier("another")]) == []
    assert verified_by(note, []) == []
    # Another key of the same name has another id.
    assert verified_by(note, [log_verifier(key=OTHER)]) == []


def test_a_bad_signature_under_a_known_name_and_id_spoils_the_note() -> None:
    good = sign_note(TEXT, NAME, KEY)
    bad = NoteSignature(NAME, good.key_id, bytes(64))
    for lines in ((bad,), (good, bad), (bad, good)):
        with pytest.raises(ValueError, match="is not that key's"):
            verified_by(Note(TEXT, lines), [log_verifier()])


def test_a_note_reads_back_as_it_was_written() -> None:
    note = signed(cosign_note(TEXT, "witness.example", OTHER, 9))
    assert parse_note(note.format()) == note
    # An empty line within the text is text.
    inner = Note("a\n\nb\n", (sign_note("a\n\nb\n", NAME, KEY),))
    assert parse_note(inner.format()) == inner
    assert verified_by(parse_note(inner.format()), [log_verifier()])


LINE = signed().signatures[0].line()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "empty line"),
        ("text\n", "empty line"),
        (TEXT, "empty line"),
        (f"{TEXT}\n", "empty line"),
        (f"{TEXT}\n{LINE}".removesuffix("\n"), "empty line"),
        (f"{TEXT}\n{LINE}\n", "empty line"),
        (f"{TEXT}\n{LINE}trailing\n", "em dash"),
        (f"{TEXT}\n-- {NAME} AAAAAAA=\n", "em dash"),
        (f"{TEXT}\n—{NAME} AAAAAAA=\n", "em dash"),
        (f"{TEXT}\n— AAAAAAAA\n", "is not canonical base64|too short|not the name"),
        (f"{TEXT}\n— {NAME}\n", "too short"),
        (f"{TEXT}\n— {NAME} AAAA\n", "too short"),
        (f"{TEXT}\n— {NAME} AAAAAA==\n", "too short"),
        (f"{TEXT}\n— {NAME} AAAAAAA\n", "is not base64"),
        (f"{TEXT}\n— {NAME} AAAAAAB=\n", "canonical"),
        (f"{TEXT}\n— {NAME} AAAA AAA=\n", "base64"),
        (f"{TEXT}\n— {NAME}  AAAAAAA=\n", "base64"),
        (f"{TEXT}\n— {NAME} AAAAAA-_\n", "base64"),
        (f"{TEXT}\n— a+b AAAAAAA=\n", "not the name of a key"),
        (f"{TEXT}\n—  AAAAAAA=\n", "not the name of a key"),
        (f"{TEXT}\n— a\u00a0b AAAAAAA=\n", "not the name of a key"),
        (f"a\x00b\n\n{LINE}", "control characters"),
        (f"a\tb\n\n{LINE}", "control characters"),
        (f"{TEXT}\n{LINE}".replace("\n", "\r\n"), "control characters"),
        (f"{'x' * MAXIMUM_NOTE_BYTES}\n\n{LINE}", "longer than"),
        (f"{TEXT}\n{LINE * (MAXIMUM_SIGNATURES + 1)}", "more than 64 signatures"),
    ],
)
def test_what_is_no_note_is_refused_by_name(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_note(text)


@pytest.mark.parametrize("kind", [ED25519, COSIGNATURE])
def test_a_vkey_reads_back_as_it_was_written(kind: int) -> None:
    verifier = Verifier(NAME, kind, raw(KEY))
    assert parse_vkey(verifier.vkey()) == verifier
    assert parse_vkey(f" {verifier.vkey()}\n") == verifier


VKEY = log_verifier().vkey()


@pytest.mark.parametrize(
    "vkey",
    [
        "",
        "+",
        "++",
        NAME,
        VKEY.rpartition("+")[0],
        VKEY[1:],
        VKEY[:-4],
        f"{VKEY}AAAA",
        VKEY.replace(NAME, "example.com/other"),
        VKEY.replace("+", " ", 1),
        VKEY.replace(VKEY.split("+")[1], "00000000"),
        VKEY.replace(VKEY.split("+")[1], VKEY.split("+")[1].upper() + "x"),
        # Another kind of key; none of ours, whatever its id says.
        f"{NAME}+00000000+{base64.b64encode(bytes([6]) + raw(KEY)).decode()}",
    ],
)
def test_what_is_no_vkey_is_refused(vkey: str) -> None:
    with pytest.raises(ValueError):
        parse_vkey(vkey)


@pytest.mark.parametrize(
    ("name", "may"),
    [
        ("oars/acme", True),
        ("example.com/log", True),
        ("größe", True),
        ("", False),
        ("a b", False),
        ("a\u2003b", False),
        ("a+b", False),
        ("a\nb", False),
        ("a\u202eb", False),
    ],
)
def test_names_of_keys_have_neither_spaces_nor_pluses(name: str, *, may: bool) -> None:
    assert is_key_name(name) is may
