"""Verifies what approvers signed from `proto/README.md` alone (Verification, 6).

It imports nothing of the project. The receipts themselves are for `standalone_verifier.py`.
Usage: standalone_grant_verifier.py RECEIPTS.json, what GET /v1/receipts answers
"""

import base64
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

Json = dict[str, Any]
SPKI_PREFIX = bytes.fromhex("302a300506032b6570032100")  # DER of an Ed25519 public key, RFC 8410
TYPE = b"application/vnd.oars.approval-grant+json"


class Invalid(Exception):
    """What was given does not verify."""


def need(holds: object, what: str) -> None:
    if not holds:
        raise Invalid(what)


def expected_payload(statement: Json) -> bytes:
    """What the approver must have signed, by what the receipt says."""
    predicate = statement["predicate"]
    approval = predicate["approval"]
    stated = {name: approval[name] for name in ("approvalId", "displayDigest", "stage", "verdict")}
    stated |= {
        "type": "urn:oars:approval-grant:v1",
        "tenantId": predicate["tenantId"],
        "actionId": predicate["actionId"],
        "actionDigest": statement["subject"][0]["digest"]["sha256"],
        "policyDigest": approval.get("policyDigest", predicate["policy"]["digest"]),
        "approver": approval["approver"]["subject"],
    }
    return json.dumps(stated, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def verify_grant(statement: Json) -> str:
    """The id of the key that signed the grant in a receipt."""
    grant = statement["predicate"]["approval"]["grant"]
    envelope, spki = grant["envelope"], base64.b64decode(grant["publicKey"], validate=True)
    (signature,) = envelope["signatures"]
    key_id = hashlib.sha256(spki).hexdigest()[:16]
    need(key_id == grant["keyId"] == signature["keyid"], "the key is not the one named")
    need(envelope["payloadType"].encode() == TYPE, "not a grant")
    need(len(spki) == 44 and spki.startswith(SPKI_PREFIX), "not an Ed25519 key")
    payload = base64.b64decode(envelope["payload"], validate=True)
    signed = b"DSSEv1 %d %b %d %b" % (len(TYPE), TYPE, len(payload), payload)
    try:
        key = Ed25519PublicKey.from_public_bytes(spki[12:])
        key.verify(base64.b64decode(signature["sig"], validate=True), signed)
    except InvalidSignature as error:
        raise Invalid("signature does not verify") from error
    need(payload == expected_payload(statement), "the grant is of something else")
    return key_id


def main(receipts_file: str) -> None:
    granted = 0
    for receipt in json.loads(Path(receipts_file).read_text())["receipts"]:
        statement = json.loads(base64.b64decode(receipt["envelope"]["payload"]))
        if (statement["predicate"].get("approval") or {}).get("grant"):
            verify_grant(statement)
            granted += 1
    print(f"{granted} grants verify")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except Invalid as problem:
        sys.exit(f"INVALID: {problem}")
