"""Receipts, keys and verifications: messages ↔ core values."""

from oars_grpc.core.envelope import Envelope, Signature
from oars_grpc.core.receipt import Receipt
from oars_grpc.core.stored import StoredReceipt
from oars_grpc.generated.oars.v1 import receipt_pb2
from oars_grpc.transport.reading import Reader
from oars_grpc.transport.writing import write_time

MAXIMUM_PAYLOAD_BYTES = 256 * 1024
MAXIMUM_KEYS = 64


def write_envelope(envelope: Envelope) -> receipt_pb2.Envelope:
    """The message of an envelope."""
    return receipt_pb2.Envelope(
        payload_type=envelope.payload_type,
        payload=envelope.payload,
        signatures=[
            receipt_pb2.Signature(keyid=signature.keyid, sig=signature.sig)
            for signature in envelope.signatures
        ],
    )


def read_envelope(reader: Reader, message: receipt_pb2.Envelope, field: str) -> Envelope:
    """The envelope of a message, as it came: verification judges it, not the parser."""
    if len(message.payload) > MAXIMUM_PAYLOAD_BYTES:
        reader.wrong(f"{field}.payload", f"is longer than {MAXIMUM_PAYLOAD_BYTES} bytes")
    if len(message.signatures) > MAXIMUM_KEYS:
        reader.wrong(f"{field}.signatures", f"has more than {MAXIMUM_KEYS} entries")
    signatures = tuple(Signature(entry.keyid, entry.sig) for entry in message.signatures)
    return Envelope(message.payload_type, message.payload, signatures)


def write_receipt(receipt: Receipt) -> receipt_pb2.Receipt:
    """The message of a receipt."""
    message = receipt_pb2.Receipt()
    fill_receipt(message, receipt)
    return message


def write_stored_receipt(stored: StoredReceipt) -> receipt_pb2.Receipt:
    """The message of a receipt at its place in the log, or of what erasure left of it."""
    message = write_receipt(stored.receipt)
    message.leaf_index = stored.leaf_index
    message.receipt_digest = stored.receipt_digest
    if stored.erasure is not None:
        write_time(message.erasure.erased_at, stored.erasure.erased_at)
        message.erasure.receipt_id = stored.erasure.receipt_id
    return message


def fill_receipt(message: receipt_pb2.Receipt, receipt: Receipt) -> None:
    """As `write_receipt`, in place, which spares an answer to a submission the copy."""
    envelope = receipt.envelope
    message.receipt_id = receipt.receipt_id
    message.tenant_id = receipt.tenant_id
    message.action_id = receipt.action_id
    message.type = receipt.type
    message.sequence = receipt.sequence
    message.previous_receipt_digest = receipt.previous_receipt_digest
    write_time(message.recorded_at, receipt.recorded_at)
    message.key_id = receipt.key_id
    message.receipt_digest = envelope.digest()
    message.envelope.payload_type = envelope.payload_type
    message.envelope.payload = envelope.payload
    for signature in envelope.signatures:
        written = message.envelope.signatures.add()
        written.keyid = signature.keyid
        written.sig = signature.sig
