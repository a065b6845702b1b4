"""The reference implementation of DSSE (securesystemslib) verifies our envelopes."""

import pytest
from securesystemslib.dsse import Envelope as ReferenceEnvelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey  # type: ignore[attr-defined]  # told by its documentation

from oars_grpc.core.envelope import PAYLOAD_TYPE, Envelope, Signature
from oars_grpc.core.keys import StoredKey
from oars_grpc.core.note import raw_public_key
from tests.support.factories import make_change, make_stored_key


def _reference_key(stored: StoredKey) -> SSlibKey:
    public = raw_public_key(stored.trusted.public_key).hex()
    return SSlibKey(stored.trusted.key_id, "ed25519", "ed25519", {"public": public})


def _envelopes() -> list[Envelope]:
    return [receipt.envelope for receipt in make_change(receipts=3).receipts]


def test_it_verifies_every_envelope() -> None:
    key = _reference_key(make_stored_key())
    for envelope in _envelopes():
        reference = ReferenceEnvelope.from_dict(envelope.to_json())
        assert reference.pae() == envelope.signed_bytes()
        assert list(reference.verify([key], threshold=1)) == [key.keyid]


@pytest.mark.parametrize("changed", ["payload", "signature", "type", "key"])
def test_it_refuses_what_was_changed(changed: str) -> None:
    envelope = _envelopes()[0]
    key = _reference_key(make_stored_key())
    payload, kind, signature = envelope.payload, PAYLOAD_TYPE, envelope.signatures[0]
    match changed:
        case "payload":
            payload = payload.replace(b"agent-1", b"agent-2")
        case "signature":
            flipped = bytes([signature.sig[0] ^ 1]) + signature.sig[1:]
            signature = Signature(signature.keyid, flipped)
        case "type":
            kind = "application/json"
        case _:
            key = _reference_key(make_stored_key(seed=bytes(32)))
    forged = Envelope(kind, payload, (signature,)).to_json()
    with pytest.raises(VerificationError):
        ReferenceEnvelope.from_dict(forged).verify([key], threshold=1)
