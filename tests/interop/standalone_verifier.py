"""Verifies receipts, chains, checkpoints and proofs from `proto/README.md` alone.

It imports nothing of the project: the standard library and an Ed25519 implementation are all that
a stranger needs. Usage: standalone_verifier.py KEYS.json RECEIPTS.json [PROOF.tlog-proof ...]

    KEYS      what GET /v1/trust/tenants/{tenant_id}/keys answers
    RECEIPTS  what GET /v1/receipts answers
    PROOF     the `proof` of GET /v1/receipts/{receipt_id}/proof
"""

import base64
import hashlib
import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

Json = dict[str, Any]
SPKI_PREFIX = bytes.fromhex("302a300506032b6570032100")  # DER of an Ed25519 public key, RFC 8410
PREDICATES = ("urn:oars:receipt:action:v1", "urn:oars:receipt:event:v1")


class Invalid(Exception):
    """What was given does not verify."""


def need(holds: object, what: str) -> None:
    if not holds:
        raise Invalid(what)


def verify_ed25519(spki: bytes, signature: bytes, data: bytes) -> None:
    need(len(spki) == 44 and spki.startswith(SPKI_PREFIX), "not an Ed25519 key")
    try:
        Ed25519PublicKey.from_public_bytes(spki[12:]).verify(signature, data)
    except InvalidSignature as error:
        raise Invalid("signature does not verify") from error


def when(text: str) -> datetime:
    return datetime.fromisoformat(text)


def pae(payload_type: str, payload: bytes) -> bytes:
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def signed_bytes(envelope: Json) -> bytes:
    return pae(envelope["payloadType"], base64.b64decode(envelope["payload"], validate=True))


def verify_receipt(envelope: Json, keys: dict[str, Json], leaf_index: int | None = None) -> Json:
    """The predicate of a receipt; `leaf_index` is where a proof has shown it in the log."""
    need(len(envelope["signatures"]) == 1, "not exactly one signature")
    signature = envelope["signatures"][0]
    key = keys.get(signature["keyid"])
    if not key or key.get("purpose", "KEY_PURPOSE_RECEIPT") != "KEY_PURPOSE_RECEIPT":
        raise Invalid("no trusted key of that id signs receipts")
    made_by = base64.b64decode(key["publicKey"])
    verify_ed25519(made_by, base64.b64decode(signature["sig"]), signed_bytes(envelope))
    payload = base64.b64decode(envelope["payload"])
    statement = json.loads(payload)
    # The restricted profile: ASCII names, integers only. There, this is RFC 8785.
    canonical = json.dumps(statement, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    need(canonical.encode() == payload, "payload is not canonical")
    need(envelope["payloadType"] == "application/vnd.in-toto+json", "wrong payload type")
    need(statement["_type"] == "https://in-toto.io/Statement/v1", "not a statement")
    need(statement["predicateType"] in PREDICATES, "not a receipt")
    predicate: Json = statement["predicate"]
    need(key["tenantId"] == predicate["tenantId"], "key of another tenant")
    made = when(predicate["recordedAt"])
    if key["state"] == "KEY_STATE_REVOKED":
        limit = int(key.get("trustedLogSize", 0))
        need(leaf_index is not None and leaf_index < limit, "revoked key, and no proof from before")
    need(when(key["validFrom"]) <= made, "signed before the key's time")
    need("validUntil" not in key or made < when(key["validUntil"]), "signed after the key's time")
    return predicate


def verify_chain(envelopes: list[Json]) -> None:
    """Verify that receipts of one action, in order from its first, leave none out."""
    before = ""
    for place, envelope in enumerate(envelopes, start=1):
        payload = base64.b64decode(envelope["payload"])
        predicate = json.loads(payload)["predicate"]
        need(predicate["sequence"] == place, f"receipt {place} of the chain is missing")
        need(predicate["previousReceiptDigest"] == before, f"receipt {place} does not follow")
        before = hashlib.sha256(payload).hexdigest()


def leaf_hash(envelope: Json) -> bytes:
    return hashlib.sha256(b"\x00" + signed_bytes(envelope)).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def root_from_inclusion(leaf: bytes, index: int, size: int, proof: list[bytes]) -> bytes:
    """The root that an inclusion proof leads to (section 2.1.3.2, told by recursion)."""
    need(0 <= index < size and {len(h) for h in (leaf, *proof)} == {32}, "no such leaf")
    if size == 1:
        need(not proof, "proof too long")
        return leaf
    need(proof, "proof too short")
    split = 1 << ((size - 1).bit_length() - 1)
    if index < split:
        return node_hash(root_from_inclusion(leaf, index, split, proof[:-1]), proof[-1])
    return node_hash(proof[-1], root_from_inclusion(leaf, index - split, size - split, proof[:-1]))


def roots_from_consistency(
    old: int, new: int, proof: list[bytes], old_root: bytes | None
) -> tuple[bytes, bytes]:
    """Both roots that a consistency proof leads to (section 2.1.4.1, read backwards).

    `old_root` stands for the old tree itself as long as that is a whole subtree of the new one.
    """
    need(0 < old <= new, "sizes out of order")
    if old == new:
        need(len(proof) == (old_root is None), "proof of another length")
        return (old_root, old_root) if old_root is not None else (proof[0], proof[0])
    need(proof, "proof too short")
    split = 1 << ((new - 1).bit_length() - 1)
    if old <= split:
        left_old, left_new = roots_from_consistency(old, split, proof[:-1], old_root)
        return left_old, node_hash(left_new, proof[-1])
    right_old, right_new = roots_from_consistency(old - split, new - split, proof[:-1], None)
    return node_hash(proof[-1], right_old), node_hash(proof[-1], right_new)


def verify_checkpoint(note: str, vkey: str) -> tuple[int, bytes]:
    """Size and root of a checkpoint that the key of the log has signed."""
    name, _, encoded = vkey.split("+", 2)
    key = base64.b64decode(encoded)
    need(key[0] == 1, "not the key of a log")
    key_id = hashlib.sha256(name.encode() + b"\n" + key).digest()[:4]
    text, _, lines = note.rpartition("\n\n")
    text += "\n"
    for line in lines.splitlines():
        mark, signer, signature = line.split(" ")
        made = base64.b64decode(signature)
        if mark == "\u2014" and signer == name and made[:4] == key_id:
            verify_ed25519(SPKI_PREFIX + key[1:], made[4:], text.encode())
            origin, size, root = text.splitlines()
            need(origin == name, "checkpoint of another log")
            return int(size), base64.b64decode(root)
    raise Invalid("the log has not signed the checkpoint")


def verify_proof(proof: str, envelope: Json, vkey: str) -> int:
    """The leaf index at which a tlog-proof shows the receipt in the log of the key."""
    head, _, note = proof.partition("\n\n")
    header, index, *hashes = [line for line in head.split("\n") if not line.startswith("extra ")]
    need(header == "c2sp.org/tlog-proof@v1" and index.startswith("index "), "not a tlog-proof")
    size, root = verify_checkpoint(note, vkey)
    at, path = int(index[6:]), [base64.b64decode(line) for line in hashes]
    need(root_from_inclusion(leaf_hash(envelope), at, size, path) == root, "not in the log")
    return at


def main(keys_file: str, receipts_file: str, *proof_files: str) -> None:
    listed = json.loads(Path(keys_file).read_text())["keys"]
    spkis = [base64.b64decode(key["publicKey"]) for key in listed]
    keys = {
        hashlib.sha256(spki).hexdigest()[:16]: key for spki, key in zip(spkis, listed, strict=True)
    }
    vkeys = [key["vkey"] for key in listed if key.get("vkey")]
    receipts = json.loads(Path(receipts_file).read_text())["receipts"]
    proofs = [Path(name).read_text() for name in proof_files]
    chains: dict[str, list[Json]] = {}
    for receipt in receipts:
        envelope, proven = receipt["envelope"], None
        for proof in proofs:
            if f"\nindex {receipt.get('leafIndex', 0)}\n" in proof:
                proven = verify_proof(proof, envelope, vkeys[-1])
        verify_receipt(envelope, keys, proven)
        chains.setdefault(receipt.get("actionId", ""), []).append(envelope)
    for chain in chains.values():
        verify_chain(chain)
    print(
        f"{len(receipts)} receipts in {len(chains)} chains verify, {len(proofs)} proofs with them"
    )


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except Invalid as problem:
        sys.exit(f"INVALID: {problem}")
