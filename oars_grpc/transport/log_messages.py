"""Checkpoints and proofs of the log: core values → messages."""

from oars_grpc.core.log import (
    CompletenessBegin,
    CompletenessEnd,
    CompletenessEvent,
    CompletenessLeaves,
    ConsistencyProof,
    ReceiptProof,
    SignedCheckpoint,
)
from oars_grpc.generated.oars.v1 import receipt_pb2


def write_checkpoint(signed: SignedCheckpoint) -> receipt_pb2.Checkpoint:
    """The message of a checkpoint."""
    checkpoint = signed.checkpoint
    return receipt_pb2.Checkpoint(
        origin=checkpoint.origin,
        size=checkpoint.size,
        root_hash=checkpoint.root,
        note=signed.note,
    )


def write_receipt_proof(proof: ReceiptProof) -> receipt_pb2.GetReceiptProofResponse:
    """The message of an inclusion proof."""
    return receipt_pb2.GetReceiptProofResponse(
        leaf_index=proof.inclusion.leaf_index,
        leaf_hash=proof.leaf_hash,
        hashes=proof.inclusion.hashes,
        checkpoint=write_checkpoint(proof.signed),
        proof=proof.text,
    )


def write_consistency(proof: ConsistencyProof) -> receipt_pb2.GetConsistencyProofResponse:
    """The message of a consistency proof."""
    # `from` cannot be written as a keyword.
    message = receipt_pb2.GetConsistencyProofResponse(
        to=write_checkpoint(proof.later), hashes=proof.hashes
    )
    getattr(message, "from").CopyFrom(write_checkpoint(proof.earlier))
    return message


def write_completeness(event: CompletenessEvent) -> receipt_pb2.ProveCompletenessResponse:
    """The message of a piece of a completeness proof."""
    message = receipt_pb2.ProveCompletenessResponse()
    match event:
        case CompletenessBegin():
            message.begin.to.CopyFrom(write_checkpoint(event.later))
            getattr(message.begin, "from").CopyFrom(write_checkpoint(event.earlier))
            message.begin.frontier.extend(event.frontier.hashes)
        case CompletenessLeaves():
            message.leaves.first_index = event.first
            message.leaves.leaf_hashes.extend(event.hashes)
        case CompletenessEnd():
            message.end.receipts = event.receipts
            message.end.erased = event.erased
            message.end.SetInParent()  # of nothing, it is still the end
    return message
