"""Checkpoints (C2SP tlog-checkpoint) and proofs that carry one (C2SP tlog-proof)."""

import pytest

from oars_grpc.core.canonical import encode_base64
from oars_grpc.core.checkpoint import (
    PROOF_HEADER,
    Checkpoint,
    InclusionProof,
    add_signatures,
    checkpoint_verifier,
    format_proof,
    log_origin,
    parse_checkpoint,
    parse_proof,
    sign_checkpoint,
)
from oars_grpc.core.keys import signing_key
from oars_grpc.core.merkle import EMPTY, EMPTY_ROOT, append, leaf_hash, node_hash
from oars_grpc.core.note import Note, cosign_note, parse_note, verified_by
from tests.support.factories import SEED

KEY, PUBLIC = signing_key(SEED)
WITNESS = signing_key(bytes(range(1, 33)))[0].private_key
ORIGIN = "oars/acme"
LEAVES = [leaf_hash(b"%d" % number) for number in range(3)]
CHECKPOINT = Checkpoint(ORIGIN, 3, append(EMPTY, LEAVES)[0].root())
ROOT = encode_base64(CHECKPOINT.root)
NOTE = sign_checkpoint(CHECKPOINT, KEY)
PROOF = InclusionProof(2, (node_hash(LEAVES[0], LEAVES[1]),))


def test_the_example_of_the_specification_is_read() -> None:
    text = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    checkpoint = parse_checkpoint(Note(text, ()))
    assert (checkpoint.origin, checkpoint.size) == ("example.com/behind-the-sofa", 20852163)
    assert checkpoint.root.hex().startswith("0ac5186a91863e8e1d90c808014aa89b")
    assert checkpoint.text() == text


def test_a_signed_checkpoint_verifies_and_reads_back() -> None:
    note = parse_note(NOTE.format())
    assert parse_checkpoint(note) == CHECKPOINT
    assert note.text == f"oars/acme\n3\n{ROOT}\n"
    verifier = checkpoint_verifier(ORIGIN, PUBLIC)
    assert verified_by(note, [verifier]) == [verifier]
    assert verifier.vkey().startswith("oars/acme+")
    assert verified_by(note, [checkpoint_verifier("oars/other", PUBLIC)]) == []


def test_the_log_of_a_tenant_is_named_by_prefix_and_tenant() -> None:
    assert log_origin("log.example.com/oars", "acme") == "log.example.com/oars/acme"


def test_the_empty_log_has_a_checkpoint() -> None:
    empty = Checkpoint(ORIGIN, 0, EMPTY_ROOT)
    assert parse_checkpoint(Note(empty.text(), ())) == empty


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"{ORIGIN}\n3\n",
        f"{ORIGIN}\n3\n{ROOT}",
        f"{ORIGIN}\n3\n{ROOT}\nextension\n",
        f"{ORIGIN}\n3\n{ROOT}\n\n",
        f"\n3\n{ROOT}\n",
        f"{ORIGIN}\n03\n{ROOT}\n",
        f"{ORIGIN}\n+3\n{ROOT}\n",
        f"{ORIGIN}\n-3\n{ROOT}\n",
        f"{ORIGIN}\n 3\n{ROOT}\n",
        f"{ORIGIN}\n3.0\n{ROOT}\n",
        f"{ORIGIN}\n٣\n{ROOT}\n",
        f"{ORIGIN}\n{10**19}\n{ROOT}\n",
        f"{ORIGIN}\n\n{ROOT}\n",
        f"{ORIGIN}\n3\n{ROOT[:-4]}\n",
        f"{ORIGIN}\n3\n{ROOT.rstrip('=')}\n",
        f"{ORIGIN}\n3\n{ROOT} \n",
        f"{ORIGIN}\n3\n{'A' * 44}\n",
        f"{ORIGIN}\n3\n\n",
    ],
)
def test_what_is_no_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_checkpoint(Note(text, ()))


def test_a_proof_reads_back_as_it_was_written() -> None:
    written = format_proof(PROOF, NOTE)
    assert written.split("\n")[:2] == [PROOF_HEADER, "index 2"]
    assert parse_proof(written) == (PROOF, NOTE)
    lone = InclusionProof(0, ())
    assert parse_proof(format_proof(lone, NOTE)) == (lone, NOTE)


def test_a_proof_shows_its_leaf_in_its_checkpoint_and_nothing_else() -> None:
    proof, note = parse_proof(format_proof(PROOF, NOTE))
    checkpoint = parse_checkpoint(note)
    assert proof.shows(LEAVES[2], checkpoint)
    assert not proof.shows(LEAVES[1], checkpoint)
    assert not InclusionProof(1, proof.hashes).shows(LEAVES[2], checkpoint)
    assert not InclusionProof(2, ()).shows(LEAVES[2], checkpoint)
    assert not proof.shows(LEAVES[2], Checkpoint(ORIGIN, 4, checkpoint.root))


def test_extra_data_is_passed_over() -> None:
    written = format_proof(PROOF, NOTE)
    with_extra = written.replace("index 2", f"extra {encode_base64(b'anything')}\nindex 2")
    assert parse_proof(with_extra) == (PROOF, NOTE)
    with pytest.raises(ValueError, match="base64"):
        parse_proof(written.replace("index 2", "extra !\nindex 2"))


GOOD = format_proof(PROOF, NOTE)
HASH = encode_base64(PROOF.hashes[0])


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "begins with"),
        (GOOD.replace("@v1", "@v2"), "begins with"),
        (f" {GOOD}", "begins with"),
        (GOOD.replace("\n\n", "\n", 1), "is not base64"),
        (GOOD.replace("index 2\n", ""), "index"),
        (GOOD.replace("index 2", "index 02"), "index"),
        (GOOD.replace("index 2", "index -2"), "index"),
        (GOOD.replace("index 2", "index"), "index"),
        (GOOD.replace("index 2", f"index {10**19}"), "index"),
        (GOOD.replace(HASH, HASH[:-4]), "hash"),
        (GOOD.replace(HASH, f"{HASH} "), "base64"),
        (GOOD.replace(HASH, "\n".join([HASH] * 65)), "hash"),
        (GOOD.replace(f"{HASH}\n", f"{HASH}\nmore\n", 1), "hash|base64"),
        (GOOD.partition("\n\n")[0] + "\n\n", "note|signature"),
    ],
)
def test_what_is_no_proof_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_proof(text)


def test_cosignatures_are_added_once() -> None:
    line = cosign_note(NOTE.text, "witness.example", WITNESS, 1)
    once = add_signatures(NOTE, [line])
    assert once.signatures == (*NOTE.signatures, line)
    assert add_signatures(once, [line]) == once
    assert parse_note(once.format()) == once


def test_a_key_of_another_kind_signs_no_checkpoints() -> None:
    with pytest.raises(ValueError):
        checkpoint_verifier(ORIGIN, b"no key")
